"""Where the points of a layer are: its motion there and back, its outline's alpha, its picture's coordinates.

Every function takes points (..., P, 2) in pixels with parameters (..., of the same leading dimensions).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.synth.layered import OUTLINE
from flowkit.types import Size

ROUNDS = 8
"""Fixed-point steps of the inverse: the slope of D is at most 0.2, so that the error shrinks by 0.2^8 = 3e-6."""


def dense_field(knots: Tensor, size: Size) -> Tensor:
    """(N, 2, H, W) from knots (N, 2, h, w): the displacement field at every pixel, bicubic."""
    return F.interpolate(knots, size=size, mode="bicubic", align_corners=True)


def bending(field: Tensor, points: Tensor) -> Tensor:
    """D at points (N, P, 2) of fields (N, 2, H, W): bilinear between pixels, constant beyond the image."""
    height, width = field.shape[-2:]
    unit = points.new_tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)])
    grid = (points * unit - 1)[:, None]
    return F.grid_sample(field, grid, mode="bilinear", padding_mode="border", align_corners=True)[:, :, 0].mT


def project(matrix: Tensor, points: Tensor) -> Tensor:
    """Homographies (..., 3, 3) applied to points (..., P, 2)."""
    x, y = points.unbind(-1)
    m = matrix[..., None]
    w = m[..., 2, 0, :] * x + m[..., 2, 1, :] * y + m[..., 2, 2, :]
    w = torch.where(w.abs() < 1e-6, 1e-6, w)
    u = m[..., 0, 0, :] * x + m[..., 0, 1, :] * y + m[..., 0, 2, :]
    v = m[..., 1, 0, :] * x + m[..., 1, 1, :] * y + m[..., 1, 2, :]
    return torch.stack([u / w, v / w], -1)


def move(matrix: Tensor, field: Tensor | None, points: Tensor) -> Tensor:
    """Canonical points (image0) -> image1."""
    return project(matrix, points if field is None else points + bending(field, points))


def move_back(inverse: Tensor, field: Tensor | None, points: Tensor) -> Tensor:
    """Points of image1 -> canonical points: solves u + D(u) = H^-1 y by fixed-point steps; `inverse` is H^-1."""
    straight = project(inverse, points)
    if field is None:
        return straight
    u = straight
    for _ in range(ROUNDS):
        u = straight - bending(field, u)
    return u


def apply_affine(matrix: Tensor, points: Tensor) -> Tensor:
    """Affine maps (..., 2, 3) applied to points (..., P, 2)."""
    x, y = points.unbind(-1)
    m = matrix[..., None]
    return torch.stack(
        [
            m[..., 0, 0, :] * x + m[..., 0, 1, :] * y + m[..., 0, 2, :],
            m[..., 1, 0, :] * x + m[..., 1, 1, :] * y + m[..., 1, 2, :],
        ],
        -1,
    )


def coverage(points: Tensor, local: Tensor, outline: Tensor, sharpness: Tensor, hole: Tensor, stripe: Tensor) -> Tensor:
    """(..., P) alpha in [0, 1] of outlines at canonical points."""
    place = apply_affine(local, points)
    sharp = sharpness[..., None]
    alpha = _edge((_radius(outline, place) - place.norm(dim=-1)) * sharp)
    inner = place - hole[..., None, :2]
    size = hole[..., 2, None]
    alpha = alpha * _edge((inner.norm(dim=-1) - size * _radius(outline, inner)) * sharp + (size <= 0))
    wave = torch.cos((place * stripe[..., None, :2]).sum(-1) + stripe[..., 2, None])
    steepness = sharp / stripe[..., :2].norm(dim=-1, keepdim=True).clamp_min(1e-3)
    return alpha * _edge((wave - stripe[..., 3, None]) * steepness)


def _edge(distance: Tensor) -> Tensor:
    return (distance + 0.5).clamp(0, 1)


def _radius(outline: Tensor, place: Tensor) -> Tensor:
    turn = torch.atan2(place[..., 1], place[..., 0]) * (OUTLINE / (2 * math.pi))
    turn = torch.remainder(turn, OUTLINE)
    index = turn.long().clamp(0, OUTLINE - 1)
    after = torch.where(index + 1 == OUTLINE, 0, index + 1)
    return outline.gather(-1, index).lerp(outline.gather(-1, after), turn - index)
