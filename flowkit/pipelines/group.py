"""A whole set of pictures brought onto one of them, and the average picture that shows how well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from flowkit.io.images import as_image
from flowkit.pipelines.align import align, coarse_flow
from flowkit.pipelines.prepare import resized
from flowkit.pipelines.warp import warp
from flowkit.types import Alignment, Image, Size, Status, Warped


@dataclass(frozen=True)
class Aligned:
    """One picture of a set; `warped` is it on the target's grid, `coarse` by the homographies alone, None if that failed."""

    image: Image
    alignment: Alignment
    warped: Warped | None = None
    coarse: Warped | None = None


def align_group(sources: Iterable[object], target: object, **options: Any) -> Iterator[Aligned]:
    """Each source aligned onto `target`, one at a time.

    `options` are those of `align`. Pixels that the source does not show are not valid in the warped picture.
    """
    reference = as_image(target)
    for source in sources:
        image = as_image(source)
        alignment = align(image, reference, **options)
        if alignment.status is Status.OK:
            coarse = warp(image, flow=coarse_flow(alignment))
            yield Aligned(image, alignment, warp(image, flow=alignment.flow), coarse)
        else:
            yield Aligned(image, alignment)


class Average:
    """The running mean of pictures on one grid: constant memory however many there are."""

    def __init__(self, size: Size) -> None:
        self.total = np.zeros((*size, 3), np.float32)
        self.count = np.zeros(size, np.float32)

    def add(self, pixels: np.ndarray, valid: np.ndarray | None = None) -> None:
        """One more (H, W, 3) uint8 picture, resampled to the grid's size if it has another; `valid` (H, W) bool."""
        pixels = resized(pixels, self.count.shape)
        if valid is None:
            self.total += pixels
            self.count += 1
        else:
            self.total += pixels * valid[..., None]
            self.count += valid

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8; black where no picture had anything to show."""
        return np.rint(self.total / np.maximum(self.count, 1)[..., None]).astype(np.uint8)
