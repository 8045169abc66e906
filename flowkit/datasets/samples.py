"""What the readers give: one frozen record per pair, with paths to the images and the ground truth, dense truth lazily.

Conventions as everywhere (docs/conventions.md): points are (x, y) in pixels of the original images, a flow lives on
image0's grid and points into image1, x1 ~ H x0, X1 = R X0 + t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class FlowSample:
    """A pair with dense flow: `flow()` is (2, H, W) float32, NaN = unknown, read anew on each call.

    `visible()` is (H, W) bool, True where the point can be seen in image1; None when the data set does not say.
    """

    dataset: str
    name: str
    image0: Path
    image1: Path
    flow: Callable[[], np.ndarray]
    visible: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class HomographySample:
    """A pair of one plane (or one camera centre): `H` 3x3 takes image0 to image1, H[2][2] = 1.

    `points0`, `points1` (N, 2) are verification points where the data set has them.
    """

    dataset: str
    name: str
    image0: Path
    image1: Path
    H: np.ndarray
    points0: np.ndarray | None = None
    points1: np.ndarray | None = None


@dataclass(frozen=True)
class PoseSample:
    """A pair of calibrated views: `T_0to1` 4x4, X1 = R X0 + t; the scale of t is not judged.

    With `rotation_only` the translation is not judged either (not accurate enough for the short baseline).
    """

    dataset: str
    name: str
    image0: Path
    image1: Path
    K0: np.ndarray
    K1: np.ndarray
    T_0to1: np.ndarray
    rotation_only: bool = False


@dataclass(frozen=True)
class MatchSample:
    """A pair with correspondences labelled by hand: `points0`, `points1` (N, 2).

    `H` is the homography image0 -> image1 where one relates the images. Without one, and when the scene is `rigid`, the
    labels obey one epipolar geometry. `extent` is the length (pixels of image1) that relative PCK thresholds refer to.
    """

    dataset: str
    name: str
    image0: Path
    image1: Path
    points0: np.ndarray
    points1: np.ndarray
    H: np.ndarray | None = None
    rigid: bool = True
    extent: float | None = None


Sample = FlowSample | HomographySample | PoseSample | MatchSample
