"""Triton twin of the local correlation for CUDA tensors; `correlation.py` holds the definition.

Cells of a row are taken BLOCK at a time; a program has one row of displacements. All sums run in a fixed order and nothing is
added by atomics, so the same input gives the same bits. Tested on the CPU with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32
"""Cells of a row that a program answers for."""
CHANNELS = 32
"""Channels that are read at a time."""


def correlation(features0: Tensor, features1: Tensor, radius: int, output: int, displacement: int) -> Tensor:
    """(B, (2r+1)^2, H', W') with an output and a displacement stride; features (B, C, H, W) in any layout."""
    batch, channels, height, width = features0.shape
    rows, columns, side = -(-height // output), -(-width // output), 2 * radius + 1
    volume = features0.new_empty(batch, side * side, rows, columns)
    _forward[(batch * rows, triton.cdiv(columns, BLOCK), side)](
        features0, *features0.stride(), features1, *features1.stride(), volume,
        channels, height, width, rows, columns, output, displacement,
        RADIUS=radius, BLOCK=BLOCK, CHANNELS=CHANNELS, ACC=_exact(features0),
    )  # fmt: skip
    return volume


def correlation_gradients(
    gradient: Tensor, features0: Tensor, features1: Tensor, radius: int, output: int, displacement: int
) -> tuple[Tensor, Tensor]:
    """What a gradient (B, (2r+1)^2, H', W') of the volume makes of both features' gradients (B, C, H, W)."""
    batch, channels, height, width = features0.shape
    gradient = gradient.contiguous()
    rows, columns = gradient.shape[-2:]
    to0, to1 = torch.zeros_like(features0), torch.empty_like(features1)
    shared = channels, height, width, rows, columns, output, displacement
    options = {"RADIUS": radius, "BLOCK": BLOCK, "CHANNELS": CHANNELS, "ACC": _exact(features0)}
    _backward0[(batch * rows, triton.cdiv(columns, BLOCK), triton.cdiv(channels, CHANNELS))](
        gradient, features1, *features1.stride(), to0, *to0.stride(), *shared, **options
    )
    _backward1[(batch * height, triton.cdiv(width, BLOCK), triton.cdiv(channels, CHANNELS))](
        gradient, features0, *features0.stride(), to1, *to1.stride(), *shared, **options
    )
    return to0, to1


def _exact(features: Tensor) -> tl.dtype:
    return tl.float64 if features.dtype == torch.float64 else tl.float32


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    f0, b0, c0, y0, x0, f1, b1, c1, y1, x1, volume,
    channels, height, width, rows, columns, output, displacement,
    RADIUS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    side: tl.constexpr = 2 * RADIUS + 1
    pair, row = (tl.program_id(0) // rows).to(tl.int64), tl.program_id(0) % rows
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    dy = tl.program_id(2)
    y, x = row * output + 0 * column, column * output
    other = y + (dy - RADIUS) * displacement
    for dx in tl.static_range(side):
        there = x + (dx - RADIUS) * displacement
        mask = (column < columns) & (there >= 0) & (there < width) & (other >= 0) & (other < height)
        total = tl.zeros((BLOCK,), dtype=ACC)
        for first in range(0, channels, CHANNELS):
            c = first + tl.arange(0, CHANNELS)
            inside = (c < channels)[:, None] & mask[None, :]
            one = tl.load(f0 + pair * b0 + c[:, None] * c0 + y[None, :] * y0 + x[None, :] * x0, mask=inside, other=0.0)
            two = tl.load(
                f1 + pair * b1 + c[:, None] * c1 + other[None, :] * y1 + there[None, :] * x1, mask=inside, other=0.0
            )
            total += tl.sum(one.to(ACC) * two.to(ACC), axis=0)
        place = ((pair * side * side + dy * side + dx) * rows + row) * columns + column
        tl.store(volume + place, (total / channels).to(volume.dtype.element_ty), mask=column < columns)


@triton.jit
def _backward0(  # type: ignore[no-untyped-def]
    gradient, f1, b1, c1, y1, x1, to0, b0, c0, y0, x0,
    channels, height, width, rows, columns, output, displacement,
    RADIUS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    side: tl.constexpr = 2 * RADIUS + 1
    pair, row = (tl.program_id(0) // rows).to(tl.int64), tl.program_id(0) % rows
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    y, x = row * output + 0 * column, column * output
    total = tl.zeros((CHANNELS, BLOCK), dtype=ACC)
    for dy in range(side):
        other = y + (dy - RADIUS) * displacement
        for dx in range(side):
            there = x + (dx - RADIUS) * displacement
            mask = (column < columns) & (other >= 0) & (other < height) & (there >= 0) & (there < width)
            place = ((pair * side * side + dy * side + dx) * rows + row) * columns + column
            share = tl.load(gradient + place, mask=mask, other=0.0).to(ACC)
            inside = (c < channels)[:, None] & mask[None, :]
            two = tl.load(
                f1 + pair * b1 + c[:, None] * c1 + other[None, :] * y1 + there[None, :] * x1, mask=inside, other=0.0
            )
            total += two.to(ACC) * share[None, :]
    inside = (c < channels)[:, None] & (column < columns)[None, :]
    place = pair * b0 + c[:, None] * c0 + y[None, :] * y0 + x[None, :] * x0
    tl.store(to0 + place, (total / channels).to(to0.dtype.element_ty), mask=inside)


@triton.jit
def _backward1(  # type: ignore[no-untyped-def]
    gradient, f0, b0, c0, y0, x0, to1, b1, c1, y1, x1,
    channels, height, width, rows, columns, output, displacement,
    RADIUS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # A cell of image1 gathers from all cells of image0 that are one of the displacements away.
    side: tl.constexpr = 2 * RADIUS + 1
    pair = (tl.program_id(0) // height).to(tl.int64)
    x = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(0) % height + 0 * x
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((CHANNELS, BLOCK), dtype=ACC)
    for dy in range(side):
        from_y = y - (dy - RADIUS) * displacement
        for dx in range(side):
            from_x = x - (dx - RADIUS) * displacement
            mask = (from_y >= 0) & (from_y < height) & (from_y % output == 0)
            mask = mask & (x < width) & (from_x >= 0) & (from_x < width) & (from_x % output == 0)
            row, column = from_y // output, from_x // output
            place = ((pair * side * side + dy * side + dx) * rows + row) * columns + column
            share = tl.load(gradient + place, mask=mask, other=0.0).to(ACC)
            inside = (c < channels)[:, None] & mask[None, :]
            one = tl.load(
                f0 + pair * b0 + c[:, None] * c0 + from_y[None, :] * y0 + from_x[None, :] * x0, mask=inside, other=0.0
            )
            total += one.to(ACC) * share[None, :]
    inside = (c < channels)[:, None] & (x < width)[None, :]
    place = pair * b1 + c[:, None] * c1 + y[None, :] * y1 + x[None, :] * x1
    tl.store(to1 + place, (total / channels).to(to1.dtype.element_ty), mask=inside)
