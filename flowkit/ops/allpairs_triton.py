"""Triton twins of the all-pairs lookup for CUDA tensors; the torch code in `allpairs.py`, `sampled_dot.py` is the reference.

Importing this file needs triton, which comes with torch's CUDA builds. Its test runs it on the CPU (TRITON_INTERPRET=1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


def lookup(volume: Tensor, points: Tensor, sizes: Sequence[tuple[int, int]], radius: int) -> Tensor:
    """(n, L, K, K), x first: windows around points (n, 2) of level 0 in a volume (n, M), K = 2 radius + 1."""
    side = 2 * radius + 1
    found = volume.new_empty(len(points), len(sizes), side, side)
    if found.numel():
        _lookup[(len(points), len(sizes))](
            volume,
            points.contiguous(),
            *_tables(volume, sizes),
            found,
            volume.shape[1],
            RADIUS=radius,
            BLOCK=triton.next_power_of_2(side**2),
        )
    return found


def add_gradient(
    gathered: Tensor, gradient: Tensor, points: Tensor, sizes: Sequence[tuple[int, int]], radius: int
) -> None:
    """Add to `gathered` (n, M) the volume's gradient from that of a lookup, (n, L, K, K). Deterministic: no atomics."""
    if gradient.numel():
        _add_gradient[(len(points), len(sizes))](
            gathered,
            points.contiguous(),
            *_tables(gathered, sizes),
            gradient.contiguous(),
            gathered.shape[1],
            RADIUS=radius,
            BLOCK=triton.next_power_of_2((2 * radius + 2) ** 2),
        )


def sampled_dot(rows0: Tensor, rows1: Tensor, index: Tensor) -> Tensor:
    """(n, K): <rows0[i], rows1[index[i, k]]> for rows0 (n, C), rows1 (m, C) and index (n, K) int64."""
    count, each = index.shape
    found = rows0.new_empty(count, each)
    if found.numel():
        _sampled_dot[(count, triton.cdiv(each, 32))](
            rows0.contiguous(),
            rows1.contiguous(),
            index.contiguous(),
            found,
            rows0.shape[1],
            each,
            BLOCK_K=32,
            BLOCK_C=64,
        )
    return found


def _tables(like: Tensor, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Height, width and first cell of each level (L, 3) int32, and its scale (L,)."""
    rows, start = [], 0
    for height, width in sizes:
        rows.append((height, width, start))
        start += height * width
    table = torch.tensor(rows, dtype=torch.int32, device=like.device)
    return table, torch.tensor([0.5**level for level in range(len(sizes))], dtype=like.dtype, device=like.device)


@triton.jit
def _corner(value, length, RADIUS: tl.constexpr):  # type: ignore[no-untyped-def]
    """A window's first cell along one axis and the fraction that all its samples share."""
    whole = tl.floor(value)
    # Windows wholly outside need not be told apart; the limits also tame what NaN and infinity become as whole numbers.
    limited = tl.minimum(tl.maximum(whole, -RADIUS - 2.0), length + RADIUS + 0.0)
    return limited.to(tl.int32) - RADIUS, value - whole


@triton.jit
def _window(points, table, scales, point, level, RADIUS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Height and width of a level, and a point's window there: its first cell and the fractions, along x and y."""
    height, width = tl.load(table + 3 * level), tl.load(table + 3 * level + 1)
    scale = tl.load(scales + level)
    left, fx = _corner(tl.load(points + 2 * point) * scale, width, RADIUS)
    top, fy = _corner(tl.load(points + 2 * point + 1) * scale, height, RADIUS)
    return height, width, left, top, fx, fy


@triton.jit
def _lookup(volume, points, table, scales, found, cells, RADIUS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    point, level = tl.program_id(0).to(tl.int64), tl.program_id(1)
    height, width, left, top, fx, fy = _window(points, table, scales, point, level, RADIUS)
    side: tl.constexpr = 2 * RADIUS + 1
    k = tl.arange(0, BLOCK)
    column, row = left + k // side, top + k % side
    wanted = k < side * side
    plane = volume + point * cells + tl.load(table + 3 * level + 2)
    total = tl.zeros((BLOCK,), dtype=volume.dtype.element_ty)
    for dx in tl.static_range(2):
        for dy in tl.static_range(2):
            c, r = column + dx, row + dy
            there = wanted & (c >= 0) & (c < width) & (r >= 0) & (r < height)
            value = tl.load(plane + r * width + c, mask=there, other=0.0)
            total += value * (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
    tl.store(found + (point * tl.num_programs(1) + level) * side * side + k, total, mask=wanted)


@triton.jit
def _add_gradient(gathered, points, table, scales, gradient, cells, RADIUS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    point, level = tl.program_id(0).to(tl.int64), tl.program_id(1)
    height, width, left, top, fx, fy = _window(points, table, scales, point, level, RADIUS)
    side: tl.constexpr = 2 * RADIUS + 1
    k = tl.arange(0, BLOCK)
    a, b = k // (side + 1), k % (side + 1)
    samples = gradient + (point * tl.num_programs(1) + level) * side * side
    total = tl.zeros((BLOCK,), dtype=gathered.dtype.element_ty)
    for dx in tl.static_range(2):
        for dy in tl.static_range(2):
            i, j = a - dx, b - dy
            known = (i >= 0) & (i < side) & (j >= 0) & (j < side)
            sample = tl.load(samples + i * side + j, mask=known, other=0.0)
            total += sample * (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
    c, r = left + a, top + b
    there = (a <= side) & (c >= 0) & (c < width) & (r >= 0) & (r < height)
    # All programs of one lookup write to cells of their own, so that adding needs no atomics.
    place = gathered + point * cells + tl.load(table + 3 * level + 2) + r * width + c
    tl.store(place, tl.load(place, mask=there, other=0.0) + total, mask=there)


@triton.jit
def _sampled_dot(rows0, rows1, index, found, channels, each, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    place = tl.load(index + row * each + k, mask=k < each, other=0)
    total = tl.zeros((BLOCK_K,), dtype=rows0.dtype.element_ty)
    for first in range(0, channels, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        value0 = tl.load(rows0 + row * channels + c, mask=c < channels, other=0.0)
        mask = (k < each)[:, None] & (c < channels)[None, :]
        value1 = tl.load(rows1 + place[:, None] * channels + c[None, :], mask=mask, other=0.0)
        total += tl.sum(value1 * value0[None, :], axis=1)
    tl.store(found + row * each + k, total, mask=k < each)
