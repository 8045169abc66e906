"""Lenses: what undistorting does to points and pixels, and which lenses are refused."""

import cv2
import numpy as np
import pytest

from flowkit.datasets.posed_views import Lens, PosedPair, View, rotation_degrees
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError

SIZE = (120, 160)
K = np.array([[150.0, 0, 78], [0, 140, 61], [0, 0, 1]])
BARREL, PINCUSHION = (-0.2, 0.03, 0.002, -0.001), (0.15, 0.02)


def test_lens_is_opencvs():
    lens = Lens.of(K, [-0.2, 0.05, 0.01, -0.02, 0.03, 0.01, 0.02, 0.005])
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (20, 3)) * [1, 1, 0] + [0, 0, 1]
    expected = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), K, lens.coefficients)[0][:, 0]
    np.testing.assert_allclose(lens.stored(rays[:, :2] * [150, 140] + [78, 61], K), expected, atol=1e-9)


@pytest.mark.parametrize("coefficients", [BARREL, PINCUSHION])
def test_undistorted_picture_shows_each_point_where_its_intrinsics_say(coefficients):
    lens = Lens.of(K, coefficients)
    pinhole = lens.pinhole(SIZE)
    point = np.array([131.0, 97])  # of the undistorted picture, near its corner
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    blob = np.exp(-((np.stack([x, y], -1) - lens.stored(point, pinhole)) ** 2).sum(-1) / (2 * 3**2))
    stored = np.repeat(np.rint(255 * blob).astype(np.uint8)[..., None], 3, 2)
    seen = lens.undistorted(stored, pinhole)[..., 0].astype(float)
    centre = np.array([(seen * x).sum(), (seen * y).sum()]) / seen.sum()
    np.testing.assert_allclose(centre, point, atol=0.15)  # the blob is distorted a little, too
    assert np.linalg.norm(lens.stored(point, pinhole) - point) > 1


def test_undistorted_picture_has_no_unknown_rim():
    lens = Lens.of(K, PINCUSHION)
    pinhole = lens.pinhole(SIZE)
    corners = np.array([[-0.5, -0.5], [159.5, -0.5], [-0.5, 119.5], [159.5, 119.5]])
    seen = lens.stored(corners, pinhole)
    assert (seen >= -0.5).all() and (seen <= [159.5, 119.5]).all()
    assert pinhole[0, 0] > K[0, 0] and (pinhole[:2, 2] == K[:2, 2]).all()
    np.testing.assert_array_equal(Lens.of(K, BARREL).pinhole(SIZE), K)


def test_lens_that_turns_back_within_the_picture_is_refused():
    assert Lens.of(K, [-2.0]).pinhole(SIZE) is None


def test_negligible_is_judged_in_pixels():
    assert Lens.of(K, [1e-4]).negligible(SIZE)
    assert not Lens.of(K, [1e-2]).negligible(SIZE)


def test_view_of_another_size_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((6, 8, 3), np.uint8))
    assert View(tmp_path / "a.png", K, np.eye(4), (6, 8)).read().shape == (6, 8, 3)
    with pytest.raises(InputError, match=r"a\.png: is 8 x 6 pixels, but its camera is for 6 x 8"):
        View(tmp_path / "a.png", K, np.eye(4), (8, 6)).read()


def test_pair_of_views_goes_from_the_first_to_the_second(tmp_path):
    T0, T1 = np.eye(4), np.eye(4)
    T0[:3, :3], T0[:3, 3] = cv2.Rodrigues(np.array([0.1, 0.2, -0.1]))[0], [1, 2, 3]
    T1[:3, :3], T1[:3, 3] = cv2.Rodrigues(np.array([-0.3, 0.1, 0.2]))[0], [-1, 0, 2]
    world = np.array([0.3, -0.2, 5, 1])
    views = [
        View(tmp_path / "0", K, T0, tracks=np.array([1, 4, 7]), points=np.array([[1.0, 1], [4, 4], [7, 7]])),
        View(tmp_path / "1", 2 * K, T1, tracks=np.array([4, 5, 7]), points=np.array([[40.0, 4], [50, 5], [70, 7]])),
    ]
    pair = PosedPair.of("d", "n", *views)
    np.testing.assert_allclose(pair.T_0to1 @ (T0 @ world), T1 @ world)
    np.testing.assert_allclose(pair.reversed().T_0to1 @ (T1 @ world), T0 @ world)
    to_world = PosedPair.of("d", "n", views[0], View(tmp_path / "w", K, np.eye(4)))
    np.testing.assert_allclose(to_world.T_0to1 @ T0, np.eye(4), atol=1e-12)
    points0, points1 = pair.common_points()
    assert points0.tolist() == [[4, 4], [7, 7]] and points1.tolist() == [[40, 4], [70, 7]]
    assert (pair.reversed().K0 == 2 * K).all()
    plain = PosedPair.from_sample(PoseSample("d", "n", tmp_path / "0", tmp_path / "1", K, 2 * K, pair.T_0to1))
    np.testing.assert_allclose(plain.T_0to1, pair.T_0to1)
    assert len(plain.common_points()[0]) == 0


def test_angle_between_rotations():
    R0 = cv2.Rodrigues(np.array([0.3, -0.2, 0.1]))[0]
    turn = cv2.Rodrigues(np.array([0, np.radians(35), 0]))[0]
    np.testing.assert_allclose(rotation_degrees(np.stack([R0, R0]), np.stack([turn @ R0, R0])), [35, 0], atol=1e-5)
