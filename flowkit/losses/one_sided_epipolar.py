"""The one-sided epipolar error of a flow under an essential matrix, which may itself depend on the flow (equation 3).

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flowkit.geometry.grids import grid_like
from flowkit.geometry.shapes import check
from flowkit.losses.self_supervision import rho, weighted_mean
from flowkit.ops.precision import wide

EpipolarForm = Literal["square", "distance", "angle"]
"""How a pixel's distance from its line counts; see `epipolar_loss`."""
_ON_EPIPOLE = 1e-3
"""Squared normals below this share of their mean belong to pixels on the epipole, whose line is none."""
_GRAZING = 1e-3
"""The least depth of a turned ray of depth 1."""
_SHORT = 0.5
"""Pixels; translations about as short have no direction to speak of, and count for less."""


def epipolar_loss(
    flow: Tensor,
    E: Tensor,
    K0: Tensor,
    K1: Tensor,
    weight: Tensor | None = None,
    form: EpipolarForm = "square",
    R: Tensor | None = None,
) -> Tensor:
    """L_e: the mean over pixels of how far x' = x + flow(x) is from the line E x; a scalar.

    flow (B, 2, H, W) is in pixels, E (B, 3, 3) with x'^T E x = 0 in normalised coordinates, K^-1 (x, y, 1) of the cameras K0
    and K1 (B, 3, 3). Both flow and E get gradients. `weight` (B, H, W) or (B, 1, 1) leaves pixels or pairs out. `form`:

    - `square`: the squared distance in normalised coordinates. The paper prints a sum over pixels; with its weight of 1000
      only a mean is of the size of the other terms, so that is taken (spec.md 3.3).
    - `distance`: rho_c of the distance in pixels of image1, as the other terms take of what they measure. Else pixels that
      no network can know, leaving the picture or hidden, are most of the sum, and most of its derivative by E.
    - `angle`: rho_c of the sine of the angle between the line and the part of the flow that the camera's translation makes,
      of x' - K1 R K0^-1 x. Distances become smaller where the whole flow does, for no flow at all lies on every line of a
      camera that only drives; this does not. It needs `R` (B, 3, 3), the rotation in E, which gets no gradient: ValueError
      without.
    """
    x0, x1 = _matches(flow, K0, K1)
    values = _line_squares(E, x0, x1)
    if form != "square":
        pixels = K1[:, 0, 0].to(values.dtype).square()[:, None, None]
        values = values * pixels
        if form == "angle":
            if R is None:
                raise ValueError("the angle to the epipolar line needs R")
            values = values / (_translation_squares(R, x0, x1) * pixels + _SHORT**2)
        values = rho(values)
    if weight is None:
        return values.mean()
    return weighted_mean(values, weight.to(values.dtype).expand_as(values))


def epipolar_squares(flow: Tensor, E: Tensor, K0: Tensor, K1: Tensor) -> Tensor:
    """(B, H, W): that squared distance of each pixel, (x'^T E x)^2 / ((E x)_1^2 + (E x)_2^2). Near the epipole it is finite."""
    return _line_squares(E, *_matches(flow, K0, K1))


def _line_squares(E: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """(B, H, W): the squared distance of x1 from the line E x0."""
    check("E", E, len(x0), 3, 3)
    lines = torch.einsum("bij,bjhw->bihw", E.to(x0.dtype), x0)
    residual = (lines * x1).sum(1)
    normal = lines[:, :2].square().sum(1)
    floor = (_ON_EPIPOLE * normal.detach().mean((1, 2), keepdim=True)).clamp_min(torch.finfo(normal.dtype).tiny)
    return residual.square() / normal.maximum(floor)


def _translation_squares(R: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
    """(B, H, W): the squared length, normalised, of what is left of a flow x0 -> x1 without the camera's rotation."""
    check("R", R, len(x0), 3, 3)
    turned = torch.einsum("bij,bjhw->bihw", R.detach().to(x0.dtype), x0)
    # A wrong R may turn pixels out of sight; what is left of their flow is then long, but finite.
    return (x1 - turned / turned[:, 2:].clamp_min(_GRAZING))[:, :2].square().sum(1)


def _matches(flow: Tensor, K0: Tensor, K1: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W): the normalised x and x' of each pixel."""
    for name, matrix in (("K0", K0), ("K1", K1)):
        check(name, matrix, len(flow), 3, 3)
    flow = wide(flow)
    start = grid_like(flow)
    return _rays(start.expand_as(flow), K0.to(flow.dtype)), _rays(start + flow, K1.to(flow.dtype))


def _rays(points: Tensor, K: Tensor) -> Tensor:
    """(B, 3, H, W): K^-1 (x, y, 1) of points (B, 2, H, W)."""
    inverse = torch.linalg.inv(K)
    rays = torch.einsum("bij,bjhw->bihw", inverse[..., :2], points) + inverse[..., 2, None, None]
    return rays / rays[:, 2:]
