"""The fine stage of an alignment: dense flow on a pair that a homography has brought together.

Target picture, source picture and homography in; residual flow on the target's grid, its error and its matching cost out,
whatever finds the flow: DIS, any network, or the one that RANSAC-Flow has for it (pipelines/fine_network.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from flowkit.pipelines.dis import dis_flow, variational_refinement
from flowkit.pipelines.evidence import Evidence
from flowkit.pipelines.matching_cost import MatchingCost, pixel_grid
from flowkit.pipelines.refinement import project, unaliased, warp_onto
from flowkit.pipelines.seeding import densify, round_trip_error
from flowkit.pipelines.side_by_side import both
from flowkit.types import Size

MARGIN = 0.12
"""The warped source is drawn this share of the longer side beyond the target's frame: depth moves things across it."""
LOST = 3.0
"""Forward-backward error at which what is found has little weight against what was there before."""


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
