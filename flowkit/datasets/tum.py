"""TUM RGB-D (Sturm et al., IROS 2012): frames with poses, and the dense flow that depth and poses give.

Layout: rgb/ and depth/ hold PNGs named by their timestamp, rgb.txt and depth.txt list them ("timestamp file"; without a list
the folder counts), groundtruth.txt has timestamp, t, q (x y z w), camera -> world. Depth is in 1/5000 m, 0 where unknown. K and
the lens are in camera.json ("K", "dist_k1k2p1p2k3") or those published for the camera named in the folder's name (freiburg1,
freiburg2, freiburg3). What belongs together is within 20 ms.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.depth_flow import flow_from_depth, visible_by_depth
from flowkit.datasets.files import existing, folder, images_in, matrix, read_json, read_map
from flowkit.datasets.posed_sequence import PosedSequence
from flowkit.datasets.posed_views import Lens
from flowkit.datasets.samples import FlowSample, PoseSample
from flowkit.errors import InputError
from flowkit.io.text import parse_number, read_lines
from flowkit.io.trajectories import MAX_GAP, pose_at
from flowkit.io.trajectories import read_tum as read_trajectory

DEPTH_UNIT = 1 / 5000
"""Metres."""
LEAST_BASELINE = 0.03
"""Metres between the two cameras of a pair with flow (self-supervised egomotion's test pairs, section 5)."""
_CAMERAS = {
    "1": ((517.3, 516.5, 318.6, 255.3), (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)),
    "2": ((520.9, 521.0, 325.1, 249.7), (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)),
    "3": ((535.4, 539.2, 320.1, 247.6), ()),
}
"""fx fy cx cy and k1 k2 p1 p2 k3 of the colour cameras, as the data set's page has them; freiburg3's frames are undistorted."""
_NAMES = ("rgbd_dataset_freiburg", "freiburg", "fr")


def read_tum(root: Path, dataset: str = "tum") -> list[PoseSample]:
    """Every pair of consecutive frames that both have a pose, judged by its rotation: the baseline is short."""
    sequence = tum_sequence(root, dataset)
    if len(sequence.frames) < 2:
        raise InputError(f"{root}: fewer than two frames have a pose; check groundtruth.txt")
    return list(sequence.samples(rotation_only=True))


def tum_sequence(root: Path, dataset: str = "tum", K: np.ndarray | None = None) -> PosedSequence:
    """The colour frames that have a pose. `K` takes the place of the folder's own intrinsics, then without distortion."""
    K, distortion = (K, ()) if K is not None else _camera(root)
    times, track = read_trajectory(root / "groundtruth.txt")
    posed = [(time, path, pose_at(times, track, time)) for time, path in _listed(root, "rgb")]
    posed = [(time, path, pose) for time, path, pose in posed if pose is not None]
    return PosedSequence(
        dataset,
        root.resolve().name,
        tuple(path for _, path, _ in posed),
        K,
        np.array([pose for *_, pose in posed]).reshape(-1, 4, 4),
        distortion,
        np.array([time for time, *_ in posed]),
    )


def read_tum_flow(root: Path, dataset: str = "tum-flow") -> list[FlowSample]:
    """Pairs of frames with depth and dense flow, each beginning where the one before ended, 3 cm apart at least.

    The flow is that of the static scene; things that move on their own are wrong in it. `visible()` judges by the second depth.
    """
    sequence = tum_sequence(root, dataset)
    assert sequence.timestamps is not None
    depths = _listed(root, "depth")
    stamps = np.array([time for time, _ in depths])
    nearest = [int(np.abs(stamps - time).argmin()) if len(stamps) else -1 for time in sequence.timestamps]
    kept = [
        i for i, j in enumerate(nearest) if len(stamps) and abs(stamps[j] - sequence.timestamps[i]) <= MAX_GAP
    ]  # frames with depth
    samples: list[FlowSample] = []
    first = kept[0] if kept else 0
    for second in kept[1:]:
        T = np.linalg.inv(sequence.poses[second]) @ sequence.poses[first]
        if np.linalg.norm(T[:3, 3]) < LEAST_BASELINE:
            continue
        pair = sequence.frames[first], sequence.frames[second]
        files = depths[nearest[first]][1], depths[nearest[second]][1]
        truth = partial(_truth, *files, T, Lens.of(sequence.K, sequence.distortion))
        sample = FlowSample(dataset, f"{pair[0].stem}-{pair[1].stem}", *pair, flow=partial(_flow, truth))
        samples.append(replace(sample, visible=partial(_visible, truth)))
        first = second
    if not samples:
        raise InputError(
            f"{root}: has no two frames with depth and poses {LEAST_BASELINE:g} m apart; check depth.txt, groundtruth.txt"
        )
    return samples


def _truth(file0: Path, file1: Path, T: np.ndarray, lens: Lens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    depth0, depth1 = (read_map(file).astype(np.float64) * DEPTH_UNIT for file in (file0, file1))
    return *flow_from_depth(depth0, T, lens, lens), depth1


def _flow(truth: partial) -> np.ndarray:
    return truth()[0]


def _visible(truth: partial) -> np.ndarray:
    return visible_by_depth(*truth())


def _listed(root: Path, kind: str) -> list[tuple[float, Path]]:
    """Timestamp and file of every picture, by the list "kind.txt", else of the folder."""
    if (root / f"{kind}.txt").is_file():
        lines = [
            (where, line.split(maxsplit=1)) for where, line in read_lines(root / f"{kind}.txt", "a list of frames")
        ]
        if wrong := [where for where, words in lines if len(words) != 2]:
            raise InputError(f"{wrong[0]}: is not a timestamp and a file; check the copy")
        return [(parse_number(time, where), existing(root / name)) for where, (time, name) in lines]
    paths = images_in(folder(root / kind))
    try:
        return [(float(path.stem), path) for path in paths]
    except ValueError as error:
        raise InputError(f"{root / kind}: has frames not named by their timestamp ({error}); check the copy") from error


def _camera(root: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """K and the distortion: from camera.json, else those of the camera in the folder's name."""
    named = re.match(rf"(?:{'|'.join(_NAMES)})([123])(?:_|$|/)", root.resolve().name)
    if (root / "camera.json").is_file() or named is None:
        camera = read_json(root / "camera.json")
        K = matrix(camera.get("K") if isinstance(camera, dict) else None, (3, 3), root / "camera.json")
        lens = camera.get("dist_k1k2p1p2k3", [0.0] * 5)
        return K, tuple(matrix([lens], (1, 5), root / "camera.json")[0].tolist())
    (fx, fy, cx, cy), distortion = _CAMERAS[named[1]]
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]), distortion
