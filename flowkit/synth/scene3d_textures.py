"""Colours of 3-D scenes: photos laid on surfaces, and cut-outs standing in the scene.

A surface has a photo, mirrored at its borders for ever, with so many texels per unit of length; some have but a patch of it,
mirrored at the patch's borders (scene3d_patches). Both pictures look up the same
photo at the hit's own place on the surface, at the scales of the photo that fit the distance, so that nothing aliases.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

from flowkit.synth.cameras import inverse_intrinsics
from flowkit.synth.photos import CUTOUT, PhotoStore, lookup
from flowkit.synth.scene3d_surfaces import Alpha, Counts, Slots

PACKED = 3
"""How many scales of a cut-out are kept, from the finest that is needed, each half the one before."""
COLUMNS = 31
"""What is looked up for a pixel once its surface is known; see `coat_of`. Scenes with patches have PATCH more."""
PATCH = 4
SHADING = 18
"""How many of the columns, the first ones, its colour needs."""


@dataclass(frozen=True)
class Skins:
    """The textures of B scenes of F faces: `photo` (B, F) int64, `density` (B, F) texels per unit, `offset` (B, F, 2) the
    texel at the face's centre, `gain` (B, F, 3) the factor of the light. `cutout` (B, cutouts) int64 points into the store's
    cut-outs. `patch` (B, F, PATCH), None where all faces show their photo as it is: left and upper end and side, in texels,
    of the square of the photo that a face repeats, side 0 if it shows all of it; and the contrast it is shown with, 1 for
    the photo's own.
    """

    photo: Tensor
    density: Tensor
    offset: Tensor
    gain: Tensor
    cutout: Tensor
    patch: Tensor | None = None

    def __getitem__(self, part: slice | Tensor) -> Skins:
        """The textures of some of the scenes."""
        return Skins(**{name: getattr(self, name)[part] for name in self._names()})

    def joined(self, other: Skins) -> Skins:
        """The textures of both, one batch after the other; both have patches or neither has."""
        return Skins(**{name: torch.cat([getattr(self, name), getattr(other, name)]) for name in self._names()})

    def _names(self) -> list[str]:
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True)
class Atlas:
    """All cut-outs of a store at PACKED scales, one after the other: `texels` (n, 4) uint8, RGB times alpha, and alpha.

    `sides` is how wide each scale is.
    """

    texels: Tensor
    sides: tuple[int, ...]

    def alpha(self, cutout: Tensor, level: Tensor, counts: Counts) -> Alpha:
        """The outlines of the cutouts (B, cutouts) at scales `level` (B, cutouts)."""
        starts = [sum(side * side for side in self.sides[:k]) for k in range(PACKED + 1)]
        first = torch.tensor([starts[:-1], self.sides], device=cutout.device)
        base = torch.zeros(len(cutout), counts.slots, dtype=torch.long, device=cutout.device)
        side = torch.zeros_like(base)
        base[:, counts.cutout_slots] = cutout * starts[-1] + first[0][level]
        side[:, counts.cutout_slots] = first[1][level]
        return Alpha(self.texels, base, side)


_atlases: dict[tuple[int, int], Atlas] = {}


def atlas_of(photos: PhotoStore, finest: int) -> Atlas:
    """The atlas of a store's cut-outs from `finest` halvings on; kept as long as the cut-outs themselves are."""
    key = (id(photos.cutouts), finest)
    if key not in _atlases:
        _atlases[key] = _packed(photos.cutouts, finest)
        weakref.finalize(photos.cutouts, _atlases.pop, key, None)
    return _atlases[key]


def _packed(cutouts: Tensor, finest: int) -> Atlas:
    parts = []
    for chunk in cutouts.split(32):
        picture = chunk.permute(0, 3, 1, 2).float()
        picture = torch.cat([picture[:, :3] * (picture[:, 3:] / 255), picture[:, 3:]], 1)
        levels = [avg_pool2d(picture, 1 << finest)]
        for _ in range(PACKED - 1):
            levels.append(avg_pool2d(levels[-1], 2))
        texels = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)
        parts.append(texels.round_().to(torch.uint8).flatten(0, 1))
    return Atlas(torch.cat(parts).contiguous(), tuple(CUTOUT >> (finest + k) for k in range(PACKED)))


def coat_of(
    slots: Slots, slopes: Tensor, counts: Counts, skins: Skins, K: Tensor, means: Tensor, links: Tensor
) -> Tensor:
    """(COLUMNS, B S) float32: what is looked up for a pixel once its surface is known, of one view.

    The columns: place.p / mu + origin are the texel coordinates u and v (6 + 2), the gradient of mu by pixel (2; `slopes`
    (B, S, 2)), photo (1), gain (3), mean colour (3; `means` (B, F, 3)), whether it is a cutout (1); then the map into
    the other picture p1 = M p + m mu (9 + 3) and whether the surface moves (1; `links` (B, S, 13)); last the patch, if the
    skins have patches.
    """
    inverse = inverse_intrinsics(K)
    axes = normalize(slots.axes, dim=-1)
    pick, cut = slots.skin, counts.cutout_slots
    scale = skins.density.gather(1, pick)[..., None].repeat(1, 1, 2)
    # The whole cut-out fits its panel.
    scale[:, cut] = CUTOUT / 2 / slots.axes[:, cut].norm(dim=-1)
    place = scale[..., None] * axes
    origin = _pick(skins.offset, pick) - scale * (axes @ slots.centre[..., None])[..., 0]
    cutout = torch.zeros(*pick.shape, 1, dtype=torch.float64, device=K.device)
    cutout[:, cut] = 1
    columns = [
        (place @ inverse[:, None]).flatten(2),
        origin,
        slopes.double(),
        skins.photo.gather(1, pick)[..., None].double(),
        _pick(skins.gain, pick),
        _pick(means, pick).double(),
        cutout,
        links,
    ]
    if skins.patch is not None:
        columns.append(_pick(skins.patch, pick))
    return torch.cat(columns, -1).flatten(0, 1).t().float().contiguous()


def _pick(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def mean_colours(photos: PhotoStore, skins: Skins) -> Tensor:
    """(B, F, 3) float32 in 0..255: about the mean colour of each face's photo, or of its patch if it has one."""
    small = photos.levels[-1][:, ::16, ::16].index_select(0, skins.photo.flatten())
    means = small.flatten(1, 2).float().mean(1).reshape(*skins.photo.shape, 3)
    if skins.patch is None:
        return means
    side = skins.patch[..., 2]
    of_patch = 255 * patch_colours(photos, skins.photo, skins.patch[..., :2], side).mean(-2)
    return torch.where(side[..., None] > 0, of_patch.float(), means)


def patch_colours(photos: PhotoStore, photo: Tensor, place: Tensor, side: Tensor, across: int = 6) -> Tensor:
    """(..., across^2, 3) in [0, 1]: colours spread over squares of `side` (...) texels at `place` (..., 2) of photos (...)."""
    steps = (torch.arange(across, device=side.device) + 0.5) / across
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
    points = place[..., None, :] - 0.5 + side[..., None, None] * grid
    level = torch.ones_like(photo).clamp_max(len(photos.levels) - 1)
    colours = lookup(photos, photo.flatten(), level.flatten(), points.flatten(0, -3).float())
    return colours.unflatten(0, photo.shape)


def colours(
    coat: Tensor,
    surface: Tensor,
    x: Tensor,
    y: Tensor,
    mu: Tensor,
    photos: PhotoStore,
    alpha: Alpha | None,
    finest: int,
) -> Tensor:
    """(3, N) float32 in 0..255 of pixels (x, y) (N,) that see `surface` (N,) at mu (N,), from photos at scales >= finest."""
    columns = coat[:SHADING].index_select(1, surface)
    c = columns.unbind(0)
    depth = 1 / mu
    u = torch.addcmul(c[2], c[0], x).addcmul_(c[1], y).mul_(depth)
    v = torch.addcmul(c[5], c[3], x).addcmul_(c[4], y).mul_(depth)
    # Texels per pixel: d(u)/dx = (place_x - u mu_x) / mu; the mean of both directions, a compromise between blur and aliasing.
    du = _length(torch.addcmul(c[0], u, c[8], value=-1), torch.addcmul(c[1], u, c[9], value=-1))
    dv = _length(torch.addcmul(c[3], v, c[8], value=-1), torch.addcmul(c[4], v, c[9], value=-1))
    u, v = u.add_(c[6]), v.add_(c[7])
    contrast = None
    if len(coat) > COLUMNS:
        u, v, contrast = _repeated(coat[COLUMNS:].index_select(1, surface), u, v, torch.maximum(du, dv).mul_(depth))
    footprint = du.add_(dv).mul_(depth).mul_(0.5).clamp_min_(1e-6)
    rgb = _photo_colours(photos, c[10].long(), u, v, footprint, columns[14:17], finest, contrast)
    if alpha is not None:
        _lay_cutouts(rgb, (c[17] > 0).nonzero()[:, 0], surface, u, v, alpha)
    return rgb.mul_(columns[11:14])


def _length(a: Tensor, b: Tensor) -> Tensor:
    return a.mul_(a).addcmul_(b, b).sqrt_()


def _repeated(patch: Tensor, u: Tensor, v: Tensor, widest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """u and v (N,) folded into the patches (PATCH, N) of the pixels that have one, and the contrast of all pixels (N,).

    Where a pixel covers so much that its neighbours cannot show the pattern any more (`widest` (N,) texels against the patch's
    side, half a period), it fades into the patch's mean.
    """
    left, top, side, contrast = patch.unbind(0)
    tiled = side > 0
    side = torch.where(tiled, side, torch.ones_like(side))
    u, v = (torch.where(tiled, low + _mirrored(p, side), p) for low, p in ((left, u), (top, v)))
    seen = (1.5 - widest / side).clamp_(0, 1)
    return u, v, torch.where(tiled, seen * contrast, contrast)


def _photo_colours(
    photos: PhotoStore,
    photo: Tensor,
    u: Tensor,
    v: Tensor,
    footprint: Tensor,
    mean: Tensor,
    finest: int,
    contrast: Tensor | None,
) -> Tensor:
    """Trilinear: between the two scales of the photo next to the footprint; beyond the coarsest it fades into the mean.

    `contrast` (N,) in 0..1 takes that much of the difference to the mean, None all of it.
    """
    height, width = photos.size
    u, v = _mirrored(u, width), _mirrored(v, height)
    last = len(photos.levels) - 1
    lod = footprint.log2().clamp_(finest, last)
    # In the distance the texture averages out: its contrast falls with the number of texels a pixel covers.
    kept = (2 ** (last + 0.5) / footprint).clamp_max_(1)
    kept = kept if contrast is None else kept.mul_(contrast)
    rgb = mean * (1 - kept)
    for k in range(finest, last + 1):
        share = (1 - (lod - k).abs_()).clamp_min_(0).mul_(kept)
        rgb.addcmul_(_bilinear(photos.levels[k], photo, u, v, k), share)
    return rgb


def _mirrored(u: Tensor, length: int | Tensor) -> Tensor:
    """Coordinates in 0..length as a picture mirrored at its borders has them; its area is [-0.5, length - 0.5]."""
    turned = (u + 0.5) / (2 * length)
    return (turned - turned.floor()).mul_(2 * length).sub_(length).abs_().neg_().add_(length - 0.5)


def _bilinear(level: Tensor, photo: Tensor, u: Tensor, v: Tensor, halvings: int) -> Tensor:
    """(3, N) float32 in 0..255 at places (u, v) (N,), in texels of level 0, of photos (N,) at one scale (N, H, W, 3)."""
    count, height, width, _ = level.shape
    scale = 0.5**halvings
    u, v = ((p + 0.5).mul_(scale).sub_(0.5).clamp_(0, n - 1) for p, n in ((u, width), (v, height)))
    left, top = u.int().clamp_max_(width - 2), v.int().clamp_max_(height - 2)
    across, down = u - left, v - top
    index = (photo * height + top) * width + left
    # Two neighbours in a row lie side by side: rows of six bytes that overlap.
    rows = level.as_strided((count * height * width - 1, 6), (3, 1))
    above, below = (
        rows.index_select(0, index + step).t().to(torch.float32, memory_format=torch.contiguous_format)
        for step in (0, width)
    )
    both = torch.lerp(above, below, down)
    return torch.lerp(both[:3], both[3:], across)


def _lay_cutouts(rgb: Tensor, chosen: Tensor, surface: Tensor, u: Tensor, v: Tensor, alpha: Alpha) -> None:
    """Replace the colours (3, N) in 0..255 of the `chosen` pixels, which see cutouts at (u, v) (N,) in +-CUTOUT / 2."""
    which = surface.index_select(0, chosen)
    base, side = alpha.base.flatten()[which], alpha.side.flatten()[which]
    ratio = side / CUTOUT
    x, y = (((p.index_select(0, chosen) + CUTOUT / 2) * ratio - 0.5).clamp_min(0).minimum(side - 1) for p in (u, v))
    left, top = x.long().minimum(side - 2), y.long().minimum(side - 2)
    index = base + top * side + left
    across, down = (x - left)[:, None], (y - top)[:, None]

    def row(start: Tensor) -> Tensor:
        left, right = (alpha.texels.index_select(0, start + step).float() for step in (0, 1))
        return torch.lerp(left, right, across)

    texel = torch.lerp(row(index), row(index + side), down).t()
    rgb.index_copy_(1, chosen, texel[:3] * (255 / texel[3].clamp_min(64)))
