"""How likely chance alone gives a model its inliers (a-contrario, Moisan and Stival, IJCV 2004): what keeps wrong models out.

Among N random matches, RANSAC always finds some model with a few supporters. The number of false alarms
NFA = (N - s) C(N, k) C(k, s) alpha^(k - s) bounds how many models of sample size s with k supporters to expect by chance,
when a random match supports a model with probability alpha. A model is believed when NFA is far below one.
"""

from __future__ import annotations

from math import lgamma, log

import numpy as np

MAX_LOG10 = -8.0
"""A model is believed below 10^-8 expected false alarms. So few because matches are not independent: two features find the
same corner, and repeated texture matches in rows."""


def log10_false_alarms(total: int, inliers: int, sample: int, chance: float) -> float:
    """log10 of the expected number of models with `inliers` of `total` matches by chance; `sample` determine a model."""
    if inliers <= sample:
        return float("inf")
    logs = log(max(1, total - sample)) + _log_choose(total, inliers) + _log_choose(inliers, sample)
    return (logs + (inliers - sample) * log(min(1.0, max(chance, 1e-300)))) / log(10)


def significant(
    points0: np.ndarray, points1: np.ndarray, inliers: np.ndarray, *, sample: int, threshold: float, line: bool
) -> bool:
    """Whether the inliers (N,) bool of a model on matches (N, 2), (N, 2) are more than chance explains, in both images.

    By chance a point falls anywhere where the matches are, which clusters make a smaller place than their bounding box (a
    uniform spread of the same deviation is taken): within `threshold` px of a point (homography), or of a line across it
    (`line`, epipolar geometry).
    """
    finite = np.isfinite(points0).all(1) & np.isfinite(points1).all(1)
    for points in (points0[finite], points1[finite]):
        width, height = np.maximum(np.sqrt(12) * points.std(axis=0), 2 * threshold)
        band = 2 * threshold * np.hypot(width, height) if line else np.pi * threshold**2
        alarms = log10_false_alarms(len(points), int(inliers.sum()), sample, band / (width * height))
        if alarms > MAX_LOG10:
            return False
    return True


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
