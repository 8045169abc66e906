"""Triton twin of the feature-driven local convolution for CUDA tensors; `local_convolution.py` holds the definition.

A program takes BLOCK cells; the softmax over the window is computed as it goes, nothing is unfolded and no weight is written.
The same input gives the same bits. Tested on the CPU with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
"""Cells that a program answers for."""


def local_convolution(flow: Tensor, distance: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) of a flow (B, C, H, W) and distances (B, k*k, H, W); and (B, H, W), log of the softmax's denominator."""
    flow, distance = flow.contiguous(), distance.contiguous()
    batch, channels, height, width = flow.shape
    found, scale = torch.empty_like(flow), distance.new_empty(batch, height, width)
    _forward[(batch, triton.cdiv(height * width, BLOCK))](
        flow, distance, found, scale, height, width,
        SIDE=round(distance.shape[1] ** 0.5), PLANES=channels, BLOCK=BLOCK, ACC=_exact(flow),
    )  # fmt: skip
    return found, scale


def local_convolution_gradients(
    gradient: Tensor, flow: Tensor, distance: Tensor, found: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """What a gradient (B, C, H, W) makes of the flow's and the distances'; `found` and `scale` are the forward pass's."""
    gradient, flow, distance = gradient.contiguous(), flow.contiguous(), distance.contiguous()
    batch, channels, height, width = flow.shape
    to_flow, to_distance = torch.empty_like(flow), torch.empty_like(distance)
    _backward[(batch, triton.cdiv(height * width, BLOCK))](
        gradient, flow, distance, found, scale, to_flow, to_distance, height, width,
        SIDE=round(distance.shape[1] ** 0.5), PLANES=channels, BLOCK=BLOCK, ACC=_exact(flow),
    )  # fmt: skip
    return to_flow, to_distance


def _exact(flow: Tensor) -> tl.dtype:
    return tl.float64 if flow.dtype == torch.float64 else tl.float32


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    flow, distance, found, scale, height, width,
    SIDE: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    cells = height * width
    window: tl.constexpr = SIDE * SIDE
    pair = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = cell < cells
    row, column = cell // width, cell % width
    highest = tl.full((BLOCK,), float("-inf"), dtype=ACC)
    for k in range(window):
        d = tl.load(distance + (pair * window + k) * cells + cell, mask=known, other=0.0).to(ACC)
        highest = tl.maximum(highest, -d * d)
    total = tl.zeros((BLOCK,), dtype=ACC)
    for k in range(window):
        d = tl.load(distance + (pair * window + k) * cells + cell, mask=known, other=0.0).to(ACC)
        total += tl.exp(-d * d - highest)
    bottom = highest + tl.log(total)
    for plane in tl.static_range(PLANES):
        blended = tl.zeros((BLOCK,), dtype=ACC)
        for k in range(window):
            d = tl.load(distance + (pair * window + k) * cells + cell, mask=known, other=0.0).to(ACC)
            y, x = row + k // SIDE - SIDE // 2, column + k % SIDE - SIDE // 2
            there = known & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            value = tl.load(flow + (pair * PLANES + plane) * cells + y * width + x, mask=there, other=0.0).to(ACC)
            blended += tl.exp(-d * d - bottom) * value
        tl.store(found + (pair * PLANES + plane) * cells + cell, blended.to(found.dtype.element_ty), mask=known)
    tl.store(scale + pair * cells + cell, bottom.to(scale.dtype.element_ty), mask=known)


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    gradient, flow, distance, found, scale, to_flow, to_distance, height, width,
    SIDE: tl.constexpr, PLANES: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    cells = height * width
    window: tl.constexpr = SIDE * SIDE
    pair = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = cell < cells
    row, column = cell // width, cell % width
    bottom = tl.load(scale + pair * cells + cell, mask=known, other=0.0).to(ACC)
    for k in range(window):
        # dL/dD_k = -2 D_k w_k sum_c g_c (f_c(p + k) - out_c(p))
        y, x = row + k // SIDE - SIDE // 2, column + k % SIDE - SIDE // 2
        there = known & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        d = tl.load(distance + (pair * window + k) * cells + cell, mask=known, other=0.0).to(ACC)
        total = tl.zeros((BLOCK,), dtype=ACC)
        for plane in tl.static_range(PLANES):
            first = (pair * PLANES + plane) * cells
            value = tl.load(flow + first + y * width + x, mask=there, other=0.0).to(ACC)
            mean = tl.load(found + first + cell, mask=known, other=0.0).to(ACC)
            total += tl.load(gradient + first + cell, mask=known, other=0.0).to(ACC) * (value - mean)
        change = -2.0 * d * tl.exp(-d * d - bottom) * total
        tl.store(to_distance + (pair * window + k) * cells + cell, change.to(to_distance.dtype.element_ty), mask=known)
    for plane in tl.static_range(PLANES):
        # A flow cell gathers from all cells in whose window it lies.
        gathered = tl.zeros((BLOCK,), dtype=ACC)
        for k in range(window):
            y, x = row - (k // SIDE - SIDE // 2), column - (k % SIDE - SIDE // 2)
            there = known & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            d = tl.load(distance + (pair * window + k) * cells + y * width + x, mask=there, other=0.0).to(ACC)
            under = tl.load(scale + pair * cells + y * width + x, mask=there, other=0.0).to(ACC)
            share = tl.load(gradient + (pair * PLANES + plane) * cells + y * width + x, mask=there, other=0.0).to(ACC)
            gathered += tl.where(there, tl.exp(-d * d - under) * share, 0.0)
        tl.store(to_flow + (pair * PLANES + plane) * cells + cell, gathered.to(to_flow.dtype.element_ty), mask=known)
