"""Triton twin of feature warping for CUDA tensors; `warping.py` holds the definition. Tested with TRITON_INTERPRET=1.

A program takes BLOCK cells of image0 and all channels. The features' gradient is scattered by atomic additions, as torch's own
sampling does on CUDA: its last bits may differ from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
"""Cells that a program answers for."""
CHANNELS = 16
"""Channels that are read at a time."""


def warped(features1: Tensor, flow: Tensor) -> Tensor:
    """(B, C, H, W) of features (B, C, H1, W1) and a flow (B, 2, H, W), in any layout; bilinear, zero outside."""
    batch, channels, height1, width1 = features1.shape
    height, width = flow.shape[-2:]
    layout = (
        torch.channels_last if features1.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    )
    found = torch.empty(
        (batch, channels, height, width), dtype=features1.dtype, device=flow.device, memory_format=layout
    )
    _forward[(batch, triton.cdiv(height * width, BLOCK))](
        features1, *features1.stride(), flow, *flow.stride(), found, *found.stride(),
        channels, height1, width1, height * width, width,
        BLOCK=BLOCK, CHANNELS=CHANNELS, ACC=_exact(flow),
    )  # fmt: skip
    return found


def warped_gradients(gradient: Tensor, features1: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """What a gradient (B, C, H, W) makes of the features' and the flow's."""
    batch, channels, height1, width1 = features1.shape
    height, width = flow.shape[-2:]
    gathered = torch.zeros_like(features1, dtype=flow.dtype)
    to_flow = torch.empty_like(flow)
    _backward[(batch, triton.cdiv(height * width, BLOCK))](
        gradient, *gradient.stride(), features1, *features1.stride(), flow, *flow.stride(),
        gathered, *gathered.stride(), to_flow, *to_flow.stride(),
        channels, height1, width1, height * width, width,
        BLOCK=BLOCK, CHANNELS=CHANNELS, ACC=_exact(flow),
    )  # fmt: skip
    return gathered.to(features1.dtype), to_flow


def _exact(flow: Tensor) -> tl.dtype:
    return tl.float64 if flow.dtype == torch.float64 else tl.float32


@triton.jit
def _corner(flow, cell, known, place, step, length):  # type: ignore[no-untyped-def]
    """Of an axis: the cell before each point and the fraction; what is far outside, or no number, is brought near."""
    value = tl.load(flow + place, mask=known, other=0.0) + cell * step
    value = tl.where(value == value, value, -2.0)
    value = tl.minimum(tl.maximum(value, -2.0), length + 1.0)
    whole = tl.floor(value)
    return whole.to(tl.int32), value - whole


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    features, fb, fc, fy, fx, flow, wb, wc, wy, wx, found, ob, oc, oy, ox,
    channels, height1, width1, cells, width,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = cell < cells
    row, column = cell // width, cell % width
    place = pair * wb + row * wy + column * wx
    left, ax = _corner(flow, column, known, place, 1, width1)
    top, ay = _corner(flow, row, known, place + wc, 1, height1)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        total = tl.zeros((CHANNELS, BLOCK), dtype=ACC)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                y, x = top + dy, left + dx
                there = known & (y >= 0) & (y < height1) & (x >= 0) & (x < width1)
                weight = (ay if dy else 1 - ay) * (ax if dx else 1 - ax)
                inside = (c < channels)[:, None] & there[None, :]
                source = features + pair * fb + c[:, None] * fc + y[None, :] * fy + x[None, :] * fx
                total += tl.load(source, mask=inside, other=0.0).to(ACC) * weight[None, :]
        target = found + pair * ob + c[:, None] * oc + row[None, :] * oy + column[None, :] * ox
        tl.store(target, total.to(found.dtype.element_ty), mask=(c < channels)[:, None] & known[None, :])


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    gradient, gb, gc, gy, gx, features, fb, fc, fy, fx, flow, wb, wc, wy, wx,
    gathered, ab, ac, ay_, ax_, to_flow, tb, tc, ty, tx,
    channels, height1, width1, cells, width,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64)
    cell = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    known = cell < cells
    row, column = cell // width, cell % width
    place = pair * wb + row * wy + column * wx
    left, ax = _corner(flow, column, known, place, 1, width1)
    top, ay = _corner(flow, row, known, place + wc, 1, height1)
    to_x, to_y = tl.zeros((BLOCK,), dtype=ACC), tl.zeros((BLOCK,), dtype=ACC)
    for first in range(0, channels, CHANNELS):
        c = first + tl.arange(0, CHANNELS)
        source = gradient + pair * gb + c[:, None] * gc + row[None, :] * gy + column[None, :] * gx
        share = tl.load(source, mask=(c < channels)[:, None] & known[None, :], other=0.0).to(ACC)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                y, x = top + dy, left + dx
                there = known & (y >= 0) & (y < height1) & (x >= 0) & (x < width1)
                wy_, wx_ = (ay if dy else 1 - ay), (ax if dx else 1 - ax)
                inside = (c < channels)[:, None] & there[None, :]
                where = pair * fb + c[:, None] * fc + y[None, :] * fy + x[None, :] * fx
                product = tl.sum(tl.load(features + where, mask=inside, other=0.0).to(ACC) * share, axis=0)
                to_x += product * wy_ * (1 if dx else -1)
                to_y += product * wx_ * (1 if dy else -1)
                target = gathered + pair * ab + c[:, None] * ac + y[None, :] * ay_ + x[None, :] * ax_
                tl.atomic_add(target, share * (wy_ * wx_)[None, :], mask=inside)
    target = to_flow + pair * tb + row * ty + column * tx
    tl.store(target, to_x.to(to_flow.dtype.element_ty), mask=known)
    tl.store(target + tc, to_y.to(to_flow.dtype.element_ty), mask=known)
