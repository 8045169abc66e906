"""Simulated viewpoints (Morel and Yu, ASIFT, SIIMS 2009; Mishkin et al., MODS, CVIU 2015) around any extractor.

A camera that looks at a plane from aside sees it squeezed: every image is squeezed by several tilts along several
directions, features are extracted from each view and brought back. OpenCV's AffineFeature does the same for its own
detectors only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowkit.features.base import Extractor
from flowkit.types import Features, Image

TILTS = tuple(2 ** (k / 2) for k in range(5))
"""1, sqrt 2, 2, 2 sqrt 2, 4: ratios of the squeezed side, 1 is the image as it is."""
ROTATION_STEP = 72.0
"""Degrees between the directions of tilt 1; tilt t has them 72 / t apart over half a turn."""
BORDER = 4.0
"""Keypoints closer than this many view pixels to the edge of the image within its view are dropped."""


class AffineSimulation:
    """An extractor that also sees the image from simulated viewpoints."""

    def __init__(
        self,
        extractor: Extractor,
        *,
        tilts: Sequence[float] = TILTS,
        rotation_step: float = ROTATION_STEP,
        max_keypoints: int | None = None,
        max_side: int | None = None,
    ) -> None:
        self.extractor, self.weights = extractor, extractor.weights
        self.name = f"affine-{extractor.name}"
        self.tilts, self.rotation_step = tuple(tilts), rotation_step
        self.max_keypoints = 40000 if max_keypoints is None else max_keypoints
        self.max_side = max_side

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints of all views in the image's original pixels, best first."""
        found = [self._view(image, mask, tilt, angle) for tilt, angle in self.views()]
        order = np.argsort(-np.concatenate([f.scores for f in found]), kind="stable")[: self.max_keypoints]

        def gather(field: str) -> np.ndarray:
            return np.concatenate([getattr(f, field) for f in found])[order]

        return Features(gather("keypoints"), gather("descriptors"), gather("scores"), image.size, self.name)

    def views(self) -> list[tuple[float, float]]:
        """(tilt, rotation in degrees) of every view, the image itself first."""
        return [
            (tilt, float(angle))
            for tilt in self.tilts
            for angle in ([0.0] if tilt == 1 else np.arange(0.0, 180.0, self.rotation_step / tilt))
        ]

    def _view(self, image: Image, mask: np.ndarray | None, tilt: float, angle: float) -> Features:
        """The features of one view, in the original pixels of the image."""
        if tilt == 1:
            return self.extractor.extract(image, mask)
        import cv2

        affine, size = simulated_view(image.size, tilt, angle)
        turn, turned_size = simulated_view(image.size, 1.0, angle)
        pixels = cv2.warpAffine(image.rgb8, turn, turned_size[::-1], borderMode=cv2.BORDER_REPLICATE)
        pixels = cv2.GaussianBlur(pixels, (0, 0), sigmaX=0.8 * np.sqrt(tilt**2 - 1), sigmaY=0.01)
        squeeze = affine @ np.linalg.inv(np.vstack([turn, [0, 0, 1]]))
        pixels = cv2.warpAffine(pixels, squeeze, size[::-1], borderMode=cv2.BORDER_REPLICATE)
        height, width = image.size
        inside = np.ones(image.size, np.uint8) if mask is None else mask.astype(np.uint8)
        seen = cv2.warpAffine(inside, affine, size[::-1], flags=cv2.INTER_NEAREST)
        seen = cv2.copyMakeBorder(seen, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        seen = cv2.distanceTransform(seen, cv2.DIST_L2, 5)[1:-1, 1:-1] > BORDER
        found = self.extractor.extract(Image(pixels), seen)
        back = cv2.invertAffineTransform(affine)
        points = found.keypoints.astype(np.float64) @ back[:, :2].T + back[:, 2]
        points = np.clip(points, 0, [width - 1, height - 1]).astype(np.float32)
        return Features(points, found.descriptors, found.scores, image.size, self.name)


def simulated_view(size: tuple[int, int], tilt: float, angle: float) -> tuple[np.ndarray, tuple[int, int]]:
    """2x3 map, image pixels -> view pixels, of a rotation by `angle` degrees and a squeeze of x by `tilt`; the view's size."""
    height, width = size
    turn = np.deg2rad(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = np.diag([1 / tilt, 1.0]) @ rotation
    corners = (
        np.array([[-0.5, -0.5], [width - 0.5, -0.5], [-0.5, height - 0.5], [width - 0.5, height - 0.5]]) @ linear.T
    )
    low, high = corners.min(axis=0), corners.max(axis=0)
    view_width, view_height = np.maximum(1, np.ceil(high - low - 1e-9)).astype(int)
    return np.hstack([linear, (-0.5 - low)[:, None]]), (int(view_height), int(view_width))
