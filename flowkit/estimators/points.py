"""What every estimator asks of its matches before and after the fit."""

from __future__ import annotations

import numpy as np


def clean(points0: np.ndarray, points1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both as (N, 2) float64, and (N,) bool: where both points are finite. ValueError when the lengths differ."""
    points0 = np.asarray(points0, dtype=np.float64).reshape(-1, 2)
    points1 = np.asarray(points1, dtype=np.float64).reshape(-1, 2)
    if len(points0) != len(points1):
        raise ValueError(f"points0 and points1 must have the same length, got {len(points0)} and {len(points1)}")
    return points0, points1, np.all(np.isfinite(np.hstack([points0, points1])), axis=1)


def distinct(points0: np.ndarray, points1: np.ndarray) -> int:
    """Number of matches that differ by more than a rounding error: repeated ones carry no evidence."""
    if len(points0) == 0:
        return 0
    return min(len(np.unique(np.round(points0, 1), axis=0)), len(np.unique(np.round(points1, 1), axis=0)))


def collinear(points: np.ndarray, tolerance: float) -> bool:
    """Whether (N, 2) points lie on a line, up to `tolerance` of their extent along it; fewer than three always do."""
    if len(points) < 3:
        return True
    spread = np.linalg.svd(points - points.mean(0), compute_uv=False)
    return bool(spread[0] < 1e-9 or spread[1] < tolerance * spread[0])
