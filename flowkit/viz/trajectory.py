"""A camera's way from above and from the side, beside the true one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flowkit.viz.canvas import Colour
from flowkit.viz.curves import COLOURS, SCALE, Pen

_LEFT, _TOP, _BOTTOM, _GAP, _LINE, _PLOT = 60, 34, 46, 74, 20, 360
_FLATTEST = 0.3
_GREY, _LIGHT = (110, 110, 110), (225, 225, 225)
_ESTIMATE, _TRUTH, _FAILED = 0, 1, (200, 30, 30)
_MARK = 4


def draw_trajectory(
    poses: np.ndarray, truth: np.ndarray | None = None, failed: np.ndarray | None = None, unit: str = "m"
) -> np.ndarray:
    """(H, W, 3) uint8: seen from above (x to the right, z upwards) and from the side (x to the right, y downwards).

    `poses` and `truth` (N, 4, 4) are camera to world, in one world and unit; truth is NaN for frames without. `failed` (N,)
    bool marks frames whose pose is only held. In each panel both axes have one scale.
    """
    font = ImageFont.load_default(12 * SCALE)
    tracks = [poses[:, :3, 3]] + ([] if truth is None else [truth[:, :3, 3]])
    views = [("from above", (0, 2), ("x", "z"), True), ("from the side", (0, 1), ("x", "y"), False)]
    frames = [_Frame(np.concatenate([track[:, axes] for track in tracks]), up) for _, axes, _, up in views]
    legend = ["estimate"] + ([] if truth is None else ["ground truth"])
    legend += ["pose only held: no motion found"] if failed is not None and failed.any() else []
    width = _LEFT + 2 * (_PLOT + _GAP) - _GAP + 20
    height = _TOP + max(frame.height for frame in frames) + _BOTTOM + len(legend) * _LINE + 14
    picture = Image.new("RGB", (width * SCALE, height * SCALE), (255, 255, 255))
    pen = Pen(picture, font)
    draw = ImageDraw.Draw(picture)
    for i, (frame, (title, axes, names, _)) in enumerate(zip(frames, views, strict=True)):
        left = _LEFT + i * (_PLOT + _GAP)
        _axes(pen, frame, left, title, names, unit)
        place = _placer(frame, left)
        for track, colour in reversed(list(zip(tracks, (_ESTIMATE, _TRUTH), strict=False))):
            _way(pen, [place(point) for point in track[:, axes]], colour)
        _dot(draw, place(tracks[0][0, axes]), COLOURS[_ESTIMATE])
        if failed is not None:
            for point in tracks[0][failed][:, axes]:
                _cross(pen, place(point))
    y = height - len(legend) * _LINE - 10
    for i, name in enumerate(legend):
        at = y + i * _LINE
        if i == len(legend) - 1 and name.startswith("pose"):
            _cross(pen, (_LEFT + 15, at + 8))
        else:
            pen.curve([(_LEFT, at + 8), (_LEFT + 30, at + 8)], i)
        pen.text((_LEFT + 40, at), name)
    return np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))


class _Frame:
    """What part of a plane a panel shows: round numbers about all points, no panel flatter than _FLATTEST."""

    def __init__(self, points: np.ndarray, up: bool) -> None:
        points = points[np.isfinite(points).all(axis=1)]
        low, high = points.min(axis=0), points.max(axis=0)
        extent = max(float((high - low).max()), 1e-9)
        middle = (low + high) / 2
        half = np.maximum((high - low) / 2, [extent / 2 * _FLATTEST, extent / 2 * _FLATTEST]) * 1.06
        self.step = _round_step(2 * float(half.max()) / 5)
        self.low, self.high = middle - half, middle + half
        self.scale = _PLOT / (2 * float(half.max()))
        self.up = up
        self.width, self.height = (round(2 * float(each) * self.scale) for each in half)

    def ticks(self, axis: int) -> np.ndarray:
        """Multiples of the step within the panel."""
        first = np.ceil(self.low[axis] / self.step)
        last = np.floor(self.high[axis] / self.step)
        return np.arange(first, last + 1) * self.step + 0.0  # no -0


def _round_step(about: float) -> float:
    """1, 2 or 5 times a power of ten, not below `about`."""
    power = 10.0 ** np.floor(np.log10(about))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= about * (1 - 1e-9)))


def _placer(frame: _Frame, left: int) -> Callable[[np.ndarray], tuple[float, float]]:
    def place(point: np.ndarray) -> tuple[float, float]:
        x = left + (float(point[0]) - frame.low[0]) * frame.scale
        along = frame.high[1] - float(point[1]) if frame.up else float(point[1]) - frame.low[1]
        return x, _TOP + along * frame.scale

    return place


def _axes(pen: Pen, frame: _Frame, left: int, title: str, names: tuple[str, str], unit: str) -> None:
    place = _placer(frame, left)
    right, bottom = left + frame.width, _TOP + frame.height
    for x in frame.ticks(0):
        at = place(np.array([x, 0]))[0]
        pen.line([(at, _TOP), (at, bottom)], _LIGHT, 1)
        pen.text((at, bottom + 5), f"{x:g}", "middle")
    for y in frame.ticks(1):
        at = place(np.array([0, y]))[1]
        pen.line([(left, at), (right, at)], _LIGHT, 1)
        pen.text((left - 6, at - 7), f"{y:g}", "right")
    pen.line([(left, _TOP), (left, bottom), (right, bottom), (right, _TOP), (left, _TOP)], _GREY, 1)
    pen.text((left + frame.width / 2, _TOP - 20), title, "middle")
    pen.text((left + frame.width / 2, bottom + 21), f"{names[0]} [{unit}]", "middle")
    pen.text((left - 6, _TOP - 20), f"{names[1]} [{unit}]", "right")


def _way(pen: Pen, points: list[tuple[float, float]], colour: int) -> None:
    """Lines through the points, broken where one is not known."""
    run: list[tuple[float, float]] = []
    for point in [*points, (np.nan, np.nan)]:
        if np.isfinite(point).all():
            run.append(point)
            continue
        if len(run) > 1:
            pen.curve(run, colour)
        run = []


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], colour: Colour) -> None:
    x, y = at[0] * SCALE, at[1] * SCALE
    radius = _MARK * SCALE
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def _cross(pen: Pen, at: tuple[float, float]) -> None:
    x, y = at
    for dx in (-_MARK, _MARK):
        pen.line([(x - dx, y - _MARK), (x + dx, y + _MARK)], _FAILED, 2)
