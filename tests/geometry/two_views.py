"""Random two-view problems with known motion, for the tests of what finds it."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.epipolar import essential_from_pose
from flowkit.geometry.pose import so3_exp


def two_views(batch: int, points: int, seed: int, turn: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """R (B, 3, 3), t (B, 3), E (B, 3, 3) and normalised matches (B, N, 2) of points in front of both cameras, float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    R = so3_exp(turn * normal(batch, 3) / 3**0.5)
    t = torch.nn.functional.normalize(normal(batch, 3), dim=-1)
    middle = torch.tensor([0.0, 0, 7], dtype=torch.float64)
    X = (
        middle
        + 2 * torch.rand(batch, points, 3, dtype=torch.float64, generator=generator) * normal(batch, points, 3).sign()
    )
    Y = (X - middle) @ R.mT + middle + t[:, None]  # turned about the scene's middle, so that both see it
    t = (middle - R @ middle) + t
    t_unit = t / t.norm(dim=-1, keepdim=True)
    return R, t_unit, essential_from_pose(R, t_unit), X[..., :2] / X[..., 2:], Y[..., :2] / Y[..., 2:]


def distance(E: Tensor, other: Tensor) -> Tensor:
    """(...): how far apart two essential matrices (..., 3, 3) are, whose sign means nothing."""
    return torch.minimum((E - other).norm(dim=(-2, -1)), (E + other).norm(dim=(-2, -1)))
