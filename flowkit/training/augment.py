"""RAFT's augmentation of training pairs (spec.md 1.4), on the CPU.

>>> arrays = augment(pair, (368, 496), DENSE, np.random.default_rng(0))    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from flowkit.datasets.training_sets import PairArrays
from flowkit.geometry.grids import resize_flow
from flowkit.types import Size

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) edges of a rectangle; the edges of a pixel are half a pixel from its centre."""
MAX_FLOW = 1000.0
"""A flow whose x or y is this long or longer, in pixels of the crop, is left out of `valid`."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to a pair before it is cropped; the defaults are RAFT's for dense sets (Teed and Deng, ECCV 2020)."""

    brightness: float = 0.4
    """Factors of brightness, contrast and saturation are drawn from 1 - x to 1 + x."""
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.5 / np.pi
    """The hue is turned by -x to x of a full circle."""
    asymmetric: float = 0.2
    """How often each image gets colours of its own."""
    eraser: float = 0.5
    """How often rectangles of image1 are filled with its mean colour."""
    eraser_count: tuple[int, int] = (1, 2)
    eraser_side: tuple[int, int] = (50, 100)
    """Sides in pixels of the original image."""
    spatial: float = 0.8
    """How often the pair is resized, by 2^u with u from `min_scale` to `max_scale`."""
    min_scale: float = -0.1
    max_scale: float = 1.0
    stretch: float = 0.8
    """How often each axis is then resized by another 2^u with |u| <= `max_stretch`."""
    max_stretch: float = 0.2
    spare: int = 8
    """The resized image is at least so many pixels larger than the crop."""
    flip_x: float = 0.5
    flip_y: float = 0.1
    margin: tuple[int, int] = (0, 0)
    """(y, x): crops are drawn as if the image had so many pixels more below, or to the left and right, and moved inside."""
    noise: float = 0.0
    """Gaussian noise with a standard deviation from 0 to x grey levels, at most 5 in RAFT."""
    sparse: bool = False
    """The flow is known at scattered points: they are moved to the nearest pixel instead of being interpolated."""

    def apply(
        self, pair: PairArrays, crop: Size, rng: np.random.Generator, draw: int | None = None
    ) -> dict[str, np.ndarray]:
        """See `augment`; it does not depend on how many pairs were drawn before."""
        return augment(pair, crop, self, rng)

    def excludes(self, pair: PairArrays) -> bool:
        """No pair is left out."""
        return False


DENSE = Augmentation()
_MILD = replace(DENSE, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3 / np.pi, asymmetric=0.0)
SPARSE = replace(_MILD, stretch=0.0, spare=1, flip_y=0.0, margin=(20, 50), sparse=True)
"""RAFT's for KITTI and HD1K."""


# --- colours ---------------------------------------------------------------------------------------------------------


def jitter(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue of (H, W, 3) uint8 changed at random, in random order."""
    limits = ((name, getattr(settings, name)) for name in ("brightness", "contrast", "saturation"))
    factors = {name: rng.uniform(max(0.0, 1 - limit), 1 + limit) for name, limit in limits}
    factors["hue"] = rng.uniform(-settings.hue, settings.hue)
    for name in rng.permutation(list(factors)):
        image = _COLOUR[name](image, factors[name])
    return image


_LEVELS = np.arange(256.0)


def _table(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _brightness(image: np.ndarray, factor: float) -> np.ndarray:
    return cv2.LUT(image, _table(_LEVELS * factor))


def _contrast(image: np.ndarray, factor: float) -> np.ndarray:
    grey = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return cv2.LUT(image, _table(grey + (_LEVELS - grey) * factor))


def _saturation(image: np.ndarray, factor: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1 - factor, 0)


def _hue(image: np.ndarray, turn: float) -> np.ndarray:
    table = np.repeat(_LEVELS[:, None, None], 3, axis=2)
    table[..., 0] = (table[..., 0] + round(turn * 256)) % 256  # the full circle has 256 steps
    turned = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL), _table(table))
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)


_COLOUR = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}


def _recolour(
    image0: np.ndarray, image1: np.ndarray, settings: Augmentation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    if rng.random() < settings.asymmetric:
        return jitter(image0, settings, rng), jitter(image1, settings, rng)
    both = jitter(np.concatenate([image0, image1]), settings, rng)
    return both[: len(image0)], both[len(image0) :]


def erase(image: np.ndarray, settings: Augmentation, rng: np.random.Generator) -> tuple[np.ndarray, list[Box]]:
    """Fill rectangles with the mean colour, and say where."""
    if rng.random() >= settings.eraser:
        return image, []
    height, width = image.shape[:2]
    mean = _table(np.array(cv2.mean(image)[:3]))
    image, boxes = image.copy(), []
    for _ in range(rng.integers(*settings.eraser_count, endpoint=True)):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(side) for side in rng.integers(*settings.eraser_side, size=2, endpoint=True))
        image[y : y + h, x : x + w] = mean
        boxes.append((x - 0.5, y - 0.5, min(x + w, width) - 0.5, min(y + h, height) - 0.5))
    return image, boxes


# --- places ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """How a pair is resized to `resized` (height, width), flipped, and cropped to `crop` at `corner` (x, y).

    A point of the original at x is at `scale x + shift` of the crop, per axis: resizing is x' = (x + 0.5) s - 0.5, a flip
    x' = width - 1 - x.
    """

    size: Size
    resized: Size
    flip: tuple[bool, bool]
    corner: tuple[int, int]
    crop: Size

    @property
    def axes(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(scale, shift) of x and of y."""
        result = []
        for before, after, flip, corner in zip(
            reversed(self.size), reversed(self.resized), self.flip, self.corner, strict=True
        ):
            scale = after / before
            shift = 0.5 * scale - 0.5
            result.append((-scale, after - 1 - shift - corner) if flip else (scale, shift - corner))
        return result[0], result[1]

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The crop of a resized (H, W, ...) array, flipped."""
        x, y = self.corner
        array = array[:, ::-1] if self.flip[0] else array
        array = array[::-1] if self.flip[1] else array
        return np.ascontiguousarray(array[y : y + self.crop[0], x : x + self.crop[1]])

    def picture(self, image: np.ndarray) -> np.ndarray:
        """The crop of an original (H, W, ...) uint8 picture, bilinear."""
        if self.resized != image.shape[:2]:
            image = cv2.resize(image, self.resized[::-1], interpolation=cv2.INTER_LINEAR)
        return self.cut(image)

    def dense_flow(self, flow: np.ndarray) -> np.ndarray:
        """The crop of an original flow (2, H, W), bilinear; NaN wherever an unknown neighbour has a share."""
        resized = resize_flow(torch.from_numpy(flow), self.resized).numpy()
        signs = np.array([-1 if flip else 1 for flip in self.flip], np.float32)
        return np.ascontiguousarray(np.moveaxis(self.cut(np.moveaxis(resized, 0, -1)) * signs, -1, 0))

    def sparse_flow(self, flow: np.ndarray) -> np.ndarray:
        """The same of scattered vectors: each goes to the pixel nearest to its point; NaN where none lands."""
        rows, columns = np.nonzero(np.isfinite(flow).all(axis=0))
        (sx, tx), (sy, ty) = self.axes
        x, y = np.rint(columns * sx + tx).astype(int), np.rint(rows * sy + ty).astype(int)
        height, width = self.crop
        kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        result = np.full((2, height, width), np.nan, np.float32)
        result[:, y[kept], x[kept]] = flow[:, rows[kept], columns[kept]] * np.array([[sx], [sy]], np.float32)
        return result

    def boxes(self, boxes: Sequence[Box]) -> list[Box]:
        """Rectangles of the original in the crop."""
        (sx, tx), (sy, ty) = self.axes
        corners = [(x0 * sx + tx, y0 * sy + ty, x1 * sx + tx, y1 * sy + ty) for x0, y0, x1, y1 in boxes]
        return [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]


def place(size: Size, crop: Size, settings: Augmentation, rng: np.random.Generator) -> Placement:
    """Draw scale, stretch, flips and crop. An image smaller than the crop is enlarged in any case."""
    fitting = [(crop[i] + settings.spare) / size[i] for i in (0, 1)]
    scales = np.full(2, 2 ** rng.uniform(settings.min_scale, settings.max_scale))
    if rng.random() < settings.stretch:
        scales *= 2 ** rng.uniform(-settings.max_stretch, settings.max_stretch, size=2)
    resized = size
    if rng.random() < settings.spatial or crop[0] > size[0] or crop[1] > size[1]:
        # RAFT holds both axes to the larger bound, so that an image hardly larger than the crop keeps its proportions.
        height, width = (max(crop[i], round(size[i] * max(scales[i], *fitting))) for i in (0, 1))
        resized = height, width
    flip = bool(rng.random() < settings.flip_x), bool(rng.random() < settings.flip_y)
    margin_y, margin_x = settings.margin
    room_y, room_x = resized[0] - crop[0], resized[1] - crop[1]
    y = rng.integers(0, room_y + margin_y, endpoint=True)
    x = rng.integers(-margin_x, room_x + margin_x, endpoint=True)
    return Placement(size, resized, flip, (int(np.clip(x, 0, room_x)), int(np.clip(y, 0, room_y))), crop)


def augment(pair: PairArrays, crop: Size, settings: Augmentation, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """A pair as a network sees it in training, everything drawn from `rng`.

    `image0`, `image1` (3, h, w) uint8 RGB; `flow` (2, h, w) float32 on image0's grid in pixels of the crop, 0 where `valid`
    (h, w) is False; `occlusion` (h, w) where the set knows it: hidden, erased or outside the crop of image1.
    """
    size = pair.image0.shape[0], pair.image0.shape[1]
    image0, image1 = _recolour(pair.image0, pair.image1, settings, rng)
    image1, erased = erase(image1, settings, rng)
    placement = place(size, crop, settings, rng)
    image0, image1 = placement.picture(image0), placement.picture(image1)
    if settings.noise > 0:
        deviation = rng.uniform(0, settings.noise)
        image0, image1 = (_noisy(image, deviation, rng) for image in (image0, image1))
    flow = placement.sparse_flow(pair.flow) if settings.sparse else placement.dense_flow(pair.flow)
    with np.errstate(invalid="ignore"):
        valid = (np.abs(flow) < MAX_FLOW).all(axis=0)
    flow = np.where(valid, flow, np.float32(0))
    arrays = {"image0": _channels_first(image0), "image1": _channels_first(image1), "flow": flow, "valid": valid}
    if pair.occluded is not None and not settings.sparse:
        hidden = placement.picture(np.where(pair.occluded, np.uint8(255), np.uint8(0))) > 127
        arrays["occlusion"] = hidden | (valid & unseen(flow, placement.boxes(erased)))
    return arrays


def unseen(flow: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """(h, w): which vectors lead out of the picture or into one of the boxes."""
    height, width = flow.shape[1:]
    x, y = flow[0] + np.arange(width, dtype=np.float32), flow[1] + np.arange(height, dtype=np.float32)[:, None]
    lost = (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)
    for left, top, right, bottom in boxes:
        lost |= (x > left) & (x < right) & (y > top) & (y < bottom)
    return lost


def _noisy(image: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    return _table(image + deviation * rng.standard_normal(image.shape, dtype=np.float32))


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))
