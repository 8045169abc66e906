"""Where the cells of a coarse iterate lie in the picture that it is about."""

from __future__ import annotations

from torch import Tensor

from flowkit.geometry.grids import grid_like


def cell_centres(flow: Tensor, stride: int) -> Tensor:
    """(2, h, w): x and y of the middles of the cells of a flow (B, 2, h, w), `stride` pixels each, in pixels of the input."""
    return (grid_like(flow) + 0.5) * stride - 0.5


def to_cells(points: Tensor, stride: int) -> Tensor:
    """Points in pixels of the input, in any layout, in the pixels of a grid of cells of `stride` pixels."""
    return (points + 0.5) / stride - 0.5
