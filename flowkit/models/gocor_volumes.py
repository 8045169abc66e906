"""What GOCor's filters are compared with: all cells of a map, or those around their own place.

There is one filter for each cell of the reference, laid out (..., C), the cells as suits the computation; its answers are
(..., K), one for each of the K cells that it is compared with.
"""

from __future__ import annotations

from copy import copy
from typing import Protocol

import torch
from torch import Tensor

from flowkit.ops.correlation import Bands, windows
from flowkit.ops.precision import exactly
from flowkit.types import Size

PART = 2048
"""Filters that are optimised at a time on the CPU: their answers, 0.7 MB, stay in its caches."""


class Volume(Protocol):
    """A map (B, C, H, W) with which filters are compared."""

    distances: Tensor
    """The distances in cells that occur between a filter and what it is compared with, each once, in any shape."""
    scale: int
    """What scalar products are divided by."""
    size: Size
    """(height, width) in cells."""

    def laid(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) as filters (..., C)."""
        ...

    def maps(self, answers: Tensor) -> Tensor:
        """(B, K, H, W) of answers."""
        ...

    def answers(self, filters: Tensor) -> Tensor:
        """(..., K) of filters (..., C)."""
        ...

    def combined(self, weights: Tensor) -> Tensor:
        """(..., C): the adjoint of `answers`, of weights (..., K)."""
        ...

    def placed(self, values: Tensor) -> Tensor:
        """Values for `distances` where they belong among the answers."""
        ...


class GlobalVolume:
    """Every filter with every cell, row by row (eq. 1); filters are (B, H W, C), answers (B, H W, K)."""

    scale = 1

    def __init__(self, features: Tensor) -> None:
        self.size = height, width = int(features.shape[-2]), int(features.shape[-1])
        self._features = self.laid(features)
        y = torch.arange(1 - height, height, device=features.device, dtype=features.dtype)
        x = torch.arange(1 - width, width, device=features.device, dtype=features.dtype)
        self.distances = torch.hypot(y[:, None], x)

    def laid(self, maps: Tensor) -> Tensor:
        """See `Volume.laid`."""
        return maps.flatten(2).mT

    def maps(self, answers: Tensor) -> Tensor:
        """See `Volume.maps`; the filters' cells are taken to be those of a map of this size."""
        return answers.mT.unflatten(2, self.size)

    @exactly
    def answers(self, filters: Tensor) -> Tensor:
        """See `Volume.answers`."""
        return filters @ self._features.mT

    @exactly
    def combined(self, weights: Tensor) -> Tensor:
        """See `Volume.combined`."""
        return weights @ self._features

    def placed(self, values: Tensor) -> Tensor:
        """See `Volume.placed`: (H W, K), for filters of a map of the same size."""
        height, width = self.size
        # windows of the table of differences, (y1 - y0, x1 - x0), that slide against the filter's place
        sliding = values.unfold(0, height, 1).unfold(1, width, 1).flip(0, 1)
        return sliding.flatten(2).flatten(0, 1)


class LocalVolume:
    """Every filter with the cells around its own place, by the mean over channels (eq. 2): K = (2 r + 1)^2."""

    def __init__(self, features: Tensor, radius: int) -> None:
        self.size = int(features.shape[-2]), int(features.shape[-1])
        self._windows = windows(features, radius)
        self.scale = int(features.shape[1])
        line = torch.arange(-radius, radius + 1, device=features.device, dtype=features.dtype)
        self.distances = torch.hypot(line[:, None], line).flatten()

    def laid(self, maps: Tensor) -> Tensor:
        """See `Volume.laid`."""
        return self._windows.laid(maps)

    def maps(self, answers: Tensor) -> Tensor:
        """See `Volume.maps`."""
        return self._windows.maps(answers)

    @exactly
    def answers(self, filters: Tensor) -> Tensor:
        """See `Volume.answers`."""
        return self._windows.correlation(filters)

    @exactly
    def combined(self, weights: Tensor) -> Tensor:
        """See `Volume.combined`."""
        return self._windows.combination(weights)

    def parts(self) -> list[slice]:
        """On the CPU: rows that go together, as many as have `PART` filters."""
        rows = max(1, PART // self.size[1])
        return [slice(top, min(top + rows, self.size[0])) for top in range(0, self.size[0], rows)]

    def part(self, rows: slice) -> LocalVolume:
        """On the CPU: the same for the filters of some rows, laid out and cut to them."""
        assert isinstance(self._windows, Bands)
        part = copy(self)
        part._windows = self._windows.part(rows)
        return part

    def placed(self, values: Tensor) -> Tensor:
        """See `Volume.placed`."""
        return values
