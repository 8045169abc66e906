"""RAFT's sequence loss: every iterate is held against the truth, the later the more.

Teed and Deng, RAFT (ECCV 2020), eq. 7; the constants are those of the official code (gamma 0.8, lengths under 400 px).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.ops.precision import wide

Norm = Literal["l1", "l2"]
"""How a flow error counts: l1 is the mean of |dx| and |dy| (RAFT), l2 half the Euclidean length."""

_TINY = 1e-6
"""Keeps the square root's slope finite; in squared pixels."""


def sequence_loss(
    iterates: Sequence[Tensor],
    strides: Sequence[int],
    batch: PairBatch,
    *,
    gamma: float = 0.8,
    max_flow: float = 400.0,
    occluded: float = 1.0,
    norm: Norm = "l1",
) -> Tensor:
    """The sum over the N iterates of gamma^(N-1-i) times the mean error; a scalar, float32 or what the iterates have.

    Iterates and strides are those of a FlowPrediction: (B, 2, H / s, W / s) each, in pixels of the input. The mean runs over
    all pixels and both channels, those without weight included, as the official code has it. A pixel has the weight 1 where
    its truth is valid and shorter than `max_flow` pixels, `occluded` where it is hidden besides (if the batch knows), else 0.
    An iterate on a coarse grid (stride s) is held against the weighted mean of the truth in its s x s cell, with the cell's
    mean weight. ValueError when the iterates' grids do not cover the batch exactly.
    """
    weight = pixel_weights(batch, max_flow, occluded)
    truths: dict[int, tuple[Tensor, Tensor]] = {}
    total = torch.zeros((), device=batch.device)
    count = len(iterates)
    if count == 0 or len(strides) != count:
        raise ValueError(f"{count} iterates with {len(strides)} strides: nothing to train on")
    for index, (flow, stride) in enumerate(zip(iterates, strides, strict=True)):
        if stride not in truths:
            truths[stride] = coarse_truth(batch.flow, weight, stride)
        truth, share = truths[stride]
        if flow.shape != truth.shape:
            raise ValueError(f"an iterate of {tuple(flow.shape)} at stride {stride} does not fit {tuple(truth.shape)}")
        total = total + gamma ** (count - 1 - index) * (share * _length(wide(flow) - truth, norm)).mean()
    return total


def pixel_weights(batch: PairBatch, max_flow: float, occluded: float = 1.0) -> Tensor:
    """(B, H, W): how much each pixel counts, from validity, the length of the true flow, and occlusion."""
    # squared, so that an invalid pixel's rubbish cannot turn into NaN
    weight = (batch.valid & (batch.flow.square().sum(dim=1) < max_flow**2)).to(batch.flow.dtype)
    if occluded != 1.0 and batch.occlusion is not None:
        weight = torch.where(batch.occlusion, weight * occluded, weight)
    return weight


def coarse_truth(flow: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Flow (B, 2, H, W), still in input pixels, and weight (B, H, W) brought to a grid of s x s cells.

    The flow is the weighted mean over the cell, 0 where nothing in it counts; the weight is the cell's mean.
    """
    if stride == 1:
        return torch.where(weight[:, None] > 0, flow, 0), weight
    known = torch.where(weight[:, None] > 0, flow, 0) * weight[:, None]
    share = F.avg_pool2d(weight[:, None], stride)
    mean = F.avg_pool2d(known, stride) / share.clamp_min(torch.finfo(share.dtype).tiny)
    return torch.where(share > 0, mean, 0), share[:, 0]


def truth_on_grid(flow: Tensor, weight: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The same as `coarse_truth`, (B, 2, h, w) and (B, h, w), on any grid (h, w), which need not divide the picture."""
    known = torch.where(weight[:, None] > 0, flow, 0) * weight[:, None]
    share = F.adaptive_avg_pool2d(weight[:, None], grid)
    mean = F.adaptive_avg_pool2d(known, grid) / share.clamp_min(torch.finfo(share.dtype).tiny)
    return torch.where(share > 0, mean, 0), share[:, 0]


@torch.no_grad()
def flow_metrics(flow: Tensor, batch: PairBatch, max_flow: float = 400.0) -> dict[str, Tensor]:
    """Of the final flow (B, 2, H, W), over the pixels with truth: `epe`, `1px` and `3px`.

    `epe` is the mean Euclidean error in pixels, the others are the shares of pixels that err by less. Scalars on the batch's
    device, 0 where no pixel has truth.
    """
    weight = pixel_weights(batch, max_flow)
    error = (wide(flow) - torch.where(weight[:, None] > 0, batch.flow, 0)).square().sum(dim=1).sqrt()
    error = torch.where(weight > 0, error, 0)
    count = weight.sum().clamp_min(1)
    shares = {f"{limit}px": ((error < limit) * weight).sum() / count for limit in (1, 3)}
    return {"epe": error.sum() / count, **shares}


def _length(error: Tensor, norm: Norm) -> Tensor:
    """(B, H, W) of a flow error (B, 2, H, W)."""
    if norm == "l1":
        return error.abs().mean(dim=1)
    return 0.5 * (error.square().sum(dim=1) + _TINY).sqrt()
