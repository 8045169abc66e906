"""Calibrated relative pose by PoseLib (Larsson; LO-RANSAC with a five-point solver and non-linear refinement)."""

from __future__ import annotations

import numpy as np

from flowkit.estimators.relative_pose import judged_pose
from flowkit.types import Fit

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

    options = {
        "max_epipolar_error": float(threshold),
        "seed": int(seed),
        "max_iterations": 20_000,
        "min_iterations": 1000,
        "success_prob": 0.99999,
    }
    refinement = {"loss_type": "TRUNCATED", "loss_scale": float(threshold)}

    def solve(finite0: np.ndarray, finite1: np.ndarray) -> np.ndarray:
        pose, _ = poselib.estimate_relative_pose(finite0, finite1, _camera(K0), _camera(K1), options, refinement)
        return np.column_stack([np.asarray(pose.R, float), np.asarray(pose.t, float)])

    return judged_pose(
        solve, points0, points1, K0, K1, threshold=threshold, min_inliers=min_inliers, estimator=ESTIMATOR
    )


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
