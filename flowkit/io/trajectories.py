"""Camera trajectories as text, in KITTI's and TUM's formats. In memory: (N, 4, 4) float64, camera to world.

A pose takes points of the camera's frame (x right, y down, z forward) to the world's: X_world = pose X_camera, so its
last column is where the camera stands. From camera i to camera j it is inv(pose[j]) @ pose[i].
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice

import numpy as np

from flowkit.errors import InputError
from flowkit.io.atomic import write_text
from flowkit.io.text import format_numbers, parse_numbers, read_lines

_ROTATION_TOLERANCE = 1e-3
_QUATERNION_TOLERANCE = 1e-2  # files have four digits, sometimes fewer
MAX_GAP = 0.02
"""Seconds between a frame and the pose that is taken for its own, as in TUM's associate.py."""


@dataclass(frozen=True)
class Trajectory:
    """Camera-to-world `poses` (N, 4, 4) of a file, and whose they are.

    KITTI's go by frame: `numbers` (N,) int64, and `counted` is True where the file leaves them out, so that its first line is
    frame 0. TUM's go by time: `timestamps` (N,) in seconds.
    """

    poses: np.ndarray
    numbers: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    counted: bool = False

    def at(self, number: int, time: float) -> np.ndarray | None:
        """The pose (4, 4) of the frame with this number, or taken at this time (seconds), whichever the file goes by."""
        if self.timestamps is not None:
            return pose_at(self.timestamps, self.poses, time)
        assert self.numbers is not None
        (found,) = np.nonzero(self.numbers == number)
        return self.poses[found[0]] if len(found) else None


def read_trajectory(path: str | os.PathLike[str]) -> Trajectory:
    """A trajectory in KITTI's format (12 numbers a line; 13 where each begins with its frame's number) or TUM's (8)."""
    columns = {len(line.split()) for _, line in islice(read_lines(path, "a trajectory"), 1)}
    if columns == {8}:
        timestamps, poses = read_tum(path)
        return Trajectory(poses, timestamps=timestamps)
    if columns == {13}:
        numbers, matrices = [], []
        for where, line in read_lines(path, "a KITTI trajectory"):
            number, *values = _numbers(line, 13, where)
            numbers.append(int(number))
            matrices.append(_kitti_pose(np.array(values), where))
        return Trajectory(_stacked(matrices, path), numbers=np.array(numbers))
    poses = read_kitti(path)
    return Trajectory(poses, numbers=np.arange(len(poses)), counted=True)


def pose_at(timestamps: np.ndarray, poses: np.ndarray, time: float, most: float = MAX_GAP) -> np.ndarray | None:
    """The camera-to-world pose (4, 4) at `time`, of samples (N, 4, 4) at `timestamps` (N,), seconds in any order.

    Between two samples that are both within `most` seconds it is interpolated (the position linearly, the rotation along the
    shortest arc); else the nearest within `most` is taken; None without one.
    """
    from scipy.spatial.transform import Rotation, Slerp

    order = np.argsort(timestamps, kind="stable")
    after = int(np.searchsorted(timestamps[order], time))
    near = [
        int(order[i]) for i in (after - 1, after) if 0 <= i < len(order) and abs(timestamps[order[i]] - time) <= most
    ]
    if len(near) < 2 or timestamps[near[0]] == timestamps[near[1]]:
        return poses[min(near, key=lambda i: abs(timestamps[i] - time))].copy() if near else None
    share = (time - timestamps[near[0]]) / (timestamps[near[1]] - timestamps[near[0]])
    pose = np.eye(4)
    pose[:3, :3] = Slerp([0, 1], Rotation.from_matrix(poses[near, :3, :3]))(share).as_matrix()
    pose[:3, 3] = (1 - share) * poses[near[0], :3, 3] + share * poses[near[1], :3, 3]
    return pose


def read_kitti(path: str | os.PathLike[str]) -> np.ndarray:
    """(N, 4, 4) of a KITTI trajectory: each line the 3x4 camera-to-world matrix, 12 numbers row by row."""
    poses = []
    for where, line in read_lines(path, "a KITTI trajectory"):
        poses.append(_kitti_pose(_numbers(line, 12, where), where))
    return _stacked(poses, path)


def write_kitti(path: str | os.PathLike[str], poses: np.ndarray) -> None:
    """Write (N, 4, 4) camera-to-world `poses` as KITTI does."""
    poses = _checked(poses)
    write_text(path, "".join(f"{format_numbers(pose[:3])}\n" for pose in poses))


def read_tum(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Timestamps (N,) in seconds and (N, 4, 4) of a TUM trajectory: lines of timestamp tx ty tz qx qy qz qw."""
    from scipy.spatial.transform import Rotation

    timestamps, poses = [], []
    for where, line in read_lines(path, "a TUM trajectory"):
        timestamp, *values = _numbers(line, 8, where)
        position, quaternion = values[:3], values[3:]
        norm = float(np.linalg.norm(quaternion))
        if abs(norm - 1) > _QUATERNION_TOLERANCE:
            raise InputError(
                f"{where}: qx qy qz qw has length {norm:.3g}, not 1; a line is timestamp tx ty tz qx qy qz qw"
            )
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()  # the scalar comes last for scipy, too
        pose[:3, 3] = position
        timestamps.append(timestamp)
        poses.append(pose)
    return np.array(timestamps), _stacked(poses, path)


def write_tum(path: str | os.PathLike[str], timestamps: np.ndarray, poses: np.ndarray) -> None:
    """Write `timestamps` (N,) and (N, 4, 4) camera-to-world `poses` as TUM does."""
    from scipy.spatial.transform import Rotation

    poses, timestamps = _checked(poses), np.asarray(timestamps, np.float64)
    if timestamps.shape != poses.shape[:1] or not np.isfinite(timestamps).all():
        raise ValueError(f"{len(poses)} poses need as many finite timestamps, not {timestamps.shape}")
    lines = ["# timestamp tx ty tz qx qy qz qw (camera to world)\n"]
    for timestamp, pose in zip(timestamps, poses, strict=True):
        quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat(canonical=True)
        lines.append(f"{format_numbers(np.concatenate([[timestamp], pose[:3, 3], quaternion]))}\n")
    write_text(path, "".join(lines))


def _kitti_pose(values: np.ndarray, where: str) -> np.ndarray:
    pose = np.eye(4)
    pose[:3] = values.reshape(3, 4)
    if (fault := _rotation_fault(pose[:3, :3])) is not None:
        raise InputError(f"{where}: {fault}; a line is the 3x4 camera-to-world matrix, row by row")
    return pose


def _numbers(line: str, count: int, where: str) -> np.ndarray:
    words = line.split()
    if len(words) != count:
        raise InputError(f"{where}: has {len(words)} fields where {count} belong; check which format the file is in")
    return parse_numbers(words, where)


def _stacked(poses: list[np.ndarray], path: str | os.PathLike[str]) -> np.ndarray:
    if not poses:
        raise InputError(f"{path}: has no poses, only blank lines and comments; give a trajectory")
    return np.stack(poses)


def _checked(poses: np.ndarray) -> np.ndarray:
    poses = np.asarray(poses, np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or not np.allclose(poses[:, 3], [0, 0, 0, 1]):
        raise ValueError(f"poses are (N, 4, 4) with 0 0 0 1 as last rows, not {poses.shape}")
    for index, pose in enumerate(poses):
        fault = _rotation_fault(pose[:3, :3]) if np.isfinite(pose).all() else "it has numbers that are not finite"
        if fault is not None:
            raise ValueError(f"pose {index}: {fault}")
    return poses


def _rotation_fault(R: np.ndarray) -> str | None:
    # Numbers as large as 1e200 overflow in the product, which is then no identity either.
    with np.errstate(all="ignore"):
        if not np.allclose(R @ R.T, np.eye(3), rtol=0, atol=_ROTATION_TOLERANCE):
            return "its 3x3 part is not a rotation"
        if np.linalg.det(R) < 0:
            return "its 3x3 part mirrors (determinant -1)"
    return None
