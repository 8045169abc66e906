"""Which pixels of an image may be used: a mask drawn by hand, or an automatic test for sky and for what has no texture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from flowkit.errors import InputError
from flowkit.io.images import as_image, read_image
from flowkit.types import Flow, Image, Matches, Size

MaskChoice = str | Path | np.ndarray | None
"""A picture file (white = use), `auto`, an array (H, W), True or above half of its range = use, or None: all is used."""
AUTO = "auto"


@dataclass(frozen=True)
class Masks:
    """(H, W) bool of either image, True where it may be used; None: everywhere."""

    mask0: np.ndarray | None = None
    mask1: np.ndarray | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Where they came from, for `Run.options`; empty without masks."""


EVERYTHING = Masks()


def chosen_masks(pair: tuple[Image, Image], mask0: MaskChoice, mask1: MaskChoice) -> Masks:
    """The masks of both images, and what provenance says of them: origin and share of the picture that may be used."""
    masks = [chosen_mask(choice, image) for image, choice in zip(pair, (mask0, mask1), strict=True)]
    said = {
        name: {"from": "array" if isinstance(choice, np.ndarray) else str(choice), "used": round(float(mask.mean()), 4)}
        for name, choice, mask in zip(("mask0", "mask1"), (mask0, mask1), masks, strict=True)
        if mask is not None
    }
    return Masks(masks[0], masks[1], said)


def chosen_mask(choice: MaskChoice, image: Image) -> np.ndarray | None:
    """(H, W) bool, True where `image` may be used; None without a choice. InputError for a mask that does not fit it."""
    if choice is None:
        return None
    if isinstance(choice, np.ndarray):
        if choice.shape != image.size:
            raise InputError(
                f"the mask of {image.name} has the shape {choice.shape}; (height, width) of it is {image.size}"
            )
        return _white(as_image(choice))
    return automatic_mask(image) if str(choice) == AUTO else read_mask(choice, image.size)


def read_mask(path: str | os.PathLike[str], size: Size) -> np.ndarray:
    """(H, W) bool of a picture file, True where it is white (at least half of the full grey).

    InputError for what is no picture, or not of `size` (height, width), the size of the image it belongs to as it is seen
    upright.
    """
    picture = read_image(path)
    if picture.size != size:
        (height, width), (here, across) = picture.size, size
        raise InputError(
            f"{path}: is {width}x{height} pixels, the picture it masks {across}x{here}; make it the same size"
        )
    return _white(picture)


def shows(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) bool: whether the pixel nearest to each point (N, 2) is True in `mask`; False outside of it."""
    height, width = mask.shape
    with np.errstate(invalid="ignore"):
        x, y = np.rint(np.nan_to_num(points, nan=-9.0)).clip(-9, max(height, width) + 9).astype(np.int64).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    return inside & mask[y.clip(0, height - 1), x.clip(0, width - 1)]


def masked_matches(matches: Matches, masks: Masks) -> Matches:
    """The matches whose two points may both be used."""
    keep = np.ones(len(matches), bool)
    for mask, points in ((masks.mask0, matches.points0), (masks.mask1, matches.points1)):
        if mask is not None:
            keep &= shows(mask, points)
    if keep.all():
        return matches
    optional = {
        name: value[keep] for name in ("origin", "inliers", "stage") if (value := getattr(matches, name)) is not None
    }
    return replace(matches, pairs=matches.pairs[keep], scores=matches.scores[keep], **optional)


def allowed(flow: Flow, masks: Masks) -> np.ndarray:
    """(H, W) bool on the flow's grid, which is mask0's: known, inside the other image, and allowed by both masks."""
    keep = flow.inside
    if masks.mask0 is not None:
        keep &= masks.mask0
    if masks.mask1 is not None:
        y, x = np.nonzero(keep)
        keep[y, x] = shows(masks.mask1, np.column_stack([x, y]) + flow.uv[:, y, x].T)
    return keep


def _white(mask: Image) -> np.ndarray:
    return mask.grey8 >= 128


# --- automatic -------------------------------------------------------------------------------------------------------

WORKING_SIDE = 512
"""Pixels of the longer side at which the automatic mask is found."""
SCALES = (1.0, 2.0, 4.0)
"""Gaussian sigmas, working pixels, at which structure is looked for."""
STRUCTURE = 2.0
"""Least gradient energy of texture: grey levels (of 255) across one sigma."""
CALM = 3.0
"""Largest fine gradient within a sky, in the same unit: clouds are blurred, leaves and roofs are not."""
REACH = 0.02
"""Share of the longer side from structure within which a pixel is held by it."""
RIM = 4
"""Working pixels to which the fine gradient of an edge reaches into the sky."""
LEAST_SKY = 0.005
"""Share of the picture below which a calm region at the upper border is no sky."""


def automatic_mask(image: Image | np.ndarray) -> np.ndarray:
    """(H, W) bool, False in the sky and in regions without texture, which no matching can be trusted in.

    Texture: gradient energy at any of several scales, noise subtracted, within reach. Sky: calm and blue or bright, and
    connected with the upper border. Classical, so it has limits: a white wall that reaches the upper border is taken for sky
    (and is without texture anyway); a dramatic sky full of hard-edged clouds is not recognised.
    """
    import cv2

    from flowkit.pipelines.prepare import resized_image, working_size

    picture = as_image(image)
    small = resized_image(picture, working_size(picture.size, max_side=WORKING_SIDE))
    grey = small.grey8.astype(np.float32)
    noise = _noise(grey)
    energy = [_energy(grey, sigma, noise) for sigma in SCALES]
    use = _near(np.max(energy, axis=0) > STRUCTURE) & ~_sky(small.rgb8, energy[0])
    enlarged = cv2.resize(use.astype(np.uint8), picture.size[::-1], interpolation=cv2.INTER_NEAREST)
    return enlarged > 0


def _energy(grey: np.ndarray, sigma: float, noise: float) -> np.ndarray:
    """(H, W): root mean square gradient about each pixel, in grey levels per sigma, less what noise alone would give."""
    import cv2

    smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
    dx, dy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=1, scale=0.5) for order in ((1, 0), (0, 1)))
    energy = cv2.GaussianBlur(sigma**2 * (dx * dx + dy * dy), (0, 0), sigma)
    # White noise of deviation n leaves n^2 / (8 pi sigma^4) in the square of each component of the gradient.
    return np.sqrt(np.maximum(energy - noise**2 / (4 * np.pi * sigma**2), 0))


def _noise(grey: np.ndarray) -> float:
    """Deviation of the noise (Immerkaer, Fast noise variance estimation, 1996), from the calmest tenth of the blocks."""
    import cv2

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    answer = np.abs(cv2.filter2D(grey, cv2.CV_32F, kernel))
    blocks = cv2.resize(answer, None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
    return float(np.percentile(blocks, 10) * np.sqrt(np.pi / 2) / 6)


def _near(structure: np.ndarray) -> np.ndarray:
    """What is within reach of structure: closed over gaps, specks of structure left out."""
    import cv2

    radius = max(1, round(REACH * max(structure.shape)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    marked = structure.astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked, connectivity=8)
    specks = stats[:, cv2.CC_STAT_AREA] < radius * radius
    marked[specks[labels]] = 0
    bordered = cv2.copyMakeBorder(marked, *(radius,) * 4, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(bordered, cv2.MORPH_CLOSE, disc)
    inner = slice(radius, -radius)
    return closed[inner, inner] > 0


def _sky(rgb: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """(H, W) bool: calm, blue or bright, connected with the upper border, with the small things within it."""
    import cv2

    red, green, blue = (rgb[..., channel].astype(np.float32) for channel in range(3))
    brightest = rgb.max(axis=2).astype(np.float32)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    is_blue = (blue >= green) & (blue > 1.15 * red) & (brightest > 60)
    is_bright = (grey > 150) & (brightest - rgb.min(axis=2) < 0.3 * brightest) & (blue >= 0.9 * red)
    coloured = is_blue | is_bright
    candidate = coloured & (fine < CALM)
    count, labels = cv2.connectedComponents(candidate.astype(np.uint8), connectivity=4)
    above = np.zeros(count, bool)
    above[labels[0]] = True
    above[0] = False
    sky = above[labels]
    if sky.mean() < LEAST_SKY:
        return np.zeros_like(sky)
    # The rim along roofs, where the gradient of the roof is felt; then birds, wires and small clouds within it.
    for _ in range(RIM):
        sky |= coloured & (cv2.dilate(sky.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~sky).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < LEAST_SKY * sky.size
    small[0] = False
    return sky | small[labels]
