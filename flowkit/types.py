"""The values that flow between the rooms. All arrays are numpy; geometry and networks turn them into tensors.

Conventions (docs/conventions.md): a point is (x, y) in pixels with the centre of the top-left pixel at (0, 0); sizes are
(height, width); a flow image0 -> image1 lives on image0's grid, p0 + flow(p0) is in image1; NaN is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import numpy as np

Size = tuple[int, int]
"""(height, width) in pixels."""


class Status(StrEnum):
    """What an alignment says of itself. Only `ok` carries a model that may be used."""

    OK = "ok"
    DEGENERATE = "degenerate"
    TOO_FEW_MATCHES = "too_few_matches"
    NO_OVERLAP = "no_overlap"


@dataclass(frozen=True)
class Image:
    """A picture as loaded: (H, W, 3) RGB, uint8, uint16 or float32 in [0, 1], upright (EXIF orientation applied).

    `notes` say what reading did to it (alpha composited, first frame taken); `focal_35mm` is the EXIF focal length in
    35 mm equivalents (36 mm wide frame) when the file states it.
    """

    pixels: np.ndarray
    path: str | None = None
    notes: tuple[str, ...] = ()
    focal_35mm: float | None = None

    @property
    def size(self) -> Size:
        """(height, width)."""
        return int(self.pixels.shape[0]), int(self.pixels.shape[1])

    @property
    def name(self) -> str:
        """The path as given, or a placeholder for images that came as arrays."""
        return self.path or "<array>"

    @cached_property
    def rgb8(self) -> np.ndarray:
        """(H, W, 3) uint8, what features, DIS and pictures use; uint16 and float are scaled linearly."""
        if self.pixels.dtype == np.uint8:
            return self.pixels
        if self.pixels.dtype == np.uint16:
            return ((self.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.rint(np.clip(np.nan_to_num(self.pixels), 0, 1) * 255).astype(np.uint8)

    @cached_property
    def grey8(self) -> np.ndarray:
        """(H, W) uint8 luma (Rec. 601)."""
        import cv2

        return cv2.cvtColor(self.rgb8, cv2.COLOR_RGB2GRAY)


@dataclass(frozen=True)
class Run:
    """How a result was made: the provenance block of every JSON file is written from it."""

    method: str
    options: Mapping[str, object] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    """Name of each weights file used -> its sha256."""
    seed: int = 0
    device: str = "cpu"
    working_size0: Size | None = None
    working_size1: Size | None = None
    """The sizes the images were processed at; results are in original pixels all the same."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flow:
    """A dense flow image0 -> image1 on image0's grid.

    `uv` is (2, H, W) float32 in pixels, channel 0 = x, NaN = unknown. `size1` is the size of the image it points into.
    `confidence` is (H, W) float32 in [0, 1] or None; `occlusion` is (H, W) bool, True where the point is not visible in
    image1, or None; `backward` is the flow image1 -> image0 when both were asked for.
    """

    uv: np.ndarray
    size1: Size
    confidence: np.ndarray | None = None
    occlusion: np.ndarray | None = None
    backward: Flow | None = None
    run: Run | None = None
    egomotion: Egomotion | None = None

    @property
    def size(self) -> Size:
        """(height, width) of image0, whose grid the flow lives on."""
        return int(self.uv.shape[1]), int(self.uv.shape[2])

    @property
    def valid(self) -> np.ndarray:
        """(H, W) bool: where the flow is known."""
        return np.isfinite(self.uv).all(axis=0)

    @property
    def inside(self) -> np.ndarray:
        """(H, W) bool: where the flow is known and ends inside image1 (its outermost half pixels included)."""
        height, width = self.size
        x = self.uv[0] + np.arange(width, dtype=np.float32)
        y = self.uv[1] + np.arange(height, dtype=np.float32)[:, None]
        return (x >= -0.5) & (y >= -0.5) & (x <= self.size1[1] - 0.5) & (y <= self.size1[0] - 0.5)


@dataclass(frozen=True)
class Features:
    """Keypoints of one image: (N, 2) float32 pixels, (N, D) float32 descriptors, (N,) float32 scores."""

    keypoints: np.ndarray
    descriptors: np.ndarray
    scores: np.ndarray
    size: Size
    name: str
    scales: np.ndarray | None = None
    """(N,) float32 keypoint radius in pixels where the detector has one."""
    angles: np.ndarray | None = None
    """(N,) float32 orientation in degrees where the detector has one."""


@dataclass(frozen=True)
class Matches:
    """Pairs of keypoints: `pairs` (M, 2) int64 index `keypoints0` (N0, 2) and `keypoints1` (N1, 2), pixels of the originals.

    `scores` (M,) float32 in [0, 1], higher is better. `origin` (M,) int64 indexes `origins`: which feature (or which stage)
    each match came from. `inliers` (M,) bool once an estimator has judged them. `stage` (M,) int64 of guided matching: 1 found
    near the flow's prediction, 2 among the rest, 0 (in a mixture) found without a guide; None where nothing was guided.
    """

    keypoints0: np.ndarray
    keypoints1: np.ndarray
    pairs: np.ndarray
    scores: np.ndarray
    size0: Size
    size1: Size
    origins: tuple[str, ...] = ()
    origin: np.ndarray | None = None
    inliers: np.ndarray | None = None
    stage: np.ndarray | None = None
    run: Run | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def points0(self) -> np.ndarray:
        """(M, 2) matched points in image0."""
        return self.keypoints0[self.pairs[:, 0]]

    @property
    def points1(self) -> np.ndarray:
        """(M, 2) matched points in image1."""
        return self.keypoints1[self.pairs[:, 1]]


@dataclass(frozen=True)
class Fit:
    """What an estimator returns: never an exception, never a wrong model.

    `model` is 3x3 (H with H[2][2] = 1, F, E) or 3x4 ([R | t], X1 = R X0 + t, |t| = 1), None unless `status` is ok.
    `inliers` is (N,) bool over the points given; `residuals` (N,) float64 in pixels (symmetric transfer error for H,
    Sampson error for F, E and pose), NaN where the point was not finite.
    """

    model: np.ndarray | None
    inliers: np.ndarray
    status: Status
    residuals: np.ndarray
    threshold: float
    estimator: str


@dataclass(frozen=True)
class Homography:
    """image0 -> image1: x1 ~ matrix x0, 3x3 float64, matrix[2][2] = 1, original pixels of both; None unless status is ok."""

    matrix: np.ndarray | None
    status: Status
    matches: Matches
    threshold: float
    estimator: str
    refined: bool = False
    """True when the matrix was refined densely on the aligned pair after the robust fit."""
    run: Run | None = None


@dataclass(frozen=True)
class RelativePose:
    """image0's camera -> image1's camera: X1 = R X0 + t with |t| = 1 (scale unknown), E = [t]x R; None unless status is ok.

    `degeneracy` is "none", "planar" (the matches lie on one plane; R, t are the better of the two solutions) or
    "pure_rotation" (no translation can be told; then `t` and `E` are None and the status is degenerate).
    `epipolar_error` is the median symmetric epipolar distance of the inliers in pixels.
    """

    R: np.ndarray | None
    t: np.ndarray | None
    E: np.ndarray | None
    K0: np.ndarray
    K1: np.ndarray
    status: Status
    degeneracy: str
    matches: Matches
    threshold: float
    estimator: str
    epipolar_error: float | None = None
    run: Run | None = None


@dataclass(frozen=True)
class Egomotion:
    """How the camera moved between the images of a flow, and what of the flow that does not explain.

    `residual` is (H, W) float32 on the flow's grid: the distance in pixels of p + flow(p) from p's epipolar line in image1, or
    where the camera only turned from where the turn takes p; NaN where the flow or the motion is unknown. What moves by itself
    stands out in it, unless it moves along its epipolar lines.
    """

    pose: RelativePose
    residual: np.ndarray


@dataclass(frozen=True)
class Alignment:
    """SOURCE brought onto TARGET: `flow` lives on TARGET's grid and points into SOURCE (uv NaN where nothing is known).

    `homographies` are target -> source, float64, in the order they were accepted; `regions` (H, W) int16 on TARGET's grid
    says which one each pixel came from, -1 for none. `flow.confidence` is the matchability.
    """

    flow: Flow
    status: Status
    homographies: tuple[np.ndarray, ...]
    regions: np.ndarray
    inliers: tuple[int, ...]
    """How many matches supported each homography."""
    matches: Matches
    run: Run | None = None


@dataclass(frozen=True)
class Warped:
    """A picture resampled: (H, W, 3) in the input's dtype and (H, W) bool, False where nothing could be sampled."""

    pixels: np.ndarray
    valid: np.ndarray
    run: Run | None = None
