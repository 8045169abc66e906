"""Matching keypoints with the help of a dense flow, in two stages (Huang et al., LIFE, ICCV 2021, section 3.2, eq. 4).

A descriptor sees a small patch, so repeated texture and changed light mislead it; the flow knows the whole picture but not
where exactly the keypoints are. Stage 1 therefore asks descriptors only near the place to which the flow leads; stage 2 matches
the keypoints that are left as if there were no flow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np

from flowkit.features.matching import SAME_PLACE, SEPARATION, DescriptorMatcher, deduplicate, match_descriptors
from flowkit.types import Features, Matches, Size

RADIUS = 5.0
"""Pixels around the flow's prediction in which stage 1 looks (LIFE)."""
BLOCK = 1 << 18
"""Pairs of neighbours compared at a time."""


def match_guided(
    features0: Features,
    features1: Features,
    flow01: np.ndarray,
    flow10: np.ndarray,
    *,
    radius: float = RADIUS,
    ratio: float | None = None,
    min_score: float | None = None,
    separation: float = SEPARATION,
    device: str = "cpu",
) -> Matches:
    """Matches with their `stage`, first all of stage 1, then all of stage 2; no keypoint is in two of them.

    `flow01` (2, H0, W0) leads image0 -> image1 on image0's grid, `flow10` (2, H1, W1) back, in the pixels of the keypoints;
    NaN is unknown. Stage 1: of the keypoints within `radius` pixels of where the flow leads a keypoint, the one with the
    largest dot product of descriptors; kept when both directions agree. Where the flow is unknown or leads out of the
    other image there is none. Stage 2: each keypoint left over asks for its nearest descriptor among *all* of the other
    image, as `match_descriptors` does with `ratio` and `separation`, mutually; when that nearest one is taken by stage 1
    it stays without a match, second best is not asked for. So stage 2 is what matching without a guide gives, less what
    touches a keypoint of stage 1. `min_score` holds in both. ValueError when a flow is not of its image's size.
    """
    there = _nearest_around(_predicted(features0, flow01, features1.size), features0, features1, radius)
    back = _nearest_around(_predicted(features1, flow10, features0.size), features1, features0, radius)
    index0 = np.flatnonzero(there >= 0)
    index0 = index0[back[there[index0]] == index0]
    index1 = there[index0]
    scores = np.einsum("nd,nd->n", features0.descriptors[index0], features1.descriptors[index1])
    if min_score is not None:
        strong = scores >= min_score
        index0, index1, scores = index0[strong], index1[strong], scores[strong]
    free0, free1 = np.ones(len(features0.keypoints), bool), np.ones(len(features1.keypoints), bool)
    free0[index0] = free1[index1] = False
    rest = match_descriptors(
        features0,
        features1,
        ratio=ratio,
        min_score=min_score,
        separation=separation,
        free=(free0, free1),
        device=device,
    )
    return replace(
        rest,
        pairs=np.concatenate([np.stack([index0, index1], axis=1), rest.pairs]),
        scores=np.concatenate([scores.clip(0, 1).astype(np.float32), rest.scores]),
        origin=np.zeros(len(index0) + len(rest), np.int64),
        stage=np.repeat([1, 2], [len(index0), len(rest)]),
    )


def match_with_guide(
    matcher: DescriptorMatcher,
    features0: Features,
    features1: Features,
    flow01: np.ndarray,
    flow10: np.ndarray,
    *,
    radius: float = RADIUS,
    pixel: float = 1.0,
) -> Matches:
    """As `matcher` matches, with all its own tests, but guided: `match_guided` of features in the pixels of the flows.

    `pixel` is how many of those make one pixel of image1 as the features saw it, in which the matcher's own bounds are.
    """
    found = match_guided(
        features0,
        features1,
        flow01,
        flow10,
        radius=radius,
        ratio=matcher.ratio,
        min_score=matcher.min_score,
        separation=SEPARATION * pixel,
        device=matcher.device,
    )
    return deduplicate(found, SAME_PLACE * pixel) if matcher.unique else found


def _predicted(features: Features, flow: np.ndarray, other: Size) -> np.ndarray:
    """(N, 2): where the flow leads the keypoints, NaN where it is unknown or leads out of the other image."""
    import torch

    from flowkit.geometry.grids import inside
    from flowkit.geometry.sampling import sample_flow

    if flow.shape != (2, *features.size):
        raise ValueError(f"flow of shape {flow.shape} for keypoints of an image of size {features.size}")
    points = torch.from_numpy(features.keypoints).float()
    targets = points + sample_flow(torch.from_numpy(flow), points).T
    return torch.where(inside(targets, other)[:, None], targets, torch.nan).numpy()


def _nearest_around(predicted: np.ndarray, features0: Features, features1: Features, radius: float) -> np.ndarray:
    """(N0,): of the keypoints of `features1` near each predicted point the one with the most alike descriptor, -1 for none."""
    best = np.full(len(predicted), -1, np.int64)
    for index0, index1, starts in _neighbours(predicted, features1.keypoints, radius):
        similarity = np.einsum("nd,nd->n", features0.descriptors[index0], features1.descriptors[index1])
        highest = np.maximum.reduceat(similarity, starts)
        counts = np.diff(np.append(starts, len(similarity)))
        top = np.flatnonzero(similarity == np.repeat(highest, counts))
        rows, first = np.unique(index0[top], return_index=True)  # of equals the first
        best[rows] = index1[top[first]]
    return best


def _neighbours(
    predicted: np.ndarray, keypoints: np.ndarray, radius: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Index pairs of predicted points and keypoints within `radius`, sorted, and where each predicted point's begin.

    In blocks of about BLOCK pairs: where all keypoints crowd together, every point is near every other.
    """
    from scipy.spatial import cKDTree

    rows = np.flatnonzero(np.isfinite(predicted).all(axis=1))
    if not len(rows) or not len(keypoints):
        return
    tree = cKDTree(keypoints)
    counts = tree.query_ball_point(predicted[rows], radius, return_length=True)
    rows, counts = rows[counts > 0], counts[counts > 0]
    if not len(rows):
        return
    ends = np.flatnonzero(np.diff((np.cumsum(counts) - 1) // BLOCK)) + 1
    for part, amounts in zip(np.split(rows, ends), np.split(counts, ends), strict=True):
        lists = tree.query_ball_point(predicted[part], radius, return_sorted=True)
        index1 = np.fromiter(chain.from_iterable(lists), np.int64, count=int(amounts.sum()))
        yield np.repeat(part, amounts), index1, np.cumsum(amounts) - amounts
