"""Wallpapers for repetitive.py: a patch of a photograph tiled over a part of a scene, and marks that are there once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Wallpaper:
    """Where tiles lie: in the scene's pixels, turned by `angle` about `centre` (x, y)."""

    centre: np.ndarray
    half: np.ndarray
    """Half of its extent along its own axes."""
    angle: float
    period: float
    bricks: bool
    """Every second row is half a tile aside."""
    round: bool
    """Its outline is an ellipse."""

    def coordinates(self, height: int, width: int) -> np.ndarray:
        """(2, H, W): the scene's pixels along its own axes, from its centre."""
        y, x = np.mgrid[:height, :width].astype(np.float64)
        x, y, c, s = x - self.centre[0], y - self.centre[1], math.cos(self.angle), math.sin(self.angle)
        return np.stack([c * x + s * y, c * y - s * x])

    def covers(self, at: np.ndarray) -> np.ndarray:
        """(...) bool: which points (2, ...) of its own axes are in it."""
        u = np.abs(at / self.half.reshape(2, *[1] * (at.ndim - 1)))
        return np.hypot(*u) <= 1 if self.round else u.max(0) <= 1


def place_wallpaper(middle: np.ndarray, extent: np.ndarray, period: float, rng: np.random.Generator) -> Wallpaper:
    """Somewhere in the picture of that middle (x, y) and `extent` (width, height), of 40 to 80 % of its area.

    It is a little less where the wallpaper is turned and sticks out. All in the scene's pixels.
    """
    disc = bool(rng.random() < 0.3)
    share = rng.uniform(0.45, 0.7 if disc else 0.8)
    full = share / (math.pi / 4 if disc else 1.0)
    longest = 0.97  # of a side: there is always something around it
    along = rng.uniform(full / longest, longest)
    half = extent * np.array([along, full / along]) / 2
    centre = middle + rng.uniform(-1, 1, 2) * (extent / 2 - half)
    angle = math.radians(rng.uniform(-12, 12))
    return Wallpaper(centre, half, angle, period, bool(rng.random() < 0.4), disc)


def design(photo: np.ndarray, side: int, windows: bool, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) float32: the tile, the richest in contrast of some patches; as a window, in a plain wall."""
    import cv2

    room = max(4, round(side * rng.uniform(0.5, 0.7))) if windows else side
    patches = [patch_of(photo, rng) for _ in range(12)]
    best = max(patches, key=lambda patch: float(patch.std((0, 1)).mean()))
    shown = cv2.resize(best, (room, room), interpolation=cv2.INTER_AREA).astype(np.float32)
    if not windows:
        return shown
    wall = rng.uniform(60, 210) + rng.uniform(-25, 25, 3)
    tile = np.full((side, side, 3), wall, np.float32)
    start = (side - room) // 2
    tile[start : start + room, start : start + room] = shown
    return tile


def papered(
    tile: np.ndarray, paper: Wallpaper, at: np.ndarray, uneven: float, moved: float, rng: np.random.Generator
) -> np.ndarray:
    """(N, 3): the wallpaper at points (2, N) of its own axes; tiles differ by `uneven` in gain, lie `moved` periods aside."""
    import cv2

    side = len(tile)
    v = at[1] / paper.period
    row = np.floor(v).astype(int)
    u = at[0] / paper.period - (0.5 * (row % 2) if paper.bricks else 0.0)
    column = np.floor(u).astype(int)
    many = 2 * int(max(np.abs(row).max(), np.abs(column).max())) + 4
    gain = 1 + uneven * rng.uniform(-1, 1, (many, many))
    aside = moved * rng.uniform(-1, 1, (2, many, many))
    x, y = u - column - aside[0, row, column], v - row - aside[1, row, column]  # negative cells count from the end
    wrapped = np.pad(tile, ((1, 1), (1, 1), (0, 0)), mode="wrap")
    places = [((each % 1) * side + 0.5).astype(np.float32).reshape(1, -1) for each in (x, y)]
    colours = [
        cv2.remap(wrapped, *(p[:, k : k + 30000] for p in places), cv2.INTER_LINEAR)[0]  # remap's sides are short
        for k in range(0, places[0].shape[1], 30000)
    ]
    return np.concatenate(colours) * gain[row, column, None].astype(np.float32)


def mark(
    picture: np.ndarray,
    photo: np.ndarray,
    paper: Wallpaper,
    at: np.ndarray,
    covered: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Draw a disc of a photograph somewhere on the wallpaper, about as large as a tile."""
    import cv2

    radius = paper.period * rng.uniform(0.4, 0.7)
    for _ in range(20):
        centre = rng.uniform(-0.85, 0.85, 2) * paper.half
        if paper.covers(centre):
            break
    away = at - centre[:, None, None]
    disc = covered & (np.hypot(*away) <= radius)
    side = max(4, round(2 * radius))
    shown = cv2.resize(patch_of(photo, rng), (side, side), interpolation=cv2.INTER_AREA)
    columns, rows = (np.clip((each[disc] + radius).astype(int), 0, side - 1) for each in away)
    picture[disc] = shown[rows, columns]


def patch_of(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square of the photograph, a tenth to a third of its shorter side."""
    short = min(photo.shape[:2])
    side = max(8, round(short * rng.uniform(0.1, 0.33)))
    side = min(side, short)
    y, x = (int(rng.integers(whole - side + 1)) for whole in photo.shape[:2])
    return np.ascontiguousarray(photo[y : y + side, x : x + side])
