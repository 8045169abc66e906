"""Sets of 3x3 matrices with fewer degrees of freedom than numbers, in charts around one of their members.

A chart takes theta (..., n) to a matrix and 0 to the member itself. Its first and second derivatives at 0 are what Newton's
method and the implicit derivative of an optimum need; which chart it is does not change the derivative of the optimum.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from flowkit.geometry.epipolar import skew
from flowkit.geometry.pose import so3_exp


class Manifold(Protocol):
    """Members are (..., 3, 3); a matrix as a vector of nine is row-major."""

    dimension: int

    def tangent(self, member: Tensor) -> Tensor:
        """(..., 9, n): the derivatives of the matrix by theta, at 0."""
        ...

    def curvature(self, member: Tensor, gradient: Tensor) -> Tensor:
        """(..., n, n): the second derivatives of the matrix, each summed up with a `gradient` (..., 3, 3)."""
        ...

    def moved(self, member: Tensor, theta: Tensor) -> Tensor:
        """The member (..., 3, 3) at theta (..., n)."""
        ...


class EssentialMatrices:
    """E = U diag(1, 1, 0) V', five degrees of freedom, ||E|| = sqrt(2) and so |t| = 1 in E = [t]x R.

    The chart is U exp([w1]x) diag(1, 1, 0) exp([w2]x)' V' with w1 = (a, b, c / sqrt 2) and w2 = (d, e, -c / sqrt 2) (Helmke et
    al., IJCV 2007; the paper only says "minimal", after Hartley and Li).
    """

    dimension = 5

    def tangent(self, member: Tensor) -> Tensor:
        """(..., 9, 5); see `Manifold`."""
        U, _, Vh = torch.linalg.svd(member)
        first, _ = _essential_derivatives()
        moved = U[..., None, :, :] @ first.to(member) @ Vh[..., None, :, :]
        return moved.flatten(-2).mT

    def curvature(self, member: Tensor, gradient: Tensor) -> Tensor:
        """(..., 5, 5); see `Manifold`."""
        U, _, Vh = torch.linalg.svd(member)
        _, second = _essential_derivatives()
        return torch.einsum("ijkl,...kl->...ij", second.to(member), U.mT @ gradient @ Vh.mT)

    def moved(self, member: Tensor, theta: Tensor) -> Tensor:
        """(..., 3, 3); see `Manifold`."""
        U, _, Vh = torch.linalg.svd(member)
        a, b, c, d, e = theta.unbind(-1)
        c = c * 0.5**0.5
        left = U @ so3_exp(torch.stack([a, b, c], -1))
        right = so3_exp(torch.stack([d, e, -c], -1)).mT @ Vh
        return left[..., :2] @ right[..., :2, :]

    def nearest(self, matrix: Tensor) -> Tensor:
        """The member (..., 3, 3) nearest to any matrix of that shape."""
        U, _, Vh = torch.linalg.svd(matrix)
        return U[..., :2] @ Vh[..., :2, :]


@lru_cache(maxsize=1)
def _essential_derivatives() -> tuple[Tensor, Tensor]:
    """(5, 3, 3) and (5, 5, 3, 3) float64: first and second derivatives of the chart at 0, where U and V are 1."""
    half = 0.5**0.5
    eye = torch.eye(3, dtype=torch.float64, device="cpu")
    none = torch.zeros(3, dtype=torch.float64, device="cpu")
    left = skew(torch.stack([eye[0], eye[1], half * eye[2], none, none]))
    right = skew(torch.stack([none, none, -half * eye[2], eye[0], eye[1]]))
    middle = torch.diag(torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64, device="cpu"))
    first = left @ middle - middle @ right
    products = left[:, None] @ left @ middle / 2 - left[:, None] @ middle @ right + middle @ right[:, None] @ right / 2
    return first, products + products.transpose(0, 1)


class UnitMatrices:
    """Matrices of norm 1, eight degrees of freedom: homographies, whose scale means nothing."""

    dimension = 8

    def tangent(self, member: Tensor) -> Tensor:
        """(..., 9, 8); see `Manifold`."""
        Q, _ = torch.linalg.qr(member.flatten(-2)[..., None], mode="complete")
        return Q[..., 1:]

    def curvature(self, member: Tensor, gradient: Tensor) -> Tensor:
        """(..., 8, 8); see `Manifold`. Great circles bend towards the middle of the sphere."""
        inwards = -(member * gradient).sum((-2, -1))
        return inwards[..., None, None] * torch.eye(8, dtype=member.dtype, device=member.device)

    def moved(self, member: Tensor, theta: Tensor) -> Tensor:
        """(..., 3, 3), along a great circle; see `Manifold`."""
        angle = theta.norm(dim=-1, keepdim=True)
        step = (self.tangent(member) @ theta[..., None])[..., 0] * torch.sinc(angle / torch.pi)
        there = torch.cos(angle) * member.flatten(-2) + step
        return (there / there.norm(dim=-1, keepdim=True)).unflatten(-1, (3, 3))


ESSENTIAL = EssentialMatrices()
UNIT = UnitMatrices()
