"""A coloured point cloud of two views: every pixel that a dense flow is confident of, triangulated with the relative pose."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.io.images import as_image
from flowkit.io.ply import write_ply
from flowkit.pipelines.dense_matches import CONFIDENT, usable
from flowkit.pipelines.masks import EVERYTHING, Masks
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
    pose: RelativePose,
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
    if pose.status is not Status.OK or pose.R is None or pose.t is None:
        why = "the camera only turned" if pose.degeneracy == "pure_rotation" else f"the pose's status is {pose.status}"
        return PointCloud(*nothing, np.full(3, np.nan), f"{why}: nothing can be triangulated")
    camera1 = -np.asarray(pose.R).T @ np.ravel(pose.t)
    keep = usable(flow, confidence, masks)
    sparse = np.zeros_like(keep)
    sparse[stride // 2 :: stride, stride // 2 :: stride] = True
    y, x = np.nonzero(keep & sparse)
    if not len(x):
        return PointCloud(*nothing, camera1, f"no pixel has a confidence of {confidence:g}")
    points0 = np.column_stack([x, y]).astype(np.float64)
    points1 = points0 + flow.uv[:, y, x].T
    bound = pose.threshold if max_error is None else max_error
    points, good = triangulated(pose, points0, points1, max_error=bound, min_parallax=min_parallax)
    if not good.any():
        return PointCloud(
            *nothing,
            camera1,
            f"of {len(good)} matches none is within {bound:g} px, in front of both cameras, "
            f"and seen with {min_parallax:g} degrees of parallax",
        )
    return PointCloud(points[good].astype(np.float32), as_image(image0).rgb8[y[good], x[good]], camera1)


def triangulated(
    pose: RelativePose, points0: np.ndarray, points1: np.ndarray, *, max_error: float, min_parallax: float
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) float64 in image0's camera frame of matches (N, 2) in pixels, and (N,) bool: which may be kept.

    Each match is first moved onto its epipolar lines by Sampson's correction, the first-order least change; its rays then
    meet, and triangulation is linear (Hartley and Zisserman, 2nd ed., sections 12.4 and 12.2).
    """
    import torch

    from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential, sampson_corrected
    from flowkit.geometry.homography import homogeneous
    from flowkit.geometry.pose import normalise_points, triangulate

    R, t, K0, K1 = (torch.as_tensor(np.asarray(a), dtype=torch.float64) for a in (pose.R, pose.t, pose.K0, pose.K1))
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
