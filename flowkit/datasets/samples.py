"""What the readers give: one frozen record per pair, with paths to the images and the ground truth, dense truth lazily.

Conventions as everywhere (docs/conventions.md): points are (x, y) in pixels of the original images, a flow lives on
image0's grid and points into image1, x1 ~ H x0, X1 = R X0 + t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flowkit.types import Size


@dataclass(frozen=True)
class Preparation:
    """What a protocol does to a picture before any method sees it; truth and answer are in the pixels of the result.

    The picture is resized to `size` (height, width) by the half-pixel rule: with `lanczos` Pillow's filter, else cv2's
    bilinear one. Then `warp` 3x3, from the pixels of that size to those of the result (of the same size), is applied; what
    the picture does not reach is black. Last it is `padded` with black, right and below, to that (height, width).
    """

    size: Size
    lanczos: bool = False
    warp: np.ndarray | None = None
    padded: Size | None = None


@dataclass(frozen=True)
class Group:
    """A part of a data set that has a row of its own. `equal`: the data set's means are those of its groups' means."""

    name: str
    equal: bool = False


@dataclass(frozen=True)
class ImagePair:
    """What every sample has: its data set, its name there, two images, and how these are prepared (None: not at all).

    A group's samples can be of several parts (sequences); then the group's means are those of its parts' means.
    """

    dataset: str
    name: str
    image0: Path
    image1: Path
    group: Group | None = field(default=None, kw_only=True)
    part: str = field(default="", kw_only=True)
    preparation0: Preparation | None = field(default=None, kw_only=True)
    preparation1: Preparation | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class FlowSample(ImagePair):
    """A pair with dense flow: `flow()` is (2, H, W) float32, NaN = unknown, read anew on each call.

    `visible()` is (H, W) bool, True where the point can be seen in image1; None when the data set does not say. `extent` is
    the length (pixels of image1) that relative PCK thresholds refer to, where they are measured. With a `grid` (height,
    width) the truth lives on that one, in its pixels for both images, and the answer is read there, corner pixel on corner
    pixel, before it is judged; where it is unknown nothing has moved.
    """

    flow: Callable[[], np.ndarray]
    visible: Callable[[], np.ndarray] | None = None
    extent: float | None = None
    grid: Size | None = None


@dataclass(frozen=True)
class HomographySample(ImagePair):
    """A pair of one plane (or one camera centre): `H` 3x3 takes image0 to image1, H[2][2] = 1.

    `points0`, `points1` (N, 2) are verification points where the data set has them.
    """

    H: np.ndarray
    points0: np.ndarray | None = None
    points1: np.ndarray | None = None


@dataclass(frozen=True)
class PoseSample(ImagePair):
    """A pair of calibrated views: `T_0to1` 4x4, X1 = R X0 + t; the scale of t is not judged.

    With `rotation_only` the translation is not judged either (not accurate enough for the short baseline). `signed`: t and
    -t are different answers, in the measures of YFCC100M's protocol.
    """

    K0: np.ndarray
    K1: np.ndarray
    T_0to1: np.ndarray
    rotation_only: bool = False
    signed: bool = False


@dataclass(frozen=True)
class MatchSample(ImagePair):
    """A pair with correspondences labelled by hand: `points0`, `points1` (N, 2).

    `H` is the homography image0 -> image1 where one relates the images. Without one, and when the scene is `rigid`, the
    labels obey one epipolar geometry. `extent` is the length (pixels of image1) that relative PCK thresholds refer to.
    With `pooled_pck` (thresholds in pixels) PCK is that of all points of all pairs together. `nearest`: a dense flow is read
    at the pixel nearest to `points0`, not between pixels.
    """

    points0: np.ndarray
    points1: np.ndarray
    H: np.ndarray | None = None
    rigid: bool = True
    extent: float | None = None
    pooled_pck: tuple[float, ...] = ()
    nearest: bool = False


Sample = FlowSample | HomographySample | PoseSample | MatchSample
