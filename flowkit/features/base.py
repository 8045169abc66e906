"""What every feature has in common: the two interfaces, the size it works at, and the way back to original pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowkit.types import Features, Image, Matches, Size

if TYPE_CHECKING:
    import torch

MIN_SIDE = 32
"""The networks find nothing in images narrower than this (their coarsest maps have one cell per 32 pixels)."""


class Extractor(Protocol):
    """Finds and describes keypoints; `weights` names the files used with their sha256, for the provenance."""

    name: str
    weights: Mapping[str, str]

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, only where `mask` (H, W) is True, best first."""
        ...


class PairMatcher(Protocol):
    """Matches two images; `weights` as above."""

    name: str
    weights: Mapping[str, str]

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in the original pixels of both images."""
        ...


@dataclass(frozen=True)
class Working:
    """An image at the size that a feature works at; `scale` is (x, y), working pixels per original pixel."""

    pixels: np.ndarray
    scale: np.ndarray
    size: Size
    """The original size."""

    @property
    def blank(self) -> bool:
        """True when there is nothing to see: all pixels alike."""
        return bool(self.pixels.size == 0 or (self.pixels == self.pixels[0, 0]).all())

    def to_original(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) working pixels -> original pixels, by x' = (x + 0.5) s - 0.5."""
        return ((points.astype(np.float64) + 0.5) / self.scale - 0.5).astype(np.float32)

    def tensor(self, device: str, divisor: int = 1) -> torch.Tensor:
        """(1, C, H, W) float32 in [0, 1], its last row and column repeated up to multiples of `divisor`."""
        import torch

        pixels = np.atleast_3d(self.pixels)
        height, width = pixels.shape[:2]
        pixels = np.pad(pixels, ((0, -height % divisor), (0, -width % divisor), (0, 0)), mode="edge")
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None].to(device).float() / 255


def working(image: Image, *, max_side: int | None = None, scale: float = 1.0, grey: bool = False) -> Working:
    """The image's pixels scaled by `scale`, or down to `max_side` on the longer side."""
    import cv2

    pixels = image.grey8 if grey else image.rgb8
    height, width = image.size
    if max_side is not None and max(height, width) > max_side:
        scale = max_side / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    if size != image.size:
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, size[::-1], interpolation=method)
    return Working(pixels, np.array([size[1] / width, size[0] / height]), image.size)


def assemble(
    work: Working,
    name: str,
    keypoints: np.ndarray,
    descriptors: np.ndarray,
    scores: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    max_keypoints: int | None = None,
    scales: np.ndarray | None = None,
    angles: np.ndarray | None = None,
) -> Features:
    """Features in original pixels from keypoints in working pixels: inside image and mask, best first, at most so many."""
    points = work.to_original(keypoints)
    height, width = work.size
    keep = np.isfinite(points).all(axis=1) & (points > -0.5).all(axis=1)
    keep &= (points[:, 0] < width - 0.5) & (points[:, 1] < height - 0.5)
    if mask is not None:
        column, row = np.rint(np.where(keep[:, None], points, 0)).astype(np.int64).T
        keep &= mask[row, column].astype(bool)
    order = np.flatnonzero(keep)
    order = order[np.argsort(-scores[order], kind="stable")][:max_keypoints]
    return Features(
        keypoints=points[order],
        descriptors=np.ascontiguousarray(descriptors[order], dtype=np.float32),
        scores=scores[order].astype(np.float32),
        size=work.size,
        name=name,
        scales=None if scales is None else (scales[order] / work.scale.mean()).astype(np.float32),
        angles=None if angles is None else angles[order].astype(np.float32),
    )


def nothing(size: Size, name: str, dimension: int) -> Features:
    """No features at all."""
    empty = np.zeros(0, np.float32)
    return Features(np.zeros((0, 2), np.float32), np.zeros((0, dimension), np.float32), empty, size, name, empty, empty)
