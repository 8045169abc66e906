"""3-D scenes: textured surfaces under a moving calibrated camera, with exact flow, occlusion, depth and two-view geometry.

`sample_scenes3d` draws a batch of scenes, `render_scenes3d` (scene3d_render) makes the pairs. Every pixel's ray is intersected
with every surface; nothing is interpolated but colours. The flow is the projection of the hit into the other camera, and a
hit is occluded where the other camera's ray to it, at its exact place between the pixels, meets another surface first.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from flowkit.errors import UsageError
from flowkit.geometry.homography import homogeneous
from flowkit.synth.cameras import (
    MOTIONS,
    Motion,
    inverse_intrinsics,
    rotation,
    sample_intrinsics,
    sample_motion,
    scale_for,
)
from flowkit.synth.photos import PhotoStore
from flowkit.synth.random import Random
from flowkit.synth.scene3d_layouts import Stage, sample_objects, sample_stage
from flowkit.synth.scene3d_patches import sample_patches
from flowkit.synth.scene3d_raycast import INDEX_BITS, Tiles, nearest
from flowkit.synth.scene3d_surfaces import ENCLOSURE_FACES, Counts, Objects, forms_of, slots_of
from flowkit.synth.scene3d_textures import Skins
from flowkit.types import Size

COARSE = (14, 18)
"""Rays, in rows and columns, that tell how far the camera may go."""
TEXTURED = 192
"""Longer side in pixels of a picture on which a photo is shown at its half size or so; larger ones show more of its detail."""
LANE = 1.1
"""Half the width of the lane that the camera needs on a street."""
MOST_SLOTS = 1 << INDEX_BITS


@dataclass(frozen=True)
class Scene3DSettings:
    """What 3-D scenes look like; displacements are in pixels of the rendered images, shares and chances in 0..1."""

    max_displacement: float = 60.0
    """The 90th percentile of a pair's flow is drawn between min_displacement and this, uniform in its logarithm."""
    min_displacement: float = 1.0
    """Smallest displacement drawn."""
    forward: float = 0.35
    """Share of cameras that drive forward (some backward), mostly along streets."""
    handheld: float = 0.3
    """Share of cameras that move and turn any way."""
    orbit: float = 0.15
    """Share of cameras that go round a point in the scene."""
    rotation: float = 0.1
    """Share of cameras that only turn; their flow is a homography."""
    lateral: float = 0.1
    """Share of cameras that move sideways, like the two of a stereo pair."""
    zooming: float = 0.1
    """Share of pairs whose two cameras have different K."""
    moving: float = 0.3
    """Share of scenes in which things move on their own."""
    moving_objects: float = 0.4
    """Share of the boxes, panels, cut-outs and rounds of such a scene that move."""
    relief: float = 0.25
    """Share of stages (not streets) with a relief as background: a wall or land with smooth heights."""
    presence: float = 0.7
    """How likely each object is there."""
    upright: float = 0.6
    """Share of the objects of a stage that stand upright."""
    boxes: int = 8
    """Most boxes."""
    panels: int = 6
    """Most rectangles."""
    cutouts: int = 2
    """Most cut-outs (none if the photo store has none)."""
    rounds: int = 4
    """Most ellipsoids and ellipses."""
    plain: float = 0.0
    """Share of the faces (not cut-outs) without texture: about one colour, with a soft gradient at most."""
    repeating: float = 0.0
    """Share of the faces on which a small patch of the photo is repeated, about every 6 to 24 pixels of image0."""
    antialias: bool = True
    """Whether colours at the borders of surfaces are averaged over four rays."""

    def __post_init__(self) -> None:
        if min(self.plain, self.repeating) < 0 or self.plain + self.repeating > 1:
            raise UsageError(
                f"the shares of plain faces ({self.plain}) and repeating ones ({self.repeating}) must not be negative, nor "
                "more than 1 together"
            )


@dataclass(frozen=True)
class Scenes3D:
    """B scenes on images of `size`; cameras and objects in float64, objects in camera 0's frame.

    Object n is at rotations[n] X + translations[n] in camera 1's frame, (B, N, 3, 3) and (B, N, 3): the camera's own R and t
    but where `moving` (B, N) bool. R, t and K1 are `motion` at `scale` (B,); `wanted` (B,) is the displacement that was asked
    for. `cutout_widths` (B, cutouts), pixels of image0, decide how fine the cut-outs are drawn in all pictures of the scene.
    """

    size: Size
    objects: Objects
    skins: Skins
    K0: Tensor
    K1: Tensor
    R: Tensor
    t: Tensor
    rotations: Tensor
    translations: Tensor
    moving: Tensor
    motion: Motion
    scale: Tensor
    wanted: Tensor
    cutout_widths: Tensor
    antialias: bool

    def __len__(self) -> int:
        return len(self.K0)

    def __getitem__(self, part: slice | Tensor) -> Scenes3D:
        """Some of the scenes, by a slice or by their numbers."""
        tensors = {
            f.name: getattr(self, f.name)[part] for f in fields(self) if isinstance(getattr(self, f.name), Tensor)
        }
        return replace(self, objects=self.objects[part], skins=self.skins[part], motion=self.motion[part], **tensors)

    def motions(self) -> list[str]:
        """How each camera moves, for people."""
        return [MOTIONS[k] for k in self.motion.kind.tolist()]


def sample_scenes3d(
    count: int, size: Size, settings: Scene3DSettings, photos: PhotoStore, generator: torch.Generator
) -> Scenes3D:
    """`count` scenes for images of `size`, drawn on the generator's device, which must be that of the photos."""
    random = Random(generator, torch.float64)
    counts = counts_of(settings, photos)
    shares = (settings.forward, settings.handheld, settings.orbit, settings.rotation, settings.lateral)
    kind = random.choice(shares, count)
    street = torch.where(kind == 0, random.chance(0.8, count), random.chance(0.15, count))
    K0 = sample_intrinsics(random, count, size)
    stage = sample_stage(random, street, K0, size)
    objects = sample_objects(random, stage, counts, settings.presence, settings.upright, settings.relief)
    skins = _sample_skins(random, objects, stage, photos)
    motion = sample_motion(random, kind, stage.reach, settings.zooming, size)
    # Who drives along a street follows the street, wherever the camera looks.
    along = torch.where(street[:, None], (stage.up @ motion.path[..., None])[..., 0], motion.path)
    motion = replace(motion, path=along)
    wanted = random.log_uniform(settings.min_displacement, settings.max_displacement, count)
    pixels, points = _seen_roughly(objects, K0, size)
    distance = objects.distance()
    clearance = _clearance(points, motion.course(), street & (kind == 0), distance)
    scale = scale_for(motion, K0, pixels, points, wanted, clearance)
    R, t = motion.pose(scale)
    K1 = motion.intrinsics(K0, scale)
    own_R, own_t, moving = _sample_moving(random, objects, settings, wanted / K0[:, 0, 0], distance)
    rotations = R[:, None] @ own_R
    translations = (R[:, None] @ own_t[..., None])[..., 0] + t[:, None]
    if settings.plain + settings.repeating > 0:  # drawn last: everything else is as it would be without
        sharpness = K0[:, :1, 0] / _usual_distance(objects, stage)
        sharpness[:, counts.cutout_skins] = 0
        skins = sample_patches(random, skins, sharpness, settings.plain, settings.repeating, photos)
    cut = counts.span("cutouts")
    return Scenes3D(
        size=size,
        objects=objects,
        skins=skins,
        K0=K0,
        K1=K1,
        R=R,
        t=t,
        rotations=rotations,
        translations=translations,
        moving=moving,
        motion=motion,
        scale=scale,
        wanted=wanted,
        cutout_widths=2 * objects.axes[:, cut, 0].norm(dim=-1) * K0[:, :1, 0] / objects.centre[:, cut].norm(dim=-1),
        antialias=settings.antialias,
    )


def counts_of(settings: Scene3DSettings, photos: PhotoStore) -> Counts:
    """How many objects of each kind the scenes have; UsageError if they are too many for the z-buffer."""
    cutouts = settings.cutouts if len(photos.cutouts) else 0
    counts = Counts(settings.boxes, settings.panels, cutouts, settings.rounds, 1 if settings.relief > 0 else 0)
    if counts.slots > MOST_SLOTS:
        raise UsageError(
            f"a 3-D scene can have {MOST_SLOTS} surfaces (3 a box, 1 for anything else, 6 around it), these settings ask for "
            f"{counts.slots}; ask for fewer boxes, panels, cutouts or rounds"
        )
    return counts


def _sample_skins(random: Random, objects: Objects, stage: Stage, photos: PhotoStore) -> Skins:
    """A photo for every face; as many texels per unit as make 1.2 to 4.5 of them fall on a pixel of a small picture."""
    counts, count = objects.counts, len(objects.centre)
    n = counts.skins
    fine = random.log_uniform(1.2, 4.5, count, n) * (TEXTURED / max(stage.size)) ** 0.5
    density = fine * stage.K[:, :1, 0] / _usual_distance(objects, stage)
    photo = random.below(len(photos), count, n)
    first = ENCLOSURE_FACES
    faces = photo[:, first : first + 6 * counts.boxes].unflatten(1, (counts.boxes, 6))
    alike = random.chance(0.5, count, counts.boxes, 1)
    photo[:, first : first + 6 * counts.boxes] = torch.where(alike, faces[..., :1], faces).flatten(1)
    height, width = photos.size
    offset = random.uniform(count, n, 2) * torch.tensor([width, height], device=random.device)
    light = random.between(0.65, 1.15, count, n, 1)
    tint = (0.04 * random.normal(count, n, 3)).exp()
    offset[:, counts.cutout_skins] = 0
    cutout = random.below(max(1, len(photos.cutouts)), count, counts.cutouts)
    return Skins(photo, density, offset, light * tint, cutout)


def _usual_distance(objects: Objects, stage: Stage) -> Tensor:
    """(B, F): from about how far camera 0 sees each face."""
    counts = objects.counts
    boxes, rest = counts.span("boxes"), slice(counts.span("panels").start, counts.objects)
    walls = objects.axes[:, 0].norm(dim=-1)
    distance = objects.centre.norm(dim=-1)
    away = torch.stack([walls[:, 0], walls[:, 1], walls[:, 2]] * 2, -1)
    away[:, 4] = 4 * stage.ground
    return torch.cat([away, distance[:, boxes].repeat_interleave(6, 1), distance[:, rest]], 1)


def _seen_roughly(objects: Objects, K: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Pixels (B, N, 2) of a coarse grid, and the points (B, N, 3) that camera 0 sees there."""
    count, (height, width), (rows, columns) = len(K), size, COARSE
    y = torch.arange(rows, device=K.device) * ((height - 1) / (rows - 1))
    x = torch.arange(columns, device=K.device) * ((width - 1) / (columns - 1))
    grid = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)])
    # A tile of four rays: few rays are in work that a surface cannot meet.
    tiles = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
    _, mu = nearest(forms_of(objects, slots_of(objects), K), Tiles(*tiles.expand(count, -1, -1, -1).unbind(1)))
    pixels = tiles.flatten(1).double().mT.expand(count, -1, -1)
    return pixels, homogeneous(pixels) @ inverse_intrinsics(K).mT / mu.double().unflatten(0, (count, -1))[..., None]


def _clearance(points: Tensor, course: Tensor, driving: Tensor, distance: Tensor) -> Tensor:
    """(B,) units that the camera may go: 0.6 of the way to the nearest object (`distance` (B, N)).

    Who is `driving` (B,) along a street passes by its objects: there only things seen (`points` (B, N, 3)) in the lane count.
    """
    direction = torch.nn.functional.normalize(course, dim=-1)
    along = (points @ direction[..., None])[..., 0]
    aside = (points - along[..., None] * direction[:, None]).norm(dim=-1)
    blocks = torch.where((aside < LANE) & (along > 0), along, 8.0).amin(-1)
    return 0.6 * torch.where(driving, blocks, distance.amin(-1))


def _sample_moving(
    random: Random, objects: Objects, settings: Scene3DSettings, wanted: Tensor, distance: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """R (B, N, 3, 3), t (B, N, 3), both in camera 0's frame, and which objects move (B, N); `wanted` (B,) is the flow in focal
    lengths. An object turns about its own centre, and moves so little that it cannot reach the camera, `distance` (B, N) away.
    """
    counts, centre = objects.counts, objects.centre
    count, n = centre.shape[:2]
    moving = random.chance(settings.moving, count, 1) & random.chance(settings.moving_objects, count, n)
    fixed = torch.arange(n, device=random.device)
    moving &= (fixed > 0) & (fixed < 1 + counts.boxes + counts.panels + counts.cutouts + counts.rounds)
    far = centre.norm(dim=-1)
    flow = wanted[:, None] * random.log_uniform(0.3, 2, count, n)
    way = random.direction(count, n) * torch.tensor([1.0, 0.3, 1.0], device=random.device, dtype=torch.float64)
    step = way * torch.minimum(flow * far, 0.2 * distance)[..., None]
    size = objects.axes.norm(dim=(-2, -1))
    most = (0.15 * distance / size).clamp_max(0.5)
    turn = random.direction(count, n) * (wanted[:, None] * 0.5 * random.normal(count, n).abs()).minimum(most)[..., None]
    on = moving[..., None].double()
    R = rotation(turn * on)
    return R, centre + step * on - (R @ centre[..., None])[..., 0], moving
