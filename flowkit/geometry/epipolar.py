"""Two-view geometry without depth: x1' F x0 = 0 in pixels, E = [t]x R with X1 = R X0 + t in normalised coordinates.

Equation numbers refer to Hartley and Zisserman, Multiple View Geometry, 2nd ed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.homography import homogeneous
from flowkit.geometry.shapes import check, check_same


def skew(v: Tensor) -> Tensor:
    """(..., 3, 3): [v]x, with [v]x u = v x u, of v (..., 3)."""
    check("v", v, 3)
    x, y, z = v.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))


def essential_from_pose(R: Tensor, t: Tensor) -> Tensor:
    """E = [t]x R (..., 3, 3) with |t| taken as 1, from R (..., 3, 3) and t (..., 3) of X1 = R X0 + t; NaN for t = 0."""
    check("R", R, 3, 3)
    check("t", t, 3)
    return skew(t / t.norm(dim=-1, keepdim=True)) @ R


def fundamental_from_essential(E: Tensor, K0: Tensor, K1: Tensor) -> Tensor:
    """F = K1^-T E K0^-1 (..., 3, 3), with norm 1, for pixels of image0 and image1."""
    for name, matrix in (("E", E), ("K0", K0), ("K1", K1)):
        check(name, matrix, 3, 3)
    F = torch.linalg.inv(K1).mT @ E @ torch.linalg.inv(K0)
    return F / F.norm(dim=(-2, -1), keepdim=True)


def essential_from_fundamental(F: Tensor, K0: Tensor, K1: Tensor) -> Tensor:
    """The essential matrix (singular values 1, 1, 0) nearest to K1' F K0 (..., 3, 3)."""
    for name, matrix in (("F", F), ("K0", K0), ("K1", K1)):
        check(name, matrix, 3, 3)
    U, _, Vh = torch.linalg.svd(K1.mT @ F @ K0)
    return U[..., :2] @ Vh[..., :2, :]


def epipolar_lines(F: Tensor, points0: Tensor) -> Tensor:
    """(..., N, 3): the lines (a, b, c) of image1, a x + b y + c = 0 with a^2 + b^2 = 1, on which image0's points lie.

    Image0's lines of image1's points are `epipolar_lines(F.mT, points1)`. NaN for the epipole, which has no line.
    """
    lines = _lines(F, points0)
    return lines / lines[..., :2].norm(dim=-1, keepdim=True)


def epipolar_distance(F: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """(..., N) pixels: how far x1 is from the epipolar line of x0, in image1."""
    check_same("points0", points0, "points1", points1)
    return (epipolar_lines(F, points0) * homogeneous(points1)).sum(-1).abs()


def symmetric_epipolar_distance(F: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """(..., N) pixels: the distances to the epipolar lines in both images, sqrt(d0^2 + d1^2) (eq. 11.10)."""
    return torch.hypot(epipolar_distance(F, points0, points1), epipolar_distance(F.mT, points1, points0))


def epipolar_rows(normalised0: Tensor, normalised1: Tensor) -> Tensor:
    """(..., N, 9): a with x1' E x0 = a . E of matches (..., N, 2) in normalised coordinates; E's elements row by row."""
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    return (homogeneous(normalised1)[..., :, None] * homogeneous(normalised0)[..., None, :]).flatten(-2)


def sampson_error(F: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """(..., N) pixels: first-order distance of a match from obeying F, |x1' F x0| / |gradient| (eq. 11.9, its root)."""
    check_same("points0", points0, "points1", points1)
    lines1, lines0 = _lines(F, points0), _lines(F.mT, points1)
    residual = (lines1 * homogeneous(points1)).sum(-1)
    return residual.abs() / torch.cat([lines1[..., :2], lines0[..., :2]], dim=-1).norm(dim=-1)


def sampson_corrected(F: Tensor, points0: Tensor, points1: Tensor) -> tuple[Tensor, Tensor]:
    """(..., N, 2) and (..., N, 2): matches moved by the least first-order change after which they obey F (section 12.4).

    What is left of x1' F x0 is of second order in the change.
    """
    check_same("points0", points0, "points1", points1)
    lines1, lines0 = _lines(F, points0), _lines(F.mT, points1)
    residual = (lines1 * homogeneous(points1)).sum(-1)
    gradient0, gradient1 = lines0[..., :2], lines1[..., :2]
    step = (residual / ((gradient0**2).sum(-1) + (gradient1**2).sum(-1))).unsqueeze(-1)
    return points0 - step * gradient0, points1 - step * gradient1


def _lines(F: Tensor, points0: Tensor) -> Tensor:
    check("F", F, 3, 3)
    check("points", points0, "N", 2)
    return homogeneous(points0) @ F.mT
