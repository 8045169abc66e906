"""How sure a network is, at one point of a picture, of every place of another: heat maps side by side.

The paper's Figures 1 and 5: Truong et al., GOCor, NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flowkit.viz import canvas
from flowkit.viz.maps import confidence_picture, scalar_bar
from flowkit.viz.overlays import dimmed

BOX = 256
"""Pixels that a panel's longer side has."""
_TEXT = 13
_CROSS, _RING = 7, 14
_HEAT = 0.7
"""How much of a coloured cell is colour; the rest is the picture, dimmed."""

Point = tuple[float, float]
Area = tuple[int, int, int, int]
"""Of a picture, the pixels from (left, top) to before (right, bottom)."""


@dataclass(frozen=True)
class Compared:
    """A picture (H, W, 3) uint8, the places (K, 2) in its pixels that something is compared with, and their cells' (w, h)."""

    picture: np.ndarray
    places: np.ndarray
    cell: Point
    area: Area | None = None
    """What of it is shown; None: all."""


@dataclass(frozen=True)
class Heat:
    """What is known of those places: `values` (K,), NaN where there is no such place, and the best of them."""

    title: str
    values: np.ndarray
    peak: Point | None = None
    caption: str = ""


def draw_correspondence(
    reference: Compared, query: Compared, at: Point, rows: tuple[Sequence[Heat], Sequence[Heat]], cell: Point
) -> np.ndarray:
    """(H, W, 3) uint8: in the first row image0 with `at` marked, image1, and the confidences over image1; in the second those
    over image0 itself. One scale for all, from 0 or less to the highest; `cell` is the centre of the cell that holds `at`.
    """
    top = max((float(np.nanmax(heat.values, initial=0.0)) for row in rows for heat in row), default=0.0) or 1.0
    marked, plain = _Panel.of(reference.picture), _Panel.of(query.picture)
    for panel, shown in ((marked, reference), (plain, query)):
        if shown.area is not None:
            panel.frame(shown.area, canvas.YELLOW)
    marked.frame(_cell_area(cell, reference.cell), canvas.GREEN)
    marked.cross(at)
    table = [[_Labelled(marked.pixels, f"A at {at[0]:g},{at[1]:g}"), _Labelled(plain.pixels, "B")]]
    table[0] += [_Labelled(_heat_panel(query, heat, top).pixels, heat.title, heat.caption) for heat in rows[0]]
    table.append([_Labelled(None, ""), _Labelled(marked.pixels, "A with itself")])
    for heat in rows[1]:
        panel = _heat_panel(reference, heat, top)
        panel.cross(at)
        table[1].append(_Labelled(panel.pixels, heat.title, heat.caption))
    picture = _drawn(table)
    ticks = [(share / 4, f"{top * share / 4:.2f}") for share in range(5)]
    scale = confidence_picture(np.linspace(0, 1, 256)[None], colour=True)[0]
    bar = scalar_bar(scale, ticks, picture.shape[0])
    return np.concatenate([picture, bar], axis=1)


def close_up(places: np.ndarray, cell: Point, size: tuple[int, int]) -> Area:
    """The part of a picture of (height, width) about places (K, 2), some of which may be NaN, with a margin; all if none."""
    known = places[np.isfinite(places).all(axis=1)]
    if not len(known):
        return 0, 0, size[1], size[0]
    low, high = known.min(axis=0), known.max(axis=0)
    margin = np.maximum((high - low) / 2, np.asarray(cell))
    most = np.array([size[1], size[0]])
    left, top = np.floor(low - margin).astype(int).clip(0, most - 1).tolist()
    right, bottom = (np.ceil(high + margin).astype(int) + 1).clip((left + 1, top + 1), most).tolist()
    return left, top, right, bottom


@dataclass
class _Panel:
    """A part of a picture, enlarged or shrunk to the box; drawing takes points in the picture's pixels."""

    pixels: np.ndarray
    origin: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, picture: np.ndarray, area: Area | None = None) -> _Panel:
        left, top, right, bottom = area or (0, 0, picture.shape[1], picture.shape[0])
        part = picture[top:bottom, left:right]
        height, width = part.shape[:2]
        factor = BOX / max(height, width)
        pixels = canvas.resized(part, (round(height * factor), round(width * factor)))
        scale = np.array([pixels.shape[1] / width, pixels.shape[0] / height])
        return cls(pixels, np.array([left, top], float), scale)

    def edge(self, point: np.ndarray) -> np.ndarray:
        """Where the line between pixels runs on which the point lies, if a pixel's corner is half a pixel off its centre."""
        return np.rint(((point + 0.5 - self.origin) * self.scale).round(6)).astype(int)

    def place(self, point: Point) -> tuple[int, int]:
        x, y = np.rint((np.asarray(point) + 0.5 - self.origin) * self.scale - 0.5).astype(int)
        return int(x), int(y)

    def frame(self, area: Area | tuple[float, float, float, float], colour: canvas.Colour) -> None:
        import cv2

        left, top = self.edge(np.array(area[:2], float) - 0.5)
        right, bottom = self.edge(np.array(area[2:], float) - 0.5)
        cv2.rectangle(self.pixels, (int(left), int(top)), (int(right) - 1, int(bottom) - 1), colour, 1)

    def cross(self, point: Point) -> None:
        import cv2

        x, y = self.place(point)
        for colour, width in (((0, 0, 0), 3), (canvas.GREEN, 1)):
            cv2.line(self.pixels, (x - _CROSS, y), (x + _CROSS, y), colour, width)
            cv2.line(self.pixels, (x, y - _CROSS), (x, y + _CROSS), colour, width)

    def ring(self, point: Point) -> None:
        import cv2

        for colour, width in (((0, 0, 0), 4), (canvas.RED, 2)):
            cv2.circle(self.pixels, self.place(point), _RING, colour, width, cv2.LINE_AA)


def _heat_panel(compared: Compared, heat: Heat, top: float) -> _Panel:
    """The picture, dimmed and grey, under squares in the colours of the values: the highest lie on top where cells overlap."""
    panel = _Panel.of(compared.picture, compared.area)
    grey = panel.pixels.mean(axis=2, keepdims=True).astype(np.uint8).repeat(3, axis=2)
    values = np.full(panel.pixels.shape[:2], np.nan, np.float32)
    half = np.asarray(compared.cell) / 2
    for index in np.argsort(heat.values):  # NaN comes last
        if not np.isfinite(heat.values[index]):
            break
        left, up = panel.edge(compared.places[index] - half).clip(0)
        right, down = panel.edge(compared.places[index] + half).clip(0)
        values[up:down, left:right] = heat.values[index]
    coloured = confidence_picture(values / top, colour=True)
    mixed = np.rint(dimmed(grey, 0.6) * (1 - _HEAT) + coloured * _HEAT).astype(np.uint8)
    panel.pixels = np.where(np.isfinite(values)[..., None], mixed, dimmed(grey, 0.6))
    if heat.peak is not None:
        panel.ring(heat.peak)
    return panel


def _cell_area(centre: Point, cell: Point) -> tuple[float, float, float, float]:
    (x, y), (width, height) = centre, cell
    return x - width / 2 + 0.5, y - height / 2 + 0.5, x + width / 2 + 0.5, y + height / 2 + 0.5


class _Labelled(NamedTuple):
    """A panel, white if None, with a line of text over it and two under it."""

    pixels: np.ndarray | None
    title: str
    caption: str = ""


def _drawn(table: Sequence[Sequence[_Labelled]]) -> np.ndarray:
    """Panels in rows and columns, each in the middle of its box, all of which are as large as the largest panel."""
    shapes = [panel.pixels.shape for row in table for panel in row if panel.pixels is not None]
    height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))
    rows = []
    for row in table:
        boxes = [_boxed(panel, height, width) for panel in row]
        rows.append(canvas.row(boxes))
    return np.concatenate(rows)


def _boxed(panel: _Labelled, height: int, width: int) -> np.ndarray:
    board = np.full((height, width, 3), 255, np.uint8)
    if panel.pixels is not None:
        top, left = (height - panel.pixels.shape[0]) // 2, (width - panel.pixels.shape[1]) // 2
        board[top : top + panel.pixels.shape[0], left : left + panel.pixels.shape[1]] = panel.pixels
    lines = [*panel.caption.split("\n"), "", ""][:2]
    return np.concatenate([_line(panel.title, width), board, *(_line(line, width) for line in lines)])


def _line(text: str, width: int) -> np.ndarray:
    """A line of text, black on white; what does not fit is cut off."""
    mask = canvas.text_mask(text or " ", _TEXT)[:, :width]
    board = np.full((mask.shape[0] + 2, width), 255.0)
    left = (width - mask.shape[1]) // 2
    board[1:-1, left : left + mask.shape[1]] = 255 - 225 * mask
    return np.rint(board).astype(np.uint8)[..., None].repeat(3, axis=2)
