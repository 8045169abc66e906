"""The symmetric epipolar distance of a flow: supervision from camera poses alone, whatever the light.

Huang et al., LIFE (ICCV 2021), eq. 1 and 2; the root form and the clamp are those of the authors' later NeuralMarker.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flowkit.geometry.shapes import check
from flowkit.losses.grids import cell_centres

SedForm = Literal["sum", "rms"]
"""How the two distances are put together: their sum (LIFE), or the root of the sum of their squares (NeuralMarker)."""

_TINY = 1e-8
"""Keeps the root form's slope finite; in squared pixels."""
_ON_EPIPOLE = 1e-6
"""Squared normals below this share of their mean belong to pixels on the epipole."""


def symmetric_epipolar_loss(
    flow: Tensor,
    F: Tensor,
    *,
    stride: int = 1,
    form: SedForm = "sum",
    clamp: float = 200.0,
    weight: Tensor | None = None,
) -> Tensor:
    """The mean over all pixels of how far x and x' = x + flow(x) are from each other's epipolar lines; a scalar, in pixels.

    flow (B, 2, h, w) is in pixels of the input on a grid of `stride` pixels a cell, x is the middle of its cell; F (B, 3, 3)
    in the same pixels with x'^T F x = 0. The way back takes F^T. Each pixel's value is at most `clamp`, where its slope ends.
    `weight` (B, h, w) leaves pixels out (0) that the cameras do not explain. A pair whose F is 0, a camera that only turns,
    says nothing and costs nothing. ValueError for shapes that do not fit.
    """
    check("F", F, len(flow), 3, 3)
    distance = symmetric_epipolar_distances(flow, F, stride=stride, form=form).clamp(max=clamp)
    if weight is None:
        return distance.mean()
    return (distance * weight).sum() / weight.sum().clamp_min(1)


def symmetric_epipolar_distances(flow: Tensor, F: Tensor, *, stride: int = 1, form: SedForm = "sum") -> Tensor:
    """(B, h, w) pixels: the distance of each pixel by itself; see `symmetric_epipolar_loss`. Near the epipole it is finite."""
    start = cell_centres(flow, stride)
    end = start + flow
    F = F.to(flow.dtype)
    line1, line0 = _lines(F, start.expand_as(flow)), _lines(F.mT, end)
    residual = (line1[:, :2] * end).sum(1) + line1[:, 2]
    squared1, squared0 = (line[:, :2].square().sum(1) for line in (line1, line0))
    inverse1, inverse0 = (_inverse(squared) for squared in (squared1, squared0))
    if form == "rms":
        return (residual.square() * (inverse1 + inverse0) + _TINY).sqrt()
    return residual.abs() * (inverse1.sqrt() + inverse0.sqrt())


def _inverse(squared: Tensor) -> Tensor:
    """1 / squared (B, h, w), which is that of a line's normal; bounded on the epipole, where the normal vanishes."""
    floor = _ON_EPIPOLE * squared.detach().mean((1, 2), keepdim=True)
    return 1 / squared.maximum(floor.clamp_min(torch.finfo(squared.dtype).tiny))


def _lines(F: Tensor, points: Tensor) -> Tensor:
    """(B, 3, h, w): the lines F x of points (B, 2, h, w)."""
    flat = points.flatten(2)
    return torch.baddbmm(F[..., 2:], F[..., :2], flat).unflatten(-1, points.shape[-2:])
