"""Calibrated relative pose by batched RANSAC on five points and least squares on the essential manifold, in torch.

The lower level of Jiang et al. 2020 (`flowkit.geometry.essential_layer`) for matches and flows that are given, on any device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowkit.estimators.magsac import sampson_error
from flowkit.estimators.points import clean, collinear, distinct
from flowkit.estimators.significance import significant
from flowkit.types import Fit, Status

if TYPE_CHECKING:
    from torch import Tensor

ESTIMATOR = "essential-irls"
HELD_OUT = 2_000
"""Matches that test hypotheses, at most."""
CANDIDATES = 10
"""Hypotheses that are fitted to all matches: of a smooth flow none of the samples may be near, but one lead there."""
ROUNDS, STEPS = 4, 50
"""In which the slopes of the residuals are taken anew, and steps in each."""
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
    to, a sixth of them (at most 2 000) tests hypotheses. The algebraic residual x1' E x0 of the paper becomes small near the
    epipoles whatever E is, which biases it where the camera moves forwards; so each is divided by its slope, anew in each of
    some rounds, and what is minimised is the truncated Sampson distance. Statuses are those of
    `flowkit.estimators.poselib.fit_relative_pose`. Never raises on bad geometry.
    """
    import torch

    from flowkit.geometry.essential_ransac import essential_ransac
    from flowkit.geometry.pose import normalise_points, recover_pose

    points0, points1, finite = clean(points0, points1)
    residuals = np.full(len(finite), np.nan)

    def failure(status: Status) -> Fit:
        return Fit(None, np.zeros(len(residuals), bool), status, residuals, threshold, ESTIMATOR)

    if distinct(points0[finite], points1[finite]) < max(5, min_inliers):
        return failure(Status.TOO_FEW_MATCHES)
    if collinear(points0[finite], 1e-3) or collinear(points1[finite], 1e-3):
        return failure(Status.DEGENERATE)
    focal = float(np.mean([K[k, k] for K in (K0, K1) for k in (0, 1)]))
    delta = threshold / focal
    order = np.random.default_rng(seed).permutation(int(finite.sum()))
    x0, x1 = (
        normalise_points(torch.as_tensor(points[finite][order], device=device), torch.as_tensor(K, device=device))
        for points, K in ((points0, np.asarray(K0, float)), (points1, np.asarray(K1, float)))
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
        return failure(Status.NO_OVERLAP)
    fitted = _by_sampson_distance(candidates, x0, x1, delta)
    E = fitted.cpu().numpy()
    F = np.linalg.inv(K1).T @ E @ np.linalg.inv(K0)
    residuals[finite] = sampson_error(F, points0[finite], points1[finite])
    inliers = residuals <= threshold
    if distinct(points0[inliers], points1[inliers]) < min_inliers or not significant(
        points0, points1, inliers, sample=5, threshold=threshold, line=True
    ):
        return failure(Status.NO_OVERLAP)
    voters = torch.as_tensor(inliers[finite][order], device=device)
    R, t, front = recover_pose(fitted, x0, x1, voters)
    if not bool(front.any()):
        return failure(Status.DEGENERATE)
    pose = torch.cat([R, t[:, None]], 1).cpu().numpy()
    return Fit(pose, inliers, Status.OK, residuals, threshold, ESTIMATOR)


def _by_sampson_distance(candidates: Tensor, x0: Tensor, x1: Tensor, delta: float) -> Tensor:
    """The lowest (3, 3) of the minima of the truncated Sampson distance of matches (N, 2) near candidates (k, 3, 3)."""
    import torch

    from flowkit.geometry.epipolar import sampson_error
    from flowkit.geometry.essential_ransac import epipolar_rows
    from flowkit.geometry.irls import irls, residuals
    from flowkit.geometry.matrix_manifolds import ESSENTIAL

    E = ESSENTIAL.nearest(candidates)
    rows, starts, ends = (part.expand(len(E), *part.shape) for part in (epipolar_rows(x0, x1), x0, x1))
    for _ in range(ROUNDS):
        value = residuals(rows, E).abs()
        slope = value / sampson_error(E, starts, ends).clamp_min(torch.finfo(value.dtype).tiny)
        known = torch.isfinite(slope) & (slope > 0)
        E = irls(rows / torch.where(known, slope, 1)[..., None], E, ESSENTIAL, delta, STEPS).matrix
    penalty = sampson_error(E, starts, ends).square().nan_to_num(delta**2).clamp(max=delta**2).sum(-1)
    return E[penalty.argmin()]
