"""Local correlation of two feature maps: every cell of one with the cells around its own place in the other (cost volumes).

Sun et al., PWC-Net, CVPR 2018; Hui et al., LiteFlowNet2, eq. 2.
"""

from __future__ import annotations

from copy import copy
from math import gcd
from types import ModuleType
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.ops.kernels import triton_kernels

BLOCK = 16
"""Cells of a row that are multiplied at once: short enough that little beyond the band is computed, long enough for GEMM."""


def local_correlation(
    features0: Tensor,
    features1: Tensor,
    radius: int,
    *,
    input_stride: int = 1,
    output_stride: int = 1,
    displacement_stride: int = 1,
) -> Tensor:
    """(B, (2r+1)^2, H', W'): mean over channels of f0(p) f1(p + d), zero where p + d is outside; row-major in d = (dy, dx).

    Both maps are (B, C, H, W), any float type. `input_stride` s reads every s-th cell of both, from the first on, as if they
    had been given so; `output_stride` o answers for every o-th of those cells, H' = ceil(H / (s o)); `displacement_stride` k
    takes displacements d of -r k, -(r-1) k ... r k cells. LiteFlowNet's sparse cost volume is o = k = 2. Differentiable once.
    ValueError when shapes or strides do not fit. `correlation_reference` says the same plainly.

    On the CPU row by row as banded matrix products, which is what it is fastest at: a block of n cells times the n + 2r cells
    that any of them can reach, of which the band of width 2r + 1 is kept. On CUDA a Triton kernel, where triton is installed.
    """
    _check(features0, features1, radius, (input_stride, output_stride, displacement_stride))
    common = gcd(output_stride, displacement_stride)  # cells between its multiples are never touched
    step = input_stride * common
    if step > 1:
        features0, features1 = features0[..., ::step, ::step], features1[..., ::step, ::step]
    output_stride, displacement_stride = output_stride // common, displacement_stride // common
    if (kernels := triton_kernels("correlation", features0)) is not None:
        return _Kernels.apply(kernels, features0, features1, radius, output_stride, displacement_stride)
    if displacement_stride > 1:
        volume = _in_phases(features0, features1, radius, displacement_stride)
    else:
        volume = _banded(features0, features1, radius)
    return volume if output_stride == 1 else volume[..., ::output_stride, ::output_stride]


def correlation_reference(
    features0: Tensor,
    features1: Tensor,
    radius: int,
    *,
    input_stride: int = 1,
    output_stride: int = 1,
    displacement_stride: int = 1,
) -> Tensor:
    """What `local_correlation` gives, by its definition: shift, multiply, take the mean."""
    features0, features1 = (f[..., ::input_stride, ::input_stride] for f in (features0, features1))
    height, width = features0.shape[-2:]
    reach = radius * displacement_stride
    around = F.pad(features1, (reach, reach, reach, reach))
    shifts = [shift * displacement_stride for shift in range(2 * radius + 1)]
    costs = [(features0 * around[..., y : y + height, x : x + width]).mean(1) for y in shifts for x in shifts]
    return torch.stack(costs, 1)[..., ::output_stride, ::output_stride]


def _check(features0: Tensor, features1: Tensor, radius: int, strides: tuple[int, int, int]) -> None:
    if features0.ndim != 4 or features0.shape != features1.shape:
        raise ValueError(
            f"features must be (B, C, H, W) of one shape, got {tuple(features0.shape)}, {tuple(features1.shape)}"
        )
    if radius < 0 or min(strides) < 1:
        raise ValueError(f"the radius must not be negative and strides at least 1, got {radius} and {strides}")


def _in_phases(features0: Tensor, features1: Tensor, radius: int, stride: int) -> Tensor:
    """Displacements `stride` cells apart join cells of one phase only: each phase is a dense correlation of its own."""
    batch, _, height, width = features0.shape
    volume = features0.new_empty(batch, (2 * radius + 1) ** 2, height, width)
    phases = []
    for y in range(min(stride, height)):
        for x in range(min(stride, width)):
            phase = (..., slice(y, None, stride), slice(x, None, stride))
            phases.append((phase, _banded(features0[phase], features1[phase], radius)))
    for phase, part in phases:
        volume[phase] = part
    return volume


def _banded(features0: Tensor, features1: Tensor, radius: int) -> Tensor:
    """(B, (2r+1)^2, H, W): the dense correlation, all strides 1; as the features, channels_last or not."""
    bands = Bands(features1, radius)
    volume = bands.maps(bands.correlation(bands.laid(features0)))
    lasting = features0.is_contiguous(memory_format=torch.channels_last)  # convolutions take it as it comes
    return volume.contiguous(memory_format=torch.channels_last if lasting else torch.contiguous_format)


class Windows(Protocol):
    """A map (B, C, H, W) as the (2 radius + 1)^2 cells around each of its cells, prepared once for many correlations.

    Other maps (B, K, H, W) are laid out as it computes, K last. With f its cells, for which all that is outside is 0, d in
    row-major order (dy, dx), and means over channels: `correlation(w)` is mean w(p) f(p + d), and `combination(v)` its adjoint,
    the sum over d of v_d(p) f(p + d) / C. Both are differentiable once in both arguments.
    """

    def laid(self, maps: Tensor) -> Tensor:
        """(..., K) of maps (B, K, H, W)."""
        ...

    def maps(self, laid: Tensor) -> Tensor:
        """(B, K, H, W) of what is laid out."""
        ...

    def correlation(self, filters: Tensor) -> Tensor:
        """(..., (2r+1)^2) of filters (..., C)."""
        ...

    def combination(self, volume: Tensor) -> Tensor:
        """(..., C) of a volume (..., (2r+1)^2)."""
        ...


def windows(features: Tensor, radius: int) -> Windows:
    """On the CPU banded matrix products, on CUDA Triton kernels, where triton is installed."""
    kernels = triton_kernels("correlation", features)
    return Bands(features, radius) if kernels is None else KernelWindows(kernels, features, radius)


class KernelWindows:
    """`Windows` by Triton kernels; laid out is (B, H, W, K)."""

    def __init__(self, kernels: ModuleType, features: Tensor, radius: int) -> None:
        self._kernels, self._features, self._radius = kernels, features, radius

    def laid(self, maps: Tensor) -> Tensor:
        """See `Windows.laid`."""
        return maps.permute(0, 2, 3, 1)

    def maps(self, laid: Tensor) -> Tensor:
        """See `Windows.maps`."""
        return laid.permute(0, 3, 1, 2)

    def correlation(self, filters: Tensor) -> Tensor:
        """See `Windows.correlation`."""
        return self.laid(_Kernels.apply(self._kernels, self.maps(filters), self._features, self._radius, 1, 1))

    def combination(self, volume: Tensor) -> Tensor:
        """See `Windows.combination`."""
        found = _CombinationKernels.apply(self._kernels, self.maps(volume), self._features, self._radius)
        return self.laid(found)


class Bands:
    """`Windows` by banded matrix products; laid out is (H, B n, BLOCK, K): rows in n blocks of cells.

    The rows first, so that a shift in y is a plain slice.
    """

    def __init__(self, features: Tensor, radius: int) -> None:
        self.batch, channels, self.height, self.width = features.shape
        self.window, self.blocks = 2 * radius + 1, -(-self.width // BLOCK)
        spare = self.blocks * BLOCK - self.width
        rows = F.pad(features.permute(2, 0, 3, 1), (0, 0, radius, radius + spare, 0, 0, radius, radius))
        reach = rows.unfold(2, BLOCK + 2 * radius, BLOCK).transpose(-1, -2).contiguous()
        self.reach = reach.view(self.height + 2 * radius, -1, BLOCK + 2 * radius, channels)

    def laid(self, maps: Tensor) -> Tensor:
        """See `Windows.laid`."""
        rows = F.pad(maps.permute(2, 0, 3, 1), (0, 0, 0, self.blocks * BLOCK - self.width))
        return rows.reshape(self.height, -1, BLOCK, maps.shape[1])

    def maps(self, laid: Tensor) -> Tensor:
        """See `Windows.maps`."""
        rows = laid.view(self.height, self.batch, self.blocks * BLOCK, -1)[:, :, : self.width]
        return rows.permute(1, 3, 0, 2)

    def correlation(self, filters: Tensor) -> Tensor:
        """See `Windows.correlation`."""
        volume: Tensor = _Correlation.apply(filters, self.reach, self.window)
        return volume.flatten(-2)

    def combination(self, volume: Tensor) -> Tensor:
        """See `Windows.combination`."""
        rows: Tensor = _Combination.apply(volume.unflatten(-1, (self.window, self.window)), self.reach, self.window)
        return rows

    def part(self, rows: slice) -> Bands:
        """The same for some of the rows alone: for what is laid out, and cut to them."""
        part = copy(self)
        part.reach = self.reach[rows.start : rows.stop + self.window - 1]
        part.height = rows.stop - rows.start
        return part


class _Kernels(torch.autograd.Function):
    """The Triton kernels of `correlation_triton`; strides are coprime here."""

    @staticmethod
    def forward(
        context: Any,
        kernels: ModuleType,
        features0: Tensor,
        features1: Tensor,
        radius: int,
        output: int,
        displacement: int,
    ) -> Tensor:
        context.save_for_backward(features0, features1)
        context.arguments = kernels, radius, output, displacement
        volume: Tensor = kernels.correlation(features0, features1, radius, output, displacement)
        return volume

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, None, None, None]:
        kernels, *arguments = context.arguments
        gradients = kernels.correlation_gradients(gradient, *context.saved_tensors, *arguments)
        return None, *gradients, None, None, None


class _CombinationKernels(torch.autograd.Function):
    """The adjoint in the filters of a correlation; the same kernels."""

    @staticmethod
    def forward(context: Any, kernels: ModuleType, volume: Tensor, features: Tensor, radius: int) -> Tensor:
        context.save_for_backward(volume, features)
        context.arguments = kernels, radius
        combined: Tensor = kernels.correlation_gradients(volume, features, features, radius, 1, 1)[0]
        return combined

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor, None]:
        (volume, features), (kernels, radius) = context.saved_tensors, context.arguments
        to_volume = kernels.correlation(gradient, features, radius, 1, 1)
        return None, to_volume, kernels.correlation_gradients(volume, gradient, features, radius, 1, 1)[1], None


class _Correlation(torch.autograd.Function):
    """(H, N, n, window, window) from rows (H, N, n, C) and what they reach (H + 2r, N, n + 2r, C): all shifts in y and x."""

    @staticmethod
    def forward(context: Any, rows: Tensor, reach: Tensor, window: int) -> Tensor:
        context.save_for_backward(rows, reach)
        return _volume(rows, reach, window)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, reach = context.saved_tensors
        wanted = context.needs_input_grad
        return *_spread(gradient, rows if wanted[1] else None, reach, wanted[0]), None


class _Combination(torch.autograd.Function):
    """Rows (H, N, n, C) from a volume (H, N, n, window, window) and what the rows reach: the adjoint of the above in rows."""

    @staticmethod
    def forward(context: Any, volume: Tensor, reach: Tensor, window: int) -> Tensor:
        context.save_for_backward(volume, reach)
        rows, _ = _spread(volume, None, reach, True)
        assert rows is not None
        return rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        volume, reach = context.saved_tensors
        wanted = context.needs_input_grad
        to_volume = _volume(gradient, reach, volume.shape[-1]) if wanted[0] else None
        to_reach = _spread(volume, gradient, reach, False)[1] if wanted[1] else None
        return to_volume, to_reach, None


def _volume(rows: Tensor, reach: Tensor, window: int) -> Tensor:
    """The mean over channels of every cell with all that it reaches: (H, N, n, window, window)."""
    height, count, length, channels = rows.shape
    volume = rows.new_empty(height, count, length, window, window)
    # the mean is taken of the smaller side; it is exact for numbers of channels that are powers of two
    scaled = (rows / channels).flatten(0, 1)
    for dy in range(window):
        products = torch.bmm(scaled, reach[dy : dy + height].flatten(0, 1).mT)
        volume[..., dy, :] = _band(products, window).unflatten(0, (height, count))
    return volume


def _spread(volume: Tensor, rows: Tensor | None, reach: Tensor, to_rows: bool) -> tuple[Tensor | None, Tensor | None]:
    """What a volume takes back: what is reached, onto rows, if wanted, and `rows`, if given, onto what they reach."""
    height, count, length, window = volume.shape[:4]
    channels = reach.shape[-1]
    # many sums in half precision would add up their rounding
    exact = torch.promote_types(reach.dtype, torch.float32)
    on_rows = reach.new_zeros(height * count, length, channels, dtype=exact) if to_rows else None
    on_reach = torch.zeros_like(reach, dtype=exact) if rows is not None else None
    products = reach.new_zeros(height * count, length, reach.shape[2])
    for dy in range(window):
        _band(products, window).copy_(volume[..., dy, :].flatten(0, 1))
        if on_rows is not None:
            on_rows += torch.bmm(products, reach[dy : dy + height].flatten(0, 1))
        if rows is not None and on_reach is not None:
            on_reach[dy : dy + height] += torch.bmm(products.mT, rows.flatten(0, 1)).unflatten(0, (height, count))
    if on_rows is not None:
        on_rows = (on_rows / channels).view(height, count, length, channels).to(reach.dtype)
    return on_rows, None if on_reach is None else (on_reach / channels).to(reach.dtype)


def _band(products: Tensor, window: int) -> Tensor:
    """(N, n, window), a view: entries (i, i + j), j < window, of contiguous products (N, n, n + window - 1)."""
    count, rows, columns = products.shape
    return products.as_strided((count, rows, window), (rows * columns, columns + 1, 1))
