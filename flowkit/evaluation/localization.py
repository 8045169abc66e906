"""Absolute camera poses against true ones, as visuallocalization.net (Sattler et al., CVPR 2018) counts them.

Files have a line for each image: NAME qw qx qy qz tx ty tz, world to camera (X_camera = R X_world + t), as hloc writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from flowkit.errors import InputError
from flowkit.evaluation.metrics import rotation_error
from flowkit.evaluation.protocols import PairResult, Row
from flowkit.io.text import parse_numbers, read_lines

THRESHOLDS = ((0.25, 2), (0.5, 5), (5, 10), (0.5, 2), (1, 5))
"""Metres (the model's unit) and degrees that both have to hold: fine, medium, coarse; and RANSAC-Flow's fine and medium."""
MISSING = "missing"
_TASK = "localization"
_QUATERNION_TOLERANCE = 1e-2


def read_poses(path: Path) -> dict[str, np.ndarray]:
    """Name -> 4x4 world to camera."""
    import torch

    from flowkit.geometry.pose import matrix_from_quaternion

    poses: dict[str, np.ndarray] = {}
    for where, line in read_lines(path, "a list of poses"):
        name, *words = line.rsplit(maxsplit=7)
        if len(words) != 7:
            raise InputError(f"{where}: has {len(words) + 1} fields where NAME qw qx qy qz tx ty tz belong")
        values = parse_numbers(words, where)
        norm = float(np.linalg.norm(values[:4]))
        if abs(norm - 1) > _QUATERNION_TOLERANCE:
            raise InputError(f"{where}: qw qx qy qz has length {norm:.3g}, not 1; a line is NAME qw qx qy qz tx ty tz")
        if name in poses:
            raise InputError(f"{where}: {name} has a pose already; leave one of the two lines")
        poses[name] = np.eye(4)
        poses[name][:3, :3] = matrix_from_quaternion(torch.from_numpy(values[:4] / norm)).numpy()
        poses[name][:3, 3] = values[4:]
    if not poses:
        raise InputError(f"{path}: has no poses; a line is NAME qw qx qy qz tx ty tz")
    return poses


def pose_errors(T: np.ndarray | None, T_true: np.ndarray) -> tuple[float, float]:
    """Distance of the camera centres -R^T t, and the angle between the orientations in degrees; infinite for None."""
    if T is None:
        return float("inf"), float("inf")
    centre, centre_true = (-each[:3, :3].T @ each[:3, 3] for each in (T, T_true))
    return float(np.linalg.norm(centre - centre_true)), rotation_error(T[:3, :3], T_true[:3, :3])


def localization(estimated: Path, truth: Path) -> tuple[list[Row], list[PairResult]]:
    """One row with the share of `truth`'s images within each of `THRESHOLDS`, and each image's errors.

    An image without an estimate is wrong. Estimates may leave the folders out of the names, as submissions for Aachen do.
    """
    poses, true_poses = read_poses(estimated), read_poses(truth)
    results = []
    for name, T_true in true_poses.items():
        T = _of(name, poses, true_poses)
        position, rotation = pose_errors(T, T_true)
        scores = {"position_error": position, "rotation_error": rotation}
        status = MISSING if T is None else "ok"
        results.append(PairResult(_TASK, truth.name, name, estimated.name, status, scores, 0.0, False, False))
    if all(result.status == MISSING for result in results):
        raise InputError(f"{estimated}: names none of the images of {truth}; give poses of the same images")
    return [Row(_TASK, truth.name, estimated.name, _values(results))], results


def _of(name: str, poses: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The estimate for an image, also under its bare file name where no other image has the same."""
    if name in poses:
        return poses[name]
    bare = PurePosixPath(name).name
    if sum(PurePosixPath(each).name == bare for each in truth) > 1:
        return None
    return poses.get(bare)


def _values(results: list[PairResult]) -> dict[str, float]:
    errors = np.array([(r.scores["position_error"], r.scores["rotation_error"]) for r in results])
    values = {"pairs": len(results), "failed": sum(r.status == MISSING for r in results)}
    shares = {f"within_{m:g}m_{deg}deg": float((errors <= (m, deg)).all(axis=1).mean()) for m, deg in THRESHOLDS}
    medians = {"position_error_median": float(np.median(errors[:, 0]))}
    return values | shares | medians | {"rotation_error_median": float(np.median(errors[:, 1]))}
