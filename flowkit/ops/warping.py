"""Feature warping: a map of image1 brought onto image0's grid by a flow (f-warp; Hui et al., LiteFlowNet2, eq. 1)."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.ops.kernels import triton_kernels


def warped(features1: Tensor, flow: Tensor) -> Tensor:
    """(B, C, H, W): features of image1 (B, C, H1, W1) where a flow (B, 2, H, W) in cells points at; bilinear, 0 outside.

    Cells outside that have a share in a sample count as 0. In the precision of the features; places are float32, or float64.
    Differentiable once in both. On CUDA a Triton kernel, where triton is installed; on the CPU cells are gathered as rows
    where channels lie innermost (channels_last) or gradients are wanted; otherwise `warped_reference`.
    """
    if (kernels := triton_kernels("warping", features1)) is not None:
        return _Kernels.apply(kernels, features1, flow)
    if features1.device.type == "cpu" and (_learning(features1, flow) or _rows_lie_ready(features1)):
        return _gathered(features1, flow)
    return warped_reference(features1, flow)


def warped_inside(features1: Tensor, flow: Tensor, inside: float = 0.9999) -> Tensor:
    """The same, but 0 wherever less than `inside` of a sample's weight lies in image1 (PWC-Net's mask)."""
    size = flow.new_tensor([features1.shape[-1], features1.shape[-2]]).view(2, 1, 1)
    points = _targets(flow)
    # a bilinear sample's weight inside is a product of one factor per axis
    share = torch.minimum(points + 1, size - points).clamp(0, 1).prod(dim=1, keepdim=True)
    return warped(features1, flow) * (share >= inside).to(features1.dtype)


def warped_reference(features1: Tensor, flow: Tensor) -> Tensor:
    """What `warped` gives, by torch's own sampling, whose places are rounded a little more."""
    size = flow.new_tensor([features1.shape[-1], features1.shape[-2]])
    grid = (2 * _targets(flow).movedim(1, -1) + 1) / size - 1
    found = F.grid_sample(features1.to(flow.dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return found.to(features1.dtype)


def _learning(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _rows_lie_ready(features: Tensor) -> bool:
    return features.is_contiguous(memory_format=torch.channels_last)


def _targets(flow: Tensor) -> Tensor:
    """(B, 2, H, W): the cells of image1, (x, y) from (0, 0) on, that a flow points at."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    y = torch.arange(height, device=flow.device, dtype=flow.dtype)
    return flow + torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def _gathered(features1: Tensor, flow: Tensor) -> Tensor:
    """Each cell as a bag of four rows with weights: torch's embedding bag adds them where they lie."""
    batch, channels, height1, width1 = features1.shape
    rows = features1.to(flow.dtype).permute(0, 2, 3, 1).reshape(-1, channels)
    x, y = torch.nan_to_num(_targets(flow), nan=-2.0).unbind(1)
    left, top = x.floor(), y.floor()
    columns, weights_x = _taps(x, left, width1)
    lines, weights_y = _taps(y, top, height1)
    first = torch.arange(0, batch * height1 * width1, height1 * width1, device=flow.device).view(-1, 1, 1, 1, 1)
    places = first + (lines * width1).unsqueeze(-1) + columns.unsqueeze(-2)  # (B, H, W, 2, 2)
    weights = weights_y.unsqueeze(-1) * weights_x.unsqueeze(-2)
    found = F.embedding_bag(places.view(-1, 4), rows, per_sample_weights=weights.reshape(-1, 4), mode="sum")
    return found.view(batch, *flow.shape[-2:], channels).permute(0, 3, 1, 2).to(features1.dtype)


def _taps(points: Tensor, first: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """(..., 2): the two cells around each point of an axis, and their weights, 0 outside."""
    cells = torch.stack([first, first + 1], -1)
    there = (cells >= 0) & (cells < length)
    fraction = points - first
    weights = torch.stack([1 - fraction, fraction], -1) * there
    return cells.detach().clamp(0, length - 1).long(), weights


class _Kernels(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, kernels: ModuleType, features1: Tensor, flow: Tensor) -> Tensor:
        context.save_for_backward(features1, flow)
        context.kernels = kernels
        found: Tensor = kernels.warped(features1, flow)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        to_features, to_flow = context.kernels.warped_gradients(gradient, *context.saved_tensors)
        return None, to_features, to_flow
