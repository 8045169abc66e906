"""RANSAC-Flow's losses of the fine alignment: nothing but the two pictures says what is right.

Shen et al., RANSAC-Flow, ECCV 2020, equations 1 to 5; spec.md 9.5. Weights are (B, 1, H, W), of pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.geometry.grids import flow_targets
from flowkit.geometry.sampling import sample
from flowkit.ops.ssim import SIDE, ssim

_FEW = 1e-3
"""Added to sums of weights, which may be 0."""


def central(images: Tensor, margin: int) -> Tensor:
    """(B, 1, H, W): 1 but for the `margin` pixels along every border, 0 there; whose match may lie outside."""
    inner = torch.ones_like(images[:, :1, margin:-margin, margin:-margin] if margin else images[:, :1])
    return F.pad(inner, (margin, margin, margin, margin))


def reconstruction_loss(image0: Tensor, image1: Tensor, flow: Tensor, weight: Tensor, scales: int = 1) -> Tensor:
    """How unlike image0 is to image1 brought onto it by the flow: the weighted mean of 1 - SSIM; a scalar (equation 4).

    Images (B, 3, H, W) in [0, 1], flow (B, 2, H, W) in pixels. `scales` > 1 adds the same of both pictures at 1/2, 1/4 ...
    of the size and takes the mean: coarse structure draws a flow nearer that fine structure cannot.
    """
    warped = sample(image1, flow_targets(flow), padding="border")
    total = image0.new_zeros(())
    for scale in range(scales):
        if scale:
            image0, warped, weight = (F.avg_pool2d(maps, 2) for maps in (image0, warped, weight))
        unlike = (1 - ssim(image0, warped)).mean(1, keepdim=True)
        total = total + (unlike * weight).sum() / (weight.sum() + _FEW)
    return total / scales


def around(weight: Tensor) -> Tensor:
    """(B, 1, H, W): 1 where more than half of the 11x11 pixels that a similarity is taken from count, else next to nothing.

    What the official code weighs the reconstruction with; it has no gradient.
    """
    share = F.avg_pool2d(weight.detach(), SIDE, 1, SIDE // 2)
    return (share > 0.5).to(weight.dtype) + 1e-7


def cycle_loss(flow: Tensor, backward: Tensor, weight: Tensor) -> Tensor:
    """By how much there and back again misses: the weighted mean of |dx| 2/W and |dy| 2/H; a scalar (equation 5)."""
    back = sample(backward, flow_targets(flow), padding="border")
    size = flow.new_tensor([flow.shape[-1], flow.shape[-2]])[:, None, None]
    missed = ((flow + back).abs() * 2 / size).mean(1, keepdim=True)
    return (missed * weight).sum() / (weight.sum() + _FEW)


def matchability_loss(agreed: Tensor, weight: Tensor) -> Tensor:
    """How much the matchability (B, 1, H, W) both pictures agree on lacks of 1, weighted mean; a scalar (equation 3)."""
    return ((1 - agreed).abs() * weight).sum() / (weight.sum() + _FEW)


def smoothness_loss(flow: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of the flow's diagonal differences, in halves of the picture; a scalar.

    Weighted by 1 - matchability it keeps the picture in shape where nothing matches: the official code's "visual" model.
    """
    size = flow.new_tensor([flow.shape[-1], flow.shape[-2]])[:, None, None]
    steps = (flow[..., 1:, 1:] - flow[..., :-1, :-1]) * 2 / size
    change = (steps.square().sum(1, keepdim=True) + 1e-12).sqrt()
    weight = weight[..., :-1, :-1]
    return (change * weight).sum() / (weight.sum() + _FEW)
