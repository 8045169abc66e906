"""Frame-to-frame odometry: relative poses of consecutive frames, chained to a trajectory, without any bundle adjustment.

Two views tell the direction of a step, not its length. It comes from the true poses, frame by frame, where these are given (as
in "Joint Unsupervised Learning of Optical Flow and Egomotion with Bi-Level Optimization", Jiang et al., 3DV 2020, section 5),
else from the step before: points seen in three frames have one depth in the middle one, whatever pair it is triangulated from.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePath

import numpy as np

from flowkit.datasets.posed_views import Lens
from flowkit.errors import InputError, UsageError
from flowkit.io.trajectories import Trajectory
from flowkit.pipelines.frame_links import Link, Linker
from flowkit.pipelines.pose import default_threshold, from_matches
from flowkit.types import Fit, Image, RelativePose, Status

ESTIMATORS = ("essential", "poselib")
LEAST_COMMON = 12
"""Points seen in three frames from which a length is taken."""
LEAST_PARALLAX = 2.0
"""Times the inlier threshold: by so many pixels the rays to such a point must at least differ, in both pairs."""

Placed = tuple[int, str, Image]
"""A frame's place in its sequence, its name, the picture."""


class Length(StrEnum):
    """Where the length of a step comes from."""

    TRUTH = "ground truth"
    FIRST = "first step"
    CHAINED = "chained"
    KEPT = "kept"
    """As long as the step before: there was nothing to tell it by."""
    NONE = "none"
    """Pure rotation, or no pose at all: no step is made."""


@dataclass(frozen=True)
class Frame:
    """A frame: its place in the whole sequence from 0, its name, and when it was taken (seconds)."""

    place: int
    name: str
    time: float


@dataclass(frozen=True, eq=False)
class Step:
    """The motion between two consecutive frames: X1 = R X0 + length t with |t| = 1; None where it is not known.

    After a pure rotation `t` is None and `length` 0; where the pair failed `R` is None, too. `common` is how many points seen
    in three frames the length was taken from. `matches` and `inliers` are counts, `seconds` what the step took.
    """

    frame0: Frame
    frame1: Frame
    status: Status
    degeneracy: str
    R: np.ndarray | None
    t: np.ndarray | None
    length: float
    length_from: Length
    common: int
    matches: int
    inliers: int
    epipolar_error: float | None
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether nothing is known of the motion."""
        return self.R is None

    @property
    def motion(self) -> np.ndarray:
        """4x4, X1 = R X0 + length t; the identity where it is not known: the pose is held."""
        T = np.eye(4)
        if self.R is not None:
            T[:3, :3] = self.R
        if self.t is not None:
            T[:3, 3] = self.length * self.t
        return T


def trajectory(steps: Iterable[Step]) -> np.ndarray:
    """(N + 1, 4, 4) camera to world of N steps; the world is the first frame's camera."""
    poses = [np.eye(4)]
    for step in steps:
        poses.append(poses[-1] @ np.linalg.inv(step.motion))
    return np.stack(poses)


def follow(
    frames: Iterable[Placed],
    K: np.ndarray,
    linker: Linker,
    *,
    estimator: str,
    distortion: tuple[float, ...] = (),
    threshold: float | None = None,
    truth: Callable[[Frame], np.ndarray | None] | None = None,
    fps: float | None = None,
    seed: int = 0,
) -> Iterator[Step]:
    """The step from each frame to the next, as soon as it is known; two frames are held at a time.

    K 3x3 (pixel centres at integers) and `distortion` (OpenCV's k1 k2 p1 p2 [k3 ...]) are of every frame as stored. `estimator`
    is one of `ESTIMATORS`. `threshold` is the inliers' bound in pixels, by default that of `pipelines.pose`. `truth` gives the
    true camera-to-world pose of a frame, None where it has none; the length of a step is then that of the true one. InputError
    where the frames differ in size or are fewer than two, UsageError for an unknown estimator; bad geometry is a status.
    """
    fit = _fitter(estimator)
    lengths = _Lengths(linker, K, distortion, truth)
    before: tuple[Frame, Image] | None = None
    count = 0
    for place, name, image in frames:
        count += 1
        frame = Frame(place, name, time_of(name, place, fps))
        if before is not None:
            frame0, image0 = before
            if image.size != image0.size:
                (h0, w0), (h1, w1) = image0.size, image.size
                raise InputError(f"{name}: is {w1}x{h1} but {frame0.name} {w0}x{h0}; one K needs frames of one size")
            begun = time.perf_counter()
            bound = threshold if threshold is not None else default_threshold(image.size)
            link = linker.link(image0, image)
            pose = _posed(link, K, distortion, bound, seed, fit)
            length, length_from, common = lengths.of(frame0, frame, link, pose)
            yield Step(
                frame0,
                frame,
                pose.status,
                pose.degeneracy,
                pose.R,
                None if pose.t is None else np.ravel(pose.t),
                length,
                length_from,
                common,
                len(link.matches),
                0 if pose.R is None or pose.matches.inliers is None else int(pose.matches.inliers.sum()),
                pose.epipolar_error,
                time.perf_counter() - begun,
            )
        before = frame, image
    if count < 2:
        raise InputError(f"{count} frame{'s' * (count != 1)} to follow; odometry needs two at least")


class _Lengths:
    """How long the steps are, one after the other."""

    def __init__(
        self,
        linker: Linker,
        K: np.ndarray,
        distortion: tuple[float, ...],
        truth: Callable[[Frame], np.ndarray | None] | None,
    ) -> None:
        self._linker, self._K, self._distortion, self._truth = linker, K, distortion, truth
        self._length = 1.0
        self._begun = False
        self._last: tuple[Link, RelativePose] | None = None

    def of(self, frame0: Frame, frame1: Frame, link: Link, pose: RelativePose) -> tuple[float, Length, int]:
        """The step's length, where it comes from, and how many points seen in three frames it was taken from."""
        last, self._last = self._last, (link, pose)
        if pose.t is None:
            return 0.0, Length.NONE, 0
        if self._truth is not None:
            poses = self._truth(frame0), self._truth(frame1)
            if poses[0] is None or poses[1] is None:
                return self._length, Length.KEPT, 0
            step = float(np.linalg.norm(poses[1][:3, 3] - poses[0][:3, 3]))
            self._length = step or self._length
            return step, Length.TRUTH, 0
        if not self._begun:
            self._begun = True
            return self._length, Length.FIRST, 0
        if last is None or last[1].t is None:
            return self._length, Length.KEPT, 0
        points = undistorted_points(self._linker.through(last[0], link), self._K, self._distortion)
        ratio, common = ratio_of_lengths(last[1], pose, points, self._K, pose.threshold)
        if ratio is None:
            return self._length, Length.KEPT, common
        self._length *= ratio
        return self._length, Length.CHAINED, common


def ratio_of_lengths(
    before: RelativePose, after: RelativePose, points: tuple[np.ndarray, ...], K: np.ndarray, threshold: float
) -> tuple[float | None, int]:
    """How much longer the second of two consecutive steps is, None where too few points tell; and how many did.

    `points` (three (N, 2), undistorted pixels) are triangulated from either pair in units of its step. The ratio of their
    depths in the common frame is that of the lengths; the median is taken, each ratio weighted by its precision: a depth's
    relative error is that of its parallax. Those count that obey both epipolar geometries (`threshold` pixels), lie in front
    of the cameras, and whose rays differ enough (LEAST_PARALLAX).
    """
    import torch

    from flowkit.estimators.magsac import sampson_error
    from flowkit.geometry.pose import triangulate

    depths, parallaxes, good = [], [], np.ones(len(points[0]), bool)
    focal = float(np.sqrt(K[0, 0] * K[1, 1]))
    inverse = np.linalg.inv(K)
    for pose, (first, second) in ((before, points[:2]), (after, points[1:])):
        assert pose.R is not None and pose.t is not None and pose.E is not None
        R, t = pose.R, np.ravel(pose.t)
        rays0, rays1 = (np.column_stack([each, np.ones(len(each))]) @ inverse.T for each in (first, second))
        good &= sampson_error(inverse.T @ pose.E @ inverse, first, second) <= threshold
        tensors = [torch.from_numpy(np.asarray(each, np.float64)) for each in (R, t, rays0[:, :2], rays1[:, :2])]
        X0 = triangulate(*tensors).numpy()
        z0, z1 = X0[:, 2], (X0 @ R.T + t)[:, 2]
        turned = rays0 @ R.T
        cosine = (turned * rays1).sum(1) / np.linalg.norm(turned, axis=1) / np.linalg.norm(rays1, axis=1)
        parallax = focal * np.arccos(np.clip(cosine, -1, 1))
        with np.errstate(invalid="ignore"):  # NaN: parallel rays
            good &= (z0 > 0) & (z1 > 0) & (parallax >= LEAST_PARALLAX * threshold)
        depths.append(z1 if pose is before else z0)
        parallaxes.append(parallax)
    count = int(good.sum())
    if count < LEAST_COMMON:
        return None, count
    (z0, z1), (p0, p1) = ([each[good] for each in both] for both in (depths, parallaxes))
    ratios, weights = z0 / z1, 1 / (p0**-2 + p1**-2)
    order = np.argsort(ratios)
    half = np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2)
    return float(ratios[order[half]]), count


def undistorted_points(
    points: Iterable[np.ndarray], K: np.ndarray, distortion: tuple[float, ...]
) -> tuple[np.ndarray, ...]:
    """Stored pixels as pixels of the same camera without its lens distortion."""
    if not any(distortion):
        return tuple(np.asarray(each, np.float64) for each in points)
    lens = Lens.of(K, distortion)
    return tuple(lens.rays(np.asarray(each, np.float64)) @ K[:2, :2].T + K[:2, 2] for each in points)


def time_of(name: str, place: int, fps: float | None) -> float:
    """Seconds: the name itself where it is a decimal number like TUM's ("1311868169.463229.png"), else place / fps.

    Without a rate the place itself.
    """
    stem = PurePath(name).stem
    return float(stem) if is_timestamp(name) else place / (fps or 1.0)


def is_timestamp(name: str) -> bool:
    """Whether a frame is named by its time."""
    return re.fullmatch(r"\d+\.\d+", PurePath(name).stem) is not None


def number_of(frame: Frame) -> int:
    """The frame's number: that in its name ("000014.png"), else its place."""
    stem = PurePath(frame.name).stem
    return int(stem) if re.fullmatch(r"\d+", stem) else frame.place


def truth_of(poses: Trajectory, length: int | None) -> Callable[[Frame], np.ndarray | None]:
    """Where to look a frame's true pose up in a trajectory's file, for a sequence of `length` frames (None: not known).

    By time where the file has times. Else by the number in the frame's name; by its place where the file has no numbers but a
    line for each frame of the sequence.
    """
    by_place = poses.counted and length == len(poses.poses)
    return lambda frame: poses.at(frame.place if by_place else number_of(frame), frame.time)


def _fitter(name: str) -> Callable[..., Fit]:
    if name == "poselib":
        from flowkit.estimators.poselib import fit_relative_pose

        return fit_relative_pose
    if name == "essential":
        from flowkit.estimators.essential import fit_essential

        return fit_essential
    raise UsageError(f"--estimator {name}: unknown; use one of {', '.join(ESTIMATORS)}")


def _posed(
    link: Link, K: np.ndarray, distortion: tuple[float, ...], threshold: float, seed: int, fit: Callable[..., Fit]
) -> RelativePose:
    matches = link.matches
    if any(distortion):
        points = undistorted_points((matches.keypoints0, matches.keypoints1), K, distortion)
        matches = replace(matches, keypoints0=points[0], keypoints1=points[1])
    # Steps are short: what tells one from a turn, or depth from a plane, is parallax of the noise's order, features' too.
    return from_matches(matches, K, K, threshold, seed, fit, by_noise=True)
