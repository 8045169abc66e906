"""Curves of shares over a threshold, in panels side by side with one legend: matching accuracy, recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flowkit.viz.canvas import Colour

# Okabe and Ito's colours, which colour-blind readers tell apart.
COLOURS: tuple[Colour, ...] = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (0, 0, 0),
)
SCALE = 2
"""Plots are drawn so much larger and shrunk: smooth lines."""
_PLOT, _LEFT, _TOP, _BOTTOM, _GAP, _LINE = 260, 52, 30, 44, 16, 20
_GREY, _LIGHT, _BLACK = (110, 110, 110), (225, 225, 225), (20, 20, 20)
_TEXT, _KEY, _DASH = 12, 40, 9


@dataclass(frozen=True)
class Panel:
    """One plot: its title, and by name the curves' values in [0, 1], one for each threshold; NaN is left out."""

    title: str
    curves: Mapping[str, Sequence[float]]


def draw_curves(panels: Sequence[Panel], thresholds: Sequence[float], x_label: str, y_label: str) -> np.ndarray:
    """(H, W, 3) uint8: the panels from left to right, y from 0 to 100 %, and below them which colour is which curve.

    A curve has the same colour in every panel; from the eighth on they are dashed.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    font = ImageFont.load_default(_TEXT * SCALE)
    legend = max((font.getlength(name) / SCALE for name in names), default=0)
    width = max(_LEFT + len(panels) * (_PLOT + _GAP), _LEFT + _KEY + round(legend) + _GAP)
    height = _TOP + _PLOT + _BOTTOM + len(names) * _LINE + _GAP
    picture = Image.new("RGB", (width * SCALE, height * SCALE), (255, 255, 255))
    pen = Pen(picture, font)
    for i, panel in enumerate(panels):
        left = _LEFT + i * (_PLOT + _GAP)
        _axes(pen, left, panel.title, thresholds, x_label, numbers=i == 0)
        for name, values in panel.curves.items():
            points = [(left + x, _TOP + y) for x, y in map(_place, _positions(thresholds), values) if np.isfinite(y)]
            pen.curve(points, names.index(name))
    pen.text((_LEFT - 6, _TOP - 18), y_label, "right")
    for i, name in enumerate(names):
        y = _TOP + _PLOT + _BOTTOM + i * _LINE + _LINE / 2
        pen.curve([(_LEFT, y), (_LEFT + _KEY - 10, y)], i)
        pen.text((_LEFT + _KEY, y - 7), name)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


def _axes(pen: Pen, left: int, title: str, thresholds: Sequence[float], x_label: str, numbers: bool) -> None:
    for percent in range(0, 101, 20):
        y = _TOP + _PLOT * (1 - percent / 100)
        pen.line([(left, y), (left + _PLOT, y)], _LIGHT, 1)
        if numbers:
            pen.text((left - 6, y - 7), str(percent), "right")
    for threshold, x in zip(thresholds, _positions(thresholds), strict=True):
        at = left + _PLOT * x
        pen.line([(at, _TOP), (at, _TOP + _PLOT)], _LIGHT, 1)
        pen.text((at, _TOP + _PLOT + 5), f"{threshold:g}", "middle")
    pen.line([(left, _TOP), (left, _TOP + _PLOT), (left + _PLOT, _TOP + _PLOT)], _GREY, 1)
    pen.text((left + _PLOT / 2, _TOP - 20), title, "middle")
    pen.text((left + _PLOT / 2, _TOP + _PLOT + 21), x_label, "middle")


def _positions(thresholds: Sequence[float]) -> list[float]:
    """Where on the axis each threshold is, 0 to 1."""
    low, high = min(thresholds), max(thresholds)
    return [(t - low) / (high - low) if high > low else 0.5 for t in thresholds]


def _place(x: float, value: float) -> tuple[float, float]:
    return _PLOT * x, _PLOT * (1 - value)


class Pen:
    """Draws in the finished picture's pixels on one that is `SCALE` times larger."""

    def __init__(self, picture: Image.Image, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._font = font

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        """Draw a line through the points (x, y)."""
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=round(width * SCALE), joint="curve")

    def curve(self, points: Sequence[tuple[float, float]], index: int) -> None:
        """A line of the colour with that index, dashed when there are not so many colours."""
        colour = COLOURS[index % len(COLOURS)]
        if index < len(COLOURS):
            return self.line(points, colour, 2)
        for (x0, y0), (x1, y1) in pairwise(points):
            steps = max(1, round(float(np.hypot(x1 - x0, y1 - y0)) / _DASH))
            at = np.linspace(0, 1, 2 * steps)
            for a, b in zip(at[::2], at[1::2], strict=True):
                ends = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (a, b)]
                self.line(ends, colour, 2)
        return None

    def text(self, at: tuple[float, float], text: str, align: str = "left") -> None:
        """Write with its upper left, middle or right at (x, y)."""
        anchor = {"left": "la", "middle": "ma", "right": "ra"}[align]
        self._draw.text((at[0] * SCALE, at[1] * SCALE), text, fill=_BLACK, font=self._font, anchor=anchor)
