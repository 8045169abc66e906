"""What sparse matches say of a dense flow: how far along it the surroundings really moved.

A network errs by a pixel or ten where it does not see well, and says so to nobody. Matches are few, but each was found on
its own: where they have moved along with the flow it may be believed; where they stayed with the homography so should it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from flowkit.pipelines.filling import smoothed
from flowkit.pipelines.refinement import project
from flowkit.pipelines.seeding import locally_consistent, nearest
from flowkit.types import Matches

REACH = 0.04
"""Sigma over which a match speaks, as a share of the picture's shorter side."""
EDGE = 0.5
"""Change of the three colours together, of 1 each, that a match has as hard a way across as `REACH`."""
PRIOR = 30.0
"""Squared pixels of motion, of one match nearby, that weigh as much as what all matches say together."""
EACH = 4.0
"""Squared pixels of motion from which a match counts no more for that: few may move far."""
FAR = 8.0
"""Pixels by which a match may differ both from the flow and from no motion; others lie on other surfaces."""

PLANAR = 0.8
"""Share of the believable matches on one homography from which a scene may be a plane, or seen from one place."""
SHARED = 0.5
"""Share of what the homography leaves over that neighbours have in common: from there on it is motion, and no noise."""
NEIGHBOURS = 8


def errors(matches: Matches, model: np.ndarray) -> np.ndarray:
    """(N,) pixels of image1 by which a homography misses each match, infinite where it leads nowhere."""
    error = np.linalg.norm(project(model, matches.points0) - matches.points1, axis=1)
    return np.where(np.isfinite(error), error, np.inf)


def believable(matches: Matches, model: np.ndarray, threshold: float) -> Matches:
    """Those on the homography, within `threshold` pixels, and those that move as their neighbours do."""
    keep = (errors(matches, model) <= threshold) | locally_consistent(matches.points0, matches.points1)
    chosen = replace(matches, pairs=matches.pairs[keep], scores=matches.scores[keep])
    return replace(chosen, origin=None, inliers=None, stage=None)  # what was said of all of them


def one_plane(matches: Matches, model: np.ndarray, threshold: float) -> bool:
    """Whether a homography is all there is: nearly all believable matches lie on it, and what it misses them by is noise."""
    on_it = errors(matches, model) <= threshold
    if on_it.sum() < max(PLANAR * len(believable(matches, model, threshold)), NEIGHBOURS + 1):
        return False
    points = matches.points0[on_it]
    left = matches.points1[on_it] - project(model, points)
    around = nearest(points, points, NEIGHBOURS + 1)[1][:, 1:]
    shared = (left * np.median(left[around], axis=1)).sum()
    return bool(shared < SHARED * np.square(left).sum())


@dataclass(frozen=True)
class Evidence:
    """Matches at `points` (N, 2), pixels of a picture (H, W), that a homography leaves to move by `residual` (N, 2)."""

    points: np.ndarray
    residual: np.ndarray
    plane: bool = False
    """Whether the homography is believed wherever no match speaks, and not what matches say elsewhere."""

    def moved(self, by: int) -> Evidence:
        """In a picture that begins `by` pixels further up and left."""
        return replace(self, points=self.points + by)

    def after(self, flow: np.ndarray) -> Evidence:
        """What is left to do after a flow (H, W, 2)."""
        return replace(self, residual=self.residual - _at(flow, self.points))

    def weight(self, flow: np.ndarray, picture: np.ndarray) -> np.ndarray:
        """(H, W) in [0, 1]: the share of `flow` (H, W, 2) that the matches around a pixel moved, by least squares.

        The sum of <residual, flow> over that of <flow, flow>, over matches weighted by their distance, which is longer across
        the edges of `picture` (H, W, 3) uint8; where there are none it goes over to that of all matches, or to 0 on a `plane`.
        """
        found = _at(flow, self.points)
        near = np.minimum(np.linalg.norm(self.residual - found, axis=1), np.linalg.norm(self.residual, axis=1)) < FAR
        height, width = flow.shape[:2]
        column, row = np.round(self.points).astype(int).T
        near &= (column >= 0) & (row >= 0) & (column < width) & (row < height)
        along, length = (self.residual * found).sum(1)[near], (found * found).sum(1)[near]
        saturated = 1 / (length + EACH)
        overall = 0.0 if self.plane else _share((along * saturated).sum(), (length * saturated).sum())
        sums = np.zeros((height, width, 2), np.float32)
        np.add.at(sums, (row[near], column[near]), np.stack([along, length], axis=1))
        sigma = REACH * min(height, width)
        sums = smoothed(sums, picture, sigma, EDGE) * (2 * np.pi * sigma**2)
        return _share(sums[..., 0] + PRIOR * overall, sums[..., 1] + PRIOR).astype(np.float32)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.clip(part / np.maximum(whole, 1e-9), 0, 1)


def _at(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2): a flow (H, W, 2) at points (N, 2), beyond the picture that of its rim."""
    import cv2

    x, y = points.astype(np.float32).T
    found = [
        cv2.remap(
            flow, x[k : k + 30_000, None], y[k : k + 30_000, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        for k in range(0, len(points), 30_000)
    ]  # remap takes no more rows than that
    return np.concatenate(found)[:, 0] if found else np.zeros((0, 2), np.float32)
