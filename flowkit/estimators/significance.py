"""How likely chance alone gives a model its inliers (a-contrario, Moisan and Stival, IJCV 2004): what keeps wrong models out.

Among N random matches, RANSAC always finds some model with a few supporters. The number of false alarms
NFA = (N - s) C(N, k) C(k, s) alpha^(k - s) bounds how many models of sample size s with k supporters to expect by chance,
when a random match supports a model with probability alpha. A model is believed when NFA is far below one.
"""

from __future__ import annotations

from math import lgamma, log

import numpy as np

MAX_LOG10 = -3.0
"""A model is believed below 10^-3 expected false alarms."""


def log10_false_alarms(total: int, inliers: int, sample: int, chance: float) -> float:
    """log10 of the expected number of models with `inliers` of `total` matches by chance; `sample` determine a model."""
    if inliers <= sample:
        return float("inf")
    logs = log(max(1, total - sample)) + _log_choose(total, inliers) + _log_choose(inliers, sample)
    return (logs + (inliers - sample) * log(min(1.0, max(chance, 1e-300)))) / log(10)


def significant(points1: np.ndarray, inliers: np.ndarray, *, sample: int, threshold: float, line: bool) -> bool:
    """Whether the inliers (N,) bool of a model on points1 (N, 2) are more than chance explains.

    By chance a point falls anywhere in the matches' own extent: within `threshold` px of a point (homography), or of a
    line across it (`line`, epipolar geometry).
    """
    finite = points1[np.isfinite(points1).all(1)]
    width, height = np.maximum(np.ptp(finite, axis=0), 2 * threshold)
    band = 2 * threshold * np.hypot(width, height) if line else np.pi * threshold**2
    return log10_false_alarms(len(finite), int(inliers.sum()), sample, band / (width * height)) < MAX_LOG10


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)
