"""Features that match: at every level the cost volume itself is held against the truth, before any flow is regressed.

Cost volumes of chance features say little, and a decoder on top of them learns to answer zero, for a long time. So the
features learn first, as the classification of a cell's displacement that contrastive descriptors learn by (InfoNCE, van den
Oord et al. 2018, over the window that the network will search).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.losses.sequence import coarse_truth, pixel_weights, truth_on_grid
from flowkit.ops.correlation import local_correlation
from flowkit.ops.precision import wide
from flowkit.ops.warping import warped_inside

SHARPNESS = 8.0
"""What costs are multiplied by to be log-probabilities."""
COSINE_SHARPNESS = 20.0
"""The same for cosines."""
KNOWN = 0.9
"""A cell counts when at least this share of its pixels is seen and its truth known."""


def matching_loss(
    features: Mapping[int, tuple[Tensor, Tensor]], batch: PairBatch, *, radius: int = 4, max_flow: float = 400.0
) -> Tensor:
    """The sum over levels of the mean cross-entropy between softmax of the costs and the true displacement; a scalar.

    `features` are by stride s, (B, C, H / s, W / s) each of image0 and image1. Those of image1 are warped by the true flow and
    a shift that is drawn for every pair from torch's generator, up to `radius` - 1 cells: what a coarser level would leave
    over. The truth is that shift's way back, bilinear between the (2 radius + 1)^2 displacements. Hidden cells, and those that
    the warp takes out of image1, do not count.
    """
    weight = pixel_weights(batch, max_flow, occluded=0.0)
    total = torch.zeros((), device=batch.device)
    line = torch.arange(-radius, radius + 1, device=batch.device, dtype=torch.float32)
    displacements = (
        torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).flatten(0, 1).flip(-1)
    )  # (x, y), row-major
    for stride, pair in features.items():
        features0, features1 = (wide(each) for each in pair)
        truth, share = coarse_truth(batch.flow, weight, stride)
        reach = min(radius - 1, min(truth.shape[-2:]) / 2)
        shift = reach * (2 * torch.rand(len(truth), 2, device=batch.device) - 1)
        shifted = warped_inside(features1, truth / stride + shift[:, :, None, None])
        counts = ((share > KNOWN) & (shifted != 0).any(1)).to(shifted.dtype)
        wanted = (1 - (displacements + shift[:, None]).abs()).clamp_min(0).prod(-1)  # (B, (2r+1)^2)
        guessed = (SHARPNESS * local_correlation(features0, shifted, radius)).log_softmax(1)
        entropy = -(guessed * wanted[:, :, None, None]).sum(1)
        total = total + (entropy * counts).sum() / counts.sum().clamp_min(1)
    return total


def global_matching_loss(features0: Tensor, features1: Tensor, batch: PairBatch, *, max_flow: float = 1000.0) -> Tensor:
    """The mean cross-entropy between softmax of a global correlation and the true cell of image1; a scalar.

    Features (B, C, h, w) of both images, which are compared by their cosine. The truth is bilinear between the four cells
    around the place that the flow leads to. Cells that are hidden, or lead out of image1, do not count.
    """
    height, width = features0.shape[-2:]
    first, second = (F.normalize(wide(each), dim=1).flatten(2) for each in (features0, features1))
    flow, share = _truth_in_cells(batch, (int(height), int(width)), max_flow)
    x = torch.arange(width, device=batch.device, dtype=flow.dtype)
    y = torch.arange(height, device=batch.device, dtype=flow.dtype)
    places = flow + torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    near_x = (1 - (places[:, 0].flatten(1)[..., None] - x).abs()).clamp_min(0)  # (B, h w, w)
    near_y = (1 - (places[:, 1].flatten(1)[..., None] - y).abs()).clamp_min(0)
    wanted = (near_y[..., :, None] * near_x[..., None, :]).flatten(2)  # (B, cells of image0, cells of image1)
    counts = (share.flatten(1) > KNOWN) & (wanted.sum(-1) > KNOWN)
    guessed = (COSINE_SHARPNESS * first.mT @ second).log_softmax(-1)
    entropy = -(guessed * wanted).sum(-1)
    return (entropy * counts).sum() / counts.sum().clamp_min(1)


def window_matching_loss(scores: Tensor, batch: PairBatch, *, max_flow: float = 1000.0) -> Tensor:
    """The mean cross-entropy between softmax of scores for the displacements of a window and the true displacement; a scalar.

    Scores (B, (2r+1)^2, h, w), row-major (dy, dx), in cells of their grid. A mean displacement may be right by chance of two
    wrong ones; this asks for the true one. It is bilinear between displacements; cells that are hidden, or whose truth lies
    out of the window, do not count.
    """
    height, width = scores.shape[-2:]
    radius = (math.isqrt(scores.shape[1]) - 1) // 2
    flow, share = _truth_in_cells(batch, (int(height), int(width)), max_flow)
    line = torch.arange(-radius, radius + 1, device=batch.device, dtype=flow.dtype).view(-1, 1, 1)
    near_x, near_y = ((1 - (flow[:, None, axis] - line).abs()).clamp_min(0) for axis in (0, 1))  # (B, 2r+1, h, w)
    wanted = (near_y[:, :, None] * near_x[:, None]).flatten(1, 2)
    counts = (share > KNOWN) & (wanted.sum(1) > KNOWN)
    entropy = -(wide(scores).log_softmax(1) * wanted).sum(1)
    return (entropy * counts).sum() / counts.sum().clamp_min(1)


def _truth_in_cells(batch: PairBatch, grid: tuple[int, int], max_flow: float) -> tuple[Tensor, Tensor]:
    """(B, 2, h, w): the true flow in cells of a grid (h, w), and (B, h, w) the share of each that is seen and known."""
    weight = pixel_weights(batch, max_flow, occluded=0.0)
    flow, share = truth_on_grid(batch.flow, weight, grid)
    return flow * flow.new_tensor([grid[1] / batch.size[1], grid[0] / batch.size[0]]).view(2, 1, 1), share
