"""The surfaces of a 3-D scene, and what a camera sees of them as linear forms of homogeneous pixels.

An object has a centre C and three half-axes A0, A1, A2 that are orthogonal. Kinds, in this order along the objects:
 enclosure  one box around everything, seen from within: sky, street canyon, room; there is always something behind everything;
 boxes      seen from outside; of three pairs of faces one of each can be seen, the one on the camera's side;
 panels     rectangles C + a A0 + b A1, |a|, |b| <= 1, seen from both sides;
 cutouts    panels of which only the opaque part of a cut-out is there;
 rounds     ellipsoids, or, where they are flat, ellipses C + a A0 + b A1, a^2 + b^2 <= 1;
 relief     an unbounded plane through C with normal A2 (pointing away from the camera) and heights on it.

A ray through pixel p = (x, y, 1) is r = K^-1 p, and z = 1/mu where it meets a surface. On a plane C + a A0 + b A1 the three
numbers (a mu, b mu, mu) = [A0 A1 C]^-1 r are linear in p: no division is needed to find the nearest surface, that of the
largest mu. For an ellipsoid mu is the larger root of a quadratic whose discriminant is a difference of squares of linear forms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from flowkit.synth.cameras import inverse_intrinsics

ENCLOSURE_FACES = 6
WAVES = 3
"""How many sine waves a relief is made of."""
HEIGHTS = 0.7
"""A relief stays this share of the way from the camera to its plane away from the camera."""
UNBOUNDED = 1e30
"""The mu of a relief as far as the bounds over a tile know."""


@dataclass(frozen=True)
class Counts:
    """How many objects of each kind every scene of a batch has (one enclosure besides)."""

    boxes: int
    panels: int
    cutouts: int
    rounds: int
    reliefs: int

    @property
    def objects(self) -> int:
        """How many objects there are."""
        return 1 + self.boxes + self.panels + self.cutouts + self.rounds + self.reliefs

    @property
    def bounded(self) -> int:
        """How many parallelograms of limited extent one camera can see."""
        return 3 * self.boxes + self.panels + self.cutouts

    @property
    def slots(self) -> int:
        """How many surfaces one camera can see: bounded ones, the enclosure's faces, rounds, relief."""
        return self.bounded + ENCLOSURE_FACES + self.rounds + self.reliefs

    @property
    def cutout_slots(self) -> slice:
        """Where the cutouts are among the surfaces."""
        return slice(self.bounded - self.cutouts, self.bounded)

    @property
    def round_slots(self) -> slice:
        """Where the rounds are among the surfaces."""
        start = self.bounded + ENCLOSURE_FACES
        return slice(start, start + self.rounds)

    @property
    def skins(self) -> int:
        """How many textures there are: one a face."""
        return ENCLOSURE_FACES + 6 * self.boxes + self.panels + self.cutouts + self.rounds + self.reliefs

    @property
    def cutout_skins(self) -> slice:
        """Where the cutouts' textures are; they show no photo."""
        start = ENCLOSURE_FACES + 6 * self.boxes + self.panels
        return slice(start, start + self.cutouts)

    def span(self, kind: str) -> slice:
        """Where the objects of a kind are among the objects."""
        kinds = ("enclosure", "boxes", "panels", "cutouts", "rounds", "reliefs")
        sizes = [1, self.boxes, self.panels, self.cutouts, self.rounds, self.reliefs]
        start = sum(sizes[: kinds.index(kind)])
        return slice(start, start + sizes[kinds.index(kind)])


@dataclass(frozen=True)
class Objects:
    """B scenes of N objects in one camera's frame: `centre` (B, N, 3), `axes` (B, N, 3, 3), whose rows are the half-axes.

    `flat` (B, rounds) bool says which rounds are ellipses. `waves` (B, WAVES, 4) are the relief's: frequency along A0 / |A0|
    and A1 / |A1| in radians per unit, phase, amplitude in units; at the distance `fading` (B,) from C they have halved. It is 0
    where there is no relief.
    """

    counts: Counts
    centre: Tensor
    axes: Tensor
    flat: Tensor
    waves: Tensor
    fading: Tensor

    def __getitem__(self, part: slice | Tensor) -> Objects:
        """The objects of some of the scenes."""
        tensors = (self.centre, self.axes, self.flat, self.waves, self.fading)
        return Objects(self.counts, *(tensor[part] for tensor in tensors))

    def joined(self, other: Objects) -> Objects:
        """The scenes of both, one batch after the other."""
        names = ("centre", "axes", "flat", "waves", "fading")
        return Objects(self.counts, *(torch.cat([getattr(self, name), getattr(other, name)]) for name in names))

    def moved(self, R: Tensor, t: Tensor) -> Objects:
        """The objects after X -> R X + t, with R (B, N, 3, 3) and t (B, N, 3)."""
        centre = (R @ self.centre[..., None])[..., 0] + t
        return Objects(self.counts, centre, self.axes @ R.mT, self.flat, self.waves, self.fading)

    def distance(self) -> Tensor:
        """(B, N): how far the camera is from each object's box, from the enclosure's walls, from the highest of a relief."""
        length = self.axes.norm(dim=-1)
        beside = (self.axes @ self.centre[..., None])[..., 0].abs() / length
        away = (beside - length).clamp_min(0).norm(dim=-1)
        away[:, 0] = (length - beside)[:, 0].amin(-1)
        land = self.counts.span("reliefs")
        away[:, land] = HEIGHTS * beside[:, land, 2]
        return away


@dataclass(frozen=True)
class Forms:
    """What one camera sees of B scenes of S surfaces; float32, linear forms to be multiplied by pixels (x, y, 1).

    `table` (B, S, 9): the forms a, b, c. A ray meets a rectangle where |a|, |b| <= c, with mu = c, and a round where D = c^2
    - a^2 - b^2 >= 0, with mu = near c + bulge sqrt(D); `near` and `bulge` (B, S), 1 and 0 for flat surfaces. `edges` (B, S,
    5, 4): c - a, c + a, c - b, c + b and c, each with the size of its terms as a fourth number. `flat`, `solid` and `within`
    (S,) bool: surfaces whose mu is c; those of them that have no holes; all but the enclosure. `relief` (B, 13): the forms
    normal, first and second axis (9), distance, first and second origin, fading: a point is normal.p / mu - distance behind
    the plane, axis.p / mu + origin is its place on it. `waves` as in Objects. `alpha` has the outlines of the cutouts.
    """

    counts: Counts
    table: Tensor
    edges: Tensor
    near: Tensor
    bulge: Tensor
    solid: Tensor
    within: Tensor
    flat: Tensor
    relief: Tensor
    waves: Tensor
    alpha: Alpha | None


@dataclass(frozen=True)
class Alpha:
    """The outlines of the cutouts: `texels` (n, 4) uint8 RGBA, all of them on end.

    `base` and `side` (B, slots) int64 say where the cut-out on each surface starts, and its width and height; 0 for the others.
    """

    texels: Tensor
    base: Tensor
    side: Tensor

    def margin(self, which: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """(M, n): positive where the opacity at (a / c, b / c), both in -1..1, is over a half, negative elsewhere.

        `which` (M,) counts the surfaces of the whole batch.
        """
        base, side = (v.flatten().index_select(0, which)[:, None] for v in (self.base, self.side))
        half = side / 2
        per = half / c.clamp_min(1e-20)
        x, y = ((v * per).add_(half - 0.5).clamp_min_(0).minimum(side - 1) for v in (a, b))
        left, top = x.long().minimum(side - 2), y.long().minimum(side - 2)
        index = (base + top * side + left).flatten()
        across, down = (x - left).flatten(), (y - top).flatten()
        opacity = self.texels[:, 3]
        above = torch.lerp(opacity.take(index).float(), opacity.take(index + 1).float(), across)
        index = (index.reshape(a.shape) + side).flatten()
        below = torch.lerp(opacity.take(index).float(), opacity.take(index + 1).float(), across)
        return torch.lerp(above, below, down).sub_(127.5).mul_(1e9).reshape(a.shape)


@dataclass(frozen=True)
class Slots:
    """The surfaces that one camera can see, in its frame: `centre` (B, S, 3), `axes` (B, S, 2, 3); `skin` and `object` (B, S).

    Of an ellipsoid it is the section through the axes A0 and A1, for its texture.
    """

    centre: Tensor
    axes: Tensor
    skin: Tensor
    object: Tensor


def slots_of(objects: Objects) -> Slots:
    """The surfaces that a camera at the origin can see: bounded ones, the enclosure's faces, rounds, relief."""
    counts, device = objects.counts, objects.centre.device
    count = len(objects.centre)
    boxes, around = counts.span("boxes"), counts.span("enclosure")
    centre, axes = objects.centre, objects.axes
    # A face is seen from outside where the camera is on its side of the box.
    side = -(axes[:, boxes] @ centre[:, boxes, :, None])[..., 0]
    side = torch.where(side > 0, 1.0, -1.0).double()
    faces, edges = _faces(centre[:, boxes], axes[:, boxes], side)
    walls = [_faces(centre[:, around], axes[:, around], sign * torch.ones_like(centre[:, around])) for sign in (-1, 1)]
    rest = slice(counts.span("panels").start, counts.objects)
    flat = counts.panels + counts.cutouts
    centres = [
        faces.flatten(1, 2),
        centre[:, rest][:, :flat],
        walls[0][0][:, 0],
        walls[1][0][:, 0],
        centre[:, rest][:, flat:],
    ]
    sections = [
        edges.flatten(1, 2),
        axes[:, rest, :2][:, :flat],
        walls[0][1][:, 0],
        walls[1][1][:, 0],
        axes[:, rest, :2][:, flat:],
    ]

    def numbers(start: int, length: int) -> Tensor:
        return torch.arange(start, start + length, device=device).expand(count, -1)

    first = numbers(0, counts.boxes)[..., None] * 6 + torch.arange(3, device=device) * 2 + ENCLOSURE_FACES
    skins = [
        (first + (side > 0)).flatten(1),
        numbers(ENCLOSURE_FACES + 6 * counts.boxes, flat),
        numbers(0, ENCLOSURE_FACES),
    ]
    skins.append(numbers(ENCLOSURE_FACES + 6 * counts.boxes + flat, counts.rounds + counts.reliefs))
    owners = [numbers(boxes.start, counts.boxes).repeat_interleave(3, 1), numbers(rest.start, flat), numbers(0, 6) * 0]
    owners.append(numbers(rest.start + flat, counts.rounds + counts.reliefs))
    return Slots(torch.cat(centres, 1), torch.cat(sections, 1), torch.cat(skins, 1), torch.cat(owners, 1))


def _faces(centre: Tensor, axes: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (B, N, 3, 3) and half-axes (B, N, 3, 2, 3) of the faces across A0, A1, A2 on the given sides (B, N, 3)."""
    edges = torch.stack([axes[:, :, [2, 1]], axes[:, :, [0, 2]], axes[:, :, [0, 1]]], 2)
    return centre[:, :, None] + side[..., None] * axes, edges


def forms_of(objects: Objects, slots: Slots, K: Tensor, alpha: Alpha | None = None) -> Forms:
    """What a camera K (B, 3, 3) at the origin sees of the objects; without `alpha` cutouts are whole rectangles."""
    counts, inverse = objects.counts, inverse_intrinsics(K)
    n, m = counts.bounded, counts.bounded + ENCLOSURE_FACES
    count, device = len(K), K.device
    flat = plane_rows(slots.centre[:, :m], slots.axes[:, :m])
    flat[:, n:, :2] = 0
    rounds, near, bulge = _round_rows(objects)
    kinds = torch.zeros(2, count, counts.slots, dtype=torch.float64, device=device)
    kinds[0] = 1
    kinds[:, :, counts.round_slots] = torch.stack([near, bulge])
    # A relief is tried everywhere where there is one: its c is always 1.
    always = torch.zeros(count, counts.reliefs, 3, 3, dtype=torch.float64, device=device)
    rows = torch.cat([torch.cat([flat, rounds], 1) @ inverse[:, None], always], 1)
    rows[:, counts.slots - counts.reliefs :, 2, 2] = torch.where(objects.fading > 0, 1.0, -1.0)[:, None].double()
    kinds[0, :, counts.slots - counts.reliefs :] = UNBOUNDED
    a, b, c = rows.unbind(2)
    edges = torch.stack([c - a, c + a, c - b, c + b, c], 2)
    size = torch.stack([a.abs() + c.abs()] * 2 + [b.abs() + c.abs()] * 2 + [c.abs()], 2) @ _reach(K)[:, None, :, None]
    number = torch.arange(counts.slots, device=device)
    cut = counts.cutout_slots
    return Forms(
        counts=counts,
        table=rows.flatten(2).float(),
        edges=torch.cat([edges, size], -1).float(),
        near=kinds[0].float(),
        bulge=kinds[1].float(),
        solid=(number < m) & ~((number >= cut.start) & (number < cut.stop)),
        within=(number < n) | (number >= m),
        flat=number < m,
        relief=_relief_forms(objects, inverse),
        waves=objects.waves.float(),
        alpha=alpha,
    )


def _reach(K: Tensor) -> Tensor:
    """(B, 3): about the largest pixel coordinates, to bound rounding errors with."""
    return torch.stack([2 * K[:, 0, 2].abs() + 1, 2 * K[:, 1, 2].abs() + 1, torch.ones_like(K[:, 0, 2])], -1)


def _relief_forms(objects: Objects, inverse: Tensor) -> Tensor:
    relief = objects.counts.span("reliefs")
    if relief.start == relief.stop:
        return torch.zeros(len(inverse), 13, device=inverse.device)
    axes = normalize(objects.axes[:, relief.start], dim=-1)
    offset = (axes @ objects.centre[:, relief.start, :, None])[..., 0]
    forms = axes[:, [2, 0, 1]] @ inverse
    return torch.cat([forms.flatten(1), offset[:, 2:], -offset[:, :2], objects.fading[:, None]], 1).float()


def plane_rows(centre: Tensor, axes: Tensor) -> Tensor:
    """(B, N, 3, 3): [A0 A1 C]^-1 of parallelograms, whose rows times a ray r (z = 1) give a mu, b mu and mu."""
    A, B = axes[..., 0, :], axes[..., 1, :]
    cross = torch.linalg.cross
    determinant = (A * cross(B, centre)).sum(-1)
    # A plane through the camera is seen edge on; it gets a very large mu instead of an infinite one.
    least = 1e-9 * A.norm(dim=-1) * B.norm(dim=-1) * centre.norm(dim=-1) + 1e-30
    determinant = torch.where(determinant.abs() < least, least, determinant)
    return torch.stack([cross(B, centre), cross(centre, A), cross(A, B)], -2) / determinant[..., None, None]


def _round_rows(objects: Objects) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (B, m, 3, 3) of e1, e2, e3, and the factors `near` and `bulge` (B, m) of the rounds.

    In the frame where the ellipsoid is the unit sphere, turned so that its centre is at (0, 0, q), a ray w mu^-1 meets it
    where (q^2 - 1) mu^2 - 2 q w3 mu + |w|^2 = 0: mu = (q w3 + sqrt(w3^2 - (q^2 - 1)(w1^2 + w2^2))) / (q^2 - 1).
    """
    part = objects.counts.span("rounds")
    centre, axes = objects.centre[:, part], objects.axes[:, part]
    ball = axes / (axes * axes).sum(-1, keepdim=True)
    place = (ball @ centre[..., None])[..., 0]
    q = place.norm(dim=-1).clamp_min(1.0001)
    third = normalize(place, dim=-1)
    helper = torch.where(third[..., :1].abs() < 0.8, third.new_tensor([1.0, 0, 0]), third.new_tensor([0, 1.0, 0]))
    first = normalize(torch.linalg.cross(third, helper), dim=-1)
    turned = torch.stack([first, torch.linalg.cross(third, first), third], -2) @ ball
    k = (q * q - 1)[..., None]
    curved = torch.stack([turned[..., 0, :] / k.sqrt(), turned[..., 1, :] / k.sqrt(), turned[..., 2, :] / k], -2)
    flat = objects.flat
    rows = torch.where(flat[..., None, None], plane_rows(centre, axes[..., :2, :]), curved)
    return rows, torch.where(flat, 1.0, q), (~flat).double()
