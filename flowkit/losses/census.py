"""The ternary census loss: two pictures compared by how each pixel's patch changes about it, whatever the light adds.

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion (equation 12); the transform is that of Meister,
Hur and Roth, UnFlow, AAAI 2018, section 3 (Stein's census with a soft threshold).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.ops.precision import wide

Form = Literal["charbonnier", "soft-hamming"]
"""How two patches are compared: rho_c of each difference of their transforms, averaged (equation 12), or rho_c of the sum of
d^2 / (0.1 + d^2) over the patch (UnFlow)."""

EPSILON, GAMMA = 1e-3, 0.45
"""rho_c(z) = (z^2 + EPSILON^2)^GAMMA, the generalised Charbonnier penalty."""
_SOFT = 0.81
"""Squared grey levels about which a difference begins to count as one."""
_HALF = 0.1
"""The squared difference of two transforms that counts as half different."""
_LUMA = (0.299, 0.587, 0.114)


def grey_levels(images: Tensor) -> Tensor:
    """(B, 1, H, W) in 0..255 of RGB (B, 3, H, W) in [0, 1]."""
    images = wide(images)
    return 255 * (images * images.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)


def census_loss(grey0: Tensor, grey1: Tensor, weight: Tensor, *, radius: int = 3, form: Form = "charbonnier") -> Tensor:
    """How unlike the patches of two pictures on one grid are; a scalar (equation 12).

    grey0 and grey1 (B, 1, H, W) are in 0..255, grey1 already brought onto image0's grid; only grey1 gets a gradient. A patch
    is (2 radius + 1)^2 pixels, its transform t / sqrt(0.81 + t^2) of the differences t to the pixel in the middle. `weight`
    (B, H, W), without a gradient, is averaged with; the `radius` outermost pixels, whose patch leaves the picture, count as
    nothing. Without any weight the loss is 0. ValueError for a radius below 1.
    """
    if radius < 1:
        raise ValueError(f"radius={radius}: a patch needs neighbours")
    height, width = weight.shape[-2:]
    if min(height, width) <= 2 * radius:
        return 0 * grey1.sum()
    inner = F.pad(weight[:, radius:-radius, radius:-radius].detach().to(grey1.dtype), [radius] * 4)
    total: Tensor = _Compared.apply(grey0[:, 0].detach(), grey1[:, 0], inner, radius, form)
    return total / inner.sum().clamp_min(1)


class _Compared(torch.autograd.Function):
    """The weighted sum over pixels; its slope is found along with it, so that nothing of the patches has to be kept.

    Seen from the other end a difference has the other sign, and the penalty is even: half of a patch's offsets tell all, each
    counting for the pixels at both of its ends.
    """

    @staticmethod
    def forward(context: Any, grey0: Tensor, grey1: Tensor, weight: Tensor, radius: int, form: Form) -> Tensor:
        if form == "charbonnier":
            total, slope = _each_difference(grey0, grey1, weight, radius)
        else:
            total, slope = _whole_patches(grey0, grey1, weight, radius)
        context.save_for_backward(slope)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, None, None, None]:
        (slope,) = context.saved_tensors
        return None, gradient * slope, None, None, None


Window = tuple[slice, slice, slice]


def _each_difference(grey0: Tensor, grey1: Tensor, weight: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    total, slope = grey1.new_zeros(()), torch.zeros_like(grey1)
    for here, there in _offsets(grey1, radius):
        difference, back = _difference(grey0, grey1, here, there)
        squared = difference.square().add_(EPSILON**2)
        counted = squared.pow(GAMMA).mul_(weight[here] + weight[there])
        total += counted.sum()
        change = counted.mul_(difference).div_(squared).mul_(back)
        slope[there] += change
        slope[here] -= change
    numbers = (2 * radius + 1) ** 2 - 1
    return total / numbers, slope.mul_(2 * GAMMA / numbers)


def _whole_patches(grey0: Tensor, grey1: Tensor, weight: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    unlike, slope = torch.zeros_like(grey1), torch.zeros_like(grey1)
    for here, there in _offsets(grey1, radius):
        squared = _difference(grey0, grey1, here, there)[0].square_()
        share = squared.div_(squared + _HALF)
        unlike[here] += share
        unlike[there] += share
    squared = unlike.square() + EPSILON**2
    penalty = squared.pow(GAMMA).mul_(weight)
    outer = penalty / squared * unlike * (2 * GAMMA)  # the slope by the sum over a patch
    for here, there in _offsets(grey1, radius):
        difference, back = _difference(grey0, grey1, here, there)
        share = (difference.square() + _HALF).square_()
        change = difference.mul_(2 * _HALF).div_(share).mul_(outer[here] + outer[there]).mul_(back)
        slope[there] += change
        slope[here] -= change
    return penalty.sum(), slope


def _offsets(grey: Tensor, radius: int) -> Iterator[tuple[Window, Window]]:
    """The windows of (B, H, W) of all pixels that have a neighbour at an offset, and of these neighbours; half the offsets."""
    height, width = grey.shape[-2:]
    every = slice(None)
    for dy in range(radius + 1):
        for dx in range(-radius if dy else 1, radius + 1):
            left, right = max(0, -dx), width - max(0, dx)
            here = every, slice(0, height - dy), slice(left, right)
            there = every, slice(dy, height), slice(left + dx, right + dx)
            yield here, there


def _difference(grey0: Tensor, grey1: Tensor, here: Window, there: Window) -> tuple[Tensor, Tensor]:
    """Of both transforms, grey1's less grey0's, and its slope by the grey level of grey1's neighbour."""
    step0, step1 = grey0[there] - grey0[here], grey1[there] - grey1[here]
    inverse0, inverse1 = (step.square().add_(_SOFT).rsqrt_() for step in (step0, step1))
    difference = (step1 * inverse1).sub_(step0.mul_(inverse0))
    return difference, inverse1.pow(3).mul_(_SOFT)
