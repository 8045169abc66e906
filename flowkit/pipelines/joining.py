"""How layers, the fine flow under one homography each, become one flow: who takes which pixel, and what nobody explains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flowkit.pipelines.filling import fill
from flowkit.pipelines.fine import Layer
from flowkit.pipelines.matching_cost import pixel_grid
from flowkit.pipelines.refinement import project
from flowkit.pipelines.seeding import without_specks
from flowkit.types import Size

AGREES = 1.5
"""Forward-backward error in working pixels up to which both directions agree."""
CLAIMED = 0.5
"""A region whose way leads to where other pixels have gone already, for more than this share of it, is not taken."""
FILLED = 0.5
"""Confidence at most of what is filled although the source shows it."""
HIDDEN_SHARE = 0.003
"""Hidden parts from this share of the picture on have a rim that is hidden, too."""
MAINLAND_SHARE, ISLAND_SHARE, ISLAND_COST = 0.01, 0.001, 2.0
"""Islands of agreement between these shares of the picture must not cost more than so many times the mainland's median."""


@dataclass(frozen=True)
class Grain:
    """What may be asked of a flow, by how fine its grain is."""

    switch_cost: float
    """How much cheaper (of a census cost between 0 and 0.5) a later homography must be to take a pixel over."""
    disagrees_cost: float
    """What a pixel of the first homography costs more where its two directions disagree."""
    region: float
    """Smallest region of a later homography, as a share of the picture."""
    known: float
    """Forward-backward error in working pixels up to which the flow is kept."""
    known_on_plane: float
    """The same where the homography can be believed instead."""
    rim: int
    """Working pixels around what is hidden to which the flow there has smeared over."""


PIXELS = Grain(0.02, 0.3, 0.003, AGREES, AGREES, 4)
"""DIS and networks that answer for each pixel."""
CELLS = Grain(0.1, 0.1, 0.008, 0.75, 0.5, 8)
"""RANSAC-Flow's, on cells of 8 pixels: it fits its own homography less well, and what it smears reaches further."""


@dataclass(frozen=True)
class Joined:
    """One residual flow from several layers; `choice` (H, W) int16 says which, `confidence` (H, W) in [0, 1]."""

    residual: np.ndarray
    choice: np.ndarray
    confidence: np.ndarray


def join(
    layers: Sequence[Layer], matrices: Sequence[np.ndarray], size1: Size, guide: np.ndarray, plane: bool = False
) -> Joined:
    """Each pixel takes the layer of least cost among those whose two directions agree, the first one where none does.

    `matrices` are the layers' homographies, from the target's working pixels to those of the source, of `size1`. A later
    layer takes only regions whose source nobody else shows: what is hidden finds something like it elsewhere, but that is
    somebody's already. What no layer explains, the source does not show: its confidence is nil. There, and where a coarse
    flow's directions do not agree closely, the flow goes on from the surroundings, layer by layer, up to the edges of
    `guide`, the target (H, W, 3) uint8, or as the homography has it where all is one `plane`.
    """
    first = layers[0]
    grain = PIXELS if first.matchability is None else CELLS
    choice = _chosen_layers(layers, matrices, size1, grain)
    residual = _chosen([layer.residual for layer in layers], choice)
    error = _chosen([layer.error for layer in layers], choice)
    cost = _chosen([layer.cost for layer in layers], choice)
    limit = grain.known_on_plane if plane else grain.known
    hidden = _hidden(error, cost, AGREES, PIXELS.rim)
    lost = hidden if limit == AGREES else _hidden(error, cost, limit, grain.rim)
    confidence = np.exp(-0.5 * np.minimum(error, 1e3) ** 2)
    confidence[lost] = np.minimum(confidence[lost], FILLED)
    confidence[hidden] = 0
    if plane:
        residual[lost & (choice == 0)] = 0
    elif lost.any() and not lost.all():
        residual, choice = _continued([layer.residual for layer in layers], choice, lost, guide)
    return Joined(residual, choice, confidence.astype(np.float32))


def _chosen_layers(layers: Sequence[Layer], matrices: Sequence[np.ndarray], size1: Size, grain: Grain) -> np.ndarray:
    """(H, W) int16: the layer that each pixel takes, before what none explains is filled."""
    first = layers[0]
    smallest = max(60, int(grain.region * first.cost.size))
    choice = np.zeros(first.cost.shape, np.int16)
    agreed = first.error < AGREES
    best = np.where(agreed, first.cost, first.cost + grain.disagrees_cost)
    place: np.ndarray | None = None
    for k, layer in enumerate(layers[1:], 1):
        trusted = without_specks(layer.error < AGREES, smallest)
        take = without_specks(trusted & (layer.cost < best - grain.switch_cost), smallest)
        if not take.any():
            continue
        if place is None:
            place = landing(first.residual, matrices[0], size1)
        there = landing(layer.residual, matrices[k], size1)
        take &= ~_claimed(take, there, place[agreed & ~take])
        choice[take] = k
        best[take] = layer.cost[take]
        place[take] = there[take]
        agreed |= take
    return choice


def landing(residual: np.ndarray, matrix: np.ndarray, size1: Size) -> np.ndarray:
    """(H, W) int32: the cell of the source, of `size1`, that each pixel of the target goes to; -1 outside of it.

    By a residual flow (H, W, 2), then the homography `matrix` from there to the source's pixels. Cells are two of the
    target's pixels wide if both show the same.
    """
    height, width = residual.shape[:2]
    x, y = pixel_grid(height, width)
    scale = 0.5 * np.sqrt(height * width / (size1[0] * size1[1]))
    rows, columns = int(size1[0] * scale) + 1, int(size1[1] * scale) + 1
    points = np.column_stack([(x + residual[..., 0]).ravel(), (y + residual[..., 1]).ravel()])
    there = np.nan_to_num(project(matrix, points) * scale, nan=-1, posinf=-1, neginf=-1)
    column, row = np.floor(np.clip(there, -1, 1e6)).astype(np.int32).T
    seen = (column >= 0) & (row >= 0) & (column < columns) & (row < rows)
    return np.where(seen, row * columns + column, -1).reshape(height, width)


def _claimed(take: np.ndarray, there: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(H, W) bool: the connected regions of `take` whose landings `there` are mostly among those of `others` (N,)."""
    import cv2

    count, labels = cv2.connectedComponents(take.astype(np.uint8), connectivity=4)
    inside = take & (there >= 0)
    occupied = np.zeros(max(there.max(), others.max(initial=-1)) + 1, bool)
    occupied[others[others >= 0]] = True
    total = np.bincount(labels[inside], minlength=count)
    claimed = np.bincount(labels[inside], weights=occupied[there[inside]], minlength=count)
    return take & (claimed > CLAIMED * total)[labels]


def _chosen(values: Sequence[np.ndarray], choice: np.ndarray) -> np.ndarray:
    """(H, W, ...) of each pixel's layer."""
    result = values[0].copy()
    for k, value in enumerate(values[1:], 1):
        result[choice == k] = value[choice == k]
    return result


def _hidden(error: np.ndarray, cost: np.ndarray, limit: float, rim: int) -> np.ndarray:
    """(H, W) bool: where the two directions differ by `limit` and more, the rim of large such parts, and chance islands."""
    known = _without_chance_islands(error < limit, cost)
    large = without_specks(~known, max(60, int(HIDDEN_SHARE * known.size)))
    return without_specks(~known, 30) | _dilated(large, rim)


def _without_chance_islands(agreed: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """`agreed` less small islands in what is not agreed on, unless they match about as well as the mainland.

    Where a part of the target is hidden in the source, its texture finds something like it elsewhere, and both directions
    may agree on that.
    """
    import cv2

    count, labels, stats, _ = cv2.connectedComponentsWithStats(agreed.astype(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA]
    large = area >= MAINLAND_SHARE * agreed.size
    large[0] = False
    if not large.any():
        return agreed
    limit = ISLAND_COST * np.median(cost[large[labels]])
    keep = large.copy()
    for k in range(1, count):
        if not large[k] and area[k] >= max(60, ISLAND_SHARE * agreed.size):
            keep[k] = np.median(cost[labels == k]) <= limit
    return keep[labels]


def _continued(
    residuals: Sequence[np.ndarray], choice: np.ndarray, lost: np.ndarray, guide: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Residual flow and choice with the `lost` pixels filled in: the layer that is nearest within edges, and its flow."""
    kept = [(choice == k) & ~lost for k in range(len(residuals))]
    shares = fill(np.dstack(kept).astype(np.float32), ~lost, guide)
    choice = np.where(lost, shares.argmax(axis=2), choice).astype(np.int16)
    residual = _chosen(residuals, choice)
    for k, keep in enumerate(kept):
        here = lost & (choice == k)
        if here.any():
            residual[here] = fill(residuals[k], keep, guide)[here]
    return residual, choice


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    import cv2

    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * radius + 1,) * 2, np.uint8)) > 0
