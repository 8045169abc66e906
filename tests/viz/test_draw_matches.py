from dataclasses import replace

import numpy as np
import pytest

from flowkit.types import Homography, Matches, RelativePose, Status
from flowkit.viz.matches import draw_epipolar, draw_homography, draw_matches

SIZE0, SIZE1 = (120, 160), (90, 200)
GREY0, GREY1 = (np.full((*size, 3), 90, np.uint8) for size in (SIZE0, SIZE1))


def some_matches(count=50, inliers=None):
    rng = np.random.default_rng(0)
    points0 = rng.uniform((0, 0), (159, 119), (count, 2)).astype(np.float32)
    points1 = rng.uniform((0, 0), (199, 89), (count, 2)).astype(np.float32)
    pairs = np.stack([np.arange(count)] * 2, axis=1)
    return Matches(points0, points1, pairs, np.ones(count, np.float32), SIZE0, SIZE1, inliers=inliers)


def count_colour(picture, channel):
    """How many pixels below the text are dominated by one channel."""
    pixels = picture[25:].astype(int)
    others = np.delete(pixels, channel, axis=2).max(axis=2)
    return int((pixels[..., channel] > others + 40).sum())


def test_panels_have_one_height_and_bounded_width():
    picture = draw_matches(GREY0, GREY1, some_matches())
    assert picture.shape == (120, 160 + 6 + 267, 3) and picture.dtype == np.uint8
    wide = draw_matches(np.zeros((400, 3000, 3), np.uint8), GREY1, some_matches())
    assert wide.shape[1] <= 1602
    tall = draw_matches(np.zeros((5000, 10, 3), np.uint8), GREY1, some_matches())
    assert tall.shape[0] <= 1200 and tall.shape[1] <= 1602


def test_inliers_green_others_red_and_limited():
    good = np.arange(50) < 25
    picture = draw_matches(GREY0, GREY1, some_matches(inliers=good))
    assert count_colour(picture, 1) > count_colour(picture, 0) > 0
    only_inliers = draw_matches(GREY0, GREY1, some_matches(inliers=good), max_lines=20)
    assert count_colour(only_inliers, 0) == 0
    same = draw_matches(GREY0, GREY1, some_matches(inliers=good), max_lines=20)
    np.testing.assert_array_equal(only_inliers, same)
    assert (draw_matches(GREY0, GREY1, some_matches(inliers=good), max_lines=20, seed=1) != same).any()


def test_the_second_stage_is_white():
    second = replace(some_matches(), stage=np.full(50, 2))
    first = replace(second, stage=np.ones(50, int))
    assert count_colour(draw_matches(GREY0, GREY1, second), 0) == 0 < count_colour(draw_matches(GREY0, GREY1, first), 0)
    plain = draw_matches(GREY0, GREY1, some_matches())
    np.testing.assert_array_equal(draw_matches(GREY0, GREY1, first)[25:], plain[25:])


def test_no_matches_and_unknown_points():
    draw_matches(GREY0, GREY1, some_matches(0))
    matches = some_matches()
    matches.keypoints0[3] = np.nan
    draw_matches(GREY0, GREY1, matches)


def test_points_sit_where_they_belong():
    pair = np.array([[0, 0]])
    point0, point1 = np.array([[80, 100]], np.float32), np.array([[100.0, 45.0]], np.float32)
    matches = Matches(point0, point1, pair, np.ones(1), SIZE0, SIZE1, inliers=np.array([True]))
    picture = draw_matches(GREY0, GREY1, matches)
    assert picture[100, 80, 1] > 200
    x, y = (np.array([100, 45]) + 0.5) * (267 / 200, 120 / 90) - 0.5
    assert picture[round(y), round(x) + 166, 1] > 200


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), [[0.5, 0, 20], [0, 0.5, 10], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [-0.02, 0, 1]], np.diag([1e6, 1e6, 1])],
)
def test_homography_outline(matrix):
    """Also beyond the horizon and far outside, nothing breaks."""
    result = Homography(np.asarray(matrix, float), Status.OK, some_matches(), 2.0, "magsac")
    assert draw_homography(GREY0, GREY1, result).shape == (120, 433, 3)


def test_homography_outline_is_in_image1():
    matrix = np.array([[0.5, 0, 40], [0, 0.5, 20], [0, 0, 1]])
    result = Homography(matrix, Status.OK, some_matches(0), 2.0, "magsac")
    picture = draw_homography(GREY0, GREY1, result)
    x, y = (np.array([79.75, 79.75]) + 0.5) * (267 / 200, 120 / 90) - 0.5  # the middle of image0's bottom edge
    red, green, blue = picture[round(y), round(x) + 166].astype(int)
    assert red > 180 and green > 150 and blue < 120


def test_failed_results_are_drawn_too():
    draw_homography(GREY0, GREY1, Homography(None, Status.TOO_FEW_MATCHES, some_matches(3), 2.0, "magsac"))
    K = np.diag([100.0, 100.0, 1.0])
    pose = RelativePose(None, None, None, K, K, Status.DEGENERATE, "pure_rotation", some_matches(), 1.0, "poselib")
    draw_epipolar(GREY0, GREY1, pose)


def test_epipolar_lines_pass_through_their_points():
    """Pure sideways motion with square pixels: every line is horizontal."""
    K = np.array([[100.0, 0, 80], [0, 100.0, 60], [0, 0, 1]])
    E = np.array([[0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    matches = replace(some_matches(1, np.array([True])), keypoints0=np.array([[50, 70]]), size1=SIZE0)
    matches = replace(matches, keypoints1=np.array([[90, 70]]))
    pose = RelativePose(np.eye(3), np.array([1.0, 0, 0]), E, K, K, Status.OK, "none", matches, 1.0, "poselib", 0.2)
    picture = draw_epipolar(GREY0, GREY0, pose)
    for columns in (slice(5, 155), slice(171, 320)):
        assert (picture[70, columns] != 90).any(axis=1).all()
        assert (picture[100, columns] == 90).all()
