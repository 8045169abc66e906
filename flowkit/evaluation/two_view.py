"""Two-view geometry of YFCC100M's pairs as RANSAC-Flow finds it (Shen et al., ECCV 2020, section 4.3), and variants of it.

image0 is the source and image1 the target, of which the four quarter turns are tried first, for many of the photographs lie
on their side. Then matches are found, sparse or dense, and from them the essential matrix, by OpenCV as the paper has it or by
flowkit's own estimator. The paper also leaves out what its network for scenes does not take for a building; here all counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flowkit.datasets.samples import PoseSample
from flowkit.types import Image, Matches

THRESHOLD = 5e-4
"""Bound on the distance to epipolar lines in normalised coordinates of the paper's RANSAC."""
_FEWEST_FOR_E = 5
_OF_BOTH = ("features", "feature_weights")
"""Options that `match` and `align` have alike: those by which `match` chooses the turn for `align`."""

Pose = tuple[np.ndarray, np.ndarray]
"""R (3, 3) and t (3,), X1 = R X0 + t, |t| = 1."""


def two_view(
    image0: Image,
    image1: Image,
    sample: PoseSample,
    *,
    dense: bool = False,
    opencv: bool = False,
    device: str = "auto",
    seed: int = 0,
    **options: Any,
) -> tuple[Pose | None, str]:
    """The pose between both cameras, None where there is none, and a status.

    `dense` takes the matches of `align` with several homographies whose confidence is at least .95, else those of `match`;
    `options` are those of either. `opencv` computes the pose as the paper does.
    """
    from flowkit.pipelines import pose

    matching = {name: value for name, value in options.items() if not dense or name in _OF_BOTH}
    turns, matches = best_turn(image0, image1, device=device, seed=seed, **matching)
    if dense:
        matches = dense_matches(image0, image1, turns, every=opencv, device=device, seed=seed, **options)
    if len(matches) < _FEWEST_FOR_E:
        return None, "too_few_matches"
    if opencv:
        found = pose_by_opencv(matches.points0, matches.points1, sample.K0, sample.K1)
        return found, "degenerate" if found is None else "ok"
    bound = pose.THRESHOLD * max(1.0, max(*image0.size, *image1.size) / 1000)
    answer = pose.from_matches(matches, sample.K0, sample.K1, bound, seed)
    known = answer.R is not None and answer.t is not None
    return (answer.R, answer.t) if known else None, str(answer.status)  # type: ignore[return-value]


def best_turn(
    image0: Image, image1: Image, *, device: str = "auto", seed: int = 0, **matching: Any
) -> tuple[int, Matches]:
    """By how many quarter turns, counter-clockwise, image1 fits a homography of image0 best, and the matches found so.

    The one with the most inliers, of equals the first; the matches are in original pixels of both.
    """
    from flowkit.estimators.magsac import fit_homography
    from flowkit.pipelines.homography import default_threshold
    from flowkit.pipelines.match import match

    threshold = default_threshold(image0.size, image1.size, features=matching.get("features"))
    best: tuple[int, int, Matches] | None = None
    for turns in range(4):
        found = match(image0, turned(image1, turns), device=device, seed=seed, **matching)
        fit = fit_homography(found.points0, found.points1, threshold=threshold, seed=seed)
        inliers = int(fit.inliers.sum())
        if best is None or inliers > best[0]:
            back = turned_back(found.keypoints1, image1, turns)
            best = inliers, turns, replace(found, keypoints1=back, size1=image1.size)
    assert best is not None
    return best[1:]


def dense_matches(image0: Image, image1: Image, turns: int, *, every: bool, **options: Any) -> Matches:
    """Confident matches, in original pixels, of the flow from image1, turned so often, to image0: `every` one, or thousands."""
    from flowkit.pipelines.dense_matches import CONFIDENT, MOST, aligned_flow, spread_matches, usable

    found = aligned_flow(turned(image1, turns), image0, **options)
    keep = usable(found, CONFIDENT)
    spread = spread_matches(found, keep, keep.size if every else MOST, "align")
    return replace(
        spread,
        keypoints0=spread.keypoints1,
        keypoints1=turned_back(spread.keypoints0, image1, turns),
        pairs=spread.pairs[:, ::-1],
        size0=image0.size,
        size1=image1.size,
    )


def pose_by_opencv(points0: np.ndarray, points1: np.ndarray, K0: np.ndarray, K1: np.ndarray) -> Pose | None:
    """R and t from (N, 2) pixels: `cv2.findEssentialMat` by RANSAC on normalised points, `cv2.recoverPose` of what it gives.

    Of several matrices the one counts that has the most points in front of both cameras; None where none has any.
    """
    import cv2

    rays0, rays1 = (normalised(points, K) for points, K in ((points0, K0), (points1, K1)))
    cv2.setRNGSeed(0)
    E, inliers = cv2.findEssentialMat(rays0, rays1, method=cv2.RANSAC, threshold=THRESHOLD)
    best, most = None, 0
    for candidate in [] if E is None or E.shape[1:] != (3,) else np.split(E, len(E) // 3):
        count, R, t, _ = cv2.recoverPose(candidate, rays0, rays1, mask=inliers.copy())
        if count > most:
            best, most = (R, t.ravel()), count
    return best


def normalised(points: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(N, 2) pixels -> (N, 2) on the plane at distance 1."""
    return (points.astype(np.float64) - K[:2, 2]) / (K[0, 0], K[1, 1])


def turned(image: Image, turns: int) -> Image:
    """The picture after so many quarter turns counter-clockwise."""
    return image if turns == 0 else Image(np.ascontiguousarray(np.rot90(image.rgb8, turns)), image.path)


def turned_back(points: np.ndarray, image: Image, turns: int) -> np.ndarray:
    """Where points (N, 2) of `turned(image, turns)` are in the picture itself."""
    import torch

    from flowkit.geometry.grids import rotate90_points, rotate90_size

    return rotate90_points(torch.as_tensor(points), rotate90_size(image.size, turns), -turns % 4).numpy()
