"""Correspondence volumes as GOCor descends on them: what filters answer in a map, and the adjoint of that.

Filters are (B, C, H, W), one per cell of the reference; answers are (B, K, H, W), one for each of the K cells of the other map
that a filter is compared with: all of them (global, eq. 1), or those around its own place (local, eq. 2).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from flowkit.ops.correlation import Windows

Grids = tuple[tuple[int, int], tuple[int, int]]
"""(height, width) in cells of the query, and of the reference."""


class Volume(Protocol):
    """Filters compared with one map."""

    distances: Tensor
    """Distances in cells that occur between a filter and what it is compared with, each once, in any shape."""
    grids: Grids
    scale: int
    """What the scalar products are divided by."""

    def answers(self, filters: Tensor) -> Tensor:
        """(B, K, H, W) of filters (B, C, H, W)."""
        ...

    def combined(self, weights: Tensor) -> Tensor:
        """(B, C, H, W): the adjoint of `answers`, of weights (B, K, H, W)."""
        ...

    def placed(self, values: Tensor) -> Tensor:
        """Values for `distances`, where they belong among the answers: (K, H, W) or (K, 1, 1)."""
        ...


class GlobalVolume:
    """Every filter with every cell of a map (B, C, h, w), row by row: K = h w."""

    scale = 1

    def __init__(self, features: Tensor) -> None:
        self._features = features.flatten(2)
        self._size = height, width = int(features.shape[-2]), int(features.shape[-1])
        self.grids = self._size, self._size
        y = torch.arange(1 - height, height, device=features.device, dtype=features.dtype)
        x = torch.arange(1 - width, width, device=features.device, dtype=features.dtype)
        self.distances = torch.hypot(y[:, None], x)

    def answers(self, filters: Tensor) -> Tensor:
        return (self._features.mT @ filters.flatten(2)).unflatten(2, filters.shape[-2:])

    def combined(self, weights: Tensor) -> Tensor:
        return (self._features @ weights.flatten(2)).unflatten(2, weights.shape[-2:])

    def placed(self, values: Tensor) -> Tensor:
        height, width = self._size
        # from (h - 1 + dy, w - 1 + dx) to (y1, x1, y0, x0): the window of each filter slides against its place
        windows = values.unfold(0, height, 1).unfold(1, width, 1).flip(0, 1)
        return windows.permute(2, 3, 0, 1).flatten(0, 1)


class LocalVolume:
    """Every filter with the cells of a map (B, C, H, W) around its own place, by the mean over channels: K = (2 r + 1)^2."""

    def __init__(self, features: Tensor, radius: int) -> None:
        self._windows = Windows(features, radius)
        self.scale = int(features.shape[1])
        size = int(features.shape[-2]), int(features.shape[-1])
        self.grids = size, size
        line = torch.arange(-radius, radius + 1, device=features.device, dtype=features.dtype)
        self.distances = torch.hypot(line[:, None], line).flatten()

    def answers(self, filters: Tensor) -> Tensor:
        return self._windows.correlation(filters)

    def combined(self, weights: Tensor) -> Tensor:
        return self._windows.combination(weights)

    def placed(self, values: Tensor) -> Tensor:
        return values[:, None, None]
