"""The bidirectional geometric transformation (BiT) loss: dense truth from a picture and a warp of itself.

Huang et al., LIFE (ICCV 2021), "Synthetic dense-flow regularization"; the mean over valid pixels is NeuralMarker's.
"""

from __future__ import annotations

from torch import Tensor

from flowkit.geometry.grids import flow_targets, inside
from flowkit.losses.sequence import coarse_truth


def transformation_loss(flow: Tensor, truth: Tensor, valid: Tensor, *, stride: int = 1) -> Tensor:
    """The mean over valid pixels of |dx| + |dy| between a flow and that of a known warp; a scalar, in pixels. One direction.

    flow (B, 2, h, w) in pixels of the input on a grid of `stride` pixels a cell, truth (B, 2, H, W) and valid (B, H, W) at full
    size. A coarse cell is held against the mean of its valid pixels, and counts as much as there are. Only pixels whose target
    lies inside the other picture count (`seen`). 0 where there is none.
    """
    weight = seen(truth, valid).to(truth.dtype)
    mean, share = coarse_truth(truth, weight, stride)
    error = (flow - mean).abs().sum(1)
    return (error * share).sum() / share.sum().clamp_min(1e-6)


def seen(truth: Tensor, valid: Tensor) -> Tensor:
    """(B, H, W) bool: the valid pixels of a flow (B, 2, H, W) whose targets lie in a picture of the same size."""
    size = int(truth.shape[-2]), int(truth.shape[-1])
    return valid & inside(flow_targets(truth), size)
