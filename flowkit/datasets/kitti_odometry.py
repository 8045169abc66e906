"""KITTI odometry (Geiger et al., CVPR 2012): sequences of frames with poses, and every two consecutive frames of them.

Layouts: the original sequences/NN/{image_0 or image_2, calib.txt} with poses/NN.txt (one line a frame), or
NN/{image_0, calib.txt, poses.txt} whose lines may begin with the frame's number. Poses are camera 0 -> world, 3x4.
"""

from pathlib import Path

import numpy as np

from flowkit.datasets.files import existing, first_folder, folder, images_in, read_numbers, transform
from flowkit.datasets.posed_sequence import PosedSequence
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError


def read_kitti_odometry(root: Path, dataset: str = "kitti-odometry") -> list[PoseSample]:
    """Every pair of consecutive frames of every sequence with poses."""
    return [
        sample for sequence in kitti_sequences(root, dataset) for sample in sequence.samples(prefix=f"{sequence.name}/")
    ]


def kitti_sequences(root: Path, dataset: str = "kitti-odometry") -> list[PosedSequence]:
    """Every sequence with poses: the frames of image_0, else image_2, that have one, and the poses of that camera."""
    base = root / "sequences" if (folder(root) / "sequences").is_dir() else root
    found = []
    for sequence in sorted(path.parent for path in base.glob("*/calib.txt")):
        own, original = sequence / "poses.txt", root / "poses" / f"{sequence.name}.txt"
        poses = next((path for path in (own, original) if path.is_file()), None)
        if poses is not None:
            found.append(_read_sequence(sequence, poses, dataset))
    if not found:
        raise InputError(f"{root}: has no sequence with calib.txt and poses; give KITTI's odometry folder")
    return found


def _read_sequence(sequence: Path, poses: Path, dataset: str) -> PosedSequence:
    table = read_numbers(poses)
    if table.shape[1] == 12:
        table = np.column_stack([np.arange(len(table)), table])
    if table.shape[1] != 13:
        raise InputError(f"{poses}: has {table.shape[1]} columns, a pose takes 12; check the copy")
    to_world = {int(row[0]): transform(row[1:]) for row in table}
    images = first_folder(sequence, "image_0", "image_2")
    P = _projection(sequence / "calib.txt", int(images.name[-1]))
    K = P[:, :3]
    to_camera0 = np.eye(4)  # rectified: the cameras of the rig differ by a shift only
    to_camera0[:3, 3] = -np.linalg.solve(K, P[:, 3])
    views = [(path, to_world[int(path.stem)]) for path in images_in(images) if int(path.stem) in to_world]
    tracks = np.array([pose @ to_camera0 for _, pose in views]).reshape(-1, 4, 4)
    return PosedSequence(dataset, sequence.name, tuple(path for path, _ in views), K, tracks)


def _projection(file: Path, camera: int) -> np.ndarray:
    """The 3x4 matrix P of a camera; lines begin with "P0:" or come in the order of the cameras."""
    lines = [line.split() for line in existing(file).read_text("ascii").splitlines() if line.strip()]
    named = {line[0].rstrip(":"): line[1:] for line in lines if line[0].startswith("P")}
    try:
        return np.reshape(np.array(named[f"P{camera}"] if named else lines[camera], np.float64), (3, 4))
    except (IndexError, KeyError, ValueError) as error:
        raise InputError(f"{file}: has no projection matrix P{camera}; check the copy") from error
