"""Geometric pairs: one photo and a smooth warp of it, affine, homography, thin-plate or affine after thin-plate.

As in the papers, a warp T is drawn as target -> source, the grid at which the photo is sampled: image0 is the **target**, the
warped photo, and image1 is the **source**, the photo itself: image0(p) = image1(T(p)), so that the flow image0 -> image1 is
T(p) - p in closed form. The way back is T's inverse: exact for affine maps and homographies, by Newton's method for
thin-plate splines, and unknown where that does not converge or the spline is folded.

T is drawn for a frame that is larger than the pictures, [-1, 1] along both axes, of which they show the middle; rotations and
shears are those of pixels, whatever the shape of the frame. Sources: GLU-Net's and GOCor's training pairs (spec.md 6.4: Truong
et al., CVPR 2020, NeurIPS 2020, code DenseMatching) and LIFE's (spec.md 2.1: Huang et al., 2021, and NeuralMarker's code).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowkit.geometry.homography import fit_dlt
from flowkit.synth.photos import CUTOUT, PhotoStore
from flowkit.synth.random import Random
from flowkit.synth.thin_plate import ThinPlate, fit_thin_plate
from flowkit.types import Size

KINDS = ("affine", "homography", "thin_plate", "affine_thin_plate")
FOLDING = 0.05
"""A spline that somewhere in the frame shrinks areas more than this is looked at as folded."""


@dataclass(frozen=True)
class GeometricSettings:
    """Which warps are drawn, in the frame's coordinates in [-1, 1]; the standard values are GLU-Net's static pairs."""

    affine: float = 0.0
    """Share of affine maps; of all four kinds together, as the following."""
    homography: float = 1 / 3
    thin_plate: float = 1 / 3
    affine_thin_plate: float = 1 / 3
    """The affine map after the thin-plate spline."""
    rotation: float = math.pi / 12
    """Affine: A = R(a) R(b)^T diag(l1, l2) R(b) and a translation; a within this many radians either way."""
    axis: float = math.pi / 12
    """b, the direction of stretching, within this many radians either way."""
    scale: float = 0.45
    """l1 and l2 within 1 +- this."""
    translation: float = 0.25
    corners: float = 0.5
    """Homography: each corner of the frame is moved by up to this along both axes."""
    knots: float = 0.5
    """Thin-plate spline: each of 3x3 points is moved by up to this."""
    knots_after: float = 0.15
    """The same for splines followed by an affine map."""
    shown: float = 520 / 750
    """Share of the frame, along each axis, that the pictures show."""
    objects: float = 0.0
    """Share of pairs with an object of their own motion (only where there are cut-outs)."""
    object_size: tuple[float, float] = (0.15, 0.8)
    """Its longer side as a share of the picture's shorter one; uniform in the logarithm."""
    object_rotation: float = math.pi / 6
    object_scale: float = 0.3
    """The object turns by up to this many radians and grows by exp(U(+-this))."""
    object_shift: float = 8 / 520
    """In half of the pairs it moves by up to this share of the picture along both axes, else to any other place."""


STATIC = GeometricSettings()
"""GLU-Net's static pairs (spec.md 6.4), drawn as DenseMatching does: frames of 750 px, of which 520 are shown."""
DYNAMIC = replace(STATIC, objects=0.8)
"""The same with moving objects (spec.md 6.4)."""
LIFE = GeometricSettings(
    affine=1 / 3,
    homography=1 / 3,
    thin_plate=1 / 3,
    affine_thin_plate=0.0,
    rotation=math.pi / 3,
    axis=math.pi / 2,
    scale=0.2,
    translation=0.75,
    shown=1.0,
)
"""LIFE's T from B' to B (spec.md 2.1), for `transformed`."""


@dataclass(frozen=True)
class GeometricMaps:
    """B warps target -> source for pictures of `size`, on the CPU: x of the target's frame comes from matrix(plate(x))."""

    size: Size
    shown: float
    """Share of the frame that the pictures show."""
    kind: Tensor
    """(B,) int64, index into KINDS."""
    matrix: Tensor
    """(B, 3, 3) float64, homogeneous, in the frame's coordinates."""
    plate: ThinPlate
    """In the frame's coordinates; the identity for kinds without one."""
    folded: Tensor
    """(B,) bool: whether the spline folds in the frame, or nearly; there one point may have several places."""

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def bent(self) -> Tensor:
        """(B,) bool: which have a spline."""
        return self.kind >= KINDS.index("thin_plate")

    def unit(self) -> Tensor:
        """(3, 3) float64: pixels of either picture -> coordinates of the frame."""
        height, width = self.size
        sx, sy = 2 * self.shown / width, 2 * self.shown / height
        rows = [[sx, 0, sx / 2 - self.shown], [0, sy, sy / 2 - self.shown], [0, 0, 1]]
        return torch.tensor(rows, dtype=torch.float64)

    def homographies(self) -> Tensor:
        """(B, 3, 3) float64: `matrix` in pixels, image0 -> image1 for maps without a spline, what follows it for the others."""
        unit = self.unit()
        return torch.linalg.solve(unit, self.matrix @ unit)


@dataclass(frozen=True)
class GeometricPairs:
    """B pairs of pictures, described on the CPU; affine maps are (B, 2, 3) float64."""

    maps: GeometricMaps
    seeded: int
    picture: Tensor
    """(B,) int64: which photo."""
    level: Tensor
    """(B,) int64: at which scale."""
    frame: Tensor
    """Coordinates of the frame -> pixels of the photo at level 0."""
    has_object: Tensor
    """(B,) bool."""
    figure: Tensor
    """(B,) int64: which cut-out."""
    figure_level: Tensor
    """(B,) int64: how often the cut-out is halved before it is drawn, so that it does not alias."""
    place0: Tensor
    """Coordinates of the cut-out, [-1, 1] along both axes -> pixels of image0."""
    place1: Tensor
    """The same for image1."""

    def __len__(self) -> int:
        return len(self.maps)


def sample_geometric(
    count: int,
    size: Size,
    settings: GeometricSettings,
    photos: PhotoStore,
    generator: torch.Generator,
    limit: float = math.inf,
) -> GeometricPairs:
    """Draw `count` pairs of `size` (height, width), on the CPU, from a generator on any device.

    What would move something in the pictures by more than `limit` pixels is weakened until it does not.
    """
    draw = Random.on_host(generator, torch.float64)
    maps = sample_maps(count, size, settings, draw, limit)
    frame, level = _placed(draw, count, size, settings, photos)
    place0, place1 = _objects(draw, count, size, settings, limit)
    side = 2 * torch.maximum(place0[:, 0, 0], torch.linalg.det(place1[:, :, :2]).sqrt())
    return GeometricPairs(
        maps=maps,
        seeded=generator.initial_seed(),
        picture=draw.below(len(photos), count),
        level=level,
        frame=frame,
        has_object=draw.uniform(count) < (settings.objects if len(photos.cutouts) else 0),
        figure=draw.below(max(1, len(photos.cutouts)), count),
        figure_level=(CUTOUT / side).log2().round().clamp(0, 5).long(),
        place0=place0,
        place1=place1,
    )


def sample_maps(
    count: int, size: Size, settings: GeometricSettings, draw: Random, limit: float = math.inf
) -> GeometricMaps:
    """Draw `count` warps for pictures of `size`, weakened where they would move a pixel by over `limit`; `draw` in float64."""
    shares = torch.tensor([getattr(settings, name) for name in KINDS], dtype=torch.float64)
    kind = torch.searchsorted((shares / shares.sum()).cumsum(0), draw.uniform(count), right=True).clamp(max=3)
    affine = _affine(draw, count, size, settings) - torch.eye(3).double()
    corners = settings.corners * draw.signed(count, 4, 2)
    reach = torch.where(kind == 2, settings.knots, torch.where(kind == 3, settings.knots_after, 0.0))
    knots = reach[:, None, None] * draw.signed(count, 9, 2)
    share = torch.ones(count, 1, 1, dtype=torch.float64)
    maps = _maps(size, settings.shown, kind, affine, corners, knots)
    # Of what is drawn a share moves pixels by nearly, of homographies and of maps after splines not quite, that share.
    while len(over := (largest := _largest_displacement(maps)).gt(limit).nonzero()[:, 0]):
        share[over] *= 0.99 * limit / largest[over, None, None]
        maps = _maps(size, settings.shown, kind, share * affine, share * corners, share * knots)
    return maps


def _maps(size: Size, shown: float, kind: Tensor, affine: Tensor, corners: Tensor, knots: Tensor) -> GeometricMaps:
    """Warps from what is added to the identity, to the frame's corners (B, 4, 2) and to the 3x3 knots (B, 9, 2)."""
    count = len(kind)
    is_affine, identity = ((kind == 0) | (kind == 3))[:, None, None], torch.eye(3, dtype=torch.float64)
    square = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64).expand(count, 4, 2)
    matrix = torch.where(is_affine, identity + affine, identity)
    matrix = torch.where((kind == 1)[:, None, None], fit_dlt(square, square + corners), matrix)
    line = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    controls = torch.cartesian_prod(line, line).expand(count, 9, 2)
    plate = fit_thin_plate(controls, controls + knots)
    folded = torch.zeros(count, dtype=torch.bool)
    bent = kind >= KINDS.index("thin_plate")
    folded[bent] = _smallest_area(plate[bent]) < FOLDING
    return GeometricMaps(size, shown, kind, matrix, plate, folded)


def _largest_displacement(maps: GeometricMaps) -> Tensor:
    """(B,): how far a map takes a point of the pictures at most, in pixels; on a lattice, their corners included."""
    line = maps.shown * torch.linspace(-1, 1, 33, dtype=torch.float64)
    lattice = torch.stack(torch.meshgrid(line, line, indexing="xy")).flatten(1).expand(len(maps), 2, -1)
    moved = maps.matrix @ torch.cat([maps.plate(lattice), torch.ones_like(lattice[:, :1])], 1)
    pixels = torch.tensor([maps.size[1], maps.size[0]], dtype=torch.float64)[:, None] / (2 * maps.shown)
    return (((moved[:, :2] / moved[:, 2:]) - lattice) * pixels).norm(dim=1).amax(1)


def _smallest_area(plate: ThinPlate) -> Tensor:
    """(B,): how much the splines shrink, or turn over, a small area of the frame at most."""
    line = torch.linspace(-1, 1, 25)
    lattice = torch.stack(torch.meshgrid(line, line, indexing="xy")).flatten(1).expand(len(plate.controls), 2, -1)
    (a, b), (c, d) = (row.unbind(1) for row in plate.with_slope(lattice)[1].unbind(1))
    return (a * d - b * c).amin(1)


def _turn(angle: Tensor) -> Tensor:
    """(..., 2, 2): turns clockwise on the screen, where y points down."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _affine(draw: Random, count: int, size: Size, settings: GeometricSettings) -> Tensor:
    """(B, 3, 3): R(a) R(b)^T diag(l1, l2) R(b) in square pixels, translations in the frame's coordinates."""
    along = _turn(settings.axis * draw.signed(count))
    stretch = torch.diag_embed(1 + settings.scale * draw.signed(count, 2))
    linear = _turn(settings.rotation * draw.signed(count)) @ along.mT @ stretch @ along
    shape = torch.tensor([size[1], size[0]], dtype=torch.float64) / max(size)
    matrix = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    matrix[:, :2, :2] = linear * shape / shape[:, None]
    matrix[:, :2, 2] = settings.translation * draw.signed(count, 2)
    return matrix


def _placed(
    draw: Random, count: int, size: Size, settings: GeometricSettings, photos: PhotoStore
) -> tuple[Tensor, Tensor]:
    """The part of each photo that fills the frame (B, 2, 3), at random, mirrored in half of the pairs; and the level for it."""
    rows, columns = photos.size
    # In pixels of the photo per pixel of the pictures: from all of the photo down to its own resolution.
    most = min(rows * settings.shown / size[0], columns * settings.shown / size[1])
    step = most ** draw.uniform(count) if most > 1 else torch.full((count,), most, dtype=torch.float64)
    picture = torch.tensor([size[1], size[0]], dtype=torch.float64) / settings.shown
    half = step[:, None] * picture / 2
    whole = torch.tensor([columns, rows], dtype=torch.float64)
    middle = whole / 2 - 0.5 + draw.signed(count, 2) * (whole / 2 - half).clamp_min(0)
    mirror = torch.where(draw.uniform(count) < 0.5, -1.0, 1.0)
    sides = half * torch.stack([mirror, torch.ones_like(mirror)], -1)
    level = step.log2().round().clamp(0, len(photos.levels) - 1).long()
    return torch.cat([torch.diag_embed(sides), middle[..., None]], -1), level


def _objects(draw: Random, count: int, size: Size, settings: GeometricSettings, limit: float) -> tuple[Tensor, Tensor]:
    """Where the cut-outs are in image0 and in image1 (B, 2, 3): upright at any place, then moved by a similarity.

    Their middles move by up to `limit` pixels.
    """
    low, high = settings.object_size
    half = min(size) / 2 * low * (high / low) ** draw.uniform(count)
    extent = torch.tensor([size[1], size[0]], dtype=torch.float64)
    middle0 = draw.uniform(count, 2) * extent - 0.5
    step = (settings.object_shift * draw.signed(count, 2) * extent).round()
    near = draw.uniform(count, 1) < 0.5
    way = torch.where(near, step, draw.uniform(count, 2) * extent - 0.5 - middle0)
    middle1 = middle0 + way * (limit / way.norm(dim=1, keepdim=True)).clamp(max=1)
    growth = (settings.object_scale * draw.signed(count)).exp()
    upright = torch.eye(2, dtype=torch.float64).expand(count, 2, 2)
    turned = _turn(settings.object_rotation * draw.signed(count)) * growth[:, None, None]
    places = [
        torch.cat([linear * half[:, None, None], middle[..., None]], -1)
        for linear, middle in ((upright, middle0), (turned, middle1))
    ]
    return places[0], places[1]
