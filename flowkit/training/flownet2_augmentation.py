"""FlowNet2's augmentation (Ilg et al., CVPR 2017; numbers of spec.md 8.4), on the CPU: LiteFlowNet and PWC-Net train with it.

Each image gets an affine map of its own, image1's being image0's with a small one on top; colours change alike in both but
for a small change of image1's; then comes noise. The paper says how numbers are drawn. What its code does to colours with them
is not known here: `recolour` says what they mean in flowkit.

>>> settings = FlowNet2Augmentation()
>>> arrays = settings.apply(pair, (320, 448), np.random.default_rng(0), draw=0)    # doctest: +SKIP
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from flowkit.datasets.training_sets import PairArrays
from flowkit.geometry.sampling import sample, sample_flow
from flowkit.training.augment import MAX_FLOW, unseen
from flowkit.types import Size

Drawn = Mapping[str, np.ndarray]
"""One drawn number for each name, or one for each channel."""


# --- distributions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread(ABC):
    """A distribution about `mean` whose extent is `width`; with `exp` the number is the exponent of e, the result a factor."""

    width: float
    mean: float = 0.0
    exp: bool = False

    def draw(self, rng: np.random.Generator, strength: float = 1.0, count: int | None = None) -> np.ndarray:
        """A number, or `count` of them, with `strength` times the width."""
        value = np.asarray(self.mean + strength * self.width * self._offset(rng, count))
        return np.exp(value) if self.exp else value

    @abstractmethod
    def _offset(self, rng: np.random.Generator, count: int | None) -> np.ndarray:
        """From -1 to 1, or with a standard deviation of 1."""


@dataclass(frozen=True)
class Uniform(Spread):
    """From mean - width to mean + width."""

    def _offset(self, rng: np.random.Generator, count: int | None) -> np.ndarray:
        return np.asarray(rng.uniform(-1, 1, count))


@dataclass(frozen=True)
class Normal(Spread):
    """With the standard deviation `width`."""

    def _offset(self, rng: np.random.Generator, count: int | None) -> np.ndarray:
        return np.asarray(rng.standard_normal(count))


@dataclass(frozen=True)
class Motion:
    """An affine map about the centre; the defaults are those of image0."""

    translate: Spread = Uniform(0.4)
    """Of x and y each, a fraction of the width and of the height."""
    rotate: Spread = Uniform(0.4)
    """In radians."""
    zoom: Spread = Uniform(0.4, 0.2, exp=True)
    """More than 1 enlarges."""
    squeeze: Spread = Uniform(0.3, exp=True)
    """x is enlarged by this factor, too, and y reduced by it."""


RELATIVE = Motion(Normal(0.03), Normal(0.03), Normal(0.03, exp=True), Uniform(0.0, exp=True))
"""What image1 moves beyond image0: fractions of the crop, radians."""


@dataclass(frozen=True)
class Colours:
    """What happens to the colours of both images alike; `recolour` says what the names mean."""

    col_pow: Spread = Normal(0.4, exp=True)
    col_mult: Spread = Normal(0.2, exp=True)
    col_add: Spread = Normal(0.02)
    ladd_pow: Spread = Normal(0.4, exp=True)
    ladd_mult: Spread = Normal(0.4, exp=True)
    ladd_add: Spread = Normal(0.04)
    sat_pow: Spread = Uniform(0.4, exp=True)
    sat_mult: Spread = Uniform(0.5, -0.3, exp=True)
    sat_add: Spread = Uniform(0.03)
    col_rotate: Spread = Uniform(1.0)
    lmult_pow: Spread = Uniform(0.4, -0.2, exp=True)
    lmult_mult: Spread = Uniform(0.4, exp=True)
    lmult_add: Spread = Uniform(0.03)


@dataclass(frozen=True)
class Effect:
    """What happens to the colours of image1 on top of that; `affect` says what the names mean."""

    gamma: Spread = Normal(0.02, exp=True)
    brightness: Spread = Normal(0.02)
    contrast: Spread = Normal(0.02, exp=True)
    colour: Spread = Normal(0.02, exp=True)


_PER_CHANNEL = ("col_pow", "col_mult", "col_add", "colour")


def _drawn(settings: Colours | Effect, rng: np.random.Generator, strength: float) -> Drawn:
    names = [field.name for field in fields(settings)]
    return {name: getattr(settings, name).draw(rng, strength, 3 if name in _PER_CHANNEL else None) for name in names}


# --- colours ---------------------------------------------------------------------------------------------------------

_AXES = np.array([[1.0, 1, 1], [1, -1, 0], [1, 1, -2]])
_LENGTHS = np.array([[3.0], [2 / np.sqrt(3)], [2]])
BASIS = (_AXES / _LENGTHS).astype(np.float32)
"""(3, 3) RGB -> luminance and two chromatic components. The axes are orthogonal, the first one grey; white has the luminance 1,
and the pure colours (red, yellow, green ...) have the distance 1 from the grey axis."""
_BACK = np.linalg.inv(BASIS)


def _curve(values: np.ndarray, drawn: Drawn, name: str, channel: int | None = None) -> np.ndarray:
    """mult * values^pow + add with the numbers of that name; neither values nor answer fall below 0."""
    power, factor, added = (np.atleast_1d(drawn[f"{name}_{what}"])[channel or 0] for what in ("pow", "mult", "add"))
    return np.maximum(np.float32(factor) * _raised(values, float(power)) + np.float32(added), 0)


def _raised(values: np.ndarray, power: float) -> np.ndarray:
    return np.asarray(np.power(np.maximum(values, 0), np.float32(power)))


def _ratio(after: np.ndarray, before: np.ndarray) -> np.ndarray:
    """after / before, 1 where there was nothing."""
    return np.divide(after, before, out=np.ones_like(before), where=before > 1e-4)


def recolour(rgb: np.ndarray, drawn: Drawn) -> np.ndarray:
    """(3, H, W) float32 with other colours; 0 is black and 1 white, and the answer may lie beyond.

    Each step is mult * value^pow + add: `col` of red, green and blue, each with numbers of its own; `ladd` of the luminance
    (see `BASIS`), the chromatic components kept; `sat` of the saturation, which is their length; `col_rotate` turns them, by
    radians; `lmult` of the luminance again, with the chromatic components in proportion.
    """
    luminance, u, v = np.tensordot(BASIS, np.stack([_curve(rgb[i], drawn, "col", i) for i in range(3)]), axes=1)
    luminance = _curve(luminance, drawn, "ladd")
    saturation = np.hypot(u, v)
    factor = _ratio(_curve(saturation, drawn, "sat"), saturation)
    cos, sin = np.float32(np.cos(drawn["col_rotate"])), np.float32(np.sin(drawn["col_rotate"]))
    u, v = factor * (cos * u - sin * v), factor * (sin * u + cos * v)
    lit = _curve(luminance, drawn, "lmult")
    factor = _ratio(lit, luminance)
    return np.tensordot(_BACK, np.stack([lit, factor * u, factor * v]), axes=1)


def affect(rgb: np.ndarray, drawn: Drawn) -> np.ndarray:
    """(3, H, W) float32 after another camera: value^gamma, contrast about 0.5, brightness added, a factor for each channel."""
    rgb = np.stack([_raised(plane, float(drawn["gamma"])) for plane in rgb])
    rgb = (rgb - np.float32(0.5)) * np.float32(drawn["contrast"]) + np.float32(0.5 + drawn["brightness"])
    return np.asarray(rgb * drawn["colour"].astype(np.float32)[:, None, None])


# --- places ----------------------------------------------------------------------------------------------------------


def affine(
    size: Size, crop: Size, translate: np.ndarray, rotate: float, zoom: float, squeeze: float = 1.0
) -> np.ndarray:
    """(3, 3) from points (x, y) of a picture to those of its crop.

    The crop's centre shows the point `translate` (fractions of width and height) away from the picture's; what is around it
    is turned by `rotate` radians (from x to y), then enlarged by zoom * squeeze in x and zoom / squeeze in y.
    """
    seen = (np.array(size[::-1]) - 1) / 2 + translate * np.array(size[::-1])
    cos, sin = np.cos(rotate), np.sin(rotate)
    turn = np.array([[cos, -sin], [sin, cos]]) * np.array([[zoom * squeeze], [zoom / squeeze]])
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = turn, (np.array(crop[::-1]) - 1) / 2 - turn @ seen
    return matrix


def _draw_affine(motion: Motion, size: Size, crop: Size, rng: np.random.Generator, strength: float) -> np.ndarray:
    translate = motion.translate.draw(rng, strength, 2)
    rotate, zoom, squeeze = (float(s.draw(rng, strength)) for s in (motion.rotate, motion.zoom, motion.squeeze))
    return affine(size, crop, translate, rotate, zoom, squeeze)


def _plain(size: Size, crop: Size, rng: np.random.Generator) -> np.ndarray:
    """A crop anywhere; a picture that is smaller is enlarged so that it just covers it."""
    scale = max(1.0, *((crop[i] - 1) / max(size[i] - 1, 1) for i in (0, 1)))
    room = [max(0.0, size[i] - 1 - (crop[i] - 1) / scale) for i in (1, 0)]
    matrix = np.diag([scale, scale, 1.0])
    matrix[:2, 2] = -scale * rng.uniform(0, 1, 2) * room
    return matrix


def shows_only(matrix: np.ndarray, size: Size, crop: Size) -> bool:
    """Whether every pixel of the crop lies between pixel centres of the picture."""
    right, bottom = crop[1] - 1, crop[0] - 1
    corners = np.linalg.inv(matrix) @ np.array([[0, right, 0, right], [0, 0, bottom, bottom], [1, 1, 1, 1]])
    last = np.array([[size[1] - 1], [size[0] - 1]])
    return bool(((corners[:2] >= -1e-6) & (corners[:2] <= last + 1e-6)).all())


@dataclass(frozen=True)
class Affines:
    """The maps (3, 3) from the two pictures, of the same size, to their crops (height, width)."""

    to_crop0: np.ndarray
    to_crop1: np.ndarray
    crop: Size

    @property
    def grid(self) -> np.ndarray:
        """(h, w, 2): the pixel centres of a crop."""
        x, y = np.meshgrid(np.arange(self.crop[1]), np.arange(self.crop[0]))
        return np.stack([x, y], axis=-1).astype(np.float64)

    def picture(self, image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """(C, h, w) float32: the crop of a picture (H, W, C), bilinear; `matrix` is that picture's map."""
        back = np.linalg.inv(matrix)
        points = torch.from_numpy(self.grid @ back[:2, :2].T + back[:2, 2])
        channels = torch.from_numpy(np.moveaxis(image, -1, 0).astype(np.float32))
        return np.asarray(sample(channels, points, padding="border").numpy())

    def dense_flow(self, flow: np.ndarray) -> np.ndarray:
        """The flow (2, H, W) between the crops, bilinear; NaN where an unknown neighbour has a share.

        A pixel q of crop 0 shows p = A0^-1 q, which goes to p + flow(p), hence to A1 (p + flow(p)) of crop 1.
        """
        back, grid = np.linalg.inv(self.to_crop0), self.grid
        points = grid @ back[:2, :2].T + back[:2, 2]
        found = np.moveaxis(sample_flow(torch.from_numpy(flow), torch.from_numpy(points)).numpy(), 0, -1)
        targets = (points + found) @ self.to_crop1[:2, :2].T + self.to_crop1[:2, 2]
        return np.ascontiguousarray(np.moveaxis(targets - grid, -1, 0), dtype=np.float32)

    def sparse_flow(self, flow: np.ndarray) -> np.ndarray:
        """The same of scattered vectors: each goes to the pixel nearest to its point; NaN where none lands."""
        rows, columns = np.nonzero(np.isfinite(flow).all(axis=0))
        points = np.stack([columns, rows]).astype(np.float64)
        matrix0, matrix1 = self.to_crop0, self.to_crop1
        starts = matrix0[:2, :2] @ points + matrix0[:2, 2:]
        ends = matrix1[:2, :2] @ (points + flow[:, rows, columns]) + matrix1[:2, 2:]
        x, y = np.rint(starts).astype(int)
        height, width = self.crop
        kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        result = np.full((2, height, width), np.nan, np.float32)
        result[:, y[kept], x[kept]] = (ends - starts)[:, kept]
        return result


# --- all of it -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FlowNet2Augmentation:
    """What is done to a pair; the defaults are FlowNet2's for the first training."""

    motion: Motion = Motion()
    relative: Motion = RELATIVE
    colours: Colours = Colours()
    effect: Effect = Effect()
    noise: Spread = Uniform(0.03, 0.03)
    """Standard deviation of Gaussian noise, white being 1; one for both images, each of which gets noise of its own."""
    mirror: float = 0.0
    """How often left and right are exchanged."""
    start: float = 0.5
    """All widths are multiplied by a strength that begins as this and comes to 1 ..."""
    half_life: int = 400_000
    """... half of what is missing being made up in so many pairs: 50 000 iterations with a batch of 8."""
    tries: int = 50
    """So many maps are drawn for a crop that would show something from beyond the picture; then image0 gets a plain crop,
    image1 the same map as image0."""
    longest: float = 1000.0
    """A pair any of whose vectors has a longer x or y, in pixels, is excluded."""
    sparse: bool = False
    """The flow is known at scattered points: they are moved to the nearest pixel instead of being interpolated."""

    def strength(self, draw: int | None) -> float:
        """What the widths are multiplied by after `draw` pairs; 1 for None."""
        return 1.0 if draw is None else 1.0 - (1.0 - self.start) * 0.5 ** (draw / self.half_life)

    def excludes(self, pair: PairArrays) -> bool:
        """Whether the flow is extreme (LiteFlowNet2, section 6.1, note 4)."""
        return bool((np.abs(pair.flow) > self.longest).any())  # NaN is not longer

    def place(self, size: Size, crop: Size, rng: np.random.Generator, strength: float = 1.0) -> Affines:
        """Draw the maps of both images, which are of `size`."""
        matrix0 = matrix1 = _plain(size, crop, rng)
        for _ in range(self.tries):
            drawn = _draw_affine(self.motion, size, crop, rng, strength)
            if shows_only(drawn, size, crop):
                matrix0 = matrix1 = drawn
                break
        for _ in range(self.tries):
            drawn = _draw_affine(self.relative, crop, crop, rng, strength) @ matrix0
            if shows_only(drawn, size, crop):
                matrix1 = drawn
                break
        if rng.random() < self.mirror:
            mirror = np.array([[-1.0, 0, crop[1] - 1], [0, 1, 0], [0, 0, 1]])
            matrix0, matrix1 = mirror @ matrix0, mirror @ matrix1
        return Affines(matrix0, matrix1, crop)

    def apply(
        self, pair: PairArrays, crop: Size, rng: np.random.Generator, draw: int | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays that `augment.augment` names, everything drawn from `rng` with the strength after `draw` pairs."""
        strength = self.strength(draw)
        affines = self.place((pair.image0.shape[0], pair.image0.shape[1]), crop, rng, strength)
        image0, image1 = self._pictures(pair, affines, rng, strength)
        flow = affines.sparse_flow(pair.flow) if self.sparse else affines.dense_flow(pair.flow)
        with np.errstate(invalid="ignore"):
            valid = (np.abs(flow) < MAX_FLOW).all(axis=0)
        flow = np.where(valid, flow, np.float32(0))
        arrays = {"image0": image0, "image1": image1, "flow": flow, "valid": valid}
        if pair.occluded is not None and not self.sparse:
            hidden = affines.picture(pair.occluded[..., None], affines.to_crop0)[0] > 0.5
            arrays["occlusion"] = hidden | (valid & unseen(flow, []))
        return arrays

    def _pictures(
        self, pair: PairArrays, affines: Affines, rng: np.random.Generator, strength: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The crops, (3, h, w) uint8, in other colours and with noise."""
        drawn, effect = _drawn(self.colours, rng, strength), _drawn(self.effect, rng, strength)
        rgb0 = recolour(affines.picture(pair.image0, affines.to_crop0) / 255, drawn)
        rgb1 = affect(recolour(affines.picture(pair.image1, affines.to_crop1) / 255, drawn), effect)
        deviation = max(0.0, float(self.noise.draw(rng, strength)))
        return _finished(rgb0, deviation, rng), _finished(rgb1, deviation, rng)


def _finished(rgb: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    rgb = rgb.clip(0, 1)
    if deviation > 0:
        rgb = rgb + np.float32(deviation) * rng.standard_normal(rgb.shape, dtype=np.float32)
    return np.rint(rgb * 255).clip(0, 255).astype(np.uint8)


NO_NOISE = Uniform(0.0)
GENTLE = Motion(Uniform(0.2), Uniform(0.1), Uniform(0.2, 0.1, exp=True), Uniform(0.1, exp=True))
GENTLE_RELATIVE = Motion(Normal(0.01), Normal(0.01), Normal(0.01, exp=True), Uniform(0.0, exp=True))
"""Less motion, for driving scenes: section 6.3 asks for that and gives no numbers; these are flowkit's own."""

CHAIRS = FlowNet2Augmentation()
THINGS = replace(CHAIRS, half_life=200_000)
"""50 000 iterations with a batch of 4."""
SINTEL = replace(THINGS, noise=NO_NOISE, mirror=0.5)
"""Fine-tuning (section 6.3): no noise, image mirroring."""
KITTI = replace(SINTEL, motion=GENTLE, relative=GENTLE_RELATIVE, sparse=True)
