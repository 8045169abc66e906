"""Dense flow out of depth and camera motion: the truth of RGB-D data sets, for all of the scene that stands still."""

from __future__ import annotations

import numpy as np

from flowkit.datasets.posed_views import Lens

HIDDEN = 0.05
"""A point that is farther than what the second depth map shows there by this share is hidden."""
_BEYOND = 1.25
"""Times the picture's half extent, in normalised coordinates: farther out a lens model is not to be trusted."""


def flow_from_depth(depth0: np.ndarray, T_0to1: np.ndarray, lens0: Lens, lens1: Lens) -> tuple[np.ndarray, np.ndarray]:
    """The flow (2, H, W) float32 image0 -> image1 in stored pixels, and the points' depths (H, W) in camera 1.

    `depth0` (H, W) is z along the optical axis of camera 0, 0 or NaN where unknown; `T_0to1` 4x4 with X1 = R X0 + t in the same
    unit. A pixel is freed of its lens, taken out to its depth, moved, and projected with the other lens. NaN where the depth
    is unknown, the point comes to lie behind camera 1, or so far outside its picture that the lens model says nothing.
    """
    height, width = depth0.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    grid = np.stack([x, y], axis=-1)
    known = np.isfinite(depth0) & (depth0 > 0)
    rays0 = lens0.rays(grid)
    points = np.where(known, depth0, 0)[..., None] * np.concatenate([rays0, np.ones((height, width, 1))], axis=-1)
    moved = points @ T_0to1[:3, :3].T + T_0to1[:3, 3]
    known &= moved[..., 2] > 0
    z = np.where(known, moved[..., 2], 1)
    rays1 = moved[..., :2] / z[..., None]
    rim = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    low, high = lens1.rays(rim)
    known &= (np.abs(rays1 - (low + high) / 2) <= _BEYOND * (high - low) / 2).all(axis=-1)
    target = lens1.stored(rays1 @ lens1.K[:2, :2].T + lens1.K[:2, 2], lens1.K)
    flow = np.where(known[..., None], target - grid, np.nan).transpose(2, 0, 1)
    return flow.astype(np.float32), np.where(known, z, np.nan).astype(np.float32)


def visible_by_depth(flow: np.ndarray, z1: np.ndarray, depth1: np.ndarray, hidden: float = HIDDEN) -> np.ndarray:
    """(H, W) bool: where the point is seen in image1.

    `flow` (2, H, W) and the depths `z1` (H, W) are those of `flow_from_depth`, `depth1` image1's own depth map, 0 where
    unknown. A point is not seen outside of image1, nor where the nearest pixel there is nearer to the camera by more than
    the share `hidden`. Where image1 has no depth nothing speaks against it.
    """
    height, width = z1.shape
    known = np.isfinite(flow).all(axis=0)
    x = np.where(known, np.rint(flow[0] + np.arange(width)), -1).astype(int)
    y = np.where(known, np.rint(flow[1] + np.arange(height)[:, None]), -1).astype(int)
    inside = known & (x >= 0) & (y >= 0) & (x < depth1.shape[1]) & (y < depth1.shape[0])
    there = depth1[np.where(inside, y, 0), np.where(inside, x, 0)]
    return inside & ~((there > 0) & (np.where(inside, z1, 0) > (1 + hidden) * there))
