"""The derivative of an optimum by what it was computed from, whoever computed it: an optimisation problem as a layer.

Jiang et al. 2020, section 3.2: theta* = argmin f(V, theta) has d theta*/dV = -H^-1 B with H = f_theta,theta and B = f_theta,V
(equations 6 and 10), which only asks that theta* be stationary; Gould et al., Deep Declarative Networks, TPAMI 2021. Here f is
half a weighted sum of squared residuals that are linear in a matrix, over a manifold of matrices: the essential matrix of a
flow (`essential_layer`) and the homography of matches (`homography_layer`) are two of them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from flowkit.geometry.irls import derivatives, residuals
from flowkit.geometry.matrix_manifolds import Manifold
from flowkit.geometry.shapes import check


def argmin(rows: Tensor, weights: Tensor, solution: Tensor, manifold: Manifold) -> Tensor:
    """`solution` (B, 3, 3) as the function of `rows` (B, R, 9) that it is: a stationary point of sum w_i (a_i . m)^2 / 2.

    Any solver may have found it; none of its steps is differentiated. Under a truncated penalty the weights (B, R) are 1 for
    the inliers and 0 beyond, where the derivative vanishes, too. Derivatives are exact for a solution at the optimum; where H
    is singular, so that the residuals do not determine the matrix, they are those of least norm. float64 is advised.
    ValueError for wrong shapes.
    """
    check("rows", rows, "B", "R", 9)
    weights = weights.to(rows.dtype)
    check("weights", weights, *rows.shape[:2])
    check("solution", solution, len(rows), 3, 3)
    return cast(Tensor, _Argmin.apply(rows, weights, solution.to(rows.dtype), manifold))


class _Argmin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weights: Tensor, solution: Tensor, manifold: Manifold) -> Tensor:
        ctx.save_for_backward(rows, weights, solution)
        ctx.manifold = manifold
        return solution.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        rows, weights, solution = ctx.saved_tensors
        tangent = ctx.manifold.tangent(solution)
        _, hessian, _ = derivatives(rows, weights, solution, ctx.manifold)
        # u' B with u = -H^-1 g: f_theta = sum w (T' a) (a . m), so u . f_theta = sum w (a . Tu) (a . m).
        u = -symmetric_solve(hessian, (tangent.mT @ upstream.flatten(-2)[..., None])[..., 0])
        direction = (tangent @ u[..., None])[..., 0].unflatten(-1, (3, 3))
        along, value = residuals(rows, direction), residuals(rows, solution)
        slope = along[..., None] * solution.flatten(-2)[:, None] + value[..., None] * direction.flatten(-2)[:, None]
        return weights[..., None] * slope, None, None, None


def symmetric_solve(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, n): the solution of symmetric systems (B, n, n), by Cholesky; of those not positive definite by their eigenvectors,
    leaving out what is singular to rounding.
    """
    matrix = (matrix + matrix.mT) / 2
    factor, info = torch.linalg.cholesky_ex(matrix)
    sound = info == 0
    diagonal = factor.diagonal(dim1=-2, dim2=-1)
    bound = torch.finfo(matrix.dtype).eps * matrix.shape[-1]
    # a factor whose diagonal spans more than rounding allows is no better than none
    sound = sound & (diagonal.amin(-1) ** 2 > bound * diagonal.amax(-1) ** 2)
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    solved = torch.cholesky_solve(vector[..., None], torch.where(sound[:, None, None], factor, eye))[..., 0]
    if bool(sound.all()):
        return solved
    finite = torch.isfinite(matrix).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(finite[:, None, None], matrix, 0))
    kept = values.abs() > bound * values.abs().amax(-1, keepdim=True)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1), 0)
    other = (vectors @ (inverse[..., None] * (vectors.mT @ vector[..., None])))[..., 0]
    return torch.where(sound[:, None], solved, other)
