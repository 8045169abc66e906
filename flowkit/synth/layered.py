"""Layered scenes in the spirit of FlyingChairs and AutoFlow: a photo background and moving foregrounds, as a description.

A description is a set of tensors with one row per scene and one column per layer, layer 0 the background, later ones nearer.
A layer lives in the pixels of image0, its canonical frame; it moves into image1 by u -> project(H, u + D(u)) with a homography
H and a smooth displacement field D (Dosovitskiy et al., FlowNet, ICCV 2015; Sun et al., AutoFlow, CVPR 2021).
`render_layers` draws descriptions on any device, `render_layers_cpu` faster on a CPU; both draw the same pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from flowkit.synth.photos import CUTOUT, PhotoStore
from flowkit.synth.random import Random
from flowkit.types import Size

OUTLINE = 96
"""How many radii describe an outline."""
STEEPEST = 0.2
"""Bound on the slope of a displacement field: the map u + D(u) stays invertible, and its fixed-point inverse converges fast."""


@dataclass(frozen=True)
class LayeredSettings:
    """What layered scenes look like. Displacements are in pixels of the rendered images."""

    max_displacement: float = 60.0
    """Largest displacement drawn; the draw is uniform in its logarithm."""
    min_displacement: float = 0.5
    """Smallest displacement drawn; no larger than a tenth of the largest."""
    still: float = 0.05
    """Share of scenes whose background does not move at all."""
    foregrounds: int = 6
    """Most foreground layers; every second one is a cut-out where there are any."""
    presence: float = 0.6
    """How likely each foreground is there."""
    attached: float = 0.5
    """How often a foreground moves along with the background, plus a motion of its own; else it moves freely."""
    fast: float = 0.15
    """Share of foregrounds that are small and fast."""
    deformed: float = 0.5
    """Share of layers that bend by a smooth random field."""
    projective: float = 0.3
    """Share of layers that move by a homography; the others by an affine map."""
    holes: float = 0.15
    """Share of outlines with a hole in them."""
    stripes: float = 0.12
    """Share of outlines cut into thin stripes (fences, railings, branches)."""
    thin: float = 0.15
    """Share of outlines that are long and thin."""
    defocus: float = 0.2
    """Share of layers out of focus."""
    motion_blur: float = 0.1
    """Share of scenes with motion blur."""


@dataclass(frozen=True)
class LayeredScenes:
    """B scenes of L layers on images of `size`. Affine maps are (B, L, 2, 3), pixels to pixels; all float32 unless said."""

    size: Size
    seeded: int
    cutout_slots: tuple[bool, ...]
    """(L,) whether the layer's picture and outline come from a cut-out."""
    present: Tensor
    """(B, L) bool."""
    picture: Tensor
    """(B, L) int64: which photo, or which cut-out."""
    level: Tensor
    """(B, L) int64: which scale of the photo."""
    texture: Tensor
    """Canonical pixels -> pixels of the photo at level 0, or of the cut-out."""
    motion: Tensor
    """(B, L, 3, 3): u + D(u) -> pixels of image1."""
    field: Tensor
    """(B, L, 2, h, w): D at knots over the image, interpolated bicubically; 0 where the layer does not bend."""
    local: Tensor
    """Canonical pixels -> the outline's own frame, in which it is about 1 in radius."""
    outline: Tensor
    """(B, L, OUTLINE): its radius at equal angles."""
    sharpness: Tensor
    """(B, L): how fast the alpha rises across the edge, per unit of the outline's frame."""
    hole: Tensor
    """(B, L, 3): centre and size of the hole in the outline's frame, size 0 for none."""
    stripe: Tensor
    """(B, L, 4): direction times frequency, phase, and the cosine above which the stripe is; -2 for no stripes."""
    reach: Tensor
    """(B, L): no part of the layer is farther than this from its centre, pixels; infinite for the background."""
    centre: Tensor
    """(B, L, 2): the outline's centre in image0."""
    shutter: Tensor
    """(B,): the share of the flow that is blurred over, 0 for none."""

    def __len__(self) -> int:
        return int(self.present.shape[0])

    def to(self, device: torch.device | str) -> LayeredScenes:
        """The same description on another device."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def sample_layers(
    count: int, size: Size, settings: LayeredSettings, photos: PhotoStore, generator: torch.Generator
) -> LayeredScenes:
    """Draw `count` scenes; everything is drawn on the generator's device, which is the photos'."""
    draw = Random(generator)
    slots = tuple(k > 0 and k % 2 == 0 and len(photos.cutouts) > 0 for k in range(settings.foregrounds + 1))
    shape = (count, len(slots))
    background = torch.arange(len(slots), device=draw.device) == 0
    cut = torch.tensor(slots, device=draw.device).expand(shape)
    height, width = size
    side = min(size)

    centre = draw.uniform(*shape, 2) * torch.tensor([width - 1.0, height - 1.0], device=draw.device)
    centre = torch.where(
        background[:, None], torch.tensor([(width - 1) / 2, (height - 1) / 2], device=draw.device), centre
    )
    fast = draw.chance(settings.fast, *shape) & ~background
    radius = side * draw.log_uniform(0.08, 0.45, *shape)
    radius = torch.where(fast, side * draw.log_uniform(0.03, 0.1, *shape), radius)
    thin = draw.chance(settings.thin, *shape) & ~cut
    stretch = torch.where(thin, draw.log_uniform(4, 14, *shape), draw.log_uniform(1, 2, *shape))
    half = torch.stack([radius * stretch.sqrt(), (radius / stretch.sqrt()).clamp_min(1.0)], -1)
    local = _local_frame(centre, half, draw.uniform(*shape) * (2 * math.pi))
    outlines = _outlines(draw, shape)
    defocus = draw.chance(settings.defocus, *shape)

    motion, field = _motions(draw, size, settings, centre, 1.5 * half.amax(-1), fast, background)
    texture, level = _textures(draw, photos, size, centre, half, local, cut, defocus)
    edge = torch.where(defocus, 3.0, draw.log_uniform(0.7, 1.5, *shape))
    present = draw.chance(settings.presence, *shape) | background
    return LayeredScenes(
        size=size,
        seeded=generator.initial_seed(),
        cutout_slots=slots,
        present=present,
        picture=torch.where(cut, draw.below(max(1, len(photos.cutouts)), *shape), draw.below(len(photos), *shape)),
        level=level,
        texture=texture,
        motion=motion,
        field=field,
        local=local,
        outline=outlines,
        sharpness=half.amin(-1) / edge,
        hole=_holes(draw, settings, shape),
        stripe=_stripes(draw, settings, half),
        reach=torch.where(background, torch.inf, half.amax(-1) * torch.where(cut, math.sqrt(2), outlines.amax(-1)) + 4),
        centre=centre,
        shutter=draw.chance(settings.motion_blur, count) * (0.2 + 0.5 * draw.uniform(count)),
    )


def rotation(angle: Tensor) -> Tensor:
    """(..., 2, 2): x to the right, y down, so that positive angles turn clockwise on the screen."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def affine(linear: Tensor, fixed: Tensor, image: Tensor) -> Tensor:
    """(..., 2, 3): the affine map with that linear part (..., 2, 2) that takes the point `fixed` to the point `image`."""
    return torch.cat([linear, (image - (linear @ fixed[..., None])[..., 0])[..., None]], -1)


def _local_frame(centre: Tensor, half: Tensor, angle: Tensor) -> Tensor:
    linear = rotation(angle).mT / half[..., None]
    return affine(linear, centre, torch.zeros_like(centre))


def _outlines(draw: Random, shape: tuple[int, int]) -> Tensor:
    """Free-form blobs (a few harmonics), polygons with straight edges, and boxes; mean radius about 1."""
    angle = torch.arange(OUTLINE, device=draw.device) * (2 * math.pi / OUTLINE)
    order = torch.arange(2, 8, device=draw.device, dtype=torch.float32)
    amplitude = draw.normal(*shape, len(order)) * 0.45 / order
    waves = torch.cos(order[:, None] * angle + 2 * math.pi * draw.uniform(*shape, len(order), 1))
    blob = (1 + (amplitude[..., None] * waves).sum(-2)).clamp(0.25, 2)
    # A convex polygon is the nearest of its edges' lines: the edge with normal direction a at distance d is d / cos(angle - a).
    corners = 9
    spin = 2 * math.pi * draw.uniform(*shape, 1)
    sides = 3 + draw.below(corners - 2, *shape, 1)
    direction = spin + (torch.arange(corners, device=draw.device) + 0.5 * draw.uniform(*shape, corners)) * (
        2 * math.pi / sides
    )
    distance = 0.6 + 0.5 * draw.uniform(*shape, corners)
    facing = torch.cos(angle - direction[..., None]).clamp_min(1e-3)
    polygon = (distance[..., None] / facing).amin(-2).clamp(0.2, 2)
    square = 0.85 / torch.maximum(angle.cos().abs(), angle.sin().abs())
    kind = draw.uniform(*shape, 1)
    return torch.where(kind < 0.45, blob, torch.where(kind < 0.85, polygon, square.expand_as(blob)))


def _holes(draw: Random, settings: LayeredSettings, shape: tuple[int, int]) -> Tensor:
    size = draw.chance(settings.holes, *shape) * (0.2 + 0.4 * draw.uniform(*shape))
    return torch.cat([0.3 * draw.signed(*shape, 2), size[..., None]], -1)


def _stripes(draw: Random, settings: LayeredSettings, half: Tensor) -> Tensor:
    shape = half.shape[:2]
    angle = 2 * math.pi * draw.uniform(*shape)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    # Frequency in stripes per unit of the outline's frame such that a period is at least 8 pixels.
    most = (half.amin(-1) / 8).clamp_min(0.5)
    frequency = most * (0.3 + 0.7 * draw.uniform(*shape))
    threshold = torch.where(draw.chance(settings.stripes, *shape), 0.9 * draw.signed(*shape), -2.0)
    phase = 2 * math.pi * draw.uniform(*shape)
    return torch.cat([2 * math.pi * frequency[..., None] * direction, phase[..., None], threshold[..., None]], -1)


def _motions(
    draw: Random,
    size: Size,
    settings: LayeredSettings,
    centre: Tensor,
    extent: Tensor,
    fast: Tensor,
    background: Tensor,
) -> tuple[Tensor, Tensor]:
    """Homographies and bending fields: a drawn displacement is split over shifting, turning, zooming, shearing and bending.

    `extent` (B, L) is how far from its centre a foreground reaches, so that turning, zooming and tilting move its tips as
    far as drawn, not further.
    """
    shape = centre.shape[:2]
    height, width = size
    corner = torch.tensor([width - 1.0, height - 1.0], device=draw.device)
    extent = torch.where(background, math.hypot(height, width) / 2, extent)
    wanted = draw.log_uniform(settings.min_displacement, settings.max_displacement, *shape)
    wanted = torch.where(fast, settings.max_displacement * draw.log_uniform(0.3, 1.0, *shape), wanted)
    wanted = torch.where(background, wanted.clamp_max(0.4 * math.hypot(height, width)), wanted)
    still = draw.chance(settings.still, shape[0], 1) & background
    wanted = torch.where(still, 0.0, wanted)

    share = draw.uniform(*shape, 4) * torch.tensor([1.0, 0.5, 0.5, 0.4], device=draw.device)
    share = share / (share[..., :1] + 0.3 * share.sum(-1, keepdim=True)).clamp_min(0.1)
    amount = share * wanted[..., None]
    slope = amount[..., 1:] / extent[..., None]
    angle = (slope[..., 0] * draw.normal(*shape)).clamp(-0.7, 0.7)
    zoom = torch.exp((slope[..., 1] * draw.normal(*shape)).clamp(-0.5, 0.5))
    shear = (0.5 * slope[..., 2, None, None] * draw.normal(*shape, 2, 2)).clamp(-0.3, 0.3)
    linear = zoom[..., None, None] * rotation(angle) @ (torch.eye(2, device=draw.device) + shear)

    heading = 2 * math.pi * draw.uniform(*shape)
    step = amount[..., 0, None] * torch.stack([heading.cos(), heading.sin()], -1)
    goal = centre + step
    stays = draw.chance(0.8, *shape, 1) & ~background[:, None]
    goal = torch.where(stays, goal.clamp_min(0).minimum(corner), goal)

    own = torch.zeros(*shape, 3, 3, device=draw.device)
    own[..., :2, :] = affine(linear, centre, goal)
    tilt = torch.where(draw.chance(settings.projective, *shape), 0.5, 0.0) * slope[..., 2]
    line = (tilt[..., None] * draw.normal(*shape, 2)).clamp(-0.25, 0.25) / extent[..., None]
    # The denominator is 1 at the layer's centre and stays positive within its reach.
    own[..., 2, :2] = 0
    own[..., 2, 2] = 1
    perspective = torch.eye(3, device=draw.device).repeat(*shape, 1, 1)
    perspective[..., 2, :2] = line
    shift = torch.eye(3, device=draw.device).repeat(*shape, 1, 1)
    shift[..., :2, 2] = centre
    back = torch.eye(3, device=draw.device).repeat(*shape, 1, 1)
    back[..., :2, 2] = -centre
    motion = own @ shift @ perspective @ back
    follows = draw.chance(settings.attached, *shape) & ~background
    motion = torch.where(follows[..., None, None], motion[:, :1] @ motion, motion)

    knots = (max(3, height // 32 + 2), max(3, width // 32 + 2))
    spacing = min(height / (knots[0] - 1), width / (knots[1] - 1))
    bend = torch.where(draw.chance(settings.deformed, *shape) & (wanted > 0), 0.15 * wanted * draw.uniform(*shape), 0.0)
    field = draw.normal(*shape, 2, *knots) * bend[..., None, None, None]
    steepest = torch.stack(
        [(field.diff(dim=-1).abs().amax((-1, -2, -3))), (field.diff(dim=-2).abs().amax((-1, -2, -3)))]
    ).amax(0)
    # 1.5: the bicubic interpolant is steeper than the straight line between its knots.
    field = field * (STEEPEST * spacing / (1.5 * steepest).clamp_min(1e-6)).clamp_max(1)[..., None, None, None]
    return motion, field


def _textures(
    draw: Random,
    photos: PhotoStore,
    size: Size,
    centre: Tensor,
    half: Tensor,
    local: Tensor,
    cut: Tensor,
    defocus: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where each layer's picture lies under it, and at which level it is sampled so that it does not alias."""
    shape = centre.shape[:2]
    rows, columns = photos.size
    fits = min(rows / size[0], columns / size[1])
    step = fits ** draw.uniform(*shape) if fits > 1 else torch.full(shape, fits, device=draw.device)
    step = step * draw.log_uniform(0.8, 1.3, *shape)  # photo pixels per image pixel
    turn = rotation(0.3 * draw.normal(*shape)) * step[..., None, None]
    mirror = torch.where(draw.chance(0.5, *shape), -1.0, 1.0)
    turn = turn * torch.stack([mirror, torch.ones_like(mirror)], -1)[..., None, :]
    slack = torch.tensor([columns, rows], device=draw.device) - step[..., None] * torch.tensor(
        [size[1], size[0]], device=draw.device
    )
    middle = torch.tensor([(columns - 1) / 2, (rows - 1) / 2], device=draw.device) + 0.5 * draw.signed(
        *shape, 2
    ) * slack.clamp_min(0)
    texture = affine(turn, centre, middle)
    level = (step.log2().round() + defocus).clamp(0, len(photos.levels) - 1).long()
    # A cut-out fills the outline's frame, which is turned only a little, and may be mirrored.
    scale = (CUTOUT / 2) / half.amax(-1)
    upright = (
        rotation(0.4 * draw.normal(*shape))
        * scale[..., None, None]
        * torch.stack([mirror, torch.ones_like(mirror)], -1)[..., None, :]
    )
    figure = affine(upright, centre, torch.full_like(centre, (CUTOUT - 1) / 2))
    return torch.where(cut[..., None, None], figure, texture), level
