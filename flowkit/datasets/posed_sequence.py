"""A sequence of frames of one camera with its true poses: what odometry is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from flowkit.datasets.samples import PoseSample


@dataclass(frozen=True, eq=False)
class PosedSequence:
    """The frames that have a pose, in order: `poses` (N, 4, 4) camera to world (in metres), K 3x3 of all of them.

    `distortion` are OpenCV's coefficients k1 k2 p1 p2 [k3 ...] of the pictures as stored, empty for none; K then belongs to
    both the stored picture and the undistorted one. `timestamps` (N,) in seconds where they are known.
    """

    dataset: str
    name: str
    frames: tuple[Path, ...]
    K: np.ndarray
    poses: np.ndarray
    distortion: tuple[float, ...] = ()
    timestamps: np.ndarray | None = None

    def samples(self, prefix: str = "", *, rotation_only: bool = False) -> Iterator[PoseSample]:
        """Every pair of consecutive frames, called `prefix` and the two names."""
        for i, j in pairwise(range(len(self.frames))):
            name = f"{prefix}{self.frames[i].stem}-{self.frames[j].stem}"
            T = np.linalg.inv(self.poses[j]) @ self.poses[i]
            pair = self.frames[i], self.frames[j]
            yield PoseSample(self.dataset, name, *pair, self.K, self.K, T, rotation_only=rotation_only)
