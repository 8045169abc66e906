"""A coloured point cloud of two views: every pixel that a dense flow is confident of, triangulated with the relative pose."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.io.images import as_image
from flowkit.io.ply import write_ply
from flowkit.pipelines.dense_matches import CONFIDENT, aligned_flow, usable
from flowkit.pipelines.masks import EVERYTHING, MaskChoice, Masks, chosen_masks
from flowkit.pipelines.pose import pose
from flowkit.pipelines.prepare import load_pair
from flowkit.types import Flow, RelativePose, Status

MIN_PARALLAX = 1.0
"""Degrees between the two rays of a point; below it depth is a guess (COLMAP drops points below 1.5)."""
CHUNK = 1 << 19
"""Matches triangulated at once, a few hundred bytes each."""


@dataclass(frozen=True)
class PointCloud:
    """Points (N, 3) float32 in image0's camera frame (x right, y down, z forward; unit: the baseline), colours (N, 3) uint8.

    Without any point `reason` says why, else it is None. `camera1` (3,) is the centre of image1's camera, NaN without a pose.
    """

    points: np.ndarray
    colours: np.ndarray
    camera1: np.ndarray
    reason: str | None = None

    def __len__(self) -> int:
        return len(self.points)

    def write(self, path: str | Path, name0: str, name1: str) -> None:
        """Write a PLY whose header says what it shows. ValueError without points; OutputError."""
        if self.reason is not None:
            raise ValueError(self.reason)
        comments = [
            f"two-view stereo by flowkit: A = {name0}, B = {name1}; colours of A",
            "camera A at the origin; x right, y down, z forward",
            "unit: the baseline, so that camera B is at distance 1 (the true scale is unknown)",
            f"centre of camera B: {' '.join(f'{value:.9g}' for value in self.camera1)}",
        ]
        write_ply(path, self.points, self.colours, comments)


def point_cloud(
    found: RelativePose,
    flow: Flow,
    image0: object,
    *,
    confidence: float = CONFIDENT,
    masks: Masks = EVERYTHING,
    stride: int = 1,
    max_error: float | None = None,
    min_parallax: float = MIN_PARALLAX,
) -> PointCloud:
    """The points behind every `stride`-th pixel of image0 whose flow to image1 can be relied on, with image0's colours.

    Kept are points in front of both cameras that project to within `max_error` pixels (the pose's own bound by default) of
    both ends of their match, and whose two rays meet at no less than `min_parallax` degrees. No points, and a reason, unless
    the pose's status is ok. Raises InputError for a flow without confidence.
    """
    nothing = np.zeros((0, 3), np.float32), np.zeros((0, 3), np.uint8)
    if found.status is not Status.OK or found.R is None or found.t is None:
        why = (
            "the camera only turned" if found.degeneracy == "pure_rotation" else f"the pose's status is {found.status}"
        )
        return PointCloud(*nothing, np.full(3, np.nan), f"{why}: nothing can be triangulated")
    camera1 = -np.asarray(found.R).T @ np.ravel(found.t)
    keep = usable(flow, confidence, masks)
    sparse = np.zeros_like(keep)
    sparse[stride // 2 :: stride, stride // 2 :: stride] = True
    y, x = np.nonzero(keep & sparse)
    if not len(x):
        return PointCloud(*nothing, camera1, f"no pixel has a confidence of {confidence:g}")
    points0 = np.column_stack([x, y]).astype(np.float64)
    points1 = points0 + flow.uv[:, y, x].T
    bound = found.threshold if max_error is None else max_error
    points, good = triangulated(found, points0, points1, max_error=bound, min_parallax=min_parallax)
    if not good.any():
        return PointCloud(
            *nothing,
            camera1,
            f"of {len(good)} matches none is within {bound:g} px, in front of both cameras, "
            f"and seen with {min_parallax:g} degrees of parallax",
        )
    return PointCloud(points[good].astype(np.float32), as_image(image0).rgb8[y[good], x[good]], camera1)


def pose_with_cloud(
    image0: object,
    image1: object,
    K0: np.ndarray,
    K1: np.ndarray,
    *,
    dense: bool = False,
    model: str | None = None,
    weights: str | Path | None = None,
    precision: str | None = None,
    iterations: int | None = None,
    confidence: float = CONFIDENT,
    mask0: MaskChoice = None,
    mask1: MaskChoice = None,
    stride: int = 1,
    min_parallax: float = MIN_PARALLAX,
    **options: Any,
) -> tuple[RelativePose, PointCloud]:
    """`pose`, from features or dense, and the point cloud of the dense flow, which is computed once.

    `model` and what follows are of `aligned_flow` and `point_cloud`, `options` of `pose`. Raises what these raise.
    """
    pair = load_pair(image0, image1)
    masked: dict[str, Any] = {"mask0": mask0, "mask1": mask1}
    asked: dict[str, Any] = {"weights": weights, "precision": precision, "iterations": iterations, **masked}
    asked |= {name: options.get(name) for name in ("features", "resize", "device", "seed")}
    given = {name: value for name, value in asked.items() if value is not None}
    flow = aligned_flow(*pair, model=model, **given)
    options = dict(options, **masked, confidence=confidence)
    found = pose(pair[0], pair[1], K0, K1, dense=flow if dense else False, **options)
    started = time.perf_counter()
    masks = chosen_masks(pair, mask0, mask1)
    cloud = point_cloud(
        found, flow, pair[0], confidence=confidence, masks=masks, stride=stride, min_parallax=min_parallax
    )
    assert found.run is not None and flow.run is not None
    run, made = found.run, flow.run
    said = {"flow": made.method, "confidence": confidence, "stride": stride, "min_parallax": min_parallax}
    flow_seconds: dict[str, float] = (
        {} if dense else {"flow": made.seconds.get("total", 0.0)}
    )  # a dense pose counts its own flow
    run = replace(
        run,
        options={**run.options, "cloud": said},
        weights={**run.weights, **made.weights},
        seconds={**run.seconds, **flow_seconds, "cloud": time.perf_counter() - started},
    )
    return replace(found, run=run), cloud


def triangulated(
    found: RelativePose, points0: np.ndarray, points1: np.ndarray, *, max_error: float, min_parallax: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) float64 in image0's camera frame of matches (N, 2) in pixels, and (N,) bool: which may be kept.

    Each match is first moved onto its epipolar lines by Sampson's correction, the first-order least change; its rays then
    meet, and triangulation is linear (Hartley and Zisserman, 2nd ed., sections 12.4 and 12.2).
    """
    import torch

    from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential, sampson_corrected
    from flowkit.geometry.homography import homogeneous
    from flowkit.geometry.pose import normalise_points, triangulate

    R, t, K0, K1 = (torch.as_tensor(np.asarray(a), dtype=torch.float64) for a in (found.R, found.t, found.K0, found.K1))
    t = t.reshape(3)
    F = fundamental_from_essential(essential_from_pose(R, t), K0, K1)
    points, good = np.empty((len(points0), 3)), np.empty(len(points0), bool)
    for part in _chunks(len(points0)):
        measured = [torch.as_tensor(p[part], dtype=torch.float64) for p in (points0, points1)]
        on_lines = sampson_corrected(F, *measured)
        X0 = triangulate(R, t, *(normalise_points(p, K) for p, K in zip(on_lines, (K0, K1), strict=True)))
        X1 = X0 @ R.mT + t
        in_front = (X0[:, 2] > 0) & (X1[:, 2] > 0)
        off = [
            (homogeneous(X[:, :2] / X[:, 2:]) @ K.mT)[:, :2] - p
            for X, K, p in zip((X0, X1), (K0, K1), measured, strict=True)
        ]
        error = torch.maximum(off[0].norm(dim=1), off[1].norm(dim=1))
        away = X0 + R.mT @ t  # from camera B's centre, -R' t
        parallax = torch.atan2(torch.linalg.cross(X0, away).norm(dim=1), (X0 * away).sum(1))
        # A comparison with NaN is false: parallel rays are not kept.
        kept = in_front & (error <= max_error) & (torch.rad2deg(parallax) >= min_parallax)
        points[part], good[part] = X0.numpy(), kept.numpy()
    return points, good


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, length, CHUNK))
