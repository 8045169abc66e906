"""The picture of a trajectory: what is where, in which colour."""

import numpy as np

from flowkit.viz.curves import COLOURS
from flowkit.viz.trajectory import draw_trajectory


def way(points):
    poses = np.tile(np.eye(4), (len(points), 1, 1))
    poses[:, :3, 3] = points
    return poses


def where(picture, colour, tolerance=40):
    """Mean x and y of the pixels of about that colour in the panels, above the legend; NaN where there are none."""
    near = np.abs(picture.astype(int) - colour).max(axis=-1) < tolerance
    near[-70:] = False
    y, x = np.nonzero(near)
    return (x.mean(), y.mean(), len(x)) if len(x) else (np.nan, np.nan, 0)


def test_forwards_is_up_from_above_and_down_is_down_from_the_side():
    ahead = draw_trajectory(way([(0, 0, 0), (0, 0, 5), (4, 0, 10)]))
    panel = ahead[:, : ahead.shape[1] // 2]
    estimate = np.abs(panel.astype(int) - COLOURS[0]).max(axis=-1) < 40
    rows = np.nonzero(estimate[:-70].any(axis=1))[0]
    first, last = (np.nonzero(estimate[row])[0].mean() for row in (rows[-1], rows[0]))
    assert last > first + 20  # the end, at the top, is further right
    sinking = draw_trajectory(way([(0, 0, 0), (2, 1, 0), (6, 5, 0)]))
    panel = sinking[:, sinking.shape[1] // 2 :]
    estimate = np.abs(panel.astype(int) - COLOURS[0]).max(axis=-1) < 40
    rows = np.nonzero(estimate[:-70].any(axis=1))[0]
    top, bottom = (np.nonzero(estimate[row])[0].mean() for row in (rows[0], rows[-1]))
    assert bottom > top + 20  # y grows downwards


def test_truth_and_held_poses_are_marked():
    poses = way([(0, 0, 0), (0, 0, 5), (0, 0, 5), (0, 0, 10)])
    truth = way([(0, 0, 0), (3, 0, 5), (np.nan,) * 3, (3, 0, 10)])
    plain = draw_trajectory(poses)
    both = draw_trajectory(poses, truth, np.array([False, False, True, False]))
    assert where(plain, COLOURS[1])[2] == 0 and where(both, COLOURS[1])[2] > 30
    assert where(plain, (200, 30, 30))[2] == 0 and where(both, (200, 30, 30))[2] > 10
    assert both.shape[0] > plain.shape[0]  # a longer legend


def test_a_camera_that_stands_still_can_be_drawn():
    picture = draw_trajectory(way([(0, 0, 0)] * 3))
    assert picture.dtype == np.uint8 and where(picture, COLOURS[0])[2] > 0
