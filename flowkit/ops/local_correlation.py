"""Local correlation of two feature maps: every cell of one with the cells around its own place in the other."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

BLOCK = 32
"""Cells of a row that are multiplied at once: short enough that little beyond the band is computed, long enough for GEMM."""


def local_correlation(features0: Tensor, features1: Tensor, radius: int) -> Tensor:
    """(B, (2r+1)^2, H, W): mean over channels of f0(p) f1(p + d), zero where p + d is outside; row-major in d = (dy, dx).

    Both maps are (B, C, H, W). Computed row by row as banded matrix products, which is what CPUs and GPUs are fastest at:
    a block of n cells times the n + 2r cells that any of them can reach, of which the band of width 2r + 1 is kept.
    """
    batch, channels, height, width = features0.shape
    window = 2 * radius + 1
    blocks = -(-width // BLOCK)
    spare = blocks * BLOCK - width
    rows0 = F.pad(features0.permute(2, 0, 3, 1) / channels, (0, 0, 0, spare))  # H first: a shift in y is a plain slice
    rows0 = rows0.reshape(height, batch * blocks, BLOCK, channels)
    rows1 = F.pad(features1.permute(2, 0, 3, 1), (0, 0, radius, radius + spare, 0, 0, radius, radius))
    reach = rows1.unfold(2, BLOCK + 2 * radius, BLOCK).reshape(height + 2 * radius, batch * blocks, channels, -1)
    volume = _Bands.apply(rows0, reach, window)
    volume = volume.view(window, height, batch, blocks * BLOCK, window)[:, :, :, :width]
    return volume.permute(2, 0, 4, 1, 3).reshape(batch, window * window, height, width)


class _Bands(torch.autograd.Function):
    """(window, H, N, n, window) from rows (H, N, n, C) and what they reach (H + 2r, N, C, n + 2r): all shifts in y and x."""

    @staticmethod
    def forward(context: Any, rows: Tensor, reach: Tensor, window: int) -> Tensor:
        context.save_for_backward(rows, reach)
        context.window = window
        height = len(rows)
        return torch.stack([_band(rows @ reach[dy : dy + height], window) for dy in range(window)])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, reach = context.saved_tensors
        height, columns = len(rows), reach.shape[-1]
        exact = torch.promote_types(
            rows.dtype, torch.float32
        )  # nine sums in half precision would add up their rounding
        to_rows, to_reach = torch.zeros_like(rows, dtype=exact), torch.zeros_like(reach, dtype=exact)
        for dy in range(context.window):
            products = _from_band(gradients[0][dy].to(rows.dtype), columns)
            to_rows += products @ reach[dy : dy + height].mT
            to_reach[dy : dy + height] += rows.mT @ products
        return to_rows.to(rows.dtype), to_reach.to(reach.dtype), None


def _band(products: Tensor, window: int) -> Tensor:
    """(..., n, window): entries (i, i + j), j < window, of (..., n, m): the diagonals, as columns of a skewed view."""
    rows, columns = products.shape[-2:]
    flat = F.pad(products.flatten(-2), (0, rows))
    return flat.view(*products.shape[:-2], rows, columns + 1)[..., :window]


def _from_band(band: Tensor, columns: int) -> Tensor:
    """(..., n, columns): the band put back on its diagonals, zero elsewhere; the adjoint of `_band`."""
    rows, window = band.shape[-2:]
    skewed = F.pad(band, (0, columns + 1 - window))
    return skewed.flatten(-2)[..., : rows * columns].view(*band.shape[:-2], rows, columns)
