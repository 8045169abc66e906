"""Cameras of the 3-D scenes: intrinsics, the ways a camera moves between two pictures, and how far it goes.

All of it is batched (B scenes), small and in float64. A camera looks along z, x right, y down; X1 = R X0 + t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from flowkit.geometry.pose import matrix_from_quaternion
from flowkit.synth.random import Random
from flowkit.types import Size

MOTIONS = ("forward", "handheld", "orbit", "rotation", "lateral")
"""The ways a camera moves, by the number that `Motion.kind` holds."""
LADDER = 24
"""How many scales of a motion are tried at once."""
STEP = 2**-0.5
"""Ratio of one tried scale to the one before; 24 of them span a factor of 3 000."""
BEHIND = 1e6
"""The flow, in pixels, that a point behind the other camera counts as."""
WIDEST_TURN = 0.9
"""The camera turns by at most so many radians between the two pictures."""


def rotation(turn: Tensor) -> Tensor:
    """R (..., 3, 3) that turns by |turn| radians about the axis `turn` (..., 3)."""
    half = turn.norm(dim=-1, keepdim=True) / 2
    return matrix_from_quaternion(torch.cat([torch.cos(half), torch.sinc(half / math.pi) * turn / 2], dim=-1))


def inverse_intrinsics(K: Tensor) -> Tensor:
    """K^-1 (..., 3, 3) of intrinsics without skew."""
    inverse = torch.zeros_like(K)
    inverse[..., 0, 0], inverse[..., 1, 1], inverse[..., 2, 2] = 1 / K[..., 0, 0], 1 / K[..., 1, 1], 1
    inverse[..., 0, 2], inverse[..., 1, 2] = -K[..., 0, 2] / K[..., 0, 0], -K[..., 1, 2] / K[..., 1, 1]
    return inverse


@dataclass(frozen=True)
class Motion:
    """B ways to move, at scale 1; `pose` and `intrinsics` give them at other scales, and at scale 0 nothing moves.

    The camera turns by `turn` (B, 3) (axis times radians) about the point `pivot` (B, 3), then its centre moves by `path`
    (B, 3), both in camera 0's frame and units. Meanwhile log focal length grows by `zoom` (B,) and the principal point moves
    by `shift` (B, 2) pixels. `kind` (B,) int64 points into MOTIONS.
    """

    kind: Tensor
    turn: Tensor
    path: Tensor
    pivot: Tensor
    zoom: Tensor
    shift: Tensor

    def __getitem__(self, part: slice | Tensor) -> Motion:
        """Some of the motions."""
        return Motion(**{field.name: getattr(self, field.name)[part] for field in fields(self)})

    def pose(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """R (B, ..., 3, 3) and t (B, ..., 3) of X1 = R X0 + t, at scales (B, ...)."""
        extra = (1,) * (scale.ndim - 1)
        turn, path, pivot = (v.reshape(-1, *extra, 3) for v in (self.turn, self.path, self.pivot))
        s = scale[..., None]
        # A camera that turns by w sees the world turn by -w.
        R = rotation(-turn * s)
        t = pivot - (R @ (pivot + path * s)[..., None])[..., 0]
        return R, t

    def intrinsics(self, K0: Tensor, scale: Tensor) -> Tensor:
        """K1 (B, ..., 3, 3) of K0 (B, 3, 3) at scales (B, ...)."""
        extra = (1,) * (scale.ndim - 1)
        grown = torch.exp(self.zoom.reshape(-1, *extra) * scale)
        K = K0.reshape(-1, *extra, 3, 3).expand(*scale.shape, 3, 3).clone()
        K[..., 0, 0] *= grown
        K[..., 1, 1] *= grown
        K[..., :2, 2] += self.shift.reshape(-1, *extra, 2) * scale[..., None]
        return K

    def course(self) -> Tensor:
        """(B, 3): the velocity at which the camera's centre sets off, units per scale."""
        return self.path + torch.linalg.cross(self.pivot, self.turn)


def sample_intrinsics(random: Random, count: int, size: Size) -> Tensor:
    """K (B, 3, 3): horizontal views of 40 to 95 degrees, principal points off the middle, pixels not quite square."""
    height, width = size
    # Upright pictures get their angle along the longer side.
    focal = max(height, 0.75 * width) / 1.5 / torch.tan(torch.deg2rad(random.between(40, 95, count)) / 2)
    K = torch.zeros(count, 3, 3, dtype=torch.float64, device=random.device)
    K[:, 0, 0] = focal
    K[:, 1, 1] = focal * random.between(0.98, 1.02, count)
    K[:, 0, 2] = (width - 1) / 2 + 0.03 * width * random.normal(count)
    K[:, 1, 2] = (height - 1) / 2 + 0.03 * height * random.normal(count)
    K[:, 2, 2] = 1
    return K


def sample_motion(random: Random, kind: Tensor, reach: Tensor, zooming: float, size: Size) -> Motion:
    """Motions of these kinds (B,) through scenes as deep as `reach` (B,); a share `zooming` of them changes K, too."""
    count = len(kind)
    one = torch.ones(count, dtype=torch.float64, device=kind.device)
    ahead = torch.stack([0.05 * random.normal(count), 0.03 * random.normal(count), one * random.sign(count)], -1)
    ahead[:, 2] = torch.where(random.chance(0.85, count), one, -one)
    aside = torch.stack([random.sign(count), 0.03 * random.normal(count), 0.03 * random.normal(count)], -1)
    wander = random.direction(count) * random.between(0.2, 1, count, 1)
    still = torch.zeros_like(wander)
    paths = torch.stack([ahead, wander, still, still, aside], 1) * (0.2 * reach)[:, None, None]

    # Turns about x (pitch), y (yaw) and z (roll).
    def turns(pitch: float, yaw: float, roll: float) -> Tensor:
        return torch.stack([pitch * random.normal(count), yaw * random.normal(count), roll * random.normal(count)], -1)

    bend = torch.where(random.chance(0.25, count), 6.0, 1.0)[:, None]
    round_about = torch.stack(
        [0.1 * random.normal(count), random.between(0.2, 0.4, count) * random.sign(count), 0.02 * random.normal(count)],
        -1,
    )
    twist = turns(0.1, 0.15, 0.15) * random.log_uniform(0.2, 2, count, 1)
    keep = random.chance(0.5, count)[:, None].double()
    options = [
        turns(0.004, 0.01, 0.003) * bend,
        twist,
        round_about,
        turns(0.1, 0.15, 0.15),
        turns(0.01, 0.01, 0.01) * keep,
    ]
    pick = kind[:, None, None].expand(-1, 1, 3)
    pivot = torch.zeros(count, 3, dtype=torch.float64, device=kind.device)
    pivot[:, 2] = torch.where(kind == MOTIONS.index("orbit"), reach * random.between(0.35, 0.7, count), 0)
    zooms = random.chance(zooming, count).double()
    return Motion(
        kind=kind,
        turn=torch.stack(options, 1).gather(1, pick)[:, 0],
        path=paths.gather(1, pick)[:, 0],
        pivot=pivot,
        zoom=0.3 * random.normal(count) * zooms,
        shift=0.1 * max(size) * random.normal(count, 2) * zooms[:, None],
    )


def project(R: Tensor, t: Tensor, K1: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels (..., N, 2) in image1 of points (..., N, 3) of camera 0's frame, and their depth (..., N) in camera 1."""
    seen = points @ R.mT + t[..., None, :]
    pixels = seen @ K1.mT
    return pixels[..., :2] / pixels[..., 2:], seen[..., 2]


def scale_for(motion: Motion, K0: Tensor, pixels: Tensor, points: Tensor, wanted: Tensor, clearance: Tensor) -> Tensor:
    """(B,): the scale at which 90 % of the flow is shorter than `wanted` (B,) pixels, or the largest one that is allowed.

    `pixels` (B, N, 2) of image0 and `points` (B, N, 3) seen there stand for the whole picture. The camera's centre goes at
    most `clearance` (B,), and it turns by at most WIDEST_TURN.
    """
    largest = torch.minimum(
        clearance / motion.course().norm(dim=-1).clamp_min(1e-12),
        WIDEST_TURN / motion.turn.norm(dim=-1).clamp_min(1e-12),
    ).clamp(1e-6, 8.0)
    steps = torch.arange(LADDER, device=wanted.device, dtype=torch.float64)
    scales = largest[:, None] * STEP**steps
    R, t = motion.pose(scales)
    there, depth = project(R, t, motion.intrinsics(K0, scales), points[:, None])
    length = (there - pixels[:, None]).norm(dim=-1)
    length = torch.where(depth > 1e-3 * points[:, None, :, 2], length, BEHIND).clamp_max(BEHIND)
    reached = length.sort(dim=-1).values[..., int(0.9 * length.shape[-1])]
    return _interpolated(scales, reached, wanted)


def _interpolated(scales: Tensor, reached: Tensor, wanted: Tensor) -> Tensor:
    """The scale at which the flow first reaches what is wanted; log-linear between the rungs (B, LADDER), largest first."""
    rung = ((reached >= wanted[:, None]).sum(-1, keepdim=True) - 1).clamp(0, LADDER - 2)
    above, below = reached.gather(1, rung)[:, 0], reached.gather(1, rung + 1)[:, 0]
    share = (wanted.log() - below.log()) / (above.log() - below.log()).clamp_min(1e-9)
    return scales.gather(1, rung + 1)[:, 0] * STEP ** -share.clamp(0, 1)
