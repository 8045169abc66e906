"""Per-pixel quantities as pictures: errors, confidences, occlusions, regions."""

from __future__ import annotations

import numpy as np

from flowkit.viz import canvas
from flowkit.viz.overlays import dimmed

_LEAST_ERROR = 0.125
_ERROR_COLOURS = (
    (43, 54, 140),
    (66, 120, 190),
    (140, 196, 222),
    (250, 248, 196),
    (250, 184, 104),
    (230, 84, 60),
    (140, 0, 40),
)
_CONFIDENCE_COLOURS = ((52, 16, 66), (56, 84, 140), (32, 146, 140), (110, 206, 88), (252, 230, 40))
_REGION_COLOURS = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 170, 120),
    (220, 110, 180),
    (240, 228, 66),
    (213, 94, 0),
    (120, 120, 235),
    (160, 220, 120),
)


def error_map(error: np.ndarray, max_error: float = 32.0, bar: bool = True) -> np.ndarray:
    """End-point errors (H, W) in pixels on a logarithmic scale, blue = 1/8 px or less, dark red = `max_error` or more.

    Unknown (NaN) is black. With `bar` the scale is drawn to the right of the map.
    """
    max_error = max(max_error, 2 * _LEAST_ERROR)
    octaves = float(np.log2(max_error / _LEAST_ERROR))
    unknown = np.isnan(error)
    bounded = np.clip(np.nan_to_num(error.astype(np.float32)), _LEAST_ERROR, max_error)
    picture = _scale(_ERROR_COLOURS)[_to_byte(np.log2(bounded / _LEAST_ERROR) / octaves)]
    picture[unknown] = 0
    if not bar:
        return picture
    ticks = [(octave / octaves, f"{_LEAST_ERROR * 2**octave:g}") for octave in range(int(octaves) + 1)]
    return np.concatenate([picture, scalar_bar(_scale(_ERROR_COLOURS), ticks, error.shape[0], "px")], axis=1)


def scalar_bar(colours: np.ndarray, ticks: list[tuple[float, str]], height: int, unit: str = "") -> np.ndarray:
    """A vertical colour bar, (256, 3) uint8 from the bottom up, with labels at places in [0, 1]; black on white."""
    size = int(np.clip(height / 22, 9, 18))
    margin = size
    length = max(1, height - 2 * margin)
    names = [f"{text} {unit}".strip() for _, text in ticks]
    masks = [canvas.text_mask(name, size) for name in names]
    column = 2 * size
    bar = np.full((height, column + 2 * size + max((m.shape[1] for m in masks), default=0), 3), 255, np.uint8)
    colour_rows = np.linspace(255, 0, length).round().astype(np.uint8)
    bar[margin : margin + length, size // 2 : column] = colours[colour_rows][:, None]
    last_top = height
    for (place, _), mask in zip(ticks, masks, strict=True):
        row = margin + round((1 - place) * (length - 1))
        top = row - mask.shape[0] // 2
        if top < 0 or top + mask.shape[0] > min(height, last_top):  # no room: leave the label out
            continue
        last_top = top
        bar[row : row + 1, column : column + size // 3] = 60
        patch = bar[top : top + mask.shape[0], column + size // 2 :][:, : mask.shape[1]]
        patch[:] = np.rint(255 - 225 * mask)[..., None]
    return bar


def confidence_picture(confidence: np.ndarray, colour: bool = False) -> np.ndarray:
    """A confidence or matchability (H, W) in [0, 1] as grey (H, W) uint8, white = sure, or as colour, yellow = sure.

    NaN counts as 0.
    """
    grey = _to_byte(np.nan_to_num(confidence))
    return _scale(_CONFIDENCE_COLOURS)[grey] if colour else grey


def matchability_overlay(picture: np.ndarray, matchability: np.ndarray) -> np.ndarray:
    """The picture itself where it can be matched, fading to a dark blue where it cannot."""
    canvas.same_size(picture, matchability)
    weight = np.clip(np.nan_to_num(matchability), 0, 1).astype(np.float32)[..., None]
    backdrop = dimmed(picture, 0.25) + np.array([16, 12, 48], np.uint8)
    return np.rint(picture * weight + backdrop * (1 - weight)).astype(np.uint8)


def occlusion_picture(occlusion: np.ndarray) -> np.ndarray:
    """A mask (H, W) bool as (H, W) uint8: white = occluded, black = visible."""
    return np.where(occlusion, np.uint8(255), np.uint8(0))


def occlusion_overlay(picture: np.ndarray, occlusion: np.ndarray) -> np.ndarray:
    """The picture with the occluded part tinted red."""
    return _tinted(picture, occlusion, canvas.RED)


def region_map(regions: np.ndarray, picture: np.ndarray | None = None) -> np.ndarray:
    """Which homography each pixel came from, (H, W) int, -1 for none, in colours over the picture; none is darkened."""
    shape = (*regions.shape, 3)
    result = np.full(shape, 40, np.uint8) if picture is None else dimmed(picture)
    for label in range(int(regions.max(initial=-1)) + 1):
        colour = _REGION_COLOURS[label % len(_REGION_COLOURS)]
        mask = regions == label
        if picture is None:
            result[mask] = colour
        else:
            result[mask] = _mixture(picture[mask], colour)
    return result


def _scale(colours: tuple[canvas.Colour, ...]) -> np.ndarray:
    """256 colours that pass evenly through those given, (256, 3) uint8."""
    places = np.linspace(0, 1, len(colours))
    channels = [np.interp(np.linspace(0, 1, 256), places, channel) for channel in np.transpose(colours)]
    return np.rint(np.stack(channels, axis=1)).astype(np.uint8)


def _to_byte(unit: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)


def _tinted(picture: np.ndarray, mask: np.ndarray, colour: canvas.Colour) -> np.ndarray:
    canvas.same_size(picture, mask)
    result = picture.copy()
    result[mask] = _mixture(picture[mask], colour)
    return result


def _mixture(pixels: np.ndarray, colour: canvas.Colour) -> np.ndarray:
    """Half the lightness of (N, 3) pixels, half the colour: the scene stays readable, the colours distinct."""
    lightness = pixels.mean(axis=1, keepdims=True, dtype=np.float32)
    return np.rint(lightness * 0.5 + np.asarray(colour, np.float32) * 0.5).astype(np.uint8)
