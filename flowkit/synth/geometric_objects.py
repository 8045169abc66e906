"""Objects pasted into geometric pairs: cut-outs that move by a similarity of their own, in front of the photo."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.grids import flow_targets, inside
from flowkit.synth.geometric import GeometricPairs
from flowkit.synth.photos import PhotoStore

SEEN = 0.5
"""An object hides what is behind it, and owns the flow, where its alpha is above this."""


def with_objects(batch: PairBatch, pairs: GeometricPairs, photos: PhotoStore) -> PairBatch:
    """The batch with the pairs' objects in both pictures, their flow where they are seen, and what they hide occluded."""
    rows = pairs.has_object.nonzero()[:, 0]
    if not len(rows):
        return batch
    figures = _Figures(pairs, rows, photos)
    on_device = rows.to(batch.device)
    part = {name: tensor[on_device] for name, tensor in batch.tensors().items()}
    to_figure0, to_figure1 = (_inverse(place[rows]).float().to(batch.device) for place in (pairs.place0, pairs.place1))
    motion, back = (
        _chained(a[rows], _inverse(b[rows])).float().to(batch.device)
        for a, b in ((pairs.place1, pairs.place0), (pairs.place0, pairs.place1))
    )
    grid = flow_targets(torch.zeros_like(part["flow"]))
    drawn0, drawn1 = figures(_applied(to_figure0, grid)), figures(_applied(to_figure1, grid))
    hidden0 = figures(_applied(to_figure1, flow_targets(part["flow"])))[:, 3] > SEEN
    hidden1 = figures(_applied(to_figure0, flow_targets(part["backward"])))[:, 3] > SEEN
    values = [
        ("image0", "flow", "valid", "occlusion", drawn0, hidden0, motion),
        ("image1", "backward", "backward_valid", "backward_occlusion", drawn1, hidden1, back),
    ]
    result: dict[str, Any] = dict(batch.tensors())
    for image, flow, valid, occlusion, drawn, hidden, move in values:
        seen = drawn[:, 3] > SEEN
        moved = _applied(move, grid)
        own = {
            image: drawn[:, :3] + (1 - drawn[:, 3:]) * part[image],
            flow: torch.where(seen[:, None], (moved - grid).movedim(-1, 1), part[flow]),
            valid: part[valid] | seen,
            occlusion: torch.where(seen, ~inside(moved, batch.size), part[occlusion] | hidden),
        }
        for name, value in own.items():
            result[name] = result[name].index_copy(0, on_device, value)
    return replace(batch, **result)


class _Figures:
    """The cut-outs of some pairs, ready to be looked up: colours times alpha, and alpha, at the scale they are drawn at."""

    def __init__(self, pairs: GeometricPairs, rows: Tensor, photos: PhotoStore) -> None:
        self.count = len(rows)
        self.parts = []
        for level in pairs.figure_level[rows].unique().tolist():
            members = (pairs.figure_level[rows] == level).nonzero()[:, 0]
            pixels = photos.cutouts[pairs.figure[rows[members]].to(photos.device)].movedim(-1, 1).float() / 255
            pixels[:, :3] *= pixels[:, 3:]
            self.parts.append((members.to(photos.device), F.avg_pool2d(pixels, 2**level)))

    def __call__(self, places: Tensor) -> Tensor:
        """(n, 4, H, W): at places (n, H, W, 2) in [-1, 1] of the cut-outs; transparent outside."""
        result = places.new_zeros(self.count, 4, *places.shape[1:3])
        for members, pixels in self.parts:
            result[members] = F.grid_sample(pixels, places[members], padding_mode="zeros", align_corners=False)
        return result


def _inverse(matrix: Tensor) -> Tensor:
    """The inverses of affine maps (B, 2, 3)."""
    linear = torch.linalg.inv(matrix[..., :2])
    return torch.cat([linear, -linear @ matrix[..., 2:]], -1)


def _chained(after: Tensor, before: Tensor) -> Tensor:
    """Affine maps (B, 2, 3), one after the other."""
    return torch.cat([after[..., :2] @ before[..., :2], after[..., :2] @ before[..., 2:] + after[..., 2:]], -1)


def _applied(matrix: Tensor, points: Tensor) -> Tensor:
    """Affine maps (B, 2, 3) of points (B, H, W, 2)."""
    return points @ matrix[:, None, :, :2].mT + matrix[:, None, None, :, 2]
