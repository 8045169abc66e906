"""Where the two pictures of a posed pair are cut, so that both crops show the same part of the scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from flowkit.datasets.posed_views import PosedPair
from flowkit.errors import UsageError
from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential
from flowkit.training.augment import Placement
from flowkit.types import Size

_TRIES = 8
_FEW = 8
"""Fewer common points in a crop than this say too little of where the other crop belongs."""


@dataclass(frozen=True)
class PosedSettings:
    """What becomes of a pair before a network sees it."""

    lighting: float = 0.25
    """Strongest change of light that the engine adds; each pair's is drawn between 0 and this."""
    least_share: float = 0.3
    """A crop shows between all of its picture, as far as their shapes allow, and this share of its area."""
    scale_jitter: float = 0.15
    """The scale of each picture of a pair is multiplied by 2^u of its own, |u| at most this."""
    shift: float = 0.25
    """How far the content of the crops lies apart at most, where the pictures allow, in terms of their height and width."""
    overlap: float = 0.5
    """The share of the first crop's content that the second should show; windows are drawn anew where they show less."""
    cache: int = 256 << 20
    """Bytes of decoded, shrunk pictures that are kept, in every process that makes pairs."""

    def __post_init__(self) -> None:
        if not (0 <= self.lighting <= 1 and 0 < self.least_share <= 1 and 0 <= self.overlap <= 1):
            raise UsageError("posed pairs: lighting, least_share and overlap must lie between 0 and 1")
        if min(self.scale_jitter, self.shift, self.cache) < 0:
            raise UsageError("posed pairs: scale_jitter, shift and cache must not be negative")


def placement_matrix(placement: Placement) -> np.ndarray:
    """(3, 3): a point of the original picture in the crop; K of the crop is this times K."""
    (sx, tx), (sy, ty) = placement.axes
    return np.array([[sx, 0, tx], [0, sy, ty], [0, 0, 1]])


def place_pair(
    pair: PosedPair, size0: Size, size1: Size, crop: Size, settings: PosedSettings, rng: np.random.Generator
) -> tuple[Placement, Placement]:
    """Draw scales and windows so that the second crop shows what the first one does, as far as tracks or F tell."""
    zoom = rng.random()
    resized0, resized1 = (_resized(size, crop, zoom, settings, rng) for size in (size0, size1))
    points0, points1 = pair.common_points()
    best: tuple[float, Placement, Placement] | None = None
    for _ in range(_TRIES):
        first = Placement(size0, resized0, (False, False), _random_corner(resized0, crop, rng), crop)
        if len(points0):
            first, inside = _with_points(first, points0, rng)
            here, there = np.median(points0[inside], axis=0), np.median(points1[inside], axis=0)
        else:
            here = _centre(first)
            there = _epipolar_partner(pair, here, size0, size1)
        away = rng.uniform(-settings.shift, settings.shift, 2) * (crop[1], crop[0])
        second = _showing(there, _in_crop(first, here) + away, size1, resized1, crop)
        score = (
            _overlap(first, second, points0[inside], points1[inside])
            if len(points0)
            else _line_share(pair, first, second)
        )
        if best is None or score > best[0]:
            best = score, first, second
        if best[0] >= settings.overlap:
            break
    assert best is not None
    return best[1], best[2]


def scales(size: Size, crop: Size, least_share: float) -> tuple[float, float]:
    """The scales at which a crop sees as much of a picture as it can, and only `least_share` of its area."""
    ratio = crop[0] / size[0], crop[1] / size[1]
    smallest = max(ratio)
    return smallest, max(smallest, (ratio[0] * ratio[1] / least_share) ** 0.5)


def _resized(size: Size, crop: Size, zoom: float, settings: PosedSettings, rng: np.random.Generator) -> Size:
    """The size at which a picture is cropped; `zoom` from 0, all of it, to 1."""
    smallest, largest = scales(size, crop, settings.least_share)
    scale = smallest ** (1 - zoom) * largest**zoom * 2 ** rng.uniform(-settings.scale_jitter, settings.scale_jitter)
    scale = max(scale, smallest)
    return max(crop[0], round(size[0] * scale)), max(crop[1], round(size[1] * scale))


def _random_corner(resized: Size, crop: Size, rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(resized[1] - crop[1] + 1)), int(rng.integers(resized[0] - crop[0] + 1))


def _showing(point: np.ndarray, place: np.ndarray, size: Size, resized: Size, crop: Size) -> Placement:
    """The window that shows a point of the original picture at a place (x, y) of the crop, or as near to it as can be."""
    scale = np.array([resized[1] / size[1], resized[0] / size[0]])
    corner = (point + 0.5) * scale - 0.5 - place
    x, y = np.clip(np.rint(corner), 0, [resized[1] - crop[1], resized[0] - crop[0]]).astype(int)
    return Placement(size, resized, (False, False), (int(x), int(y)), crop)


def _in_crop(placement: Placement, points: np.ndarray) -> np.ndarray:
    matrix = placement_matrix(placement)
    return points * matrix[[0, 1], [0, 1]] + matrix[:2, 2]


def _shown(placement: Placement, points: np.ndarray) -> np.ndarray:
    """(N,) bool: which points (N, 2) of the original lie in the crop."""
    x, y = _in_crop(placement, points).T
    height, width = placement.crop
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def _overlap(first: Placement, second: Placement, points0: np.ndarray, points1: np.ndarray) -> float:
    """The share of the first crop that the second shows, too: of its points, and of its area as the points move."""
    moved = np.abs(np.median(_in_crop(second, points1) - _in_crop(first, points0), axis=0))
    area = np.prod(np.clip(1 - moved / np.array(first.crop[::-1]), 0, 1))
    return float(min(_shown(second, points1).mean(), area))


def _centre(placement: Placement) -> np.ndarray:
    """The point of the original in the middle of the crop."""
    matrix = placement_matrix(placement)
    return ((np.array(placement.crop[::-1]) - 1) / 2 - matrix[:2, 2]) / matrix[[0, 1], [0, 1]]


def _with_points(placement: Placement, points: np.ndarray, rng: np.random.Generator) -> tuple[Placement, np.ndarray]:
    """The window, moved to one of the points where it shows too few, and which it shows; at least one."""
    inside = _shown(placement, points)
    if inside.sum() < min(_FEW, len(points)):
        chosen = int(rng.integers(len(points)))
        middle = (np.array(placement.crop[::-1]) - 1) / 2
        placement = _showing(points[chosen], middle, placement.size, placement.resized, placement.crop)
        inside = _shown(placement, points)
        inside[chosen] = True
    return placement, inside


def _epipolar_partner(pair: PosedPair, point0: np.ndarray, size0: Size, size1: Size) -> np.ndarray:
    """The point on the epipolar line of `point0` that is nearest to the same relative place in the other picture."""
    same = (point0 + 0.5) * np.array(size1[::-1]) / np.array(size0[::-1]) - 0.5
    a, b, c = _line(pair, point0)
    norm = a * a + b * b
    return same if norm == 0 else same - np.array([a, b]) * (a * same[0] + b * same[1] + c) / norm


def _line_share(pair: PosedPair, first: Placement, second: Placement) -> float:
    """How near the second crop's centre is to the epipolar line of the first one's: 1 on it, 0 half a crop away."""
    a, b, c = _line(pair, _centre(first))
    x, y = _centre(second)
    scale = min(second.resized[0] / second.size[0], second.resized[1] / second.size[1])
    distance = abs(a * x + b * y + c) / max(float(np.hypot(a, b)), 1e-30) * scale
    return max(0.0, 1 - distance / (min(second.crop) / 2))


def _line(pair: PosedPair, point0: np.ndarray) -> np.ndarray:
    """The epipolar line (a, b, c) of a point, in original pixels."""
    K0, K1, T = (torch.from_numpy(np.asarray(matrix, np.float64)) for matrix in (pair.K0, pair.K1, pair.T_0to1))
    F = fundamental_from_essential(essential_from_pose(T[:3, :3], T[:3, 3]), K0, K1).numpy()
    return F @ np.append(point0, 1.0)
