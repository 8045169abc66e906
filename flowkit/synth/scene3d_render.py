"""Pairs of 3-D scenes: images, flow, occlusion and depth in both directions, and the two-view geometry.

Pixels are held in the order of their tiles (scene3d_raycast) until the pictures are finished.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from flowkit.batch import PairBatch, concatenate
from flowkit.geometry.epipolar import skew
from flowkit.geometry.grids import inside
from flowkit.synth.cameras import inverse_intrinsics
from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scenes3D
from flowkit.synth.scene3d_raycast import CHUNK, Tiles, hidden, nearest, tiled, untiled
from flowkit.synth.scene3d_surfaces import Forms, forms_of, slots_of
from flowkit.synth.scene3d_textures import (
    COLUMNS,
    PACKED,
    SHADING,
    Atlas,
    atlas_of,
    coat_of,
    colours,
    mean_colours,
)
from flowkit.types import Size

MADE = {"family": "scene3d"}
TOGETHER = 1 << 17
"""How many pixels are in work at once where there is no GPU, but for single scenes: more do not fit into the caches."""
FARTHEST = 4.0
"""A flow that is longer than so many picture diagonals counts as unknown."""
BORDERS = 0.125
"""Share of the pixels that can be antialiased; more of them than that seldom lie at borders."""
SUBPIXELS = ((-0.375, -0.125), (-0.125, 0.375), (0.125, -0.375), (0.375, 0.125))
"""Where the four rays of a border pixel go: a turned square."""
SMALL = 256
"""Pictures up to this size do without the finest scale of the photos and cut-outs."""


@dataclass(frozen=True)
class Views:
    """What the cameras of B scenes see, the B first ones and then the B second ones as a batch of 2 B: the surfaces, what is
    looked up for them, the finest scale of photos used.
    """

    forms: Forms
    coat: Tensor
    finest: int


@dataclass(frozen=True)
class Sight:
    """What 2 B cameras see: `rgb` (2 B, 3, H, W), `depth` (2 B, H, W); the rest is as in PairBatch."""

    rgb: Tensor
    depth: Tensor
    flow: Tensor
    valid: Tensor
    occlusion: Tensor
    moving: Tensor


def render_scenes3d(scenes: Scenes3D, photos: PhotoStore) -> PairBatch:
    """The pairs of B scenes, with every field of PairBatch; cameras, E = [t]x R and F (norm 1) are float64.

    t has the scenes' own scale; where a camera only turned, t, E and F are 0. `valid` is False for the few pixels whose point
    lies beside or behind the other camera.
    """
    step = max(1, TOGETHER // (scenes.size[0] * scenes.size[1]))
    if photos.device.type != "cuda" and len(scenes) > step:
        parts = [scenes[k : k + step] for k in range(0, len(scenes), step)]
        return replace(concatenate(render_scenes3d(part, photos) for part in parts), made=MADE)
    sight = _see(views_of(scenes, photos), scenes, photos)
    first, second = slice(None, len(scenes)), slice(len(scenes), None)
    E = skew(scenes.t) @ scenes.R
    F = inverse_intrinsics(scenes.K1).mT @ E @ inverse_intrinsics(scenes.K0)
    return PairBatch(
        image0=sight.rgb[first],
        image1=sight.rgb[second],
        flow=sight.flow[first],
        valid=sight.valid[first],
        occlusion=sight.occlusion[first],
        backward=sight.flow[second],
        backward_valid=sight.valid[second],
        backward_occlusion=sight.occlusion[second],
        depth0=sight.depth[first],
        depth1=sight.depth[second],
        K0=scenes.K0,
        K1=scenes.K1,
        R=scenes.R,
        t=scenes.t,
        E=E,
        F=F / F.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300),
        moving=sight.moving[first],
        made=MADE,
    )


def views_of(scenes: Scenes3D, photos: PhotoStore) -> Views:
    """Both cameras' sides."""
    finest = min(len(photos.levels) - 1, int(max(scenes.size) <= SMALL))
    R, t = scenes.rotations, scenes.translations
    back = -(R.mT @ t[..., None])[..., 0]
    objects, skins = scenes.objects.joined(scenes.objects.moved(R, t)), scenes.skins.joined(scenes.skins)
    K, other = torch.cat([scenes.K0, scenes.K1]), torch.cat([scenes.K1, scenes.K0])
    counts, slots = objects.counts, slots_of(objects)
    alpha = None
    if counts.cutouts:
        atlas = atlas_of(photos, finest)
        alpha = atlas.alpha(skins.cutout, _cutout_levels(scenes, atlas).repeat(2, 1), counts)
    forms = forms_of(objects, slots, K, alpha)
    M = (other[:, None] @ torch.cat([R, R.mT]) @ inverse_intrinsics(K)[:, None]).flatten(2)
    m = (other[:, None] @ torch.cat([t, back])[..., None])[..., 0]
    links = torch.cat([M, m, scenes.moving[..., None].double().repeat(2, 1, 1)], -1)
    links = links.gather(1, slots.object[..., None].expand(-1, -1, links.shape[-1]))
    # mu is linear in the pixel on flat surfaces; elsewhere the texture's scale is chosen as if it faced the camera.
    slopes = forms.table[..., 6:8] * forms.flat[:, None]
    means = mean_colours(photos, scenes.skins).repeat(2, 1, 1)
    return Views(forms, coat_of(slots, slopes, counts, skins, K, means, links), finest)


def _cutout_levels(scenes: Scenes3D, atlas: Atlas) -> Tensor:
    """(B, cutouts): the scale of each cut-out that has about a texel a pixel in image0; the same for both pictures."""
    return (atlas.sides[0] / scenes.cutout_widths).log2().round().clamp(0, PACKED - 1).long()


def _see(views: Views, scenes: Scenes3D, photos: PhotoStore) -> Sight:
    """What all cameras see, and where that is in the other picture."""
    size, count = scenes.size, len(scenes)
    tiles = Tiles.of_picture(2 * count, size, views.coat.device)
    surface, mu = nearest(views.forms, tiles)
    x, y = tiles.x.flatten(), tiles.y.flatten()
    rgb = _shaded(views, surface, x, y, mu, photos)
    if scenes.antialias:
        rgb = _smoothed(rgb, surface, views, tiles, photos, size)
    flow, valid, inner, moving, places = in_chunks(partial(_carried, views.coat, size), surface, x, y, mu)
    # What one camera sees has to be looked for among the surfaces as the other one sees them.
    swapped = [v.reshape(tiles.x.shape).roll(count, 0) for v in (*places, mu)]
    seen = inner & ~hidden(views.forms, Tiles(*swapped[:3]), swapped[3]).unflatten(0, (2, -1)).flip(0).flatten()

    def picture(values: Tensor) -> Tensor:
        return untiled(values.unflatten(-1, (2 * count, -1)), size)

    return Sight(
        rgb=picture(rgb).transpose(0, 1).mul(1 / 255).clamp_(0, 1),
        depth=picture(1 / mu),
        flow=picture(flow).transpose(0, 1).contiguous(),
        valid=picture(valid),
        occlusion=picture(~seen),
        moving=picture(moving),
    )


def _carried(coat: Tensor, size: Size, surface: Tensor, x: Tensor, y: Tensor, mu: Tensor) -> tuple[Tensor, ...]:
    """Where the hits of pixels (x, y) (N,) with surfaces (N,) at mu (N,) are in the other picture.

    Flow (2, N), 0 where it is not valid; valid, within the picture, moving (N,) bool; homogeneous pixels (3, N). Those that
    are not within the picture are brought to its rim: they are occluded anyway, and shall not widen their tile.
    """
    c = coat[SHADING:COLUMNS].index_select(1, surface).unbind(0)
    there = [
        torch.addcmul(c[3 * i + 2], c[3 * i], x).addcmul_(c[3 * i + 1], y).addcmul_(c[9 + i], mu) for i in range(3)
    ]
    front = there[2] > 1e-3
    w = torch.where(front, there[2], torch.ones_like(mu))
    points = torch.stack([there[0] / w, there[1] / w])
    flow = points - torch.stack([x, y])
    valid = front & (flow.abs().amax(0) < FARTHEST * (size[0] ** 2 + size[1] ** 2) ** 0.5)
    places = [points[0].clamp(-0.5, size[1] - 0.5).mul_(w), points[1].clamp(-0.5, size[0] - 0.5).mul_(w), w]
    return flow * valid, valid, valid & inside(points.t(), size), c[12] > 0.5, torch.stack(places)


def in_chunks(work: Callable[..., tuple[Tensor, ...]], *pixels: Tensor) -> tuple[Tensor, ...]:
    """What `work` makes of tensors (N,), piece by piece where there is no GPU, so that the pieces stay in the cache."""
    step = max(1, len(pixels[0]) if pixels[0].is_cuda else CHUNK // 2)
    starts = range(0, max(1, len(pixels[0])), step)  # of no pixels, too, it makes something: empty tensors
    parts = [work(*(v[start : start + step] for v in pixels)) for start in starts]
    return tuple(torch.cat(part, -1) for part in zip(*parts, strict=True))


def _shaded(views: Views, surface: Tensor, x: Tensor, y: Tensor, mu: Tensor, photos: PhotoStore) -> Tensor:
    """(3, N) colours in 0..255 of pixels (N,)."""

    def work(surface: Tensor, x: Tensor, y: Tensor, mu: Tensor) -> tuple[Tensor]:
        return (colours(views.coat, surface, x, y, mu, photos, views.forms.alpha, views.finest),)

    return in_chunks(work, surface, x, y, mu)[0]


def _smoothed(rgb: Tensor, surface: Tensor, views: Views, tiles: Tiles, photos: PhotoStore, size: Size) -> Tensor:
    """The colours (3, N) with those of pixels at the borders of surfaces (N,) averaged over four rays.

    The border pixels of every picture are packed to the front of a list, in the order of their tiles. On a GPU its length is
    fixed, so that nothing waits for their number.
    """
    count, n, rays = len(tiles.x), tiles.x.shape[2], len(SUBPIXELS)
    border = _borders(surface.unflatten(0, (count, -1)), size)
    total = border.shape[1]
    most = BORDERS * total
    if not rgb.is_cuda:
        most = min(most, int(border.sum(1).amax()))
    room = max(1, -(-int(most) * rays // n)) * n // rays
    place = torch.where(border, border.cumsum(1) - 1, room).clamp_max_(room)
    listed = torch.full((count, room + 1), total, device=rgb.device)
    listed.scatter_(1, place, torch.arange(total, device=rgb.device).expand(count, -1))
    chosen = listed[:, :room]
    where = chosen.clamp_max(total - 1)
    offsets = torch.tensor(SUBPIXELS, device=rgb.device)
    x, y = (
        (v.flatten(1).gather(1, where)[..., None] + offsets[:, i]).reshape(count, -1, n)
        for i, v in enumerate((tiles.x, tiles.y))
    )
    winner, mu = nearest(views.forms, Tiles(x, y))
    # Rays that see what their pixel's centre sees have its colour; only the others are looked up.
    centre = (where + torch.arange(count, device=rgb.device)[:, None] * total).flatten().repeat_interleave(rays)
    shades = rgb.index_select(1, centre)
    differs = (winner != surface.index_select(0, centre)).nonzero()[:, 0]
    rest = [v.flatten().index_select(0, differs) for v in (winner, x, y, mu)]
    shades.index_copy_(1, differs, _shaded(views, rest[0], rest[1], rest[2], rest[3], photos))
    mixed = shades.reshape(3, count, room, rays).mean(-1)
    padded = torch.cat([rgb.unflatten(1, (count, total)), rgb.new_empty(3, count, 1)], 2)
    return padded.scatter_(2, chosen.expand(3, -1, -1), mixed)[:, :, :total].flatten(1)


def _borders(slot: Tensor, size: Size) -> Tensor:
    """(B, P) bool: pixels with a neighbour that sees another surface (B, P); both in the order of tiles."""
    picture = untiled(slot, size)
    border = torch.zeros_like(picture, dtype=torch.bool)
    across, down = picture[:, :, 1:] != picture[:, :, :-1], picture[:, 1:] != picture[:, :-1]
    border[:, :, 1:] |= across
    border[:, :, :-1] |= across
    border[:, 1:] |= down
    border[:, :-1] |= down
    return tiled(border)
