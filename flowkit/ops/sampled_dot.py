"""Dot products of chosen pairs of rows, without writing out the rows that are chosen."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.ops.kernels import triton_kernels

_GATHERED = 2**22
"""Numbers gathered at a time where nothing better is at hand."""


def sampled_dot(rows0: Tensor, rows1: Tensor, index: Tensor) -> Tensor:
    """(n, K): <rows0[i], rows1[index[i, k]]> for rows0 (n, C), rows1 (m, C) and index (n, K) int64 in [0, m).

    On the CPU one sparse kernel reads each row where it lies, on CUDA a Triton kernel; elsewhere rows are gathered in
    portions. Differentiable once, in both sets of rows.
    """
    return _SampledDot.apply(rows0, rows1, index)


class _SampledDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows0: Tensor, rows1: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(rows0, rows1, index)
        if rows0.device.type == "cpu":
            return _sparse(rows0, rows1, index)
        kernels = triton_kernels("allpairs", rows0)
        return _gathering(rows0, rows1, index) if kernels is None else kernels.sampled_dot(rows0, rows1, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows0, rows1, index = ctx.saved_tensors
        # <rows0, sum_k gradient_k rows1[index_k]> has the same derivatives, and the sum is a weighted embedding bag.
        with torch.enable_grad():
            table = rows1.detach().requires_grad_()
            sums = F.embedding_bag(index, table, per_sample_weights=gradient.contiguous(), mode="sum")
            (gradient1,) = torch.autograd.grad(sums, table, rows0)
        return sums.detach(), gradient1, None


def _sparse(rows0: Tensor, rows1: Tensor, index: Tensor) -> Tensor:
    """The chosen pairs as the pattern of a sparse matrix: its rows need neither be sorted nor free of repetitions."""
    count, each = index.shape
    if each >= len(rows1):  # all products are fewer than those asked for, and no sparse matrix holds more than all
        return (rows0 @ rows1.T).gather(1, index)
    ends = torch.arange(0, count * each + 1, each)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR support is in beta state"
        pattern = torch.sparse_csr_tensor(
            ends, index.reshape(-1), rows0.new_zeros(count * each), (count, len(rows1)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, rows0, rows1.T, beta=0.0).values().view(count, each)


def _gathering(rows0: Tensor, rows1: Tensor, index: Tensor) -> Tensor:
    step = max(1, _GATHERED // (index.shape[1] * rows0.shape[1]))
    parts = [
        torch.bmm(rows1[index[start : start + step]], rows0[start : start + step, :, None])[..., 0]
        for start in range(0, len(rows0), step)
    ]
    return torch.cat(parts)
