"""Dense features of one network at several scales, matched everywhere: RANSAC-Flow's coarse stage (Shen et al., ECCV 2020).

The target is seen at one scale and the source at seven (section 3.1 and the official code); every cell of the target is
compared with every cell of the source, and the pairs that are each other's nearest stay. No keypoint has to be found again, so
that paintings, old photographs and other seasons match, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowkit.features.base import MIN_SIDE
from flowkit.features.matching import nearest_neighbours, no_matches
from flowkit.types import Image, Matches, Size

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE_SEEN = 480
"""The shorter side at scale 1, pixels."""
MAX_ASPECT = 4.0
"""Longer images are seen smaller, so that no scale has more pixels than at this aspect."""
SCALES = (2.0, 5 / 3, 4 / 3, 1.0, 5 / 6, 2 / 3, 1 / 2)
"""Of the source: 2 to 1 and 1 to 1/2 in equal steps. (The paper prints another list; this is the code's.)"""


class DenseNetwork(Protocol):
    """A network that describes every cell of an image."""

    weights: Mapping[str, str]
    notes: tuple[str, ...]
    device: str
    divisor: int
    """Heights and widths that it sees are multiples of it."""
    centre: float
    """Where in its cell, from 0 to 1 along either axis, what a cell describes lies: 0.5, unless measured otherwise."""
    share: float
    """Of the cells, how many are matched: the most reliable ones."""

    def describe(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """(1, 3, H, W), RGB in [0, 1] -> features (D, h, w) of any length, and how reliable they are (h, w), if it knows."""
        ...

    def refine(self, features0: Tensor, features1: Tensor) -> tuple[Tensor, Tensor] | None:
        """How far the points of image0 move (M, 2), in pixels it saw, and how sure that is (M,); None: it cannot tell.

        From the features (M, D) of matched cells, as `describe` gave them.
        """
        ...


@dataclass(frozen=True)
class Cells:
    """The cells of an image at one scale or several."""

    features: Tensor
    """(N, D) of any length."""
    points: np.ndarray
    """(N, 2) in the image's original pixels."""
    pixel: np.ndarray
    """(2,): original pixels, along x and y, per pixel that the network saw; of the last scale where there are several."""


class DenseMatcher:
    """Mutual nearest neighbours among the cells of image0 at one scale and those of image1 at `scales`.

    For `align`, image0 is the target and image1 the source. The keypoints of the result are the matched points.
    """

    def __init__(
        self,
        name: str,
        network: DenseNetwork,
        *,
        scales: tuple[float, ...] = SCALES,
        min_side: int = MIN_SIDE_SEEN,
        max_keypoints: int | None = None,
    ) -> None:
        self.name, self.network, self.scales = name, network, scales
        self.min_side, self.max_keypoints = min_side, max_keypoints
        self.weights, self.notes = network.weights, network.notes

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in the original pixels of both images, at most `max_keypoints`, the best; blank images have none.

        The score is the cosine of the features, or, where the network refines the points, its confidence.
        """
        import torch
        import torch.nn.functional as F  # noqa: N812

        if _nothing_to_see(image0) or _nothing_to_see(image1):
            return no_matches(image0.size, image1.size, self.name)
        with torch.inference_mode():
            cells0 = self.cells(image0, 1.0)
            parts = [self.cells(image1, scale) for scale in self.scales]
            features1, points1 = torch.cat([p.features for p in parts]), np.concatenate([p.points for p in parts])
            # The source has the most cells: its rows are what is taken a part at a time.
            index0, score, keep = nearest_neighbours(F.normalize(features1, dim=1), F.normalize(cells0.features, dim=1))
            index1 = (keep & (score > 0)).nonzero()[:, 0]
            index0, score = index0[index1], score[index1]
            matched0 = cells0.points[index0.cpu().numpy()]
            refined = self.network.refine(cells0.features[index0], features1[index1])
            if refined is not None:
                moves, score = refined
                matched0 = matched0 + moves.cpu().numpy() * cells0.pixel
        return self._matches(matched0, points1[index1.cpu().numpy()], score.cpu().numpy(), image0.size, image1.size)

    def cells(self, image: Image, scale: float) -> Cells:
        """The image's most reliable cells at a scale."""
        import torch

        size = seen_size(image.size, scale, self.network.divisor, self.min_side)
        features, reliability = self.network.describe(_picture(image, size).to(self.network.device))
        height, width = features.shape[-2:]
        kept = torch.arange(height * width, device=features.device)
        if reliability is not None and self.network.share < 1:
            count = max(1, round(self.network.share * len(kept)))
            kept = reliability.flatten().topk(count).indices.sort().values
        row, column = np.divmod(kept.cpu().numpy(), width)
        # x' = (x + 0.5) s - 0.5 from cells to original pixels.
        cell = np.array([image.size[1] / width, image.size[0] / height])
        points = (np.column_stack([column, row]) + self.network.centre) * cell - 0.5
        pixel = np.array([image.size[1] / size[1], image.size[0] / size[0]])
        return Cells(features.flatten(1).T[kept], points, pixel)

    def _matches(
        self, points0: np.ndarray, points1: np.ndarray, scores: np.ndarray, size0: Size, size1: Size
    ) -> Matches:
        """Those inside image0 (refining may have moved them out) with a score, the best first where there are too many."""
        inside = (points0 > -0.5).all(axis=1) & (points0 < np.array(size0[::-1]) - 0.5).all(axis=1)
        kept = np.flatnonzero(inside & (scores > 0))
        if self.max_keypoints is not None:
            kept = np.sort(kept[np.argsort(-scores[kept], kind="stable")][: self.max_keypoints])
        return Matches(
            keypoints0=points0[kept].astype(np.float32),
            keypoints1=points1[kept].astype(np.float32),
            pairs=np.arange(len(kept))[:, None].repeat(2, axis=1),
            scores=scores[kept].clip(0, 1).astype(np.float32),
            size0=size0,
            size1=size1,
            origins=(self.name,),
            origin=np.zeros(len(kept), np.int64),
        )


def seen_size(size: Size, scale: float = 1.0, divisor: int = 16, min_side: int = MIN_SIDE_SEEN) -> Size:
    """The (height, width) at which a network sees an image: the shorter side int(min_side * scale), both cut to multiples.

    Official order: the sides are rounded first, then cut down to multiples of `divisor` (at least one).
    """
    height, width = size
    aspect = max(size) / min(size)
    shorter = int(min_side * scale * min(1.0, (MAX_ASPECT / aspect) ** 0.5))
    factor = shorter / min(size)
    return max(1, round(height * factor) // divisor) * divisor, max(1, round(width * factor) // divisor) * divisor


def _picture(image: Image, size: Size) -> Tensor:
    """(1, 3, H, W) float32 in [0, 1], resampled by Pillow's Lanczos filter as the official code does."""
    import torch
    from PIL import Image as Pillow

    picture = Pillow.fromarray(image.rgb8)
    if size != image.size:
        picture = picture.resize(size[::-1], Pillow.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture).transpose(2, 0, 1))[None].float() / 255


def _nothing_to_see(image: Image) -> bool:
    """Too narrow, or all pixels alike."""
    return min(image.size) < MIN_SIDE or bool((image.rgb8 == image.rgb8[0, 0]).all())
