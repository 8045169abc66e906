"""MegaDepth pairs with poses, by difficulty, as CAPS (Wang et al., ECCV 2020) has them.

ROOT/MODE/img_cam.txt has a line for each image: SCENE IMAGE width height fx fy cx cy R (9) t (3), world to camera, in COLMAP's
pixels; ROOT/MODE/pairs.txt one for each pair: SCENE IMAGE0 IMAGE1. The images are SCENE/dense/aligned/images/IMAGE in a folder
called megaDepth/test, test or images, in ROOT or beside the lists. Or a pair list of 38 fields (flowkit.io.pairs).
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowkit.datasets.files import existing, folder
from flowkit.datasets.pair_list import read_pair_list
from flowkit.datasets.samples import Group, PoseSample
from flowkit.errors import InputError
from flowkit.io.cameras import colmap_to_pixel_centre
from flowkit.io.images import image_header
from flowkit.io.text import parse_numbers, read_lines

BINS = {"easy": 15.0, "moderate": 30.0, "hard": 60.0}
"""Group -> its largest true rotation between the cameras in degrees; beyond them `beyond`."""
_IMAGE_FOLDERS = ("megaDepth/test", "test", "images", ".")
_ROTATION_TOLERANCE = 1e-3


class _View(NamedTuple):
    K: np.ndarray
    T: np.ndarray
    width: int
    height: int


def read_megadepth_pose(root: Path, dataset: str = "megadepth-pose") -> list[PoseSample]:
    """Every pair of every list, each in the group that its true rotation belongs to, whatever folder lists it."""
    modes = [] if root.is_file() else [root, *sorted(path for path in folder(root).iterdir() if path.is_dir())]
    modes = [mode for mode in modes if (mode / "img_cam.txt").is_file()]
    samples = [sample for mode in modes for sample in _read_mode(mode, root, dataset)]
    if not modes:
        samples = read_pair_list(root, dataset)
    return [replace(sample, group=Group(_difficulty(sample.T_0to1))) for sample in samples]


def _read_mode(mode: Path, root: Path, dataset: str) -> list[PoseSample]:
    views = _views(mode / "img_cam.txt")
    samples = []
    for where, line in read_lines(existing(mode / "pairs.txt"), "a list of pairs"):
        words = line.split()
        if len(words) != 3:
            raise InputError(f"{where}: has {len(words)} words where SCENE IMAGE0 IMAGE1 belong; check the copy")
        scene, *names = words
        if missing := [name for name in names if (scene, name) not in views]:
            raise InputError(f"{where}: {scene} {missing[0]} has no line in {mode / 'img_cam.txt'}; check the copy")
        image0, image1 = (_image(mode, root, scene, name) for name in names)
        view0, view1 = (views[scene, name] for name in names)
        K0, K1 = _intrinsics(view0, image0), _intrinsics(view1, image1)
        T = view1.T @ np.linalg.inv(view0.T)
        samples.append(PoseSample(dataset, f"{scene}: {' '.join(names)}", image0, image1, K0, K1, T))
    return samples


def _views(path: Path) -> dict[tuple[str, str], _View]:
    views = {}
    for where, line in read_lines(path, "a list of cameras"):
        scene, _, rest = line.partition(" ")
        name, _, rest = rest.strip().partition(" ")
        numbers = parse_numbers(rest.split(), where)
        if len(numbers) != 18:
            raise InputError(f"{where}: has {len(numbers)} numbers after the names, not 18; check the copy")
        width, height, fx, fy, cx, cy = numbers[:6]
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = numbers[6:15].reshape(3, 3), numbers[15:]
        if np.abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() > _ROTATION_TOLERANCE:
            raise InputError(f"{where}: its R is not a rotation; check the copy")
        K = colmap_to_pixel_centre(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
        views[scene, name] = _View(K, T, int(width), int(height))
    return views


def _intrinsics(view: _View, image: Path) -> np.ndarray:
    """K of the image as it is on disk, which may be smaller than the list says."""
    import torch

    from flowkit.geometry.grids import resize_intrinsics

    return resize_intrinsics(torch.from_numpy(view.K), (view.height, view.width), image_header(image)).numpy()


def _image(mode: Path, root: Path, scene: str, name: str) -> Path:
    places = [base / images for base in (root, mode, root.parent) for images in _IMAGE_FOLDERS]
    for place in places:
        for path in (place / scene / "dense" / "aligned" / "images" / name, place / scene / name):
            if path.is_file():
                return path
    return existing(places[0] / scene / "dense" / "aligned" / "images" / name)


def _difficulty(T_0to1: np.ndarray) -> str:
    import torch

    from flowkit.geometry.pose import rotation_angle

    angle = float(rotation_angle(torch.from_numpy(T_0to1[:3, :3])))
    return next((name for name, largest in BINS.items() if angle <= largest), "beyond")
