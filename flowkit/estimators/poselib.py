"""Calibrated relative pose by PoseLib (Larsson; LO-RANSAC with a five-point solver and non-linear refinement)."""

from __future__ import annotations

import numpy as np

from flowkit.estimators.magsac import sampson_error
from flowkit.estimators.points import clean, collinear, distinct
from flowkit.estimators.significance import significant
from flowkit.types import Fit, Status

ESTIMATOR = "poselib"


def fit_relative_pose(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    threshold: float = 1.0,
    seed: int = 0,
    min_inliers: int = 12,
) -> Fit:
    """[R | t] (3x4, X1 = R X0 + t, |t| = 1) from (N, 2) pixel points and intrinsics in the pixel-centre convention.

    `threshold` bounds the Sampson distance in pixels. PoseLib answers bad input with zeros or NaN; here it is a status.
    """
    import poselib

    points0, points1, finite = clean(points0, points1)
    residuals = np.full(len(finite), np.nan)

    def failure(status: Status) -> Fit:
        return Fit(None, np.zeros(len(residuals), bool), status, residuals, threshold, ESTIMATOR)

    if distinct(points0[finite], points1[finite]) < max(5, min_inliers):
        return failure(Status.TOO_FEW_MATCHES)
    if collinear(points0[finite], 1e-3) or collinear(points1[finite], 1e-3):
        return failure(Status.DEGENERATE)
    options = {
        "max_epipolar_error": float(threshold),
        "seed": int(seed),
        "max_iterations": 20_000,
        "min_iterations": 1000,
        "success_prob": 0.99999,
    }
    pose, _ = poselib.estimate_relative_pose(
        points0[finite],
        points1[finite],
        _camera(K0),
        _camera(K1),
        options,
        {"loss_type": "TRUNCATED", "loss_scale": float(threshold)},
    )
    R, t = np.asarray(pose.R, float), np.asarray(pose.t, float)
    norm = np.linalg.norm(t)
    if not (np.isfinite(R).all() and np.isfinite(t).all()) or norm < 1e-12 or abs(np.linalg.det(R) - 1) > 1e-3:
        return failure(Status.DEGENERATE)
    t = t / norm
    E = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) @ R
    F = np.linalg.inv(K1).T @ E @ np.linalg.inv(K0)
    residuals[finite] = sampson_error(F, points0[finite], points1[finite])
    inliers = residuals <= threshold
    if distinct(points0[inliers], points1[inliers]) < min_inliers or not significant(
        points0, points1, inliers, sample=5, threshold=threshold, line=True
    ):
        return failure(Status.NO_OVERLAP)
    return Fit(np.column_stack([R, t]), inliers, Status.OK, residuals, threshold, ESTIMATOR)


def _camera(K: np.ndarray) -> dict[str, object]:
    # PoseLib only normalises with these numbers, so a pixel-centre principal point stays as it is.
    K = np.asarray(K, float)
    width, height = int(2 * K[0, 2] + 1), int(2 * K[1, 2] + 1)
    return {
        "model": "PINHOLE",
        "width": max(width, 1),
        "height": max(height, 1),
        "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    }
