"""Dense flow of pictures too large for memory: in overlapping tiles around a guide, blended smoothly.

The guide is a flow of the whole pair, found at a small size or given. Every tile of image0 is paired with the window of image1
of the same size to which the guide leads its pixels, so a motion longer than a tile is no obstacle; where the guide leads
the pixels of one tile to places further apart than a window, the tile is run again with the window of those left over. A pixel
counts in a run by how far it and its partner are from the borders of tile and window, unless these are the pictures' own.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.types import Size

log = logging.getLogger(__name__)

TILE = 1024
"""Default side of a tile, pixels: several times the size that flow networks are trained at."""
MIN_TILE = 128
OVERLAP = 0.25
"""Of a tile's side."""
DOUBT = 0.125
"""Of the overlap: how far off the guide may be before a tile is believed about what its window does not show."""
MAX_RUNS = 3
"""How many windows of image1 one tile is tried with."""
ENOUGH = 0.02
"""Share of a tile's pixels that is worth another window."""
MEMORY_SHARE = 0.5
"""Of the free memory, that a network may plan with."""

Pair = Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]
"""(pixels0 (h, w, 3), pixels1 (h, w, 3), initial (2, h, w) or None) -> the flow (2, h, w) float32 in pixels."""


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels inside a picture."""

    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def points(self) -> np.ndarray:
        """(2, h, w) float32: x and y of its pixels, in the picture's coordinates."""
        x = np.arange(self.left, self.left + self.width, dtype=np.float32)
        y = np.arange(self.top, self.top + self.height, dtype=np.float32)[:, None]
        return np.stack(np.broadcast_arrays(x, y))


def tiles(size: Size, side: int, overlap: float = OVERLAP) -> list[Window]:
    """Windows of at most side x side pixels that cover a picture of (height, width), evenly spread, overlapping."""
    rows, columns = (_spread(length, min(side, length), overlap) for length in size)
    height, width = min(side, size[0]), min(side, size[1])
    return [Window(top, left, height, width) for top in rows for left in columns]


def _spread(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles start along one axis."""
    step = max(1, round(side * (1 - overlap)))
    count = 1 + -(-(length - side) // step)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]


def tiled_flow(pixels0: np.ndarray, pixels1: np.ndarray, guide: np.ndarray, side: int, network: Pair) -> np.ndarray:
    """The flow (2, H, W) float32 of two (H, W, 3) pictures of one size, from tiles of that side and a guide (2, H, W).

    `network` gets each tile with its window of image1 and, as initial flow, what the guide says of it. Where no tile knows a
    pixel, the guide is the answer. What guide and network give besides, as further channels, is joined in the same way.
    """
    size = pixels0.shape[0], pixels0.shape[1]
    faint = np.float32(1e-6)
    total, weights = guide * faint, np.full(size, faint, np.float32)
    windows = tiles(size, side)
    for number, tile in enumerate(windows, 1):
        log.info("tile %d of %d", number, len(windows))
        here, expected = tile.slices, guide[:2, *tile.slices]
        central = centrality(tile, tile.points, size)
        for window in partners(tile, expected, size):
            offset = np.array([window.left - tile.left, window.top - tile.top], np.float32)[:, None, None]
            found = network(pixels0[here], pixels1[window.slices], expected - offset)
            found = np.concatenate([offset + found[:2], found[2:]])
            weight = central * centrality(window, tile.points + expected, size, DOUBT)
            total[:, *here] += weight * found
            weights[here] += weight
    return total / weights


def partners(tile: Window, expected: np.ndarray, size: Size) -> list[Window]:
    """The windows of image1, of the tile's size, to which the flow `expected` (2, h, w) leads its pixels; most first.

    Each is centred on the median motion of the pixels that those before it miss. There is none for a tile that leaves the
    picture altogether.
    """
    x, y = target = tile.points + expected
    central = centrality(tile, tile.points, size)
    left = (x >= -0.5) & (x <= size[1] - 0.5) & (y >= -0.5) & (y <= size[0] - 0.5)
    found: list[Window] = []
    while len(found) < MAX_RUNS and central[left].sum() > (ENOUGH * central.sum() if found else 0):
        dx, dy = (float(np.median(motion[left])) for motion in expected)
        top = _start(tile.top, tile.height, size[0], dy)
        window = Window(top, _start(tile.left, tile.width, size[1], dx), tile.height, tile.width)
        if window in found:
            break
        found.append(window)
        left &= ~(centrality(window, target, size, DOUBT) > 0)
    return found


def _start(start: int, length: int, extent: int, motion: float) -> int:
    """Where the window of image1 starts along one axis, for a tile that starts at `start` and moves so far.

    At the border of the picture it leans outwards: pixels there have no other tile, those on the other side have.
    """
    leaning = 2 * DOUBT * OVERLAP * length * ((start + length == extent) - (start == 0))
    return min(max(round(start + motion + leaning), 0), extent - length)


def centrality(window: Window, points: np.ndarray, size: Size, doubt: float = 0.0) -> np.ndarray:
    """(h, w) float32: 0 for points (2, h, w) out of the window, rising linearly to 1 where its overlap with the next ends.

    A side of the window that is the border of the picture hides nothing, so there it is 1, also beyond. With `doubt` points
    count as outside up to that share of the overlap within.
    """
    weight = np.ones(points.shape[1:], np.float32)
    spans = ((points[0], window.left, window.width, size[1]), (points[1], window.top, window.height, size[0]))
    for along, start, length, extent in spans:
        rim = max(1.0, OVERLAP * length)
        if start > 0:
            weight *= np.clip((along - start + 0.5) / rim - doubt, 0, 1)
        if start + length < extent:
            weight *= np.clip((start + length - 0.5 - along) / rim - doubt, 0, 1)
    return weight


def affordable_side(memory: int, device: str) -> int | None:
    """The largest tile side, a multiple of 64, that a network of `memory` bytes a pixel can afford; None for unknown."""
    free = free_memory(device)
    if free is None or memory <= 0:
        return None
    return max(MIN_TILE, int((free * MEMORY_SHARE / memory) ** 0.5) // 64 * 64)


def free_memory(device: str) -> int | None:
    """Bytes that may be taken on the device: free GPU memory; what the system calls available, within a container's limit."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        except (AttributeError, ValueError, OSError):
            return None
    return min([available, *_container_limits()])


def _container_limits() -> list[int]:
    """What control groups leave of their memory limit, one number each for version 2 and 1, where there is a limit."""
    rooms = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            rooms.append(max(0, int(Path(limit).read_text()) - int(Path(used).read_text())))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return rooms
