"""Relative camera pose between two calibrated images, with the two motions that it cannot tell named."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError, UsageError
from flowkit.estimators.magsac import ESTIMATOR as HOMOGRAPHY_ESTIMATOR
from flowkit.estimators.magsac import fit_homography
from flowkit.estimators.poselib import ESTIMATOR, fit_relative_pose
from flowkit.pipelines.dense_matches import CONFIDENT, MOST, aligned_flow, spread_matches, usable
from flowkit.pipelines.masks import MaskChoice, Masks, chosen_masks
from flowkit.pipelines.match import FeatureChoice, guide_options, match
from flowkit.pipelines.prepare import Resize, load_pair
from flowkit.types import Fit, Flow, Image, Matches, RelativePose, Run, Size, Status

THRESHOLD = 1.0
"""Sampson bound in pixels at 1000 pixels a side; larger images scale it."""
PLANAR_SHARE = 0.9
"""Inliers of the pose that one homography must explain as well for the scene to count as planar."""

NOISE, LEAST_NOISE = 6.0, 0.1
"""A homography may then miss by so many times the pose's median residual, which is four standard deviations; and in pixels at
least."""

WEAK = 0.3
"""Share of the matches that agree with a pose below which other draws must find it again."""
DRAWS, SAME_DEG = 2, 10.0
"""So many of them, turned by no more than this: chance finds other poses each time, a hundred degrees away."""

FLAGS = {"iterations": "iters", "feature_weights": "feature-weights"}
LEAST_SHARE = 0.01
"""Of the picture, masks aside, that a dense flow must be confident of (RANSAC-Flow accepts a homography for as much)."""


def pose(
    image0: object,
    image1: object,
    K0: np.ndarray | None = None,
    K1: np.ndarray | None = None,
    *,
    features: FeatureChoice | None = None,
    feature_weights: Mapping[str, str | Path] | None = None,
    guide: str | None = None,
    guide_radius: float | None = None,
    threshold: float | None = None,
    dense: bool | Flow = False,
    model: str | None = None,
    weights: str | Path | None = None,
    precision: str | None = None,
    iterations: int | None = None,
    confidence: float = CONFIDENT,
    mask0: MaskChoice = None,
    mask1: MaskChoice = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> RelativePose:
    """X1 = R X0 + t with |t| = 1 between the cameras of two images, K 3x3 in original pixels (pixel centres at integers).

    A missing K is taken from EXIF; InputError if there is none. Pure rotation gives status degenerate with R alone; a planar
    scene is named and solved by its homography. `guide` and `feature_weights` are those of `match`.

    `dense`: from matches spread evenly over what a dense flow image0 -> image1 is at least so `confidence` of (RANSAC-Flow,
    section 4.3), in place of matches of features; the flow given, or that of `aligned_flow` with `model`, `weights`,
    `precision`, `iterations`. If it is confident of less than 1 % of the picture, the status is too_few_matches.
    `mask0`, `mask1` (`flowkit.pipelines.masks`) say where matches may lie. Raises InputError, UsageError, WeightsError; never
    on bad geometry.
    """
    started = time.perf_counter()
    images = load_pair(image0, image1)
    K0, K1 = (_intrinsics(image, K) for image, K in zip(images, (K0, K1), strict=True))
    bound = threshold if threshold is not None else default_threshold(*(image.size for image in images))
    network = {"model": model, "weights": weights, "precision": precision, "iterations": iterations}
    if dense is False:
        _refuse(network, "only of a dense flow; give --dense or leave it out")
        matches = match(
            *images,
            features=features,
            feature_weights=feature_weights,
            guide=guide,
            guide_radius=guide_radius,
            mask0=mask0,
            mask1=mask1,
            resize=resize,
            device=device,
            seed=seed,
        )
        assert matches.run is not None
        said = {"features": matches.run.options.get("features"), **guide_options(matches.run)}
        said |= {name: value for name, value in matches.run.options.items() if name.startswith("mask")}
        found = from_matches(matches, K0, K1, bound, seed)
    else:
        _refuse({"guide": guide, "feature_weights": feature_weights}, "leads matches of features, not a dense flow")
        common = {
            "features": features,
            "resize": resize,
            "device": device,
            "seed": seed,
            "mask0": mask0,
            "mask1": mask1,
        }
        flow = dense if isinstance(dense, Flow) else aligned_flow(*images, **_given({**common, **network}))
        found, said = from_flow(flow, K0, K1, bound, seed, confidence, chosen_masks(images, mask0, mask1))
    made = found.matches.run or Run("flow")
    seconds = {**made.seconds, "total": time.perf_counter() - started}
    return replace(found, run=replace(made, options={**said, "threshold": bound}, seed=seed, seconds=seconds))


def from_flow(
    flow: Flow, K0: np.ndarray, K1: np.ndarray, threshold: float, seed: int, confidence: float, masks: Masks
) -> tuple[RelativePose, dict[str, object]]:
    """The pose behind what a flow is at least so confident of and the masks allow, and what provenance says of it."""
    keep = usable(flow, confidence, masks)
    allowed = keep.size if masks.mask0 is None else int(masks.mask0.sum())
    share = round(float(keep.sum()) / max(1, allowed), 4)
    matches = spread_matches(flow, keep, MOST, flow.run.method if flow.run else "flow")
    said = {**(flow.run.options if flow.run else {}), "dense": True, "confidence": confidence, "confident": share}
    if share >= LEAST_SHARE:
        found = from_matches(matches, K0, K1, threshold, seed)
    else:
        status = Status.TOO_FEW_MATCHES if flow.valid.any() else Status.NO_OVERLAP
        none, unknown = np.zeros(len(matches), bool), np.full(len(matches), np.nan)
        fit = Fit(None, none, status, unknown, threshold, ESTIMATOR)
        found = _answer(matches, K0, K1, threshold, status, "none", fit)
    return found, {**said, **masks.provenance}


def default_threshold(*sizes: Size) -> float:
    """THRESHOLD pixels up to 1000 pixels a side, in proportion beyond."""
    return THRESHOLD * max(1.0, max(max(size) for size in sizes) / 1000)


def from_matches(
    matches: Matches,
    K0: np.ndarray,
    K1: np.ndarray,
    threshold: float,
    seed: int = 0,
    estimator: Callable[..., Fit] = fit_relative_pose,
    by_noise: bool = False,
) -> RelativePose:
    """The pose behind given matches, judged for degeneracy; `estimator` has `fit_relative_pose`'s contract.

    A homography that explains the inliers within twice the threshold makes the scene planar; `by_noise` within what the pose
    itself leaves of them: where parallaxes are small but many, as of a dense flow or from frame to frame. A pose on few of
    the matches that other draws do not find again is none: `no_overlap`.
    """
    points0, points1 = matches.points0, matches.points1
    fit = estimator(points0, points1, K0, K1, threshold=threshold, seed=seed)
    weak, sure = WEAK * len(matches), True
    if fit.model is not None and fit.inliers.sum() < weak:
        others = (estimator(points0, points1, K0, K1, threshold=threshold, seed=seed + k + 1) for k in range(DRAWS))
        sure = all(other.model is not None and _alike(fit.model, other.model) for other in others)
        if not sure:
            fit = replace(fit, model=None, inliers=np.zeros(len(matches), bool), status=Status.NO_OVERLAP)
    bound = 2 * threshold
    if by_noise and fit.model is not None:
        bound = min(bound, max(NOISE * float(np.median(fit.residuals[fit.inliers])), LEAST_NOISE))
    flat = fit_homography(points0, points1, threshold=bound, seed=seed)
    flat_count = int(flat.inliers.sum())
    if (
        flat.model is not None
        and (sure or flat_count >= weak)
        and (fit.model is None or flat_count >= PLANAR_SHARE * fit.inliers.sum())
    ):
        rotation = rotation_of(flat.model, K0, K1, points0[flat.inliers], points1[flat.inliers], bound)
        if rotation is not None:
            return _answer(matches, K0, K1, threshold, Status.DEGENERATE, "pure_rotation", flat, R=rotation)
        planar = planar_pose(flat.model, K0, K1, matches, flat.inliers, threshold)
        if planar is not None:
            judged = Fit(planar, flat.inliers, Status.OK, flat.residuals, threshold, HOMOGRAPHY_ESTIMATOR)
            return _answer(matches, K0, K1, threshold, Status.OK, "planar", judged, R=planar[:, :3], t=planar[:, 3])
    if fit.model is None:
        return _answer(matches, K0, K1, threshold, fit.status, "none", fit)
    return _answer(matches, K0, K1, threshold, Status.OK, "none", fit, R=fit.model[:, :3], t=fit.model[:, 3])


def _alike(pose: np.ndarray, other: np.ndarray) -> bool:
    """Whether two [R | t] turn alike; translations may differ where there is little of them."""
    cosine = (np.trace(pose[:, :3].T @ other[:, :3]) - 1) / 2
    return bool(np.degrees(np.arccos(np.clip(cosine, -1, 1))) <= SAME_DEG)


def rotation_of(
    H: np.ndarray, K0: np.ndarray, K1: np.ndarray, points0: np.ndarray, points1: np.ndarray, threshold: float
) -> np.ndarray | None:
    """R when turning the camera alone explains the matches (x1 ~ K1 R K0^-1 x0 within `threshold` px), else None."""
    near = np.linalg.inv(K1) @ H @ K0
    near = near / np.cbrt(np.linalg.det(near))
    U, _, Vt = np.linalg.svd(near)
    R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    rays0 = np.column_stack([points0, np.ones(len(points0))]) @ np.linalg.inv(K0).T
    rays1 = np.column_stack([points1, np.ones(len(points1))]) @ np.linalg.inv(K1).T
    rays0, rays1 = (r / np.linalg.norm(r, axis=1, keepdims=True) for r in (rays0, rays1))
    # The best rotation between the two bundles of rays (Kabsch).
    U, _, Vt = np.linalg.svd(rays1.T @ rays0)
    kabsch = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    for candidate in (kabsch, R):
        mapped = rays0 @ candidate.T @ K1.T
        if (mapped[:, 2] > 0).all():
            error = np.linalg.norm(mapped[:, :2] / mapped[:, 2:] - points1, axis=1)
            if np.mean(error < threshold) > PLANAR_SHARE:
                return candidate
    return None


def planar_pose(
    H: np.ndarray, K0: np.ndarray, K1: np.ndarray, matches: Matches, inliers: np.ndarray, threshold: float
) -> np.ndarray | None:
    """[R | t] from the homography of a plane: of the (up to four) solutions those with the plane in front of both cameras,
    and of those the one that more of the other matches agree with. None if no solution puts the plane in front."""
    import cv2

    from flowkit.estimators.magsac import sampson_error

    near = np.linalg.inv(K1) @ H @ K0
    _, rotations, translations, normals = cv2.decomposeHomographyMat(near, np.eye(3))
    rays0 = np.column_stack([matches.points0, np.ones(len(matches))]) @ np.linalg.inv(K0).T
    best, best_votes = None, -1
    for R, t, n in zip(rotations, translations, normals, strict=True):
        t = t.ravel()
        length = np.linalg.norm(t)
        if length < 1e-9:
            continue
        depth = rays0[inliers] @ n.ravel()
        if np.mean(depth > 0) < 0.99:
            continue
        tx = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]]) / length
        F = np.linalg.inv(K1).T @ tx @ R @ np.linalg.inv(K0)
        votes = int((sampson_error(F, matches.points0, matches.points1)[~inliers] < threshold).sum())
        if votes > best_votes:
            best, best_votes = np.column_stack([R, t / length]), votes
    return best


def _answer(
    matches: Matches,
    K0: np.ndarray,
    K1: np.ndarray,
    threshold: float,
    status: Status,
    degeneracy: str,
    fit: Fit,
    R: np.ndarray | None = None,
    t: np.ndarray | None = None,
) -> RelativePose:
    import torch

    from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential, symmetric_epipolar_distance

    E, error = None, None
    if R is not None and t is not None:
        tensors = [torch.as_tensor(a, dtype=torch.float64) for a in (R, t, K0, K1)]
        essential = essential_from_pose(tensors[0], tensors[1])
        E = essential.numpy()
        F = fundamental_from_essential(essential, tensors[2], tensors[3])
        points = [torch.as_tensor(p[fit.inliers], dtype=torch.float64) for p in (matches.points0, matches.points1)]
        error = float(symmetric_epipolar_distance(F, points[0], points[1]).median())
    judged = replace(matches, inliers=fit.inliers)
    return RelativePose(R, t, E, K0, K1, status, degeneracy, judged, threshold, fit.estimator, error)


def _intrinsics(image: Image, K: np.ndarray | None) -> np.ndarray:
    from flowkit.io.cameras import intrinsics_from_exif

    if K is None:
        K = intrinsics_from_exif(image)
        if K is None:
            raise InputError(f"{image.name}: no intrinsics given and none in its EXIF; pass K as a 3x3 matrix")
    return checked_intrinsics(K, image.name)


def checked_intrinsics(K: object, name: str) -> np.ndarray:
    """K as (3, 3) float64; UsageError, naming whose it is, for what is no such matrix."""
    matrix = np.asarray(K, float)
    if matrix.shape != (3, 3) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise UsageError(f"{name}: K must be a finite, invertible 3x3 matrix")
    return matrix


def _given(options: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _refuse(options: Mapping[str, object], why: str) -> None:
    """UsageError for any that was given."""
    for name, value in _given(options).items():
        raise UsageError(f"--{FLAGS.get(name, name)} {value}: {why}")
