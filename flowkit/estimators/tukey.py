"""Homographies fitted anew to the matches near them: least squares under Tukey's weights, which let go of what lies far off.

A robust estimator finds the right plane; where on it the noise of hundreds of matches averages out, least squares knows better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

ROUNDS = 10


def refit_homography(
    start: Tensor, points0: Tensor, points1: Tensor, bound: Tensor | float, *, rounds: int = ROUNDS, least: int = 4
) -> Tensor | None:
    """(3, 3) with x1 ~ H x0, norm 1, near `start`, from points (N, 2); None where fewer than `least` are within `bound` of it.

    The error is |x1 - H x0| in image1; `bound`, in its units (a radius, or (2,) half axes in x and y), is where Tukey's
    biweight comes to 0. Reweighted up to `rounds` times, as long as the weights grow and at least `least` points have one.
    """
    import torch

    from flowkit.geometry.homography import fit_dlt

    half_axes = torch.as_tensor(bound, dtype=points0.dtype, device=points0.device).expand(2)
    best, best_score = None, -1.0
    matrix = _oriented(start)
    for _ in range(rounds + 1):
        weights = _weights(matrix, points0, points1, half_axes)
        score = float(weights.sum())
        if score <= best_score * (1 + 1e-9) or int((weights > 0).sum()) < least:
            break
        best, best_score = matrix, score
        # The algebraic error is the geometric one times w: divided out, what is minimised is in image1's units.
        depth = torch.cat([points0, torch.ones_like(points0[:, :1])], dim=1) @ matrix[2]
        matrix = fit_dlt(points0, points1 / half_axes, weights / depth.square().clamp(min=1e-12))
        if not torch.isfinite(matrix).all():
            break
        matrix = _oriented(torch.cat([matrix[:2] * half_axes[:, None], matrix[2:]]))
    return best


def _oriented(matrix: Tensor) -> Tensor:
    """Of norm 1, and positive w where the plane is seen from its front."""
    import torch

    matrix = matrix / torch.linalg.matrix_norm(matrix)
    return matrix * torch.where(torch.linalg.det(matrix) < 0, -1, 1)


def _weights(matrix: Tensor, points0: Tensor, points1: Tensor, half_axes: Tensor) -> Tensor:
    """(N,) from 1 where (3, 3) `matrix` is right to 0 at the bound and behind it."""
    import torch

    mapped = torch.cat([points0, torch.ones_like(points0[:, :1])], dim=1) @ matrix.T
    error = ((mapped[:, :2] / mapped[:, 2:] - points1) / half_axes).square().sum(dim=1)
    return (1 - error).clamp(min=0).square().where(mapped[:, 2] > 0, 0)
