"""From sparse matches to a dense flow: local affine planes around the matches, spread by photometric cost.

Every match gets an affine motion fitted to its neighbours. Each pixel tries the planes of its nearest matches and any
dense flow it is offered, keeps the one whose census-and-colour cost in an edge-aware window is least, and hands it on to
its neighbours at jumping distances (PatchMatch, Barnes et al. 2009, with a few planes instead of random samples). Done in
both directions, what the forward-backward check refuses is filled from what it keeps without crossing image edges (domain
transform, Gastal and Oliveira 2011). Arrays here are (H, W, 2) float32, as OpenCV wants them; points are (x, y) pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from flowkit.pipelines.filling import fill
from flowkit.pipelines.matching_cost import OUTSIDE_COST, MatchingCost, pixel_grid
from flowkit.pipelines.side_by_side import both

MAX_COST = 0.3
"""Pixels that match no better than this are taken for hidden: true matches cost 0.05 to 0.2, chance finds 0.3 and more."""


def nearest(points: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (Q, k) of the `count` nearest of (N, 2) `points` to each query, nearest first."""
    from scipy.spatial import cKDTree

    count = min(count, len(points))
    distances, indices = cKDTree(points).query(queries, k=count, workers=-1)
    return distances.reshape(-1, count), indices.reshape(-1, count)


def locally_consistent(
    points0: np.ndarray,
    points1: np.ndarray,
    neighbours: int = 12,
    tolerance: float = 3.0,
    stretch: float = 0.15,
    agree: int = 4,
) -> np.ndarray:
    """(N,) bool: matches whose motion at least `agree` of their nearest neighbours share, up to `tolerance` px plus
    `stretch` times the distance (what a local affine change allows)."""
    if len(points0) <= neighbours:
        return np.zeros(len(points0), bool)
    motion = points1 - points0
    distance, index = nearest(points0, points0, neighbours + 1)
    difference = np.linalg.norm(motion[index[:, 1:]] - motion[:, None], axis=2)
    return (difference < tolerance + stretch * distance[:, 1:]).sum(1) >= agree


@dataclass(frozen=True)
class Planes:
    """Local affine motions: at `centres` (N, 2), flow(p) = [p - centre, 1] @ `affine` (N, 3, 2)."""

    centres: np.ndarray
    affine: np.ndarray

    @classmethod
    def fit(cls, points0: np.ndarray, points1: np.ndarray, neighbours: int = 10) -> Planes:
        """Robust weighted least squares over each match's nearest neighbours, damped towards a pure shift."""
        distance, index = nearest(points0, points0, neighbours)
        offset = points0[index] - points0[:, None]
        motion = (points1 - points0)[index]
        design = np.concatenate([offset, np.ones((*offset.shape[:2], 1))], axis=2)
        near = np.exp(-(distance**2) / (distance[:, -1:] ** 2 + 1e-3))
        weight = near / (1 + (np.linalg.norm(motion - motion[:, :1], axis=2) / 3.0) ** 2)
        affine = np.zeros((len(points0), 3, 2))
        for _ in range(2):
            weighted = design.transpose(0, 2, 1) * weight[:, None]
            affine = np.linalg.solve(weighted @ design + np.diag([20.0, 20.0, 1e-3]), weighted @ motion)
            weight = near / (1 + (np.linalg.norm(design @ affine - motion, axis=2) / 1.5) ** 2)
        return cls(points0.astype(np.float32), affine.astype(np.float32))

    def flow(self, which: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The motion (u, v) that plane `which` (H, W) gives each pixel."""
        affine, centre = self.affine[which], self.centres[which]
        dx, dy = x - centre[..., 0], y - centre[..., 1]
        u = affine[..., 0, 0] * dx + affine[..., 1, 0] * dy + affine[..., 2, 0]
        v = affine[..., 0, 1] * dx + affine[..., 1, 1] * dy + affine[..., 2, 1]
        return u, v


class _Choice:
    """What each pixel has chosen so far: its target in image1 and how that moves for a step in x and in y, all (H, W, 2)."""

    def __init__(self, cost: MatchingCost) -> None:
        x, y = pixel_grid(*cost.shape)
        self.cost = cost
        self.best = np.full(cost.shape, np.inf, np.float32)
        self.target = np.dstack([x, y])
        self.along_x, self.along_y = np.zeros((2, *self.target.shape), np.float32)
        self.along_x[..., 0] = self.along_y[..., 1] = 1
        self.numbers = np.arange(x.size, dtype=np.int32).reshape(x.shape)
        # Nothing chosen yet: every pixel at (-1, -1), outside.
        self.pixel = np.full(cost.shape, -1, np.int32)
        self.single = np.full(cost.shape, OUTSIDE_COST, np.float32)

    def attempt(
        self, target: np.ndarray, along_x: np.ndarray, along_y: np.ndarray, here: tuple[slice, slice] = np.s_[:, :]
    ) -> None:
        """Offers (h, w, 2) targets to the pixels `here`; those take it that become cheaper."""
        import cv2

        pixel = self.cost.pixels(target)
        # Most offers lead to the very pixel that was chosen already and cost the same: only the others are looked up.
        new = np.flatnonzero(pixel != self.pixel[here])
        if not len(new):
            return
        single = self.single.copy()
        offered = np.ascontiguousarray(single[here])
        offered.reshape(-1)[new] = self.cost.single(self.numbers[here].reshape(-1)[new], pixel.reshape(-1)[new])
        single[here] = offered
        averaged = self.cost.averaged(single)[here]
        better = (averaged < self.best[here] - 1e-4).view(np.uint8)
        for values, kept in (
            (averaged, self.best),
            (target, self.target),
            (along_x, self.along_x),
            (along_y, self.along_y),
            (pixel, self.pixel),
            (offered, self.single),
        ):
            cv2.copyTo(values, better, kept[here])

    def hand_on(self, step: int, vertical: bool) -> None:
        """Every pixel is offered what the one `step` pixels before it (after it, if negative) chose, as that moves along."""
        import cv2

        before, after = slice(None, -abs(step)), slice(abs(step), None)
        there, here = (before, after) if step > 0 else (after, before)
        source, offered_to = (np.s_[there, :], np.s_[here, :]) if vertical else (np.s_[:, there], np.s_[:, here])
        if not self.best[source].size:
            return
        # Copies, for what the neighbours chose is written to while it is read.
        along_x, along_y = self.along_x[source].copy(), self.along_y[source].copy()
        target = cv2.scaleAdd(along_y if vertical else along_x, step, self.target[source])
        self.attempt(target, along_x, along_y, offered_to)


def spread(
    cost: MatchingCost, planes: Planes | None, candidates: Sequence[np.ndarray] = (), tries: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest flow at every pixel: (H, W, 2) float32 and its cost (H, W).

    Each pixel tries the planes of its `tries` nearest matches and the dense `candidates` (whose motion travels as a shift),
    then takes over neighbours' choices at distances 32, 16, ... 1 in four directions, and once more at 4 and 1.
    """
    import cv2

    height, width = cost.shape
    choice = _Choice(cost)
    grid, right, down = choice.target.copy(), np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    if planes is not None:
        # All pixels of a small cell have the same nearest matches.
        cell = 4
        y, x = np.mgrid[0:height:cell, 0:width:cell].astype(np.float32)
        _, index = nearest(planes.centres, np.column_stack([x.ravel(), y.ravel()]), tries)
        index = index.reshape(*y.shape, -1)
        size = x.shape[1] * cell, x.shape[0] * cell
        inside_x, inside_y = ((grid[..., i] % cell)[..., None] for i in (0, 1))
        for k in range(index.shape[-1]):
            u, v = planes.flow(index[..., k], x, y)
            affine = planes.affine[index[..., k]]
            corner, along_x, along_y = (
                np.ascontiguousarray(cv2.resize(i, size, interpolation=cv2.INTER_NEAREST)[:height, :width])
                for i in (np.dstack([x + u, y + v]), affine[..., 0, :] + right, affine[..., 1, :] + down)
            )
            choice.attempt(corner + inside_x * along_x + inside_y * along_y, along_x, along_y)
    for flow in candidates:
        choice.attempt(grid + flow, np.zeros_like(grid) + right, np.zeros_like(grid) + down)
    for step in (32, 16, 8, 4, 2, 1, 4, 1):
        for vertical in (True, False):
            choice.hand_on(step, vertical)
            choice.hand_on(-step, vertical)
    return choice.target - grid, choice.best


@dataclass(frozen=True)
class Dense:
    """A dense flow both ways between two pictures of one size; `kept` says where the two agree, the rest is filled in."""

    forward: np.ndarray
    backward: np.ndarray
    kept0: np.ndarray
    kept1: np.ndarray


def densify(
    rgb0: np.ndarray,
    rgb1: np.ndarray,
    points0: np.ndarray,
    points1: np.ndarray,
    candidates: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    valid1: np.ndarray | None = None,
    max_pixels: float = 4e5,
    tolerance: float = 1.5,
) -> Dense:
    """Dense flow between two (H, W, 3) uint8 pictures of one size from matches and dense `candidates` (forward, backward).

    Solved at no more than `max_pixels`; `tolerance` is the forward-backward bound there. `valid1` (H, W) is False where rgb1
    shows nothing.
    """
    import cv2

    height, width = rgb0.shape[:2]
    scale = min(1.0, (max_pixels / (height * width)) ** 0.5)
    small = max(8, round(width * scale)), max(8, round(height * scale))
    factor = np.array([small[0] / width, small[1] / height], np.float32)

    def shrunk(picture: np.ndarray, interpolation: int = cv2.INTER_AREA) -> np.ndarray:
        return picture if scale == 1 else cv2.resize(picture, small, interpolation=interpolation)

    consistent = locally_consistent(points0, points1)
    seeds0, seeds1 = (((p[consistent] + 0.5) * factor - 0.5).astype(np.float32) for p in (points0, points1))
    small0, small1 = shrunk(rgb0), shrunk(rgb1)
    small_valid1 = None if valid1 is None else shrunk(valid1.astype(np.uint8), cv2.INTER_NEAREST) > 0
    enough = len(seeds0) >= 10
    sides = (small0, seeds0), (small1, seeds1)

    def cheapest(way: int) -> tuple[np.ndarray, np.ndarray]:
        (a, p), (b, q) = sides[way], sides[1 - way]
        planes = Planes.fit(p, q) if enough else None
        cost = MatchingCost(a, b, small_valid1 if way == 0 else None)
        return spread(cost, planes, [shrunk(c[way]) * factor for c in candidates])

    flows = both(partial(cheapest, 0), partial(cheapest, 1))

    def completed(way: int) -> tuple[np.ndarray, np.ndarray]:
        (flow, cost), (other, _) = flows[way], flows[1 - way]
        (guide, seeds), (_, there) = sides[way], sides[1 - way]
        motion = there - seeds
        # What is hidden in the other picture finds a partner by chance too, but never a good one.
        agree = round_trip_error(flow, other) < tolerance
        bound = max(MAX_COST, 1.75 * float(np.median(cost[agree]))) if agree.any() else MAX_COST
        keep = without_specks(agree & (cost < bound))
        if enough:
            keep = supported(keep, flow, seeds, motion)
        filled = fill(flow, keep, guide)
        filled = np.dstack([cv2.medianBlur(np.ascontiguousarray(filled[..., i]), 5) for i in (0, 1)])
        if scale < 1:
            filled = cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR) / factor
            keep = cv2.resize(keep.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
        return filled.astype(np.float32), keep

    (forward, kept0), (backward, kept1) = both(partial(completed, 0), partial(completed, 1))
    return Dense(forward, backward, kept0, kept1)


def round_trip_error(flow: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """|f(p) + b(p + f(p))| in pixels, (H, W); large where p + f(p) leaves image1."""
    import cv2

    x, y = pixel_grid(*flow.shape[:2])
    back = cv2.remap(
        np.ascontiguousarray(backward, np.float32),
        np.ascontiguousarray(x + flow[..., 0], np.float32),
        np.ascontiguousarray(y + flow[..., 1], np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(1e4, 1e4),
    )
    return np.linalg.norm(flow + back, axis=2)


def without_specks(keep: np.ndarray, smallest: int = 60) -> np.ndarray:
    """`keep` less its connected regions of fewer than `smallest` pixels, which are matched by chance."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(keep.astype(np.uint8), connectivity=4)
    return keep & (stats[:, cv2.CC_STAT_AREA] >= smallest)[labels]


def supported(keep: np.ndarray, flow: np.ndarray, points: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """`keep` less the smoothly moving regions that no match (`points`, `motion`, both (N, 2)) agrees with to 2 px.

    Repeated texture that is hidden in the other picture finds itself elsewhere in both directions, but no keypoint does.
    """
    import cv2

    step = np.zeros(keep.shape, np.float32)
    step[:, 1:] = np.abs(np.diff(flow, axis=1)).max(2)
    step[1:] = np.maximum(step[1:], np.abs(np.diff(flow, axis=0)).max(2))
    _, labels = cv2.connectedComponents((keep & (step < 1.0)).astype(np.uint8), connectivity=4)
    column = np.clip(np.rint(points[:, 0]).astype(int), 0, keep.shape[1] - 1)
    row = np.clip(np.rint(points[:, 1]).astype(int), 0, keep.shape[0] - 1)
    agree = np.linalg.norm(flow[row, column] - motion, axis=1) < 2.0
    votes = np.bincount(labels[row, column][agree], minlength=labels.max() + 1)
    votes[0] = 0
    return keep & (votes > 0)[labels]
