"""The multi-scale loss of FlowNet, PWC-Net and LiteFlowNet: every flow of every level is held against the truth.

Ilg et al., FlowNet 2.0 (CVPR 2017); Hui et al., LiteFlowNet2, section 6; Sun et al., PWC-Net (CVPR 2018), eq. 1 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.losses.sequence import coarse_truth, pixel_weights
from flowkit.ops.precision import wide

Penalty = Literal["l2", "charbonnier"]
"""How an error of length d counts: l2 is sqrt(d^2 + epsilon), charbonnier is (d^2 + epsilon)^q, the robust one."""


def multiscale_loss(
    iterates: Sequence[Tensor],
    strides: Sequence[int],
    batch: PairBatch,
    *,
    weights: Mapping[int, float],
    penalty: Penalty = "l2",
    epsilon: float = 0.01,
    q: float = 0.4,
    unit: float = 20.0,
    max_flow: float = 400.0,
    occluded: float = 1.0,
) -> Tensor:
    """The sum over all flows of their stride's weight times the sum over cells, per pair; a scalar.

    Iterates and strides are those of a FlowPrediction: (B, 2, H / s, W / s) each, in pixels of the input; errors are measured
    in `unit` pixels, in which these networks regress, and so is sqrt(`epsilon`). A flow whose stride is not among `weights`
    does not count. A cell's truth is the weighted mean over its pixels, and it counts as their mean weight: 1 where the truth
    is valid and shorter than `max_flow` pixels, `occluded` where it is hidden besides, else 0. ValueError when nothing
    counts, or grids do not cover the batch.
    """
    weight = pixel_weights(batch, max_flow, occluded)
    truths: dict[int, tuple[Tensor, Tensor]] = {}
    total = torch.zeros((), device=batch.device)
    if not any(weights.get(stride) for stride in strides):
        raise ValueError(f"no flow of strides {sorted(set(strides))} has a weight: nothing to train on")
    for flow, stride in zip(iterates, strides, strict=True):
        if not weights.get(stride):
            continue
        if stride not in truths:
            truths[stride] = coarse_truth(batch.flow, weight, stride)
        truth, share = truths[stride]
        if flow.shape != truth.shape:
            raise ValueError(f"an iterate of {tuple(flow.shape)} at stride {stride} does not fit {tuple(truth.shape)}")
        squared = ((wide(flow) - truth) / unit).square().sum(dim=1) + epsilon
        error = squared.sqrt() if penalty == "l2" else squared**q
        total = total + weights[stride] * (share * error).sum() / len(flow)
    return total
