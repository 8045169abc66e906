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

STEEP = 1e15
"""Factor that makes an inside-outside margin decide: min(mu, STEEP * margin) is mu inside and not positive outside."""
SAME = 1e-4
"""A surface hides a point only if it is nearer by more than this share of the depth: float32 cannot tell the rest."""
INDEX_BITS = 6
"""The lowest bits of mu that give way to the number of the surface while the nearest one is looked for."""
NEWTON_STEPS = 5
TILE = 16
"""Side of a tile of pixels."""
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
    """Which surface (B, P) int64 each pixel sees, and its mu (B, P); P counts the pixels of all tiles."""
    pairs = pairs_of(_may_be_seen(forms, tiles.box()))
    scores = _scores(forms, tiles, pairs)
    mu = pairs.largest(scores)
    low = (1 << INDEX_BITS) - 1
    packed = scores.view(torch.int32).bitwise_and_(~low).bitwise_or_(pairs.slot.int()[:, None])
    slot = pairs.largest(packed).bitwise_and_(low)
    shape = (len(tiles.x), -1)
    return slot.reshape(shape).long(), mu.reshape(shape)


def hidden(forms: Forms, tiles: Tiles, mu: Tensor) -> Tensor:
    """(B, P) bool: whether something is in front of points at these homogeneous pixels.

    `mu` (B, T, n) is the points' inverse depth times w. The enclosure hides nothing, for everything is within it.
    """
    assert tiles.w is not None
    pairs = pairs_of(_may_hide(forms, tiles.box(), (mu / tiles.w).amin(-1)))
    best = pairs.largest(_scores(forms, tiles, pairs, mu))
    return (best > (mu * (1 + SAME)).flatten(0, 1)).reshape(len(mu), -1)


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
    width = tiles.x.shape[1]
    x, y = (v.flatten(0, 1).index_select(0, pairs.tile) for v in (tiles.x, tiles.y))
    w = None if tiles.w is None else tiles.w.flatten(0, 1).index_select(0, pairs.tile)
    which = torch.div(pairs.tile, width, rounding_mode="floor") * forms.counts.slots + pairs.slot
    rows = forms.table.flatten(0, 1).index_select(0, which)[..., None]
    a, b, c = (_linear(rows[:, 3 * k : 3 * k + 3], x, y, w) for k in range(3))
    cut = forms.counts.cutout_slots
    panels = ((pairs.slot >= cut.start) & (pairs.slot < cut.stop)).nonzero()[:, 0] if forms.alpha is not None else None
    if panels is not None and forms.alpha is not None:
        outline = forms.alpha.margin(which[panels], *(v.index_select(0, panels) for v in (a, b, c)))
    # Inside a rectangle |a|, |b| <= c, inside a round a^2 + b^2 <= c^2: c^2 - max(a^2, b^2) - round min(a^2, b^2) >= 0.
    a, b = a.mul_(a), b.mul_(b)
    margin = torch.maximum(a, b).addcmul_(torch.minimum(a, b), rows[:, 9]).neg_().addcmul_(c, c)
    distance = (c * rows[:, 10]).addcmul_(margin.clamp_min(0).sqrt_(), rows[:, 11])
    scores = torch.minimum(torch.minimum(distance, margin.mul_(STEEP)), c.mul_(STEEP))
    if panels is not None:
        scores.index_copy_(0, panels, torch.minimum(scores.index_select(0, panels), outline))
    if forms.counts.reliefs:
        chosen = (pairs.slot == forms.counts.slots - 1).nonzero()[:, 0]
        scene = torch.div(pairs.tile[chosen], width, rounding_mode="floor")
        places = (x[chosen], y[chosen], None if w is None else w[chosen])
        if mu is None:
            scores.index_copy_(0, chosen, _relief_mu(forms, scene, places))
        else:
            own = mu.flatten(0, 1).index_select(0, pairs.tile[chosen])
            scores.index_copy_(0, chosen, _relief_hides(forms, scene, places, own) * (2 * own))
    return scores


def _linear(rows: Tensor, x: Tensor, y: Tensor, w: Tensor | None) -> Tensor:
    """(M, n): forms (M, 3, 1) at homogeneous pixels (M, n)."""
    if w is None:
        return torch.addcmul(rows[:, 2], rows[:, 0], x).addcmul_(rows[:, 1], y)
    return (rows[:, 2] * w).addcmul_(rows[:, 0], x).addcmul_(rows[:, 1], y)


def _relief_mu(forms: Forms, scene: Tensor, places: tuple[Tensor, Tensor, Tensor | None]) -> Tensor:
    """Newton's method for the depth; heights are so gentle that every ray crosses them once (see scene3d_layouts)."""
    relief = forms.relief[scene][..., None]
    across, u, v = (_linear(relief[:, 3 * k : 3 * k + 3], *places) for k in range(3))
    away = across <= 0
    slope = torch.where(away, 1.0, across)
    distance, waves = relief[:, 9], forms.waves[scene]
    depth = distance / slope
    for _ in range(NEWTON_STEPS):
        height, by_u, by_v = relief_height(waves, relief[:, 12], u * depth + relief[:, 10], v * depth + relief[:, 11])
        rise = (across - by_u * u - by_v * v).maximum(0.1 * slope)
        depth = depth - (across * depth - distance - height) / rise
    return torch.where(away, -1.0, 1 / depth)


def _relief_hides(forms: Forms, scene: Tensor, places: tuple[Tensor, Tensor, Tensor | None], mu: Tensor) -> Tensor:
    """Points beyond the only crossing of their ray: those on the far side of the relief."""
    relief = forms.relief[scene][..., None]
    across, u, v = (_linear(relief[:, 3 * k : 3 * k + 3], *places) / mu for k in range(3))
    height, _, _ = relief_height(forms.waves[scene], relief[:, 12], u + relief[:, 10], v + relief[:, 11])
    return across > (relief[:, 9] + height) * (1 + 2 * SAME)


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
