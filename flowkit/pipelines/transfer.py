"""Texture transfer: a region of TARGET painted with what SOURCE, once aligned, shows there (RANSAC-Flow, section 4.3)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from flowkit.errors import InputError, UsageError
from flowkit.pipelines.masks import read_mask
from flowkit.types import Size

FEATHER = 0.01
"""Width of the seam as a share of the longer side."""
_BOX = re.compile(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*(\d{1,6})\s*")


def read_region(choice: str | Path, size: Size) -> np.ndarray:
    """(H, W) bool of a picture of `size`: a box "x,y,width,height" in pixels, or a mask file, white = in the region.

    UsageError for a box that holds no pixel of the picture, InputError for a file that is no mask of it.
    """
    box = _BOX.fullmatch(str(choice))
    if box is None:
        region = read_mask(choice, size)
        if not region.any():
            raise InputError(f"{choice}: the mask is black all over; make white what is to be painted")
        return region
    x, y, width, height = (int(number) for number in box.groups())
    region = np.zeros(size, bool)
    region[y : y + height, x : x + width] = True
    if not region.any():
        raise UsageError(f"--transfer {choice}: the box holds no pixel of the target, which is {size[1]}x{size[0]}")
    return region


def transferred(target: np.ndarray, aligned: np.ndarray, known: np.ndarray, region: np.ndarray) -> np.ndarray:
    """`target` (H, W, 3) uint8 with `aligned` in its `region`, wherever `known` (H, W) bool says that it shows anything.

    Towards the edge of what is painted the two pass into each other; nothing outside of the region changes.
    """
    import cv2

    painted = region & known
    width = max(1.0, FEATHER * max(region.shape))
    # Beyond the picture's border there is nothing to pass into.
    bordered = cv2.copyMakeBorder(painted.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    depth = cv2.distanceTransform(bordered, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    share = np.clip(depth / (width + 1), 0, 1)[..., None]
    return np.rint(share * aligned + (1 - share) * target).astype(np.uint8)
