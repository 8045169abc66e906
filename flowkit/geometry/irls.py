"""Iteratively re-weighted least squares on a matrix manifold, under the truncated L2 penalty.

Jiang et al., Joint Unsupervised Learning of Optical Flow and Egomotion with Bi-Level Optimization, 3DV 2020: equations 4 and
5, the lower level. What is minimised is sum rho(a_i . m) over residuals linear in the matrix m, such as x1' E x0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.geometry.matrix_manifolds import Manifold
from flowkit.geometry.shapes import check

ITERATIONS = 200
LEAST_OBJECTIVE = 1e-20
"""The paper's two rules: it ends below this objective, or after so many iterations."""
LEAST_STEP = 1e-12
"""Ours: it also ends where a step is no longer than this and leaves the inliers as they were."""


@dataclass(frozen=True)
class Minimum:
    """Where the iteration ended: `matrix` (B, 3, 3), and there the `objective` (B,) and `inliers` (B, R) bool, below delta.

    `converged` (B,) bool is False where the last of the iterations still moved.
    """

    matrix: Tensor
    objective: Tensor
    inliers: Tensor
    converged: Tensor


@torch.no_grad()
def irls(rows: Tensor, start: Tensor, manifold: Manifold, delta: float, iterations: int = ITERATIONS) -> Minimum:
    """A local minimum of sum_i rho(a_i . m), rho(z) = min(z^2, delta^2) / 2, near `start`, for each of B problems.

    rows (B, R, 9) float64 are the a_i, start (B, 3, 3) a member of the manifold. Every iteration takes one Newton step for the
    residuals below delta (Gauss-Newton's where Newton's matrix is not positive definite), damped until the objective falls,
    and centres the chart there anew. ValueError for wrong shapes.
    """
    check("rows", rows, "B", "R", 9)
    check("start", start, len(rows), 3, 3)
    matrix, damping = start.clone(), start.new_zeros(len(rows))
    cost, inliers = objective(rows, matrix, delta)
    done = cost < LEAST_OBJECTIVE
    for _ in range(iterations):
        if bool(done.all()):
            break
        gradient, hessian, gauss_newton = derivatives(rows, inliers, matrix, manifold)
        step = _step(gradient, hessian, gauss_newton, damping)
        candidate = manifold.moved(matrix, step)
        new_cost, new_inliers = objective(rows, candidate, delta)
        better = (new_cost <= cost) & ~done
        same = (new_inliers == inliers).all(-1)
        short = step.norm(dim=-1) < LEAST_STEP
        matrix = torch.where(better[:, None, None], candidate, matrix)
        inliers = torch.where(better[:, None], new_inliers, inliers)
        cost = torch.where(better, new_cost, cost)
        scale = gauss_newton.diagonal(dim1=-2, dim2=-1).mean(-1)
        damping = torch.where(better, damping / 10, torch.maximum(damping * 10, 1e-6 * scale))
        damping = torch.where(damping < 1e-9 * scale, 0, damping)
        # Where no damping helps, the minimum is as near as rounding lets it be.
        done = done | (cost < LEAST_OBJECTIVE) | (short & (same | ~better))
    return Minimum(matrix, cost, inliers, done)


def objective(rows: Tensor, matrix: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """(B,) the sum of rho over the residuals (equation 4), and (B, R) bool which of these are below delta."""
    squared = residuals(rows, matrix).square()
    return squared.clamp(max=delta**2).sum(-1) / 2, squared < delta**2


def residuals(rows: Tensor, matrix: Tensor) -> Tensor:
    """(B, R): a_i . m of rows (B, R, 9) and matrices (B, 3, 3)."""
    return (rows @ matrix.flatten(-2)[..., None])[..., 0]


def derivatives(rows: Tensor, weights: Tensor, matrix: Tensor, manifold: Manifold) -> tuple[Tensor, Tensor, Tensor]:
    """By theta, at 0 of the chart around `matrix`, of half the sum of the weighted squared residuals: the gradient (B, n), the
    second derivatives (B, n, n), and these without the manifold's curvature (Gauss-Newton).

    With S = sum w a a' the sum is m' S m / 2, so however many residuals there are, what remains is of size nine.
    """
    moments = (rows * weights[..., None]).mT @ rows
    slope = (moments @ matrix.flatten(-2)[..., None])[..., 0]
    tangent = manifold.tangent(matrix)
    gauss_newton = tangent.mT @ moments @ tangent
    curvature = manifold.curvature(matrix, slope.unflatten(-1, (3, 3)))
    return (tangent.mT @ slope[..., None])[..., 0], gauss_newton + curvature, gauss_newton


def _step(gradient: Tensor, hessian: Tensor, gauss_newton: Tensor, damping: Tensor) -> Tensor:
    """(B, n): the damped Newton step, Gauss-Newton's where that would not lead downhill; 0 where neither is defined."""
    eye = torch.eye(gradient.shape[-1], dtype=gradient.dtype, device=gradient.device)
    lifted = eye * damping[:, None, None]
    _, info = torch.linalg.cholesky_ex(hessian + lifted)
    tiny = eye * (1e-14 * gauss_newton.diagonal(dim1=-2, dim2=-1).sum(-1) + torch.finfo(eye.dtype).tiny)[:, None, None]
    chosen = torch.where((info == 0)[:, None, None], hessian, gauss_newton + tiny) + lifted
    factor, info = torch.linalg.cholesky_ex(chosen)
    factor = torch.where((info == 0)[:, None, None], factor, eye)
    step = -torch.cholesky_solve(gradient[..., None], factor)[..., 0]
    return torch.where((info == 0)[:, None], step, 0)
