"""The fine stage of an alignment: dense flow on a pair that a homography has brought together, and how layers are joined.

The interface that the RANSAC-Flow network will use too: target picture, source picture, homography in; residual flow on the
target's grid, its confidence and its matching cost out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowkit.pipelines.dis import dis_flow, variational_refinement
from flowkit.pipelines.refinement import warp_onto
from flowkit.pipelines.seeding import MatchingCost, densify, fill, pixel_grid, round_trip_error, without_specks

MARGIN = 0.12
"""The warped source is drawn this share of the longer side beyond the target's frame: depth moves things across it."""
SWITCH_COST = 0.02
"""How much cheaper (of a census cost between 0 and 0.5) a later homography must be to take a pixel over."""
MIN_SHARE = 0.003
"""Regions of a homography smaller than this share of the picture are given back."""


@dataclass(frozen=True)
class Layer:
    """The fine flow under one homography: p -> H(p + residual(p)). All (H, W), `residual` (H, W, 2) in working pixels."""

    residual: np.ndarray
    error: np.ndarray
    """Forward-backward error in working pixels, infinite where the source shows nothing."""
    cost: np.ndarray


@dataclass(frozen=True)
class Joined:
    """One residual flow from several layers; `choice` (H, W) int16 says which, `confidence` (H, W) in [0, 1]."""

    residual: np.ndarray
    choice: np.ndarray
    confidence: np.ndarray


def fine_dis(
    target: np.ndarray,
    source: np.ndarray,
    matrix: np.ndarray,
    points: tuple[np.ndarray, np.ndarray] | None = None,
) -> Layer:
    """DIS on the target (H, W, 3) and the source warped by `matrix` (target's working pixels -> source's pixels).

    `points` are matches in the target's frame, of which locally consistent ones seed the flow.
    """
    import cv2

    height, width = target.shape[:2]
    pad = int(MARGIN * max(height, width)) if points is not None else 8
    frame = cv2.copyMakeBorder(target, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    shift = np.array([[1, 0, -pad], [0, 1, -pad], [0, 0, 1]], float)
    warped, valid = warp_onto(source, matrix @ shift, frame.shape[:2])
    grey0, grey1 = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (frame, warped))
    forward, backward = dis_flow(grey0, grey1), dis_flow(grey1, grey0)
    if points is not None:
        dense = densify(frame, warped, points[0] + pad, points[1] + pad, [(forward, backward)], valid)
        forward = variational_refinement(grey0, grey1, dense.forward)
        backward = variational_refinement(grey1, grey0, dense.backward)
    error = round_trip_error(forward, backward)
    x, y = pixel_grid(*frame.shape[:2])
    seen = cv2.remap(valid.astype(np.uint8), x + forward[..., 0], y + forward[..., 1], cv2.INTER_NEAREST) > 0
    error[~seen] = np.inf
    cost = MatchingCost(frame, warped, valid)(forward[..., 0], forward[..., 1])
    inner = slice(pad, pad + height), slice(pad, pad + width)
    return Layer(np.ascontiguousarray(forward[inner]), error[inner], np.clip(cost[inner], 0, 1))


def join(layers: Sequence[Layer], guide: np.ndarray) -> Joined:
    """Each pixel takes the layer of least cost among those whose two directions agree, the first one where none does.

    `guide` (H, W, 3) uint8 is the target, whose edges stop the filling of what no layer explains.
    """
    first = layers[0]
    choice = np.zeros(first.cost.shape, np.int16)
    best = np.where(first.error < 1.5, first.cost, first.cost + 0.3)
    for k, layer in enumerate(layers[1:], 1):
        trusted = without_specks(layer.error < 1.5, smallest=max(60, int(MIN_SHARE * choice.size)))
        take = trusted & (layer.cost < best - SWITCH_COST)
        take = without_specks(take, smallest=max(60, int(MIN_SHARE * choice.size)))
        choice[take] = k
        best[take] = layer.cost[take]
    residual, error = first.residual.copy(), first.error.copy()
    for k, layer in enumerate(layers[1:], 1):
        residual[choice == k], error[choice == k] = layer.residual[choice == k], layer.error[choice == k]
    confidence = np.exp(-0.5 * np.minimum(error, 1e3) ** 2)
    if len(layers) == 1:
        lost = without_specks(error >= 1.5, smallest=30)
        if lost.any() and not lost.all():
            residual = fill(residual, ~lost, guide)
    return Joined(residual, choice, confidence.astype(np.float32))
