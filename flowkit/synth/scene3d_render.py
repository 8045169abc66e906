"""Pairs of 3-D scenes: images, flow, occlusion and depth in both directions, and the two-view geometry.

Pixels are held in the order of their tiles (scene3d_raycast) until the pictures are finished.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowkit.batch import PairBatch, concatenate
from flowkit.geometry.epipolar import skew
from flowkit.geometry.grids import inside
from flowkit.synth.cameras import inverse_intrinsics
from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scenes3D
from flowkit.synth.scene3d_raycast import Tiles, hidden, nearest, tiled, untiled
from flowkit.synth.scene3d_surfaces import Forms, Objects, forms_of, slots_of
from flowkit.synth.scene3d_textures import (
    PACKED,
    Atlas,
    atlas_of,
    coat_of,
    colours,
    lay_cutouts,
    look_up,
    mean_colours,
)
from flowkit.types import Size

MADE = {"family": "scene3d"}
TOGETHER = 4
"""How many scenes are in work at once where there is no GPU: more do not fit into the caches."""
FARTHEST = 4.0
"""A flow that is longer than so many picture diagonals counts as unknown."""
BORDERS = 0.125
"""Share of the pixels that can be antialiased; more of them than that seldom lie at borders."""
SUBPIXELS = ((-0.375, -0.125), (-0.125, 0.375), (0.125, -0.375), (0.375, 0.125))
"""Where the four rays of a border pixel go: a turned square."""
SMALL = 256
"""Pictures up to this size do without the finest scale of the photos and cut-outs."""


@dataclass(frozen=True)
class View:
    """One camera's side of a batch of scenes: the surfaces, what is looked up for them, the finest scale of photos used."""

    forms: Forms
    coat: Tensor
    finest: int


@dataclass(frozen=True)
class Sight:
    """What one camera sees: `rgb` (B, 3, H, W), `depth` (B, H, W), `flow`, `valid`, `occlusion`, `moving` as in PairBatch."""

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
    if photos.device.type != "cuda" and len(scenes) > TOGETHER:
        parts = [scenes[k : k + TOGETHER] for k in range(0, len(scenes), TOGETHER)]
        return replace(concatenate(render_scenes3d(part, photos) for part in parts), made=MADE)
    view0, view1 = views_of(scenes, photos)
    first = _see(view0, view1, scenes, photos)
    second = _see(view1, view0, scenes, photos)
    E = skew(scenes.t) @ scenes.R
    F = inverse_intrinsics(scenes.K1).mT @ E @ inverse_intrinsics(scenes.K0)
    return PairBatch(
        image0=first.rgb,
        image1=second.rgb,
        flow=first.flow,
        valid=first.valid,
        occlusion=first.occlusion,
        backward=second.flow,
        backward_valid=second.valid,
        backward_occlusion=second.occlusion,
        depth0=first.depth,
        depth1=second.depth,
        K0=scenes.K0,
        K1=scenes.K1,
        R=scenes.R,
        t=scenes.t,
        E=E,
        F=F / F.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-300),
        moving=first.moving,
        made=MADE,
    )


def views_of(scenes: Scenes3D, photos: PhotoStore) -> tuple[View, View]:
    """Both cameras' sides."""
    finest = min(len(photos.levels) - 1, int(max(scenes.size) <= SMALL))
    atlas = atlas_of(photos, finest) if scenes.objects.counts.cutouts else None
    level = _cutout_levels(scenes, atlas) if atlas is not None else None
    R, t = scenes.rotations, scenes.translations
    back_t = -(R.mT @ t[..., None])[..., 0]
    means = mean_colours(photos, scenes.skins.photo)

    def view(objects: Objects, K: Tensor, other: Tensor, R: Tensor, t: Tensor) -> View:
        counts, slots = objects.counts, slots_of(objects)
        alpha = None if atlas is None or level is None else atlas.alpha(scenes.skins.cutout, level, counts)
        forms = forms_of(objects, slots, K, alpha)
        M = (other[:, None] @ R @ inverse_intrinsics(K)[:, None]).flatten(2)
        m = (other[:, None] @ t[..., None])[..., 0]
        links = torch.cat([M, m, scenes.moving[..., None].double()], -1)
        links = links.gather(1, slots.object[..., None].expand(-1, -1, links.shape[-1]))
        # mu is linear in the pixel on flat surfaces; elsewhere the texture's scale is chosen as if it faced the camera.
        slopes = forms.table[..., 6:8] * (forms.table[..., 9:10] == 0)
        return View(forms, coat_of(slots, slopes, counts, scenes.skins, K, means, links), finest)

    return (
        view(scenes.objects, scenes.K0, scenes.K1, R, t),
        view(scenes.objects.moved(R, t), scenes.K1, scenes.K0, R.mT, back_t),
    )


def _cutout_levels(scenes: Scenes3D, atlas: Atlas) -> Tensor:
    """(B, cutouts): the scale of each cut-out that has about a texel a pixel in image0; the same for both pictures."""
    part = scenes.objects.counts.span("cutouts")
    wide = 2 * scenes.objects.axes[:, part, 0].norm(dim=-1)
    pixels = wide * scenes.K0[:, :1, 0] / scenes.objects.centre[:, part].norm(dim=-1)
    return (atlas.sides[0] / pixels).log2().round().clamp(0, PACKED - 1).long()


def _see(view: View, other: View, scenes: Scenes3D, photos: PhotoStore) -> Sight:
    """What the camera of `view` sees, and where that is in the other picture."""
    size = scenes.size
    tiles = Tiles.of_picture(len(scenes.K0), size, view.coat.device)
    slot, mu = nearest(view.forms, tiles)
    columns = look_up(view.coat, slot)
    x, y = tiles.x.flatten(1), tiles.y.flatten(1)
    rgb = _shaded(view, columns, x, y, mu, photos)
    if scenes.antialias:
        rgb = _smoothed(rgb, slot, view, tiles, photos, size)
    c = columns.unbind(0)
    there = [
        torch.addcmul(c[19 + 3 * i], c[17 + 3 * i], x).addcmul_(c[18 + 3 * i], y).addcmul_(c[26 + i], mu)
        for i in range(3)
    ]
    front = there[2] > 1e-3
    w = torch.where(front, there[2], 1.0)
    points = torch.stack([there[0] / w, there[1] / w], 1)
    flow = points - torch.stack([x, y], 1)
    valid = front & (flow.abs().amax(1) < FARTHEST * (size[0] ** 2 + size[1] ** 2) ** 0.5)
    seen = valid & inside(points.transpose(1, 2), size)
    # Points that are not in the picture are occluded anyway; brought to its rim, they do not widen their tile.
    limit = torch.tensor([size[1], size[0]], device=w.device)[:, None]
    near = points.clamp_min(-0.5).minimum(limit - 0.5)
    places = Tiles(*(v.reshape(tiles.x.shape) for v in (near[:, 0] * w, near[:, 1] * w, w)))
    seen &= ~hidden(other.forms, places, mu.reshape(tiles.x.shape))
    return Sight(
        rgb=untiled(rgb.transpose(0, 1), size).mul_(1 / 255).clamp_(0, 1),
        depth=untiled(1 / mu, size),
        flow=untiled(flow * valid[:, None], size),
        valid=untiled(valid, size),
        occlusion=untiled(~seen, size),
        moving=untiled(c[29] > 0.5, size),
    )


def _shaded(view: View, columns: Tensor, x: Tensor, y: Tensor, mu: Tensor, photos: PhotoStore) -> Tensor:
    rgb = colours(columns, x, y, mu, photos, view.finest)
    if view.forms.alpha is not None:
        lay_cutouts(rgb, columns, x, y, mu, view.forms.alpha, view.forms.counts.cutout_slots.start)
    return rgb


def _smoothed(rgb: Tensor, slot: Tensor, view: View, tiles: Tiles, photos: PhotoStore, size: Size) -> Tensor:
    """The colours (3, B, P) with those of pixels at the borders of surfaces (B, P) averaged over four rays.

    The border pixels are packed to the front of a list of fixed length, in the order of their tiles.
    """
    count, total = slot.shape
    n = tiles.x.shape[2]
    room = max(1, int(BORDERS * total) * 4 // n) * n // 4
    border = _borders(slot, size)
    place = torch.where(border, border.cumsum(1) - 1, room).clamp_max_(room)
    listed = torch.full((count, room + 1), total, device=slot.device)
    listed.scatter_(1, place, torch.arange(total, device=slot.device).expand(count, -1))
    chosen = listed[:, :room]
    where = chosen.clamp_max(total - 1)
    offsets = torch.tensor(SUBPIXELS, device=slot.device)
    x, y = (
        (v.flatten(1).gather(1, where)[..., None] + offsets[:, i]).reshape(count, -1, n)
        for i, v in enumerate((tiles.x, tiles.y))
    )
    winner, mu = nearest(view.forms, Tiles(x, y))
    shades = _shaded(view, look_up(view.coat, winner), x.flatten(1), y.flatten(1), mu, photos)
    mixed = shades.unflatten(2, (room, len(SUBPIXELS))).mean(-1)
    padded = torch.cat([rgb, rgb[:, :, :1]], 2)
    return padded.scatter_(2, chosen.expand(3, -1, -1), mixed)[:, :, :total]


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
