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

import numpy as np

CENSUS_RADIUS = 3
COLOUR_LIMIT = 60.0
"""Lab distance (L1) at which the colour term saturates; it weighs 0.3 of the census term."""
OUTSIDE_COST = 0.7
MAX_COST = 0.3
"""Pixels that match no better than this are taken for hidden: true matches cost 0.05 to 0.2, chance finds 0.3 and more."""


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y, both (H, W) float32."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


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


class MatchingCost:
    """How badly image1 at p + flow(p) looks like image0 at p: census Hamming distance plus colour, guided-filtered."""

    def __init__(self, rgb0: np.ndarray, rgb1: np.ndarray, valid1: np.ndarray | None = None, window: int = 9) -> None:
        import cv2

        self.valid1 = valid1

        self.cv2 = cv2
        self.height, self.width = rgb0.shape[:2]
        self.height1, self.width1 = rgb1.shape[:2]
        self.x, self.y = pixel_grid(self.height, self.width)
        grey0, grey1 = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (rgb0, rgb1))
        self.census0, self.census1 = _census(grey0), _census(grey1)
        self.lab0, lab1 = (cv2.cvtColor(i, cv2.COLOR_RGB2LAB).astype(np.int16) for i in (rgb0, rgb1))
        self.lab1 = _same_palette(lab1, self.lab0, valid1)
        self.window = (window, window)
        self.guide = grey0.astype(np.float32) / 255
        self.guide_mean = self._box(self.guide)
        self.guide_variance = self._box(self.guide * self.guide) - self.guide_mean**2 + 1e-3

    def __call__(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(H, W) float32 cost of the flow (u, v); about 0 for a perfect match and 0.5 for noise."""
        column, row = np.rint(self.x + u).astype(np.int32), np.rint(self.y + v).astype(np.int32)
        outside = (column < 0) | (row < 0) | (column >= self.width1) | (row >= self.height1)
        np.clip(column, 0, self.width1 - 1, out=column)
        np.clip(row, 0, self.height1 - 1, out=row)
        bits = (2 * CENSUS_RADIUS + 1) ** 2 - 1
        cost = np.bitwise_count(self.census1[row, column] ^ self.census0).astype(np.float32) / bits
        colour = np.abs(self.lab1[row, column] - self.lab0).sum(2, dtype=np.float32)
        cost += np.minimum(colour, COLOUR_LIMIT) * (0.3 / COLOUR_LIMIT)
        if self.valid1 is not None:
            outside |= ~self.valid1[row, column]
        cost[outside] = OUTSIDE_COST
        return self._guided(cost)

    def _box(self, values: np.ndarray) -> np.ndarray:
        return self.cv2.boxFilter(values, -1, self.window)

    def _guided(self, cost: np.ndarray) -> np.ndarray:
        # Guided filter (He et al., 2010): a window mean that does not bleed across the guide's edges.
        mean = self._box(cost)
        slope = (self._box(cost * self.guide) - mean * self.guide_mean) / self.guide_variance
        return self._box(slope) * self.guide + self._box(mean - slope * self.guide_mean)


def spread(
    cost: MatchingCost, planes: Planes | None, candidates: Sequence[np.ndarray] = (), tries: int = 6, rounds: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest flow at every pixel: (H, W, 2) float32 and its cost (H, W).

    Each pixel tries the planes of its `tries` nearest matches and the dense `candidates`, then takes over neighbours'
    choices at distances 32, 16, ... 1 in four directions, `rounds` times.
    """
    shape = (cost.height, cost.width)
    best = np.full(shape, np.inf, np.float32)
    u, v = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    # Which plane a pixel took: -1 - k is candidate k, whose motion travels as a shift.
    choice = np.full(shape, -1, np.int32)

    def attempt(u_new: np.ndarray, v_new: np.ndarray, which: np.ndarray) -> None:
        nonlocal best
        new = cost(u_new, v_new)
        better = new < best - 1e-4
        best = np.where(better, new, best)
        np.copyto(u, u_new, where=better)
        np.copyto(v, v_new, where=better)
        np.copyto(choice, which, where=better)

    if planes is not None:
        cell = 4
        grid_y, grid_x = np.mgrid[0 : shape[0] : cell, 0 : shape[1] : cell]
        _, index = nearest(planes.centres, np.column_stack([grid_x.ravel(), grid_y.ravel()]), tries)
        index = index.reshape(*grid_y.shape, -1).astype(np.int32)
        rows, columns = np.arange(shape[0])[:, None] // cell, np.arange(shape[1])[None] // cell
        for k in range(index.shape[-1]):
            which = index[..., k][rows, columns]
            attempt(*planes.flow(which, cost.x, cost.y), which)
    for k, flow in enumerate(candidates):
        attempt(flow[..., 0], flow[..., 1], np.full(shape, -1 - k, np.int32))
    for _ in range(rounds):
        for step in (32, 16, 8, 4, 2, 1):
            for shift in ((0, step), (0, -step), (step, 0), (-step, 0)):
                which = np.roll(choice, shift, (0, 1))
                u_new, v_new = np.roll(u, shift, (0, 1)), np.roll(v, shift, (0, 1))
                if planes is not None:
                    u_plane, v_plane = planes.flow(np.maximum(which, 0), cost.x, cost.y)
                    u_new, v_new = np.where(which < 0, u_new, u_plane), np.where(which < 0, v_new, v_plane)
                attempt(u_new, v_new, which)
    return np.dstack([u, v]), best


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
    flows = []
    for a, b, valid, p, q, way in (
        (small0, small1, small_valid1, seeds0, seeds1, 0),
        (small1, small0, None, seeds1, seeds0, 1),
    ):
        planes = Planes.fit(p, q) if enough else None
        flows.append(spread(MatchingCost(a, b, valid), planes, [shrunk(c[way]) * factor for c in candidates]))
    results = []
    for (flow, cost), (other, _), guide, seeds, motion in (
        (flows[0], flows[1], small0, seeds0, seeds1 - seeds0),
        (flows[1], flows[0], small1, seeds1, seeds0 - seeds1),
    ):
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
        results.append((filled.astype(np.float32), keep))
    return Dense(results[0][0], results[1][0], results[0][1], results[1][1])


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


def fill(flow: np.ndarray, keep: np.ndarray, guide: np.ndarray, reach: float = 40.0, edge: float = 0.15) -> np.ndarray:
    """`flow` where `keep`, elsewhere the edge-aware average of what is kept (normalised convolution with the recursive
    domain-transform filter); `guide` is the (H, W, 3) uint8 image whose edges stop it, `reach` its range in pixels."""
    if not keep.any():
        return flow
    guide = guide.astype(np.float32) / 255
    across = 1 + reach / edge * np.abs(np.diff(guide, axis=1)).sum(2)
    down = 1 + reach / edge * np.abs(np.diff(guide, axis=0)).sum(2)
    values = np.dstack([flow * keep[..., None], keep]).astype(np.float32)
    rounds = 2
    for i in range(rounds):
        sigma = reach * np.sqrt(3) * 2 ** (rounds - i - 1) / np.sqrt(4**rounds - 1)
        decay = np.float32(np.exp(-np.sqrt(2) / sigma))
        _recursive(values.transpose(1, 0, 2), (decay**across).T)
        _recursive(values, decay**down)
    averaged = values[..., :2] / np.maximum(values[..., 2:], 1e-12)
    # Beyond the filter's reach nothing is known: the nearest kept flow is the best guess.
    averaged = np.where(values[..., 2:] > 1e-6, averaged, _nearest_kept(flow, keep))
    return np.where(keep[..., None], flow, averaged).astype(np.float32)


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


def _census(grey: np.ndarray) -> np.ndarray:
    import cv2

    r, (height, width) = CENSUS_RADIUS, grey.shape
    grey = cv2.GaussianBlur(grey, (0, 0), 0.6)
    padded = cv2.copyMakeBorder(grey, r, r, r, r, cv2.BORDER_REPLICATE)
    code = np.zeros(grey.shape, np.uint64)
    offsets = [(dy, dx) for dy in range(2 * r + 1) for dx in range(2 * r + 1) if (dy, dx) != (r, r)]
    for bit, (dy, dx) in enumerate(offsets):
        code |= (padded[dy : dy + height, dx : dx + width] > grey).astype(np.uint64) << np.uint64(bit)
    return code


def _same_palette(lab1: np.ndarray, lab0: np.ndarray, valid1: np.ndarray | None) -> np.ndarray:
    """lab1 with lab0's mean and spread in each channel: exposure and white balance are no evidence against a match."""
    seen = lab1[valid1] if valid1 is not None and valid1.any() else lab1.reshape(-1, 3)
    other = lab0.reshape(-1, 3)
    gain = np.clip((other.std(0) + 1) / (seen.std(0) + 1), 0.5, 2.0)
    return np.rint((lab1 - seen.mean(0)) * gain + other.mean(0)).astype(np.int16)


def _recursive(values: np.ndarray, weight: np.ndarray) -> None:
    for i in range(1, len(values)):
        values[i] += weight[i - 1, :, None] * (values[i - 1] - values[i])
    for i in range(len(values) - 2, -1, -1):
        values[i] += weight[i, :, None] * (values[i + 1] - values[i])


def _nearest_kept(flow: np.ndarray, keep: np.ndarray) -> np.ndarray:
    import cv2

    _, label = cv2.distanceTransformWithLabels((~keep).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    lookup = np.zeros((int(label.max()) + 1, 2), np.float32)
    lookup[label[keep]] = flow[keep]
    return lookup[label]
