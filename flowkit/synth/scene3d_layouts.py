"""Where things stand in 3-D scenes: a street to drive along, or a stage with things strewn over the view.

Built in a world frame (x right, y down, z ahead, the ground level) with the camera's centre at the origin, B scenes at once, in
float64. What a scene does not have stands far outside its enclosure, where nothing sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.synth.cameras import inverse_intrinsics, rotation
from flowkit.synth.random import Random
from flowkit.synth.scene3d_surfaces import WAVES, Counts, Objects
from flowkit.types import Size

AWAY = 1e3
"""Where absent objects are, in units of the scene's reach."""
ROOM = 0.6
"""An object's corners are at most this share of its distance from its centre: the camera is never in it."""
GENTLE = 0.5
"""Slope times obliquity of a relief stays below this: no ray crosses it twice, whatever the camera's place in the scene."""


@dataclass(frozen=True)
class Stage:
    """What all objects of B scenes share: `street` (B,) bool, `reach` (B,) units to the far wall, `ground` (B,) under the
    camera, `up` (B, 3, 3) the camera's rotation (world to camera), K (B, 3, 3).
    """

    street: Tensor
    reach: Tensor
    ground: Tensor
    up: Tensor
    K: Tensor
    size: Size


def sample_stage(random: Random, street: Tensor, K: Tensor, size: Size) -> Stage:
    """Streets are 40 to 150 units long with the camera 1.2 to 2.2 above the ground; stages have any size."""
    count = len(street)
    reach = torch.where(street, random.log_uniform(40, 150, count), random.log_uniform(4, 40, count))
    ground = torch.where(street, random.between(1.2, 2.2, count), reach * random.log_uniform(0.08, 0.5, count))
    tilt = torch.stack([0.12 * random.normal(count), 0.1 * random.normal(count), 0.06 * random.normal(count)], -1)
    return Stage(street, reach, ground, rotation(tilt * torch.where(street, 0.3, 1.0)[:, None]), K, size)


def sample_objects(
    random: Random, stage: Stage, counts: Counts, presence: float, upright: float, relief: float
) -> Objects:
    """All objects, in the camera's frame; each is there with a probability of `presence`, and stands upright with `upright`."""
    n = counts.boxes + counts.panels + counts.cutouts + counts.rounds
    strewn = _strewn(random, stage, counts, n, upright)
    street = _along_the_street(random, stage, counts)
    on_street = stage.street[:, None, None]
    centre = torch.where(on_street, street[0], strewn[0])
    axes = torch.where(on_street[..., None], street[1], strewn[1])
    absent = ~random.chance(presence, len(centre), n)
    centre = torch.where(absent[..., None], _outside(stage, n), centre)
    flat = random.chance(0.3, len(centre), counts.rounds)
    land = _relief(random, stage, ~stage.street & random.chance(relief, len(centre)))
    around = _enclosure(random, stage)
    centre = torch.cat([around[0], centre, land[0][:, : counts.reliefs]], 1)
    axes = torch.cat([around[1], axes, land[1][:, : counts.reliefs]], 1)
    up = stage.up[:, None]
    objects = Objects(counts, centre, axes, flat, land[2], land[3])
    return objects.moved(up.expand(-1, counts.objects, -1, -1), torch.zeros_like(centre))


def _outside(stage: Stage, n: int) -> Tensor:
    far = torch.zeros(len(stage.reach), n, 3, dtype=torch.float64, device=stage.reach.device)
    far[..., 2] = AWAY * stage.reach[:, None]
    return far


def _enclosure(random: Random, stage: Stage) -> tuple[Tensor, Tensor]:
    """Streets: a canyon of walls or open land; stages: a room whose walls are about as far as it reaches."""
    count, reach = len(stage.reach), stage.reach
    canyon = random.chance(0.5, count) & stage.street
    side = torch.where(
        canyon[:, None], random.log_uniform(6, 14, count, 2), reach[:, None] * random.between(0.5, 1.1, count, 2)
    )
    top = reach * random.between(0.4, 0.9, count)
    back = -reach * random.between(0.5, 0.8, count)
    low = torch.stack([-side[:, 0], -top, back], -1)
    high = torch.stack([side[:, 1], stage.ground, reach], -1)
    return ((low + high) / 2)[:, None], torch.diag_embed((high - low) / 2)[:, None]


def _strewn(random: Random, stage: Stage, counts: Counts, n: int, upright: float) -> tuple[Tensor, Tensor]:
    """Objects of many apparent sizes, anywhere in the view; the upright ones of some scenes stand on the ground."""
    count, (height, width) = len(stage.reach), stage.size
    pixel = torch.stack(
        [
            random.between(-0.15, 1.15, count, n) * width,
            random.between(-0.1, 1.1, count, n) * height,
            torch.ones(count, n, dtype=torch.float64, device=random.device),
        ],
        -1,
    )
    depth = stage.reach[:, None] * random.log_uniform(0.15, 0.85, count, n)
    centre = (pixel @ inverse_intrinsics(stage.K).mT * depth[..., None]) @ stage.up
    apparent = random.log_uniform(0.03, 0.35, count, n) * max(stage.size)
    half = (apparent * depth / stage.K[:, :1, 0])[..., None] * (0.45 * random.normal(count, n, 3)).exp()
    half = half * (ROOM * depth[..., None] / half.norm(dim=-1, keepdim=True)).clamp_max(1)
    yaw = torch.zeros(count, n, 3, dtype=torch.float64, device=random.device)
    yaw[..., 1] = random.between(-math.pi / 3, math.pi / 3, count, n)
    stands = random.chance(upright, count, n)
    turn = rotation(
        torch.where(stands[..., None], yaw, random.direction(count, n) * random.between(0, 1.5, count, n, 1))
    )
    axes = half[..., None] * turn.mT
    cut = _cut_part(counts)
    axes[:, cut, :2] = _same_length(axes[:, cut, :2])
    grounded = stands & random.chance(0.6, count, 1)
    bottom = stage.ground[:, None] - axes[..., 1].abs().sum(-1)
    centre[..., 1] = torch.where(grounded, bottom, centre[..., 1].minimum(bottom))
    return centre, axes


def _cut_part(counts: Counts) -> slice:
    start = counts.boxes + counts.panels
    return slice(start, start + counts.cutouts)


def _same_length(axes: Tensor) -> Tensor:
    """Cut-outs are square; their picture's top is up."""
    length = axes.norm(dim=-1, keepdim=True)
    return axes / length * length.mean(-2, keepdim=True)


def _along_the_street(random: Random, stage: Stage, counts: Counts) -> tuple[Tensor, Tensor]:
    """Houses, parked and driving cars, posts, signs, people and trees beside a free lane along z."""
    count, device = len(stage.reach), random.device
    kinds = torch.zeros(counts.boxes, dtype=torch.long, device=device)
    numbers = torch.arange(counts.boxes, device=device)
    kinds = numbers % 4  # a house, a parked car, a post, a car on the road
    centres, halves = [], []

    def put(n: int, x: Tensor, z: Tensor, half: Tensor, lift: Tensor | float = 0.0) -> None:
        y = stage.ground[:, None] - half[..., 1] - lift
        centres.append(torch.stack([x, y, z], -1))
        halves.append(half)

    def sizes(n: int, *ranges: tuple[float, float]) -> Tensor:
        return torch.stack([random.log_uniform(low, high, count, n) for low, high in ranges], -1)

    n = counts.boxes
    beside = random.sign(count, n)
    options = [
        (sizes(n, (1.5, 4), (2, 6), (2, 8)), (4.5, 9.0), (4, 60)),
        (sizes(n, (0.8, 1.0), (0.65, 1.0), (1.8, 2.6)), (2.4, 4.5), (4, 40)),
        (sizes(n, (0.04, 0.2), (1.0, 3.5), (0.04, 0.2)), (2.0, 5.0), (4, 25)),
        (sizes(n, (0.8, 1.2), (0.65, 1.6), (1.8, 3.5)), (0.0, 1.6), (11, 50)),
    ]
    half = torch.stack([option[0] for option in options])[kinds, :, numbers].transpose(0, 1)
    x = torch.stack([random.between(*option[1], count, n) for option in options])[kinds, :, numbers].transpose(0, 1)
    z = torch.stack([random.log_uniform(*option[2], count, n) for option in options])[kinds, :, numbers].transpose(0, 1)
    put(n, beside * (x + torch.where(kinds == 3, 0.0, half[..., 0])), z + half[..., 2], half)
    n = counts.panels
    put(
        n,
        random.sign(count, n) * random.between(2.2, 7, count, n),
        random.log_uniform(4, 40, count, n),
        sizes(n, (0.2, 2), (0.2, 1.2), (1, 1.01)),
        random.between(0, 2.5, count, n),
    )
    n = counts.cutouts
    half = sizes(n, (0.5, 1.2), (0.5, 1.2), (1, 1.01))
    half[..., 1] = half[..., 0]
    put(n, random.sign(count, n) * random.between(1.8, 4, count, n), random.log_uniform(4, 16, count, n), half)
    n = counts.rounds
    put(
        n,
        random.sign(count, n) * random.between(3.5, 8, count, n),
        random.log_uniform(4, 40, count, n),
        sizes(n, (0.4, 1.8), (0.4, 1.8), (0.4, 1.8)),
        random.between(-0.3, 2, count, n),
    )
    centre, half = torch.cat(centres, 1), torch.cat(halves, 1)
    turn = torch.zeros_like(centre)
    turn[..., 1] = 0.08 * random.normal(*centre.shape[:2])
    later = slice(counts.boxes, counts.boxes + counts.panels + counts.cutouts)
    turn[:, later, 1] = 0.5 * random.normal(count, later.stop - later.start)
    return centre, half[..., None] * rotation(turn).mT


def _relief(random: Random, stage: Stage, there: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre (B, 1, 3), axes (B, 1, 3, 3), waves (B, WAVES, 4), fading (B,): a wall or land from above, where `there` (B,).

    With heights h = sum a sin(f.u + phase) / (1 + |u|^2 / L^2) and L twice the distance H of the plane, the slope times the
    obliquity |u| / H of a ray is at most sum a |f| + sum a / (2 H).
    """
    count = len(stage.reach)
    distance = torch.where(there, random.between(0.45, 0.8, count), AWAY) * stage.reach
    tilt = torch.cat([random.between(-0.5, 0.5, count, 2), random.between(-3, 3, count, 1)], -1)
    axes = rotation(tilt).mT[:, None]
    centre = axes[:, :, 2] * distance[:, None, None]
    length = distance[:, None] * random.log_uniform(0.3, 1.5, count, WAVES)
    angle = random.between(0, 2 * math.pi, count, WAVES)
    frequency = 2 * math.pi / length
    amplitude = length * random.between(0.2, 1, count, WAVES)
    steepness = (amplitude * (frequency + 0.5 / distance[:, None])).sum(-1, keepdim=True)
    amplitude = amplitude * GENTLE / steepness * random.between(0.3, 1, count, 1)
    phase = random.between(0, 2 * math.pi, count, WAVES)
    waves = torch.stack([frequency * angle.cos(), frequency * angle.sin(), phase, amplitude], -1)
    return centre, axes, waves, torch.where(there, 2 * distance, 0.0)
