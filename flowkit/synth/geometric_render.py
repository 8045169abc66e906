"""Drawing geometric pairs: flows both ways with validity and occlusion, and the pictures; in batches, on any device."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.flow import flow_from_homography
from flowkit.geometry.grids import flow_targets, grid_like, inside, pixel_grid
from flowkit.geometry.sampling import sample, sample_flow
from flowkit.synth.geometric import KINDS, LIFE, GeometricMaps, GeometricPairs, GeometricSettings, sample_maps
from flowkit.synth.geometric_objects import with_objects
from flowkit.synth.photos import PhotoStore, lookup
from flowkit.synth.random import Random
from flowkit.synth.thin_plate_grid import invert_on_grid
from flowkit.types import Size

CONVERGED = 0.06
"""A last Newton step of this many pixels is believed: what is left was below 8e-4 px after steps of up to 0.1 px."""
SAME = 0.5
"""Pixels by which there and back may miss before a point is taken for one of another fold."""
BUDGET = {"cpu": 2**19}
"""How many distances to control points are computed at once: what fits a CPU's cache, elsewhere 2^24 to bound memory."""


def render_geometric(pairs: GeometricPairs, photos: PhotoStore) -> PairBatch:
    """The pairs as pictures on the photos' device, with flow, validity and occlusion both ways.

    Where the warp leaves the frame image0 is black and its flow not valid; neither is it where the spline is folded over, nor
    the backward flow where Newton's method does not find it. What is not valid counts as occluded.
    """
    maps, device, size = pairs.maps, photos.device, pairs.maps.size
    flow, backward = map_flows(maps, device)
    valid = torch.isfinite(flow).all(1) & _within(flow, _rim(maps), size)
    to_photo = (pairs.frame @ maps.unit()).float().to(device)
    targets, grid = _targets(flow), _targets(torch.zeros_like(flow[:1]))
    picture, level = pairs.picture.to(device), pairs.level.to(device)
    image0, image1 = (
        lookup(photos, picture, level, _applied(to_photo, points)).mT.unflatten(-1, size)
        for points in (targets, grid.expand_as(targets))
    )
    image0 = torch.where(valid[:, None], image0, 0)
    batch = _pair(image0, image1.contiguous(), flow, valid, backward)
    kinds = [KINDS[k] for k in maps.kind.tolist()]
    made = {"scene": "geometric", "seed": pairs.seeded, "kinds": kinds}
    return replace(with_objects(batch, pairs, photos), made=made)


def transformed(
    images: Tensor, settings: GeometricSettings = LIFE, generator: torch.Generator | None = None
) -> PairBatch:
    """LIFE's B -> B': image0 is `images` (B, 3, H, W) as given, image1 their warp, with flows both ways (spec.md 2.1).

    The warp T is drawn from B' to B: image1(p) = image0(T(p)), so that `backward` is exact, and `flow` its inverse. Where T
    leaves the image, B' is black and `backward_valid` False. Without a generator, torch's default one draws.
    """
    size = int(images.shape[-2]), int(images.shape[-1])
    maps = sample_maps(len(images), size, settings, Random.on_host(generator or torch.default_generator, torch.float64))
    flow, backward = map_flows(maps, images.device)
    valid = torch.isfinite(flow).all(1) & _within(flow, 0.0, size)
    warped = sample(images, _targets(flow).unflatten(1, size), padding="border")
    pair = _pair(torch.where(valid[:, None], warped, 0), images, flow, valid, backward)
    kinds = [KINDS[k] for k in maps.kind.tolist()]
    return replace(pair.reversed(), made={"scene": "transformed", "kinds": kinds})


def map_flows(maps: GeometricMaps, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The flows image0 -> image1 and back (B, 2, H, W) float32 of the warps; NaN where a map has no value or no inverse."""
    homographies = maps.homographies()
    flow, backward = (
        flow_from_homography(H.to(device), maps.size).float() for H in (homographies, torch.linalg.inv(homographies))
    )
    bent = maps.bent.nonzero()[:, 0]
    if len(bent):
        there, back = _bent_flows(maps, bent, device)
        flow[bent.to(device)], backward[bent.to(device)] = there, back
    folded = (maps.bent & maps.folded).nonzero()[:, 0].to(device)
    if len(folded):
        flow[folded] = _unfolded(flow[folded], backward[folded])
    return flow, backward


def _bent_flows(maps: GeometricMaps, rows: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """`map_flows` of the splines `rows`, each followed by an affine map."""
    size, unit = maps.size, maps.unit().to(device)
    chunk = max(1, BUDGET.get(torch.device(device).type, 2**24) // (size[0] * size[1] * 9))
    plate = maps.plate[rows].to(torch.device(device))
    after, whole = maps.matrix[rows].to(device), pixel_grid(*size, device, torch.float64).flatten(1)
    grid, to_pixels = _affine_planes(unit, whole[None]), torch.linalg.inv(unit)
    moved = torch.cat([plate[k : k + 1](grid) for k in range(len(rows))])
    there = _affine_planes(to_pixels @ after, moved) - whole
    wanted = _affine_planes(torch.linalg.inv(after), grid).unflatten(-1, size)
    points, step, area = invert_on_grid(plate, wanted, chunk)
    found = (step * max(size) / (2 * maps.shown) < CONVERGED) & (area > 0)
    back = _affine_planes(to_pixels, points.flatten(2)) - whole
    back = torch.where(found[:, None], back.float().unflatten(-1, size), torch.nan)
    return there.float().unflatten(-1, size), back


def _unfolded(flow: Tensor, backward: Tensor) -> Tensor:
    """The flows without the points whose way back leads to another fold: one place of image1 is then twice in image0."""
    back = sample_flow(backward, flow_targets(flow))
    size = int(flow.shape[-2]), int(flow.shape[-1])
    same = ((flow + back).square().sum(1) < SAME**2) | ~inside(flow_targets(flow), size)
    return torch.where(same[:, None], flow, torch.nan)


def _pair(image0: Tensor, image1: Tensor, flow: Tensor, valid: Tensor, backward: Tensor) -> PairBatch:
    size = int(flow.shape[-2]), int(flow.shape[-1])
    backward_valid = torch.isfinite(backward).all(1)
    return PairBatch(
        image0=image0,
        image1=image1,
        flow=torch.where(valid[:, None], flow, 0),
        valid=valid,
        occlusion=~(valid & _within(flow, 0.0, size)),
        backward=torch.where(backward_valid[:, None], backward, 0),
        backward_valid=backward_valid,
        backward_occlusion=~(backward_valid & _within(backward, 0.0, size)),
    )


def _rim(maps: GeometricMaps) -> float:
    """How far the frame goes beyond the pictures on each side, as a share of their extent."""
    return (1 / maps.shown - 1) / 2


def _within(flow: Tensor, rim: float, size: Size) -> Tensor:
    """(B, H, W): whether flows (B, 2, H, W) lead into the picture, or up to a share `rim` of its extent beyond."""
    height, width = size
    x, y = (flow + grid_like(flow)).unbind(1)
    low_x, low_y = -0.5 - rim * width, -0.5 - rim * height
    return (x >= low_x) & (x <= width - 1 - low_x) & (y >= low_y) & (y <= height - 1 - low_y)


def _targets(flow: Tensor) -> Tensor:
    """(B, P, 2): where the flows (B, 2, H, W) lead; 0 where they are unknown."""
    return flow_targets(flow).flatten(1, 2).nan_to_num(0.0)


def _affine_planes(matrix: Tensor, points: Tensor) -> Tensor:
    """Affine maps (..., 3, 3) of points in planes (B, 2, P)."""
    return matrix[..., :2, :2] @ points + matrix[..., :2, 2:]


def _applied(matrix: Tensor, points: Tensor) -> Tensor:
    """Affine maps (B, 2, 3) or (B, 3, 3) of points (B, P, 2)."""
    return torch.baddbmm(matrix[:, None, :2, 2], points, matrix[:, :2, :2].mT)
