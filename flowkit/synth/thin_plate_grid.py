"""The inverse of a thin-plate spline at every pixel of a picture, found on coarse grids first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.synth.thin_plate import ThinPlate, solve_thin_plate, start_thin_plate

SPACINGS = (16, 4, 2)
"""Pixels between the points of the coarse grids; at the first the inverse is found from scratch."""


def invert_on_grid(plate: ThinPlate, wanted: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """The points (B, 2, H, W) float64 that go to `wanted` (B, 2, H, W), an affine image of the pixel grid.

    Returned with the length (B, H, W) of the last Newton step, in the unit of the points, and the determinant (B, H, W) of the
    slope there, as `solve_thin_plate` does. `chunk` maps are worked on at a time.
    """
    few, *finer = SPACINGS
    points = _thinned(wanted, few)
    solved = start_thin_plate(plate, points.flatten(2)).unflatten(-1, points.shape[-2:])
    parts = []
    for k in range(0, len(wanted), chunk):
        part = slice(k, k + chunk)
        parts.append(_refined(plate[part], wanted[part], solved[part], finer))
    found, step, area = (torch.cat(values) for values in zip(*parts, strict=True))
    return found, step, area


def _refined(
    plate: ThinPlate, wanted: Tensor, solved: Tensor, spacings: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    for spacing in spacings:
        grid = _thinned(wanted, spacing)
        start = enlarged(solved, grid.shape[-2:])
        solved = solve_thin_plate(plate, grid.flatten(2), start.flatten(2))[0].unflatten(-1, grid.shape[-2:])
    size = wanted.shape[-2:]
    start = enlarged(solved, size)
    points, step, area = solve_thin_plate(plate, wanted.flatten(2), start.flatten(2), steps=1)
    return points.unflatten(-1, size), step.unflatten(-1, size), area.unflatten(-1, size)


def _thinned(wanted: Tensor, spacing: int) -> Tensor:
    """About every `spacing`-th point, corners included; bilinear interpolation is exact, for the points are an affine grid."""
    size = [max(3, -(-n // spacing) + 1) for n in wanted.shape[-2:]]
    return F.interpolate(wanted, size=size, mode="bilinear", align_corners=True)


def enlarged(values: Tensor, size: Sequence[int]) -> Tensor:
    """Values (..., h, w) at the corners and evenly between, at as many points as `size` says, by Catmull-Rom splines.

    Exact for quadratic maps, but for the outermost cells; torch's bicubic interpolation is not even for linear ones.
    """
    rows, columns = (_catmull_rom(n, k, values) for n, k in zip(size, values.shape[-2:], strict=True))
    return rows @ (values @ columns.mT)


def _catmull_rom(length: int, knots: int, like: Tensor) -> Tensor:
    """(length, knots): the weights of the knots at points from the first knot to the last; beyond, they go on straight."""
    position = torch.linspace(0, knots - 1, length, device=like.device, dtype=like.dtype)
    d = (position[:, None] - torch.arange(-1, knots + 1, device=like.device)).abs()
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weights = torch.where(d < 1, near, torch.where(d < 2, far, 0))
    weights[:, 1] += 2 * weights[:, 0]
    weights[:, 2] -= weights[:, 0]
    weights[:, -2] += 2 * weights[:, -1]
    weights[:, -3] -= weights[:, -1]
    return weights[:, 1:-1]
