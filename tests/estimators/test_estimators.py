"""Robust fits on synthetic truth, and every way in which the data can refuse one."""

from functools import partial

import numpy as np
import pytest

from flowkit.estimators.essential import fit_essential
from flowkit.estimators.magsac import fit_fundamental, fit_homography, sampson_error
from flowkit.estimators.poselib import fit_relative_pose
from flowkit.estimators.significance import log10_false_alarms
from flowkit.types import Status

POSE = (fit_relative_pose, fit_essential)
H = np.array([[1.1, 0.05, 10.0], [-0.04, 0.95, -5.0], [1e-4, 2e-5, 1.0]])
K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])


def project(matrix, points):
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def plane(count=300, outliers=150, seed=0):
    rng = np.random.default_rng(seed)
    p0 = rng.uniform(0, 600, (count, 2))
    p1 = project(H, p0) + rng.normal(0, 0.3, p0.shape)
    p1[count - outliers :] = rng.uniform(0, 600, (outliers, 2))
    return p0, p1


def scene(count=300, outliers=100, seed=0, t=(1.0, 0.2, 0.1)):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(4, 8, count)])
    angle = 0.1
    R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    t = np.asarray(t)
    Y = X @ R.T + t
    p0 = (X @ K.T)[:, :2] / X[:, 2:]
    p1 = (Y @ K.T)[:, :2] / Y[:, 2:]
    p1 = p1 + rng.normal(0, 0.2, p1.shape)
    p1[count - outliers :] = rng.uniform(0, 480, (outliers, 2))
    return p0, p1, R, t / np.linalg.norm(t)


def test_homography_maps_image0_to_image1():
    p0, p1 = plane()
    fit = fit_homography(p0, p1, threshold=2.0)
    assert fit.status is Status.OK and fit.model[2, 2] == 1
    corners = np.array([[0, 0], [599, 0], [599, 599], [0, 599.0]])
    assert np.abs(project(fit.model, corners) - project(H, corners)).max() < 1.0
    assert fit.inliers[:150].mean() > 0.99 and fit.inliers[150:].mean() < 0.05
    assert np.median(fit.residuals[:150]) < 1.0


def test_the_same_seed_gives_the_same_bytes():
    p0, p1 = plane()
    a, b = (fit_homography(p0, p1, seed=3).model for _ in range(2))
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("fit", [fit_homography, fit_fundamental, *(partial(fit, K0=K, K1=K) for fit in POSE)])
@pytest.mark.parametrize(
    ("name", "statuses"),
    [
        ("nothing", {Status.TOO_FEW_MATCHES}),
        ("three", {Status.TOO_FEW_MATCHES}),
        ("one point many times", {Status.TOO_FEW_MATCHES}),
        ("all NaN", {Status.TOO_FEW_MATCHES}),
        ("collinear", {Status.DEGENERATE, Status.NO_OVERLAP}),
        ("noise", {Status.NO_OVERLAP, Status.DEGENERATE}),
    ],
)
def test_bad_geometry_is_a_status_and_never_a_model(fit, name, statuses):
    rng = np.random.default_rng(1)
    p0, p1 = rng.uniform(0, 600, (60, 2)), rng.uniform(0, 600, (60, 2))
    line = np.linspace(0, 500, 60)
    data = {
        "nothing": (p0[:0], p1[:0]),
        "three": (p0[:3], p1[:3]),
        "one point many times": (np.tile(p0[:1], (60, 1)), np.tile(p1[:1], (60, 1))),
        "all NaN": (p0 * np.nan, p1),
        "collinear": (np.column_stack([line, line]), np.column_stack([line + 3, line])),
        "noise": (p0, p1),
    }
    result = fit(*data[name])
    assert result.status in statuses
    assert result.model is None and not result.inliers.any()
    assert len(result.inliers) == len(data[name][0])


@pytest.mark.parametrize("fit", [fit_homography, fit_fundamental, *(partial(fit, K0=K, K1=K) for fit in POSE)])
@pytest.mark.parametrize("count", [30, 300, 3000])
def test_chance_never_becomes_a_model(fit, count):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        result = fit(rng.uniform(0, 600, (count, 2)), rng.uniform(0, 600, (count, 2)))
        assert result.status is Status.NO_OVERLAP and result.model is None


def test_false_alarms_by_hand():
    # (10 - 2) * C(10, 5) * C(5, 2) * 0.1^3
    assert log10_false_alarms(10, 5, 2, 0.1) == pytest.approx(np.log10(8 * 252 * 10 * 1e-3))
    assert log10_false_alarms(10, 2, 2, 0.1) == np.inf


def test_nan_matches_are_ignored_not_fatal():
    p0, p1 = plane()
    p0[5], p1[7] = np.nan, np.inf
    fit = fit_homography(p0, p1)
    assert fit.status is Status.OK and not fit.inliers[5] and not fit.inliers[7]
    assert np.isnan(fit.residuals[5])


def test_a_mirrored_plane_is_degenerate():
    p0, _ = plane(outliers=0)
    mirrored = p0 * [-1, 1] + [600, 0]
    assert fit_homography(p0, mirrored).status is Status.DEGENERATE


def test_fundamental_matrix_has_its_points_the_right_way_round():
    p0, p1, R, t = scene()
    fit = fit_fundamental(p0, p1)
    assert fit.status is Status.OK
    tx = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    F = np.linalg.inv(K).T @ tx @ R @ np.linalg.inv(K)
    assert np.median(sampson_error(fit.model, p0[:200], p1[:200])) < 0.3
    assert np.median(sampson_error(F, p0[:200], p1[:200])) < 0.3
    assert np.median(sampson_error(fit.model, p1[:200], p0[:200])) > 3


@pytest.mark.parametrize("estimate", POSE)
def test_pose_takes_camera0_to_camera1(estimate):
    p0, p1, R, t = scene()
    fit = estimate(p0, p1, K, K)
    assert fit.status is Status.OK and fit.model.shape == (3, 4)
    assert np.degrees(np.arccos(np.clip((np.trace(fit.model[:, :3] @ R.T) - 1) / 2, -1, 1))) < 0.2
    assert fit.model[:, 3] @ t > 0.999
    assert fit.inliers[:200].mean() > 0.95 and fit.inliers[200:].mean() < 0.2
