"""Essential matrices by the truncated Sampson distance: Levenberg and Marquardt's method on the essential manifold.

The algebraic residual x1' E x0 of the bi-level paper (`irls`) becomes small near the epipoles whatever E is, which biases E
where the camera moves forwards; Sampson's distance (Hartley and Zisserman, 2nd ed., eq. 11.9) does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.epipolar import epipolar_rows, sampson_error
from flowkit.geometry.homography import homogeneous
from flowkit.geometry.matrix_manifolds import ESSENTIAL
from flowkit.geometry.shapes import check, check_same

STEPS = 60
LEAST_STEP = 1e-10


@torch.no_grad()
def fit_sampson(
    E: Tensor, normalised0: Tensor, normalised1: Tensor, delta: float, steps: int = STEPS
) -> tuple[Tensor, Tensor]:
    """Minima (k, 3, 3) of sum min(d^2, delta^2) near each E (k, 3, 3) on the manifold, and that sum (k,), of matches (N, 2).

    d is Sampson's distance in normalised coordinates, like the matches. A match whose distance is not finite counts as delta.
    ValueError for wrong shapes.
    """
    check("E", E, "k", 3, 3)
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    damping = E.new_full((len(E),), 1e-6)
    cost = penalty(E, normalised0, normalised1, delta)
    done = torch.zeros_like(cost, dtype=torch.bool)
    for _ in range(steps):
        gradient, normal = _normal_equations(E, normalised0, normalised1, delta)
        scale = normal.diagonal(dim1=-2, dim2=-1)
        lifted = normal + torch.diag_embed(damping[:, None] * scale + torch.finfo(scale.dtype).tiny)
        step, info = torch.linalg.solve_ex(lifted, -gradient[..., None])
        step = torch.where((info == 0)[:, None], step[..., 0], 0)
        candidate = ESSENTIAL.moved(E, step)
        new = penalty(candidate, normalised0, normalised1, delta)
        better = (new < cost) & ~done
        E, cost = torch.where(better[:, None, None], candidate, E), torch.where(better, new, cost)
        damping = torch.where(better, damping / 10, damping * 10).clamp(1e-12, 1e6)
        done = done | (step.norm(dim=-1) < LEAST_STEP)
        if bool(done.all()):
            break
    return E, cost


def penalty(E: Tensor, normalised0: Tensor, normalised1: Tensor, delta: float) -> Tensor:
    """(k,): the sum of min(d^2, delta^2) over matches (N, 2), of each E (k, 3, 3)."""
    ends = [points.expand(len(E), *points.shape) for points in (normalised0, normalised1)]
    squared = sampson_error(E, *ends).square()
    return torch.where(torch.isfinite(squared), squared, delta**2).clamp(max=delta**2).sum(-1)


def _normal_equations(E: Tensor, points0: Tensor, points1: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """J' d (k, 5) and J' J (k, 5, 5) of the signed distances d = r / s below delta, r = x1' E x0, by the manifold's chart.

    s^2 is the sum of the squares of the first two elements of E x0 and of E' x1, so s ds = (E x0)_i x0_j + x1_i (E' x1)_j, each
    term where that index is one of the first two.
    """
    x0, x1 = homogeneous(points0), homogeneous(points1)
    lines1, lines0 = x0 @ E.mT, x1 @ E  # (k, N, 3)
    residual = (lines1 * x1).sum(-1)
    first = torch.tensor([1.0, 1.0, 0.0], dtype=E.dtype, device=E.device)
    lines1, lines0 = lines1 * first, lines0 * first
    squared = lines1.square().sum(-1) + lines0.square().sum(-1)
    distance = residual / squared.sqrt()
    inlier = distance.abs() < delta  # NaN is not
    outer = (lines1[..., :, None] * x0[:, None, :] + x1[:, :, None] * lines0[..., None, :]).flatten(-2)
    rows = epipolar_rows(points0, points1) - outer * (residual / squared)[..., None]
    rows = torch.where(inlier[..., None], rows / squared.sqrt()[..., None], 0)
    J = rows @ ESSENTIAL.tangent(E)
    return (J.mT @ torch.where(inlier, distance, 0)[..., None])[..., 0], J.mT @ J
