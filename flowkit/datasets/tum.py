"""TUM RGB-D (Sturm et al., IROS 2012): consecutive frames of rgb/, judged by their rotation only.

groundtruth.txt holds timestamp, t, q (x y z w), camera -> world; frames are named by their timestamp; K is in camera.json.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np

from flowkit.datasets.files import images_in, matrix, read_json, read_numbers
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError

_MAX_GAP = 0.02  # seconds between a frame and its motion-capture sample


def read_tum(root: Path, dataset: str = "tum") -> list[PoseSample]:
    """Every pair of consecutive frames that both have a pose."""
    camera = read_json(root / "camera.json")
    K = matrix(camera.get("K") if isinstance(camera, dict) else None, (3, 3), root / "camera.json")
    track = read_numbers(root / "groundtruth.txt", 8)
    posed = []
    for path in images_in(root / "rgb"):
        try:
            gaps = np.abs(track[:, 0] - float(path.stem))
        except ValueError as error:
            raise InputError(f"{path}: is not named by its timestamp; check the copy") from error
        if gaps.min() <= _MAX_GAP:
            posed.append((path, np.linalg.inv(_camera_to_world(track[gaps.argmin(), 1:]))))
    if len(posed) < 2:
        raise InputError(f"{root}: fewer than two frames have a pose; check groundtruth.txt")
    return [
        PoseSample(
            dataset, f"{path0.stem}-{path1.stem}", path0, path1, K, K, T1 @ np.linalg.inv(T0), rotation_only=True
        )
        for (path0, T0), (path1, T1) in pairwise(posed)
    ]


def _camera_to_world(row: np.ndarray) -> np.ndarray:
    """4x4 from t and the quaternion (x, y, z, w), normalised."""
    x, y, z, w = row[3:] / np.linalg.norm(row[3:])
    T = np.eye(4)
    T[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    T[:3, 3] = row[:3]
    return T
