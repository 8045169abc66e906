"""The Middlebury colour code for optical flow: hue is the direction, saturation the length, white is no motion.

After Baker et al., "A Database and Evaluation Methodology for Optical Flow" (IJCV 2011): red points right, yellow down,
cyan left, blue up. Lengths are divided by the longest one, or by a fixed `max_flow` so that pictures can be compared;
longer flow than that is darkened. Unknown flow is black.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from flowkit.types import Size
from flowkit.viz import canvas

_STEPS = (15, 6, 4, 11, 13, 6)  # red-yellow, yellow-green, green-cyan, cyan-blue, blue-magenta, magenta-red
_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
_UNKNOWN = 1e9
_STRIP = 1 << 16  # pixels worked on at once: the floats of a 48 MP flow never exist all together


def colour_wheel() -> np.ndarray:
    """The 55 colours of the wheel, (55, 3) float32 in [0, 1], red first."""
    stations = np.concatenate([[0], np.cumsum(_STEPS)])
    places = np.arange(stations[-1])
    channels = [np.interp(places, stations, channel) for channel in np.transpose(_CORNERS)]
    return np.stack(channels, axis=1).astype(np.float32)


def max_radius(uv: np.ndarray) -> float:
    """The longest known flow vector of (2, H, W) in pixels; 0 when nothing is known."""
    return max((float(radius.max(initial=0)) for radius in _known_radii(uv)), default=0.0)


def sequence_max_flow(flows: Iterable[np.ndarray], percentile: float = 99.0) -> float:
    """One `max_flow` for a whole sequence: the largest, over the frames, of each frame's `percentile` of flow length.

    The flows are looked at one at a time, so that a generator of any length will do; 100 takes the maximum.
    """
    largest = 0.0
    for uv in flows:
        if percentile >= 100:
            largest = max(largest, max_radius(uv))
            continue
        radii = np.concatenate([np.zeros(0, np.float32), *_known_radii(uv)])
        if radii.size:
            largest = max(largest, float(np.percentile(radii, percentile, overwrite_input=True)))
    return largest


def flow_to_rgb(uv: np.ndarray, max_flow: float | None = None) -> np.ndarray:
    """Colours of a flow: (2, H, W) in pixels, NaN unknown -> (H, W, 3) uint8.

    `max_flow` is the length that gets the full colour; without it the longest known vector does (as Middlebury does).
    """
    scale = max_radius(uv) if max_flow is None else float(max_flow)
    scale = scale if scale > 0 else 1.0
    wheel = colour_wheel()
    rgb = np.empty((*uv.shape[1:], 3), np.uint8)
    for rows in _strips(uv.shape[1:]):
        rgb[rows] = _colour(uv[:, rows].astype(np.float32), scale, wheel)
    return rgb


def colour_legend(size: int = 128, max_flow: float = 1.0) -> np.ndarray:
    """The wheel, `size` pixels wide on white, with a rim of full colour at `max_flow` pixels, written below it."""
    import cv2

    fine = 4 * size  # drawn large and averaged down: a smooth rim
    axis = (np.arange(fine, dtype=np.float32) - (fine - 1) / 2) / (0.46 * fine)
    uv = np.stack(np.meshgrid(axis, axis))
    wheel = flow_to_rgb(uv, 1.0)
    wheel[np.hypot(*uv) > 1] = 255
    centre = (2 * size, 2 * size)
    cv2.circle(wheel, centre, round(0.46 * fine), (90, 90, 90), 4)
    cv2.drawMarker(wheel, centre, (90, 90, 90), cv2.MARKER_CROSS, fine // 16, 4)
    wheel = canvas.resized(wheel, (size, size))

    mask = 1 - canvas.text_mask(f"{max_flow:.3g} px", max(10, size // 8))[:, :size, None] * 0.85
    line = np.full((mask.shape[0] + max(2, size // 32), size, 3), 255, np.uint8)
    left = (size - mask.shape[1]) // 2
    line[: mask.shape[0], left : left + mask.shape[1]] = np.rint(255 * mask)
    return np.concatenate([wheel, line])


def with_legend(picture: np.ndarray, max_flow: float) -> np.ndarray:
    """A copy of a flow picture with the colour legend in its bottom right corner (none if it is under 96 pixels)."""
    picture = picture.copy()
    short = min(picture.shape[:2])
    if short < 96:
        return picture
    legend = colour_legend(int(np.clip(short / 4.5, 48, 256)), max_flow)
    margin = max(3, legend.shape[1] // 16)
    height, width = legend.shape[:2]
    picture[-height - margin : -margin, -width - margin : -margin] = legend
    return picture


def _strips(size: Size) -> Iterator[slice]:
    rows = max(1, _STRIP // max(1, size[1]))
    return (slice(top, top + rows) for top in range(0, size[0], rows))


def _known_radii(uv: np.ndarray) -> Iterator[np.ndarray]:
    for rows in _strips(uv.shape[1:]):
        radius = _length(uv[:, rows].astype(np.float32))
        yield radius[radius < _UNKNOWN]


def _length(uv: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # the 1e10 of unknown flow squares well, larger rubbish becomes inf: unknown too
        return np.sqrt(uv[0] * uv[0] + uv[1] * uv[1])


def _colour(uv: np.ndarray, scale: float, wheel: np.ndarray) -> np.ndarray:
    """One strip; `uv` (2, h, w) float32 is used up."""
    unknown = ~(np.abs(uv).max(axis=0) < _UNKNOWN)
    uv[:, unknown] = 0
    u, v = uv
    radius = _length(uv)[..., None] / np.float32(scale)
    # 54 steps for 55 colours, as in the original: hues equal those of other tools, with their faint seam at pure red
    place = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) * np.float32((len(wheel) - 1) / 2)
    below = place.astype(np.intp)
    part = (place - below)[..., None]
    colour = wheel[below] * (1 - part) + wheel[(below + 1) % len(wheel)] * part
    colour = np.where(radius <= 1, 1 - radius * (1 - colour), colour * np.float32(0.75))
    colour[unknown] = 0
    return (colour * 255 + np.float32(1e-3)).astype(np.uint8)
