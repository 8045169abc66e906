"""The camera's motion behind a dense flow, and what of the flow it does not explain: RANSAC and IRLS on the essential manifold.

Jiang et al., Joint Unsupervised Learning of Optical Flow and Egomotion with Bi-Level Optimization, 3DV 2020: the lower level,
of any flow. The network that was trained through it is `egoflow`.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from flowkit.estimators.essential import fit_essential
from flowkit.pipelines.dense_matches import TRUSTED, spread_matches
from flowkit.pipelines.pose import checked_intrinsics, default_threshold, from_matches
from flowkit.types import Egomotion, Flow, RelativePose

MOST = 12_000
"""Matches that are taken from the flow, evenly spread: the paper's 10 000 and the 2 000 that test hypotheses."""


def with_egomotion(
    flow: Flow, K0: np.ndarray, K1: np.ndarray | None = None, *, threshold: float | None = None, seed: int = 0
) -> Flow:
    """The flow with its `egomotion`: X1 = R X0 + t with |t| = 1 between cameras K 3x3 in original pixels; K1 defaults to K0.

    From pixels whose flow is known and ends inside image1, of a flow both ways those where it comes back. `threshold` bounds an
    inlier's Sampson distance in pixels; None: 1 up to 1000 pixels a side, in proportion beyond. A motion that cannot be told
    is a status (`egomotion.pose.status`). UsageError for a K that is none; never raises on bad geometry.
    """
    started = time.perf_counter()
    K0, K1 = (checked_intrinsics(K, name) for K, name in ((K0, "K0"), (K0 if K1 is None else K1, "K1")))
    bound = threshold if threshold is not None else default_threshold(flow.size, flow.size1)
    judged = flow if flow.confidence is not None else replace(flow, confidence=np.ones(flow.size, np.float32))
    assert judged.confidence is not None
    with np.errstate(invalid="ignore"):  # NaN is not confident
        keep = flow.inside & (judged.confidence >= (TRUSTED if flow.backward is not None else 0))
    matches = spread_matches(judged, keep, MOST, flow.run.method if flow.run else "flow")
    pose = from_matches(matches, K0, K1, bound, seed, estimator=fit_essential, by_noise=True)
    egomotion = Egomotion(pose, residual_map(flow, pose))
    if flow.run is None:
        return replace(flow, egomotion=egomotion)
    seconds = {**flow.run.seconds, "egomotion": time.perf_counter() - started}
    return replace(flow, egomotion=egomotion, run=replace(flow.run, seconds=seconds))


def residual_map(flow: Flow, pose: RelativePose) -> np.ndarray:
    """(H, W) float32: `Egomotion.residual` of a flow under a motion."""
    import torch

    from flowkit.geometry.epipolar import epipolar_distance, fundamental_from_essential
    from flowkit.geometry.grids import pixel_grid
    from flowkit.geometry.homography import transform_points
    from flowkit.geometry.pose import rotation_homography

    if pose.R is None:
        return np.full(flow.size, np.nan, np.float32)
    start = pixel_grid(*flow.size, dtype=torch.float64).flatten(1).mT
    end = start + torch.from_numpy(flow.uv.astype(np.float64)).flatten(1).mT
    K0, R, K1 = (torch.as_tensor(matrix, dtype=torch.float64) for matrix in (pose.K0, pose.R, pose.K1))
    if pose.E is None:
        distance = (transform_points(rotation_homography(K0, R, K1), start) - end).norm(dim=-1)
    else:
        E = torch.as_tensor(pose.E, dtype=torch.float64)
        distance = epipolar_distance(fundamental_from_essential(E, K0, K1), start, end)
    return distance.view(flow.size).float().numpy()
