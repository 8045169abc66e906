"""The errors of trajectories: drifts whose figures are known, and what must not change them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowkit.evaluation.odometry import absolute_errors, kitti_errors, scaled_to, step_errors, umeyama


def straight(count, step=1.0):
    """Along z, `step` a frame."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 2, 3] = step * np.arange(count)
    return poses


def winding(count=40, seed=3):
    """A way that turns and climbs."""
    rng = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for _ in range(count - 1):
        move = np.eye(4)
        move[:3, :3] = Rotation.from_rotvec(rng.normal(0, 0.05, 3)).as_matrix()
        move[:3, 3] = rng.normal([0, 0, 1], 0.2)
        poses.append(poses[-1] @ move)
    return np.array(poses)


def somewhere_else(seed=5):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
    T[:3, 3] = np.random.default_rng(seed).normal(0, 30, 3)
    return T


def test_a_scale_wrong_by_two_percent_is_two_percent_drift():
    truth = straight(1002)
    found = kitti_errors(truth, straight(1002, 1.02))
    # The devkit takes the first frame *beyond* the length, so the way is one step longer: 101 m of "100 m".
    lengths = np.concatenate(
        [[n for n in range(100, 801, 100) if first + n + 1 < 1002] for first in range(0, 1002, 10)]
    )
    assert found["t_err"] == pytest.approx(np.mean(0.02 * (lengths + 1) / lengths), rel=1e-12)
    assert found["r_err"] == pytest.approx(0, abs=1e-6)
    fine = straight(3000, 0.05)
    assert kitti_errors(fine, straight(3000, 0.051), (100,))["t_err"] == pytest.approx(0.02, rel=1e-3)


def test_a_constant_turn_is_so_many_degrees_a_hundred_metres():
    truth, turned = straight(120), [np.eye(4)]
    for _ in range(119):
        move = np.eye(4)
        move[:3, :3], move[2, 3] = Rotation.from_euler("y", 0.03, degrees=True).as_matrix(), 1
        turned.append(turned[-1] @ move)
    assert kitti_errors(truth, np.array(turned), (100,))["r_err"] == pytest.approx(3 * 1.01, rel=1e-6)


def test_a_short_way_has_no_drift():
    found = kitti_errors(straight(100), straight(100, 2.0))
    assert np.isnan(found["t_err"]) and np.isnan(found["r_err"])
    assert kitti_errors(straight(102), straight(102, 2.0))["t_err"] == pytest.approx(1.01)


def test_worlds_do_not_matter():
    truth, estimated = winding(300), winding(300, seed=4)
    elsewhere = somewhere_else() @ estimated
    for measure in (kitti_errors, absolute_errors):
        here, there = measure(truth, estimated), measure(truth, elsewhere)
        assert here == pytest.approx(there, rel=1e-9) and all(value > 0 for value in here.values())
    for here, there in zip(step_errors(truth, estimated), step_errors(truth, elsewhere), strict=True):
        assert here == pytest.approx(there, rel=1e-6)


def test_steps():
    truth, estimated = winding(3), winding(3)
    wrong = np.eye(4)
    wrong[:3, :3], wrong[:3, 3] = Rotation.from_euler("x", 2, degrees=True).as_matrix(), (0, 0.3, 0.4)
    estimated[2] = estimated[2] @ wrong
    first, second = step_errors(truth, estimated)
    assert first["rpe_translation"] == pytest.approx(0, abs=1e-12) and first["rpe_rotation"] == pytest.approx(
        0, abs=1e-6
    )
    assert second["rpe_translation"] == pytest.approx(0.5) and second["rpe_rotation"] == pytest.approx(2)
    held = winding(3)
    held[2] = held[1]
    assert np.isnan(step_errors(winding(3), held)[1]["translation_error"])
    motion = np.linalg.norm(winding(3)[2, :3, 3] - winding(3)[1, :3, 3])
    assert step_errors(winding(3), held)[1]["rpe_translation"] == pytest.approx(motion)


def test_the_direction_of_a_step_is_that_of_its_pose():
    """T_0to1 = [R | t] of both, t 10 degrees apart, R the same."""
    R = Rotation.from_euler("y", 25, degrees=True).as_matrix()
    poses = []
    for angle in (0, 10):
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = R, Rotation.from_euler("x", angle, degrees=True).as_matrix() @ [0, 0, -1]
        poses.append(np.stack([np.eye(4), np.linalg.inv(T)]))
    (error,) = step_errors(*poses)
    assert error["translation_error"] == pytest.approx(10) and error["rpe_rotation"] == pytest.approx(0, abs=1e-6)


def test_absolute_error_after_a_rigid_motion_and_after_a_similarity():
    truth = winding()
    moved = somewhere_else() @ truth
    assert absolute_errors(truth, moved) == pytest.approx({"ate": 0, "ate_scaled": 0}, abs=1e-9)
    larger = moved.copy()
    larger[:, :3, 3] *= 1.5
    found = absolute_errors(truth, larger)
    spread = np.sqrt(((truth[:, :3, 3] - truth[:, :3, 3].mean(axis=0)) ** 2).sum(axis=1).mean())
    assert found["ate"] == pytest.approx(0.5 * spread) and found["ate_scaled"] == pytest.approx(0, abs=1e-9)
    assert step_errors(truth, scaled_to(truth, larger))[7]["rpe_translation"] == pytest.approx(0, abs=1e-9)


def test_umeyama_finds_scale_rotation_and_shift_and_never_mirrors():
    rng = np.random.default_rng(0)
    points, R, t = rng.normal(size=(20, 3)), Rotation.random(random_state=1).as_matrix(), np.array([3.0, -1, 2])
    scale, R_found, t_found = umeyama(points, 2.5 * points @ R.T + t, True)
    assert scale == pytest.approx(2.5)
    np.testing.assert_allclose(R_found, R, atol=1e-12)
    np.testing.assert_allclose(t_found, t, atol=1e-12)
    assert np.linalg.det(umeyama(points, points * [1, 1, -1], False)[1]) == pytest.approx(1)
    assert umeyama(np.ones((5, 3)), np.zeros((5, 3)), True)[0] == 1  # all points are one
