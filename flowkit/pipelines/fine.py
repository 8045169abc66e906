"""The fine stage of an alignment: dense flow on a pair that a homography has brought together, and how layers are joined.

Target picture, source picture and homography in; residual flow on the target's grid, its error and its matching cost out,
whatever finds the flow: DIS, any network, or the one that RANSAC-Flow has for it (pipelines/fine_network.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from flowkit.pipelines.dis import dis_flow, variational_refinement
from flowkit.pipelines.evidence import Evidence
from flowkit.pipelines.filling import fill
from flowkit.pipelines.matching_cost import MatchingCost, pixel_grid
from flowkit.pipelines.refinement import project, unaliased, warp_onto
from flowkit.pipelines.seeding import densify, round_trip_error, without_specks
from flowkit.pipelines.side_by_side import both
from flowkit.types import Size

MARGIN = 0.12
"""The warped source is drawn this share of the longer side beyond the target's frame: depth moves things across it."""
SWITCH_COST = 0.02
"""How much cheaper (of a census cost between 0 and 0.5) a later homography must be to take a pixel over."""
NETWORK_SWITCH_COST = 0.1
"""The same under a flow that knows its matchability: a network's, whose cells are coarse, fits its own homography less well."""
MIN_SHARE = 0.003
"""Regions of a homography smaller than this share of the picture are given back."""
AGREES = 1.5
"""Forward-backward error in working pixels up to which the two directions agree."""
LOST = 3.0
"""Forward-backward error at which what is found has little weight against what was there before."""
MAINLAND_SHARE, ISLAND_SHARE, ISLAND_COST = 0.01, 0.001, 2.0
"""Islands of agreement between these shares of the picture must not cost more than so many times the mainland's median."""
RIM = 4
"""Working pixels around what is hidden to which the flow there has smeared over."""


@dataclass(frozen=True)
class Layer:
    """The fine flow under one homography: p -> H(p + residual(p)). All (H, W), `residual` (H, W, 2) in working pixels."""

    residual: np.ndarray
    error: np.ndarray
    """Forward-backward error in working pixels, infinite where the source shows nothing."""
    cost: np.ndarray
    matchability: np.ndarray | None = None
    """In [0, 1], of methods that know it; 0 where the source shows nothing."""

    def within(self, window: tuple[slice, slice], size: Size) -> Layer:
        """The layer of a whole picture of `size`, of which this one is a window; beyond it nothing is known."""
        if self.error.shape == size:
            return self

        def placed(values: np.ndarray, beyond: float) -> np.ndarray:
            whole = np.full((*size, *values.shape[2:]), beyond, values.dtype)
            whole[window] = values
            return whole

        sure = None if self.matchability is None else placed(self.matchability, 0)
        return Layer(placed(self.residual, 0), placed(self.error, np.inf), placed(self.cost, 1), sure)


@dataclass(frozen=True)
class Joined:
    """One residual flow from several layers; `choice` (H, W) int16 says which, `confidence` (H, W) in [0, 1]."""

    residual: np.ndarray
    choice: np.ndarray
    confidence: np.ndarray


@dataclass(frozen=True)
class Motion:
    """Flows (H, W, 2) float32 there and back, and where known how sure the first is that there is a match, (H, W) in [0, 1]."""

    forward: np.ndarray
    backward: np.ndarray
    matchability: np.ndarray | None = None


PairFlow = Callable[[np.ndarray, np.ndarray, np.ndarray], Motion]
"""Of two pictures (H, W, 3) uint8, the second of which is valid where (H, W) bool says so."""


def fine_layer(
    target: np.ndarray,
    source: np.ndarray,
    matrix: np.ndarray,
    pair_flow: PairFlow,
    pad: int = 8,
    before: np.ndarray | None = None,
    evidence: Evidence | None = None,
) -> Layer:
    """The flow between the target (H, W, 3) and the source warped by `matrix` (target's working pixels -> source's pixels).

    Both are shown `pad` pixels beyond the target's frame. `before` (H, W, 2) is a residual flow that is known already: the
    source is sampled once, at matrix(p + before(p)), and what is found comes on top. It counts as far as the `evidence`, in
    the target's working pixels, goes along.
    """
    import cv2

    height, width = target.shape[:2]
    frame = cv2.copyMakeBorder(target, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    shift = np.array([[1, 0, -pad], [0, 1, -pad], [0, 0, 1]], float)
    x, y = pixel_grid(*frame.shape[:2])
    if before is None:
        warped, valid = warp_onto(source, matrix @ shift, frame.shape[:2])
    else:
        before = cv2.copyMakeBorder(before, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        warped, valid = _sampled(source, matrix @ shift, before)
    motion = pair_flow(frame, warped, valid)
    residual = motion.forward
    error = round_trip_error(motion.forward, motion.backward)
    if evidence is not None:
        trusted = np.exp(-0.5 * np.minimum(cv2.blur(np.minimum(error, 1e3), (9, 9)) / LOST, 20) ** 2)
        residual = residual * trusted[..., None].astype(np.float32)
        evidence = evidence.moved(pad)
        evidence = evidence if before is None else evidence.after(before)
        residual = residual * evidence.weight(residual, frame)[..., None]
    there_x, there_y = x + residual[..., 0], y + residual[..., 1]
    seen = cv2.remap(valid.astype(np.uint8), there_x, there_y, cv2.INTER_NEAREST) > 0
    error[~seen | ~np.isfinite(error)] = np.inf
    cost = MatchingCost(frame, warped, valid)(residual[..., 0], residual[..., 1])
    if before is not None:
        residual = residual + cv2.remap(before, there_x, there_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inner = slice(pad, pad + height), slice(pad, pad + width)
    sure = None if motion.matchability is None else (motion.matchability * seen)[inner]
    return Layer(np.ascontiguousarray(residual[inner]), error[inner], np.clip(cost[inner], 0, 1), sure)


def _sampled(source: np.ndarray, matrix: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The source at matrix(p + before(p)), and where that lies inside it."""
    import cv2

    size = before.shape[0], before.shape[1]
    source, matrix = unaliased(source, matrix, size)
    x, y = pixel_grid(*size)
    points = np.column_stack([(x + before[..., 0]).ravel(), (y + before[..., 1]).ravel()])
    there = np.nan_to_num(project(matrix, points), nan=-1e6, posinf=-1e6, neginf=-1e6).astype(np.float32)
    there_x, there_y = there[:, 0].reshape(size), there[:, 1].reshape(size)
    warped = cv2.remap(source, there_x, there_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    valid = cv2.remap(np.ones(source.shape[:2], np.uint8), there_x, there_y, cv2.INTER_NEAREST) > 0
    return warped, valid


def dis_pair(points: tuple[np.ndarray, np.ndarray] | None = None) -> PairFlow:
    """DIS; `points` are matches in pixels of the two pictures, of which locally consistent ones seed the flow."""

    def pair_flow(frame: np.ndarray, warped: np.ndarray, valid: np.ndarray) -> Motion:
        import cv2

        grey0, grey1 = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (frame, warped))
        forward, backward = both(partial(dis_flow, grey0, grey1), partial(dis_flow, grey1, grey0))
        if points is None:
            return Motion(forward, backward)
        dense = densify(frame, warped, *points, [(forward, backward)], valid)
        refined = both(
            partial(variational_refinement, grey0, grey1, dense.forward),
            partial(variational_refinement, grey1, grey0, dense.backward),
        )
        return Motion(*refined)

    return pair_flow


def join(layers: Sequence[Layer], guide: np.ndarray, plane: bool = False) -> Joined:
    """Each pixel takes the layer of least cost among those whose two directions agree, the first one where none does.

    What no layer explains, the source does not show. There the flow goes on from the surroundings, layer by layer, up to the
    edges of `guide`, the target (H, W, 3) uint8, or as the homography has it where all is one `plane`; its confidence is nil.
    """
    first = layers[0]
    smallest = max(60, int(MIN_SHARE * first.cost.size))
    cheaper = SWITCH_COST if first.matchability is None else NETWORK_SWITCH_COST
    choice = np.zeros(first.cost.shape, np.int16)
    best = np.where(first.error < AGREES, first.cost, first.cost + 0.3)
    for k, layer in enumerate(layers[1:], 1):
        trusted = without_specks(layer.error < AGREES, smallest)
        take = without_specks(trusted & (layer.cost < best - cheaper), smallest)
        choice[take] = k
        best[take] = layer.cost[take]
    residual = _chosen([layer.residual for layer in layers], choice)
    error = _chosen([layer.error for layer in layers], choice)
    agreed = error < AGREES
    known = _without_chance_islands(agreed, _chosen([layer.cost for layer in layers], choice))
    confidence = np.exp(-0.5 * np.minimum(error, 1e3) ** 2)
    lost = without_specks(~known, 30)
    # The rim of large hidden parts is not to be gone on from.
    lost |= _dilated(without_specks(~known, smallest), RIM)
    confidence[lost | (agreed & ~known)] = 0
    if plane:
        residual[lost & (choice == 0)] = 0
    elif lost.any() and not lost.all():
        residual, choice = _continued([layer.residual for layer in layers], choice, lost, guide)
    return Joined(residual, choice, confidence.astype(np.float32))


def _chosen(values: Sequence[np.ndarray], choice: np.ndarray) -> np.ndarray:
    """(H, W, ...) of each pixel's layer."""
    result = values[0].copy()
    for k, value in enumerate(values[1:], 1):
        result[choice == k] = value[choice == k]
    return result


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
