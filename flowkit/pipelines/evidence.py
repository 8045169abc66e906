"""What sparse matches say of a dense flow: how far along it the surroundings really moved.

A network errs by a pixel or ten where it does not see well, and says so to nobody. Matches are few, but each was found on its own:
where they have moved along with the flow it may be believed, and where they stayed with the homography so should the flow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

REACH = 0.04
"""Sigma over which a match speaks, as a share of the picture's shorter side."""
PRIOR = 1.0
"""Squared pixels of motion, of one match nearby, that weigh as much as what is believed without any."""
FAR = 8.0
"""Pixels by which a match may differ both from the flow and from no motion; others lie on other surfaces."""


@dataclass(frozen=True)
class Evidence:
    """Matches at `points` (N, 2), pixels of a picture (H, W), that a homography leaves to move by `residual` (N, 2)."""

    points: np.ndarray
    residual: np.ndarray
    otherwise: float = 1.0
    """How much of a flow counts where no match speaks."""

    def moved(self, by: int) -> Evidence:
        """In a picture that begins `by` pixels further up and left."""
        return replace(self, points=self.points + by)

    def after(self, flow: np.ndarray) -> Evidence:
        """What is left to do after a flow (H, W, 2)."""
        return replace(self, residual=self.residual - _at(flow, self.points))

    def weight(self, flow: np.ndarray) -> np.ndarray:
        """(H, W) in [0, 1]: the share of `flow` (H, W, 2) that the matches around a pixel moved, by least squares.

        The sum of <residual, flow> over that of <flow, flow>, over matches weighted by their distance; `otherwise` counts as
        one more of `PRIOR`.
        """
        import cv2

        found = _at(flow, self.points)
        near = np.minimum(np.linalg.norm(self.residual - found, axis=1), np.linalg.norm(self.residual, axis=1)) < FAR
        height, width = flow.shape[:2]
        column, row = np.round(self.points).astype(int).T
        near &= (column >= 0) & (row >= 0) & (column < width) & (row < height)
        sums = np.zeros((height, width, 2), np.float32)
        along = np.stack([(self.residual * found).sum(1), (found * found).sum(1)], axis=1)
        np.add.at(sums, (row[near], column[near]), along[near])
        sigma = REACH * min(height, width)
        sums = cv2.GaussianBlur(sums, (0, 0), sigma) * (2 * np.pi * sigma**2)
        share = (sums[..., 0] + PRIOR * self.otherwise) / (sums[..., 1] + PRIOR)
        return np.clip(share, 0, 1).astype(np.float32)


def _at(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2): a flow (H, W, 2) at points (N, 2), beyond the picture that of its rim."""
    import cv2

    x, y = points.astype(np.float32).T
    found = [
        cv2.remap(flow, x[k : k + 30_000, None], y[k : k + 30_000, None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for k in range(0, len(points), 30_000)
    ]  # remap takes no more rows than that
    return np.concatenate(found)[:, 0] if found else np.zeros((0, 2), np.float32)
