"""GLU-Net's loss: the flow of every level against the truth on its own grid, whatever the sizes (spec.md 6.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.losses.sequence import pixel_weights, truth_on_grid
from flowkit.ops.precision import wide

_TINY = 1e-6
"""Keeps the square root's slope finite; in squared pixels."""


def levels_loss(
    iterates: Sequence[Tensor],
    batch: PairBatch,
    *,
    weights: Sequence[float],
    sides: Sequence[int | None],
    max_flow: float = 1000.0,
    occluded: float = 1.0,
) -> Tensor:
    """The sum over levels of the level's weight times the sum over its cells of the length of the error, per pair; a scalar.

    Iterates are (B, 2, h, w) on any grids over the images, in pixels of these. A level's error is measured in pixels of the
    image that it works on: of `side` x `side` pixels, or, with None, of the image itself. Truth and weight of a cell are means
    over its area, weights as in the sequence loss; what cells do not know is made up for by those that do. ValueError when
    there are more iterates than weights.
    """
    if len(iterates) > min(len(weights), len(sides)):
        raise ValueError(f"{len(iterates)} flows, but weights for {len(weights)} levels")
    weight = pixel_weights(batch, max_flow, occluded)
    total = torch.zeros((), device=batch.device)
    for flow, factor, side in zip(iterates, weights, sides, strict=False):
        grid = int(flow.shape[-2]), int(flow.shape[-1])
        truth, share = truth_on_grid(batch.flow, weight, grid)
        error = wide(flow) - truth
        if side is not None:
            error = error * error.new_tensor([side / batch.size[1], side / batch.size[0]]).view(2, 1, 1)
        length = (error.square().sum(1) + _TINY).sqrt() * share
        mean = length.flatten(1).sum(1) / share.flatten(1).sum(1).clamp_min(1e-3 * grid[0] * grid[1])
        total = total + factor * grid[0] * grid[1] * mean.mean()
    return total
