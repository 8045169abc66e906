"""Feature-driven local convolution (f-lcon): every cell filtered by a kernel of its own (Hui et al., LiteFlowNet2, eq. 5-8)."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.ops.kernels import triton_kernels


def local_convolution(flow: Tensor, distance: Tensor) -> Tensor:
    """(B, C, H, W): all channels of `flow` (B, C, H, W) filtered by one kernel per cell, the softmax of -D^2 over its window.

    `distance` D is (B, k*k, H, W), k odd, row-major in the window's (dy, dx), of the flow's type. Outside lies 0, so that the
    border is drawn towards it, as the public weights expect. Differentiable once in both. ValueError when shapes do not fit.
    On CUDA a Triton kernel, where triton is installed.
    """
    side = round(distance.shape[1] ** 0.5)
    if side * side != distance.shape[1] or side % 2 == 0:
        raise ValueError(f"distance needs an odd square number of channels, got {distance.shape[1]}")
    if flow.shape[0] != distance.shape[0] or flow.shape[2:] != distance.shape[2:]:
        raise ValueError(f"flow {tuple(flow.shape)} and distance {tuple(distance.shape)} have different grids")
    if (kernels := triton_kernels("local_convolution", flow)) is not None:
        return _Kernels.apply(kernels, flow, distance)
    return _Shifted.apply(flow, torch.softmax(-distance.contiguous().square(), dim=1))


def local_convolution_reference(flow: Tensor, distance: Tensor) -> Tensor:
    """What `local_convolution` gives, by its definition."""
    side = round(distance.shape[1] ** 0.5)
    batch, channels, height, width = flow.shape
    around = F.unfold(flow, side, padding=side // 2).view(batch, channels, side * side, height, width)
    return (around * torch.softmax(-distance.square(), dim=1).unsqueeze(1)).sum(2)


class _Shifted(torch.autograd.Function):
    """One multiply-add of whole planes for each place of the window: nothing is unfolded."""

    @staticmethod
    def forward(context: Any, flow: Tensor, weight: Tensor) -> Tensor:
        context.save_for_backward(flow, weight)
        found = torch.zeros_like(flow, memory_format=torch.contiguous_format)
        for index, there in _shifts(_padded(flow, weight), weight):
            found.addcmul_(weight[:, index : index + 1], there)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        flow, weight = context.saved_tensors
        padded = _padded(flow, weight)
        to_padded, to_weight = torch.zeros_like(padded), torch.empty_like(weight)
        to_shifts = _shifts(to_padded, weight)
        for (index, there), (_, gathered) in zip(_shifts(padded, weight), to_shifts, strict=True):
            torch.sum(gradient * there, 1, out=to_weight[:, index])
            gathered.addcmul_(weight[:, index : index + 1], gradient)
        rim = round(weight.shape[1] ** 0.5) // 2
        return F.pad(to_padded, (-rim, -rim, -rim, -rim)), to_weight


def _padded(flow: Tensor, weight: Tensor) -> Tensor:
    rim = round(weight.shape[1] ** 0.5) // 2
    return F.pad(flow.contiguous(), (rim, rim, rim, rim))


def _shifts(padded: Tensor, weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(index in the window, what lies there of every cell), as views."""
    side = round(weight.shape[1] ** 0.5)
    height, width = weight.shape[-2:]
    for index in range(side * side):
        y, x = divmod(index, side)
        yield index, padded[..., y : y + height, x : x + width]


class _Kernels(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, kernels: ModuleType, flow: Tensor, distance: Tensor) -> Tensor:
        found, scale = kernels.local_convolution(flow, distance)
        context.save_for_backward(flow, distance, found, scale)
        context.kernels = kernels
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        to_flow, to_distance = context.kernels.local_convolution_gradients(gradient, *context.saved_tensors)
        return None, to_flow, to_distance
