"""What every estimator of a calibrated pose does before it solves, and how its answer is judged afterwards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from flowkit.estimators.magsac import sampson_error
from flowkit.estimators.points import clean, collinear, distinct
from flowkit.estimators.significance import significant
from flowkit.types import Fit, Status

Solve = Callable[[np.ndarray, np.ndarray], np.ndarray | Status]
"""From finite points (N, 2) of both images to [R | t] (3x4, X1 = R X0 + t, t of any length but 0), or why there is none."""


def judged_pose(
    solve: Solve,
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    threshold: float,
    min_inliers: int,
    estimator: str,
) -> Fit:
    """[R | t] with |t| = 1 of `solve`, its inliers those whose Sampson distance is at most `threshold` pixels.

    too_few_matches and degenerate (collinear points, an answer that is no pose) are told before and after; no_overlap where
    fewer than `min_inliers` distinct matches agree, or no more than chance explains. Never raises on bad geometry.
    """
    points0, points1, finite = clean(points0, points1)
    residuals = np.full(len(finite), np.nan)

    def failure(status: Status) -> Fit:
        return Fit(None, np.zeros(len(residuals), bool), status, residuals, threshold, estimator)

    if distinct(points0[finite], points1[finite]) < max(5, min_inliers):
        return failure(Status.TOO_FEW_MATCHES)
    if collinear(points0[finite], 1e-3) or collinear(points1[finite], 1e-3):
        return failure(Status.DEGENERATE)
    pose = solve(points0[finite], points1[finite])
    if isinstance(pose, Status):
        return failure(pose)
    R, t = pose[:, :3], pose[:, 3]
    norm = np.linalg.norm(t)
    if not np.isfinite(pose).all() or norm < 1e-12 or abs(np.linalg.det(R) - 1) > 1e-3:
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
    return Fit(np.column_stack([R, t]), inliers, Status.OK, residuals, threshold, estimator)
