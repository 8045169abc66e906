"""The one-sided epipolar error of a flow under an essential matrix, which may itself depend on the flow (equation 3).

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.grids import grid_like
from flowkit.geometry.shapes import check
from flowkit.losses.self_supervision import rho, weighted_mean
from flowkit.ops.precision import wide

_ON_EPIPOLE = 1e-3
"""Squared normals below this share of their mean belong to pixels on the epipole, whose line is none."""


def epipolar_loss(
    flow: Tensor, E: Tensor, K0: Tensor, K1: Tensor, weight: Tensor | None = None, robust: bool = False
) -> Tensor:
    """L_e: the mean over pixels of the squared distance of x' = x + flow(x) from the line E x; a scalar.

    flow (B, 2, H, W) is in pixels, E (B, 3, 3) with x'^T E x = 0 and the distance are in normalised coordinates, K^-1 (x, y, 1)
    of the cameras K0 and K1 (B, 3, 3). Both flow and E get gradients. The paper prints a sum over pixels; with its weight of
    1000 only a mean is of the size of the other terms, so that is taken (spec.md 3.3). `weight` (B, H, W) or (B, 1, 1)
    leaves pixels or pairs out. `robust` takes rho_c of the distance in pixels of image1 instead of its square, as the other
    terms do of what they measure: else pixels that no network can know, leaving the picture or hidden, are most of the sum,
    and most of its derivative by E.
    """
    values = epipolar_squares(flow, E, K0, K1)
    if robust:
        pixels = K1[:, 0, 0].to(values.dtype).square()[:, None, None]
        values = rho(values * pixels)
    if weight is None:
        return values.mean()
    return weighted_mean(values, weight.to(values.dtype).expand_as(values))


def epipolar_squares(flow: Tensor, E: Tensor, K0: Tensor, K1: Tensor) -> Tensor:
    """(B, H, W): that squared distance of each pixel, (x'^T E x)^2 / ((E x)_1^2 + (E x)_2^2). Near the epipole it is finite."""
    for name, matrix in (("E", E), ("K0", K0), ("K1", K1)):
        check(name, matrix, len(flow), 3, 3)
    flow = wide(flow)
    E, K0, K1 = (matrix.to(flow.dtype) for matrix in (E, K0, K1))
    start = grid_like(flow)
    x0, x1 = _rays(start.expand_as(flow), K0), _rays(start + flow, K1)
    lines = torch.einsum("bij,bjhw->bihw", E, x0)
    residual = (lines * x1).sum(1)
    normal = lines[:, :2].square().sum(1)
    floor = (_ON_EPIPOLE * normal.detach().mean((1, 2), keepdim=True)).clamp_min(torch.finfo(normal.dtype).tiny)
    return residual.square() / normal.maximum(floor)


def _rays(points: Tensor, K: Tensor) -> Tensor:
    """(B, 3, H, W): K^-1 (x, y, 1) of points (B, 2, H, W)."""
    inverse = torch.linalg.inv(K)
    rays = torch.einsum("bij,bjhw->bihw", inverse[..., :2], points) + inverse[..., 2, None, None]
    return rays / rays[:, 2:]
