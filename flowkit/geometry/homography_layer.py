"""The homography of matches as a layer: the second use of `implicit`, with other residuals and another manifold.

The residuals are the algebraic ones of the direct linear transform (Hartley and Zisserman, 2nd ed., eq. 4.3), two a match.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.homography import homogeneous
from flowkit.geometry.implicit import argmin
from flowkit.geometry.irls import irls
from flowkit.geometry.matrix_manifolds import UNIT
from flowkit.geometry.shapes import check, check_same


def homography_rows(points0: Tensor, points1: Tensor) -> Tensor:
    """(..., 2 N, 9): a with a . H = 0 where x1 ~ H x0, of matches (..., N, 2); two rows a match, x's and then y's."""
    check("points0", points0, "N", 2)
    check_same("points0", points0, "points1", points1)
    x0 = homogeneous(points0)
    none = torch.zeros_like(x0)
    rows = [torch.cat([x0, none, -points1[..., :1] * x0], -1), torch.cat([none, x0, -points1[..., 1:] * x0], -1)]
    return torch.stack(rows, -2).flatten(-3, -2)


def homography_layer(points0: Tensor, points1: Tensor, start: Tensor, delta: float) -> Tensor:
    """H (B, 3, 3) of norm 1 near `start` (B, 3, 3), the minimum of the truncated algebraic error of matches (B, N, 2).

    Differentiable by both points of every match whose residuals are below delta. Best in coordinates that run from -1 to 1;
    float64 is advised. ValueError for shapes that do not fit.
    """
    rows = homography_rows(points0, points1)
    check("start", start, len(rows), 3, 3)
    start = start / start.norm(dim=(-2, -1), keepdim=True)
    minimum = irls(rows.detach(), start, UNIT, delta)
    return argmin(rows, minimum.inliers, minimum.matrix, UNIT)
