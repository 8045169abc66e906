"""Calibrated relative pose by batched RANSAC on five points and least squares on the essential manifold, in torch.

The lower level of Jiang et al. 2020 (`flowkit.geometry.essential_layer`) for matches and flows that are given, on any device,
but by Sampson's distance in place of the paper's algebraic one: nothing is to be differentiated here.
"""

from __future__ import annotations

import numpy as np

from flowkit.estimators.relative_pose import judged_pose
from flowkit.types import Fit, Status

ESTIMATOR = "essential-ransac"
HELD_OUT = 2_000
"""Matches that test hypotheses, at most."""
CANDIDATES = 10
"""Hypotheses that are fitted to all matches: of a smooth flow none of the samples may be near, but one lead there."""
CONFIDENCE = 0.9999
"""With which a sample of five inliers has been drawn when RANSAC ends before its 10 000 hypotheses."""


def fit_essential(
    points0: np.ndarray,
    points1: np.ndarray,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    threshold: float = 1.0,
    seed: int = 0,
    min_inliers: int = 12,
    hypotheses: int = 10_000,
    device: str = "cpu",
) -> Fit:
    """[R | t] (3x4, X1 = R X0 + t, |t| = 1) from (N, 2) pixel points and intrinsics in the pixel-centre convention.

    `threshold` bounds the Sampson distance of an inlier in pixels, by which hypotheses are judged, too; all matches are fitted
    to (`flowkit.geometry.sampson_fit`), a sixth of them (at most 2 000) tests hypotheses. Statuses are those of
    `flowkit.estimators.poselib.fit_relative_pose`. Never raises on bad geometry.
    """
    import torch

    from flowkit.geometry.epipolar import sampson_error
    from flowkit.geometry.essential_ransac import essential_ransac
    from flowkit.geometry.matrix_manifolds import ESSENTIAL
    from flowkit.geometry.pose import normalise_points, recover_pose
    from flowkit.geometry.sampson_fit import fit_sampson

    focal = float(np.mean([K[k, k] for K in (K0, K1) for k in (0, 1)]))
    delta = threshold / focal

    def solve(finite0: np.ndarray, finite1: np.ndarray) -> np.ndarray | Status:
        order = np.random.default_rng(seed).permutation(len(finite0))
        x0, x1 = (
            normalise_points(torch.as_tensor(points[order], device=device), torch.as_tensor(K, device=device))
            for points, K in ((finite0, np.asarray(K0, float)), (finite1, np.asarray(K1, float)))
        )
        split = len(x0) - min(HELD_OUT, len(x0) // 6)
        candidates, _ = essential_ransac(
            *(x0[:split], x1[:split], x0[split:], x1[split:]),
            delta=delta,
            hypotheses=hypotheses,
            score="sampson",
            confidence=CONFIDENCE,
            keep=CANDIDATES,
            seed=seed,
        )
        if not len(candidates):
            return Status.NO_OVERLAP
        minima, penalties = fit_sampson(ESSENTIAL.nearest(candidates), x0, x1, delta)
        E = minima[penalties.argmin()]
        R, t, front = recover_pose(E, x0, x1, sampson_error(E, x0, x1) <= delta)
        return torch.cat([R, t[:, None]], 1).cpu().numpy() if bool(front.any()) else Status.DEGENERATE

    return judged_pose(
        solve, points0, points1, K0, K1, threshold=threshold, min_inliers=min_inliers, estimator=ESTIMATOR
    )
