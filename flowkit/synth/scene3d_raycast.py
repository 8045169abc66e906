"""The z-buffer of 3-D scenes: which surface a pixel sees, and whether a point is hidden.

Distances are inverse depths mu = 1/z: the nearest surface has the largest, and where there is none it is not positive.
Pixels come in tiles. A tile is first compared, by the bounds of the linear forms over its bounding box, with every surface;
then its pixels only with the few that remain. The bounds are conservative, so nothing is lost.

All arithmetic is elementwise in float32: matrix products might be done in TF32 or bfloat16 if the program around asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.geometry.grids import pixel_grid
from flowkit.synth.scene3d_surfaces import Forms
from flowkit.types import Size

STEEP = 1e9
"""Factor that makes an inside-outside margin decide: min(mu, STEEP * margin) is mu inside and not positive outside."""
SAME = 1e-4
"""A surface hides a point only if it is nearer by more than this share of the depth: float32 cannot tell the rest."""
INDEX_BITS = 6
"""The lowest bits of mu that give way to the number of the surface while the nearest one is looked for."""
NEWTON_STEPS = 3
TILE = 16
"""Side of a tile of pixels."""
CHUNK = 1 << 15
"""How many numbers are in work at once where there is no GPU: they stay in the cache."""
LOOSE = 1e-5
"""Slack of the bounds over a tile, for rounding."""


@dataclass(frozen=True)
class Tiles:
    """Homogeneous pixels in tiles: `x`, `y` (B, T, n) float32, and `w` (B, T, n), positive, or None for 1."""

    x: Tensor
    y: Tensor
    w: Tensor | None = None

    @classmethod
    def of_picture(cls, count: int, size: Size, device: torch.device) -> Tiles:
        """All pixels of B pictures, TILE x TILE a tile, row by row; beyond the picture its last pixels are repeated."""
        rows, columns = (-(-n // TILE) for n in size)
        grid = pixel_grid(rows * TILE, columns * TILE, device=device)
        grid = (
            grid.unflatten(2, (columns, TILE)).unflatten(1, (rows, TILE)).transpose(2, 3).reshape(2, rows * columns, -1)
        )
        x, y = grid[0].clamp_max(size[1] - 1), grid[1].clamp_max(size[0] - 1)
        return cls(x.expand(count, -1, -1), y.expand(count, -1, -1))

    def box(self) -> Tensor:
        """(B, T, 4): middle x and y, and half width and height, of each tile's pixels (x / w, y / w)."""
        x, y = (self.x, self.y) if self.w is None else (self.x / self.w, self.y / self.w)
        low = torch.stack([x.amin(-1), y.amin(-1)], -1)
        high = torch.stack([x.amax(-1), y.amax(-1)], -1)
        return torch.cat([(low + high) / 2, (high - low) / 2], -1)


def untiled(values: Tensor, size: Size) -> Tensor:
    """(..., H, W) of values (..., P) in the order of `Tiles.of_picture`."""
    rows, columns = (-(-n // TILE) for n in size)
    picture = values.unflatten(-1, (rows, columns, TILE, TILE)).transpose(-3, -2)
    return picture.reshape(*values.shape[:-1], rows * TILE, columns * TILE)[..., : size[0], : size[1]].contiguous()


def tiled(picture: Tensor) -> Tensor:
    """(..., P) in the order of `Tiles.of_picture` of a picture (..., H, W); 0 beyond it."""
    height, width = picture.shape[-2:]
    padded = torch.nn.functional.pad(picture, (0, -width % TILE, 0, -height % TILE))
    return padded.unflatten(-1, (-1, TILE)).unflatten(-3, (-1, TILE)).transpose(-3, -2).flatten(-4)


@dataclass(frozen=True)
class Pairs:
    """Which surfaces have to be tried for which tile, sorted so that the k-th surfaces of all tiles that have one are together.

    Tiles count over the batch. `order` (B T,) lists them by falling number of surfaces; `tile` and `slot` (M,) are the pairs;
    `lengths[k]` of them are k-th ones, those of the first `lengths[k]` tiles of `order`.
    """

    order: Tensor
    tile: Tensor
    slot: Tensor
    lengths: list[int]

    def largest(self, scores: Tensor) -> Tensor:
        """(B T, n): the largest of the scores (M, n) of each tile; 0 for a tile without pairs."""
        best = torch.zeros(len(self.order), scores.shape[1], dtype=scores.dtype, device=scores.device)
        if scores.is_cuda:  # one kernel instead of many small ones
            return best.scatter_reduce_(0, self.tile[:, None].expand_as(scores), scores, "amax")
        start = 0
        for length in self.lengths:
            torch.maximum(best[:length], scores[start : start + length], out=best[:length])
            start += length
        return torch.empty_like(best).index_copy_(0, self.order, best)


def pairs_of(wanted: Tensor) -> Pairs:
    """The pairs of a mask (B, T, slots) bool."""
    mask = wanted.flatten(0, 1)
    number = mask.sum(1)
    order = number.argsort(descending=True, stable=True)
    mask = mask[order]
    place, slot = mask.nonzero().unbind(1)
    rank = (mask.cumsum(1) - 1)[place, slot]
    by_rank = rank.argsort(stable=True)
    lengths = (number[:, None] > torch.arange(mask.shape[1], device=mask.device)).sum(0).tolist()
    return Pairs(order, order[place[by_rank]], slot[by_rank], [n for n in lengths if n])


def nearest(forms: Forms, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Which surface (N,) int64 each pixel sees, counting over the whole batch, and its mu (N,); N pixels in all tiles."""
    pairs = pairs_of(_may_be_seen(forms, tiles.box()))
    scores = _scores(forms, tiles, pairs)
    mu = pairs.largest(scores)
    low = (1 << INDEX_BITS) - 1
    packed = scores.view(torch.int32).bitwise_and_(~low).bitwise_or_(pairs.slot.int()[:, None])
    slot = pairs.largest(packed).bitwise_and_(low)
    tile = torch.arange(len(slot), device=slot.device)[:, None]
    return surface_numbers(tile, slot.long(), tiles, forms.counts.slots).flatten(), mu.flatten()


def hidden(forms: Forms, tiles: Tiles, mu: Tensor) -> Tensor:
    """(N,) bool: whether something is in front of points at these homogeneous pixels, N in all tiles.

    `mu` (B, T, n) is the points' inverse depth times w. The enclosure hides nothing, for everything is within it.
    """
    assert tiles.w is not None
    pairs = pairs_of(_may_hide(forms, tiles.box(), (mu / tiles.w).amin(-1)))
    best = pairs.largest(_scores(forms, tiles, pairs, mu))
    return (best > (mu * (1 + SAME)).flatten(0, 1)).flatten()


def _bounds(forms: Forms, box: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of every surface (B, T, S) over boxes (B, T, 4): largest and smallest margin of being inside, largest and smallest mu.

    The margin is the smallest of c - |a| and c - |b|; as the four edges are linear forms, they are extreme at the corners.
    """
    rows = forms.edges[:, None]
    x, y, wide, high = box[:, :, None, None].unbind(-1)
    middle = rows[..., 0] * x + rows[..., 1] * y + rows[..., 2]
    spread = rows[..., 0].abs() * wide + rows[..., 1].abs() * high + LOOSE * rows[..., 3]
    upper, lower = middle + spread, middle - spread
    most = upper[..., 4] * (forms.near + forms.bulge)[:, None]
    return upper[..., :4].amin(-1), lower[..., :4].amin(-1), most, lower[..., 4]


def _may_be_seen(forms: Forms, box: Tensor) -> Tensor:
    """(B, T, S) bool: False for surfaces that miss the box, or lie wholly behind one that fills it."""
    outer, inner, most, least = _bounds(forms, box)
    fills = torch.where((inner >= 0) & forms.solid, least, 0).amax(-1, keepdim=True)
    return (outer >= 0) & (most > 0) & (most >= fills)


def _may_hide(forms: Forms, box: Tensor, floor: Tensor) -> Tensor:
    """(B, T, S) bool: False for surfaces that miss the box or lie behind all points, whose least mu is `floor` (B, T)."""
    outer, _, most, _ = _bounds(forms, box)
    return (outer >= 0) & (most > floor[..., None]) & forms.within


def _scores(forms: Forms, tiles: Tiles, pairs: Pairs, mu: Tensor | None = None) -> Tensor:
    """(M, n): mu of each pair's surface at the tile's pixels, times w; not positive where the ray misses it.

    With the points' `mu` (B, T, n) (times w), a relief gives twice that where it hides the point.
    """
    counts, total, table = forms.counts, len(pairs.tile), forms.table.flatten(0, 1)
    which = surface_numbers(pairs.tile, pairs.slot, tiles, counts.slots)
    scores = tiles.x.new_empty(total, tiles.x.shape[-1])
    step = total if scores.is_cuda else CHUNK // scores.shape[1]
    for start in range(0, total, max(1, step)):
        part = slice(start, start + step)
        a, b, c = _values(table, which[part], tiles, pairs.tile[part])
        margin = torch.sub(c, torch.maximum(a.abs_(), b.abs_(), out=a), out=a).mul_(STEEP)
        torch.minimum(margin, c, out=scores[part])

    def of(kind: slice) -> Tensor:
        return ((pairs.slot >= kind.start) & (pairs.slot < kind.stop)).nonzero()[:, 0]

    if counts.rounds:
        chosen = of(counts.round_slots)
        scores.index_copy_(0, chosen, _round_mu(forms, which[chosen], tiles, pairs.tile[chosen]))
    if forms.alpha is not None:
        chosen = of(counts.cutout_slots)
        outline = forms.alpha.margin(which[chosen], *_values(table, which[chosen], tiles, pairs.tile[chosen]))
        scores.index_copy_(0, chosen, scores.index_select(0, chosen).minimum(outline))
    if counts.reliefs:
        chosen = of(slice(counts.slots - 1, counts.slots))
        scores.index_copy_(0, chosen, _relief_scores(forms, tiles, pairs.tile[chosen], mu))
    return scores


def surface_numbers(tile: Tensor, slot: Tensor, tiles: Tiles, slots: int) -> Tensor:
    """Numbers of surfaces (M,) over the whole batch, of those `slot` (M,) that belong to the scenes of tiles (M,)."""
    return torch.div(tile, tiles.x.shape[1], rounding_mode="floor") * slots + slot


def _values(table: Tensor, which: Tensor, tiles: Tiles, tile: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(M, n): the three forms in the first columns of rows `which` (M,) of a table, at the pixels of tiles (M,)."""
    rows = table.index_select(0, which)[:, :9, None].unbind(1)
    x, y = (v.flatten(0, 1).index_select(0, tile) for v in (tiles.x, tiles.y))
    if tiles.w is None:
        first = [torch.addcmul(rows[k + 2], rows[k], x) for k in (0, 3, 6)]
    else:
        w = tiles.w.flatten(0, 1).index_select(0, tile)
        first = [(rows[k + 2] * w).addcmul_(rows[k], x) for k in (0, 3, 6)]
    return first[0].addcmul_(rows[1], y), first[1].addcmul_(rows[4], y), first[2].addcmul_(rows[7], y)


def _round_mu(forms: Forms, which: Tensor, tiles: Tiles, tile: Tensor) -> Tensor:
    """(M, n): mu of rounds; a difference of squares tells whether the ray meets them."""
    a, b, c = _values(forms.table.flatten(0, 1), which, tiles, tile)
    near, bulge = (v.flatten().index_select(0, which)[:, None] for v in (forms.near, forms.bulge))
    D = (c * c).addcmul_(a, a, value=-1).addcmul_(b, b, value=-1)
    mu = (near * c).addcmul_(bulge, D.clamp_min(0).sqrt_())
    return mu.minimum(D.mul_(STEEP * STEEP)).minimum(c.mul_(STEEP))


def _relief_scores(forms: Forms, tiles: Tiles, tile: Tensor, mu: Tensor | None) -> Tensor:
    """(M, n): mu of the relief at the pixels of tiles (M,), or twice a point's `mu` where it is hidden, else 0."""
    scene = torch.div(tile, tiles.x.shape[1], rounding_mode="floor")
    relief, waves = forms.relief[scene][..., None], forms.waves[scene]
    across, u, v = _values(forms.relief, scene, tiles, tile)
    if mu is None:
        return _relief_mu(relief, waves, across, u, v)
    own = mu.flatten(0, 1).index_select(0, tile)
    # Points beyond the only crossing of their ray are those on the far side.
    height, _, _ = relief_height(waves, relief[:, 12], u / own + relief[:, 10], v / own + relief[:, 11])
    return (across > (relief[:, 9] + height) * (1 + 2 * SAME) * own) * (2 * own)


def _relief_mu(relief: Tensor, waves: Tensor, across: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Newton's method for the depth; heights are so gentle that every ray crosses them once (see scene3d_layouts)."""
    away = across <= 0
    slope = torch.where(away, 1.0, across)
    distance = relief[:, 9]
    depth = distance / slope
    for _ in range(NEWTON_STEPS):
        height, by_u, by_v = relief_height(waves, relief[:, 12], u * depth + relief[:, 10], v * depth + relief[:, 11])
        rise = (across - by_u * u - by_v * v).maximum(0.1 * slope)
        depth = depth - (across * depth - distance - height) / rise
    return torch.where(away, -1.0, 1 / depth)


def relief_height(waves: Tensor, fading: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Heights (M, n) behind the plane at places (u, v) (M, n) of it, and their derivatives by u and v.

    `waves` (M, WAVES, 4) and `fading` (M, 1) as in Objects.
    """
    fu, fv, phase, amplitude = waves[..., None].unbind(2)
    angle = (fu * u[:, None]).addcmul_(fv, v[:, None]).add_(phase)
    waves = (amplitude * angle.sin()).sum(1)
    turn = angle.cos_().mul_(amplitude)
    share = 1 / (1 + (u * u + v * v) / fading**2)
    fall = -2 * share * share / fading**2 * waves
    return share * waves, share * (turn * fu).sum(1) + fall * u, share * (turn * fv).sum(1) + fall * v
