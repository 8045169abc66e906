"""All-pairs correlation of two feature maps, and its lookup in windows around moving points.

The correlation of cell p of image0 with cell q of image1 is <f0(p), f1(q)> / sqrt(C) (Teed and Deng, RAFT, ECCV 2020, section
3.2). A pyramid over image1's plane has level l averaged over 2^l x 2^l cells; since correlation is linear, the features are
averaged instead. A lookup reads, at every level, (2r+1)^2 bilinear samples around a point: they share one fraction, so a
patch of (2r+2)^2 whole cells is read once and blended along x and y.

Two lookups give the same numbers: "volume" computes every correlation once and reads patches from it, "ondemand" computes
the correlations of each patch when it is asked for, with memory linear in the cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.ops.kernels import triton_kernels
from flowkit.ops.sampled_dot import sampled_dot

Lookup = Literal["auto", "volume", "ondemand"]

VOLUME_LIMIT = 512 * 2**20
"""Bytes of correlations up to which "auto" keeps the volume on the CPU: about there on-demand lookup becomes the faster one
as well (12 lookups). On CUDA the volume is kept up to `VOLUME_LIMIT_CUDA`."""
VOLUME_LIMIT_CUDA = 4 * 2**30

_CHUNK = 2048
"""Points looked up at a time: what is between the patch and the answer stays in the cache."""


def volume_bytes(cells0: int, size1: tuple[int, int], levels: int = 4, batch: int = 1) -> int:
    """Bytes of the float32 correlation volume of `cells0` cells with a pyramid over an image1 of `size1` cells."""
    return 4 * batch * cells0 * sum(h * w for h, w in _sizes(size1, levels))


class AllPairs:
    """Correlations of image0's cells with image1's, to be looked up around points of image1.

    Features are (B, C, H0, W0) and (B, C, H1, W1), any float type; correlations are float32 (float64 for float64 features),
    also under autocast. `lookup` is "volume", "ondemand" or "auto": the volume as long as it fits `limit` bytes (default
    `VOLUME_LIMIT`). Gradients reach the features, not the points. ValueError when shapes do not fit.
    """

    def __init__(
        self,
        features0: Tensor,
        features1: Tensor,
        *,
        levels: int = 4,
        radius: int = 4,
        lookup: Lookup = "auto",
        limit: int | None = None,
    ) -> None:
        if features0.ndim != 4 or features1.ndim != 4 or features0.shape[:2] != features1.shape[:2]:
            raise ValueError(
                f"features must be (B, C, H, W) with one B and C, got {tuple(features0.shape)}, {tuple(features1.shape)}"
            )
        if lookup not in ("auto", "volume", "ondemand"):
            raise ValueError(f"lookup must be auto, volume or ondemand, got {lookup!r}")
        self.radius = radius
        self.size0 = int(features0.shape[-2]), int(features0.shape[-1])
        self.sizes = _sizes((int(features1.shape[-2]), int(features1.shape[-1])), levels)
        if limit is None:
            limit = VOLUME_LIMIT_CUDA if features0.is_cuda else VOLUME_LIMIT
        needed = volume_bytes(self.size0[0] * self.size0[1], self.sizes[0], levels, len(features0))
        self.lookup = lookup if lookup != "auto" else ("volume" if needed <= limit else "ondemand")
        exact = torch.float64 if features0.dtype == torch.float64 else torch.float32
        with torch.autocast(features0.device.type, enabled=False):
            scaled = features0.to(exact) / features0.shape[1] ** 0.5
            self.rows0 = scaled.flatten(2).transpose(1, 2).contiguous()  # (B, N, C)
            self.rows1 = _pyramid_rows(features1.to(exact), levels)  # (B, M, C), the levels behind one another
            self._store, self._token = _Store(), None
            if self.lookup == "volume":
                self._token = _Volume.apply(self.rows0, self.rows1, self._store, 2 * radius + 2)

    def __call__(self, points: Tensor) -> Tensor:
        """(B, levels * (2r+1)^2, H0, W0): the correlations around `points` (B, 2, H0, W0), float32 (x, y) in cells of image1.

        The channel of offset (dx, dy) at level l is l (2r+1)^2 + (dx + r)(2r+1) + (dy + r): x runs slowly, as in the public
        weights. Zero outside image1, and throughout at levels that have no cells. Channels lie innermost (channels_last).
        """
        batch, (height, width) = len(self.rows0), self.size0
        if points.shape != (batch, 2, height, width):
            raise ValueError(f"points must be {(batch, 2, height, width)}, got {tuple(points.shape)}")
        if points.requires_grad:
            raise ValueError("the lookup has no gradient for its points: detach them")
        flat = points.to(self.rows0.dtype).permute(0, 2, 3, 1).reshape(batch, -1, 2)
        with torch.autocast(points.device.type, enabled=False):
            if self._token is not None:
                found = _VolumeLookup.apply(self._token, self._store, flat, self.sizes, self.radius)
            else:
                found = _lookup_on_demand(self.rows0, self.rows1, flat, self.sizes, self.radius)
        return found.reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def _sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """(height, width) of each level, (0, 0) where nothing is left."""
    halved = [(size[0] >> level, size[1] >> level) for level in range(levels)]
    return [(height, width) if min(height, width) else (0, 0) for height, width in halved]


def _pyramid_rows(features: Tensor, levels: int) -> Tensor:
    """(B, M, C): the cells of all levels as rows; an odd last row or column has no share in the next level."""
    rows = [features.flatten(2)]
    for _ in range(levels - 1):
        if min(features.shape[-2:]) < 2:
            break
        features = F.avg_pool2d(features, 2, stride=2)
        rows.append(features.flatten(2))
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous()


@dataclass
class _Windows:
    """The patches around n points at L levels, with K = 2r+1 samples a side; patches are (n, L, K+1, K+1), y first.

    `start` (n, L, K+1) int64 is the place of each patch row's first cell among all levels' cells. Rows outside image1 have
    another row's place, and a row's cells may reach a little beyond image1's rim on either side: the weights, which blend each
    cell with the next one along x or y, are 0 for what is outside. `weights_x` and `weights_y` are (2, n, L, K).
    """

    start: Tensor
    weights_x: Tensor
    weights_y: Tensor

    def blend(self, patches: Tensor) -> Tensor:
        """(n, L, K, K) samples of patches (n, L, K+1, K+1); x first, as in the public weights."""
        y0, y1 = self.weights_y.unsqueeze(-1)
        rows = (patches[:, :, :-1] * y0).addcmul_(patches[:, :, 1:], y1).transpose(2, 3)
        x0, x1 = self.weights_x.unsqueeze(-1)
        return (rows[:, :, :-1] * x0).addcmul_(rows[:, :, 1:], x1)

    def spread(self, samples: Tensor) -> Tensor:
        """(n, L, K+1, K+1): the transpose of `blend`, for gradients."""
        x0, x1 = self.weights_x.unsqueeze(-1)
        rows = F.pad(samples * x0, (0, 0, 0, 1))
        rows[:, :, 1:].addcmul_(samples, x1)
        y0, y1 = self.weights_y.unsqueeze(-1)
        rows = rows.transpose(2, 3)
        patches = F.pad(rows * y0, (0, 0, 0, 1))
        patches[:, :, 1:].addcmul_(rows, y1)
        return patches

    def cells(self, count: int) -> Tensor:
        """(n, L, K+1, K+1) int64: the place of every patch cell among the `count` cells of all levels.

        Cells beyond the first and the last place take theirs: their weights are 0.
        """
        along = torch.arange(self.start.shape[-1], device=self.start.device)
        return (self.start.unsqueeze(-1) + along).clamp_(0, count - 1)


def _windows(points: Tensor, sizes: list[tuple[int, int]], radius: int) -> _Windows:
    """The windows around points (n, 2) of level 0."""
    device = points.device
    heights, widths = torch.tensor(sizes, device=device).unbind(1)
    area = heights * widths
    steps = torch.arange(2 * radius + 2, device=device)
    scales = 0.5 ** torch.arange(len(sizes), device=device)

    def axis(values: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        scaled = values[:, None] * scales.to(values.dtype)
        whole = scaled.floor()
        fraction = (scaled - whole)[..., None]
        # Windows wholly outside need not be told apart; the limits also tame what NaN and infinity become as whole numbers.
        first = torch.minimum(whole.long().clamp_min(-radius - 2), lengths + radius) - radius
        middle = (lengths - 1).to(values.dtype) / 2
        there = ((first - middle)[..., None] + steps).abs_() <= middle[:, None]  # in floats: faster than whole numbers
        return first, torch.stack([(1 - fraction) * there[..., :-1], fraction * there[..., 1:]])

    x, weights_x = axis(points[:, 0], widths)
    y, weights_y = axis(points[:, 1], heights)
    row = torch.minimum((y[..., None] + steps).clamp_min_(0), (heights[:, None] - 1).clamp_min(0))
    start = row.mul_(widths[:, None]).add_((x + area.cumsum(0) - area)[..., None])
    return _Windows(start, weights_x, weights_y)


def _chunks(total: int) -> Iterator[slice]:
    for start in range(0, total, _CHUNK):
        yield slice(start, min(total, start + _CHUNK))


class _Store:
    """The volume (B, N, M) and, in a backward pass, the gradient that its lookups gather: one buffer, not one per lookup."""

    volume: Tensor
    around: Tensor
    gradient: Tensor | None = None

    def fill(self, rows0: Tensor, rows1: Tensor, margin: int) -> None:
        """All correlations of rows0 (B, N, C) and rows1 (B, M, C), with `margin` zeros before and behind them in `around`."""
        shape = len(rows0), rows0.shape[1], rows1.shape[1]
        self.around = rows0.new_empty(prod(shape) + 2 * margin)
        self.around[:margin], self.around[-margin:] = 0, 0
        self.volume = self.around[margin:-margin].view(shape)
        torch.bmm(rows0, rows1.transpose(1, 2), out=self.volume)

    def gathered(self) -> Tensor:
        if self.gradient is None:
            self.gradient = torch.zeros_like(self.volume)
        return self.gradient


class _Volume(torch.autograd.Function):
    """Fills the store with all correlations; its backward pass runs after those of the lookups, which take its token."""

    @staticmethod
    def forward(ctx: Any, rows0: Tensor, rows1: Tensor, store: _Store, margin: int) -> Tensor:
        store.fill(rows0, rows1, margin)
        ctx.save_for_backward(rows0, rows1)
        ctx.store = store
        return rows0.new_zeros(())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor, None, None]:
        rows0, rows1 = ctx.saved_tensors
        gradient = ctx.store.gathered()
        ctx.store.gradient = None
        return torch.bmm(gradient, rows1), torch.bmm(gradient.transpose(1, 2), rows0), None, None


class _VolumeLookup(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, token: Tensor, store: _Store, points: Tensor, sizes: list[tuple[int, int]], radius: int
    ) -> Tensor:
        ctx.save_for_backward(points)
        ctx.arguments = store, sizes, radius
        points = points.flatten(0, 1)
        if (kernels := triton_kernels("allpairs", points)) is not None:
            return kernels.lookup(store.volume.flatten(0, 1), points, sizes, radius)
        side, cells = 2 * radius + 2, store.volume.shape[-1]
        found = points.new_empty(len(points), len(sizes), side - 1, side - 1)
        # Every place with the cells after it: a patch row is copied in one piece.
        runs = store.around.as_strided((len(store.around) - side + 1, side), (1, 1))
        offset = (
            torch.arange(len(points), device=points.device) * cells + (len(store.around) - store.volume.numel()) // 2
        )
        for part in _chunks(len(points)):
            windows = _windows(points[part], sizes, radius)
            places = windows.start + offset[part, None, None]
            patches = runs.index_select(0, places.flatten()).view(*places.shape, side)
            found[part] = windows.blend(patches)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        store, sizes, radius = ctx.arguments
        points = ctx.saved_tensors[0].flatten(0, 1)
        gathered = store.gathered().flatten(0, 1)
        if (kernels := triton_kernels("allpairs", points)) is not None:
            kernels.add_gradient(gathered, gradient, points, sizes, radius)
            return gradient.new_zeros(()), None, None, None, None
        for part in _chunks(len(points)):
            windows = _windows(points[part], sizes, radius)
            cells = windows.cells(gathered.shape[1]).flatten(1)
            gathered[part].scatter_add_(1, cells, windows.spread(gradient[part]).flatten(1))
        return gradient.new_zeros(()), None, None, None, None


def _lookup_on_demand(
    rows0: Tensor, rows1: Tensor, points: Tensor, sizes: list[tuple[int, int]], radius: int
) -> Tensor:
    found = []
    for rows0_of_pair, rows1_of_pair, points_of_pair in zip(rows0, rows1, points, strict=True):
        for part in _chunks(len(points_of_pair)):
            windows = _windows(points_of_pair[part], sizes, radius)
            cells = windows.cells(len(rows1_of_pair))
            patches = sampled_dot(rows0_of_pair[part], rows1_of_pair, cells.flatten(1))
            found.append(windows.blend(patches.view(cells.shape)))
    return torch.cat(found)
