"""Pairs of YFCC100M photographs with poses: OANet's test split (Zhang et al., ICCV 2019), as RANSAC-Flow has it.

ROOT/pairs/SCENE-te-1000-pairs.pkl is a pickled list of (i, j): the i-th and j-th line, from 0, of images.txt and
calibration.txt in ROOT/images/SCENE/test (OANet's own tree: ROOT/yfcc100m/SCENE/test). Their lines are paths relative to that
folder. A calibration is an HDF5 file with imsize (width, height), R and T, world to camera, and K, whose principal point
counts from the middle of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flowkit.datasets.files import existing, first_folder, folder
from flowkit.datasets.plain_pickle import read_plain_pickle
from flowkit.datasets.samples import Group, PoseSample, Preparation
from flowkit.datasets.short_side import short_side_480
from flowkit.errors import InputError
from flowkit.io.images import image_header
from flowkit.io.inputs import check_input, decoding
from flowkit.io.text import read_lines
from flowkit.types import Size

SCENES = ("notre_dame_front_facade", "buckingham_palace", "reichstag", "sacre_coeur")
"""In the order of the papers; others follow by name."""
_END = "-te-1000-pairs.pkl"


class _View(NamedTuple):
    image: Path
    K: np.ndarray
    T: np.ndarray
    preparation: Preparation | None


def read_yfcc100m(root: Path, dataset: str = "yfcc100m") -> list[PoseSample]:
    """Every pair (i, j) of every list, i being image0, the source; the scenes are equal groups.

    `yfcc100m` takes the pictures as they are, `yfcc100m-ransac-flow` at a short side of 480, as RANSAC-Flow does. InputError
    for a list, a calibration or a picture that is not there or not as described.
    """
    pairs = folder(root) / "pairs"
    lists = {file.name.removesuffix(_END): file for file in pairs.glob(f"*{_END}")}
    if not lists:
        raise InputError(f"{pairs}: has no SCENE{_END}; give the folder that has pairs/ and images/")
    images = first_folder(root, "images", "yfcc100m")
    return [
        sample for name in sorted(lists, key=_place) for sample in _scene(name, lists[name], images / name, dataset)
    ]


def _place(name: str) -> tuple[int, str]:
    return (SCENES.index(name) if name in SCENES else len(SCENES), name)


def _scene(name: str, listing: Path, scene: Path, dataset: str) -> list[PoseSample]:
    base = first_folder(scene, "test")
    images, calibrations = (_lines(base / file) for file in ("images.txt", "calibration.txt"))
    if len(images) != len(calibrations):
        raise InputError(
            f"{base}: images.txt has {len(images)} lines, calibration.txt {len(calibrations)}; check the copy"
        )
    views: dict[int, _View] = {}
    samples = []
    for pair in _pairs(listing, len(images)):
        for i in pair:
            if i not in views:
                views[i] = _view(base / images[i], base / calibrations[i], dataset.endswith("-ransac-flow"))
        (image0, K0, T0, preparation0), (image1, K1, T1, preparation1) = (views[i] for i in pair)
        samples.append(
            PoseSample(
                dataset,
                f"{name}: {image0.stem} {image1.stem}",
                image0,
                image1,
                K0,
                K1,
                T1 @ np.linalg.inv(T0),
                signed=True,
                group=Group(name, equal=True),
                preparation0=preparation0,
                preparation1=preparation1,
            )
        )
    return samples


def _lines(path: Path) -> list[str]:
    return [line for _, line in read_lines(existing(path), "a list of files")]


def _pairs(listing: Path, count: int) -> list[tuple[int, int]]:
    found = read_plain_pickle(listing, "a list of pairs of numbers")
    try:
        numbers = np.asarray(found)
        if numbers.ndim != 2 or numbers.shape[1] != 2 or numbers.dtype.kind not in "iu":
            raise ValueError("not whole numbers, two by two")
    except ValueError as error:
        raise InputError(f"{listing}: is no list of pairs ({error}); check the copy") from error
    if numbers.min() < 0 or numbers.max() >= count:
        raise InputError(f"{listing}: names an image that is not among the {count} of images.txt; check the copy")
    return [(int(i), int(j)) for i, j in numbers]


def _view(image: Path, calibration: Path, at_480: bool) -> _View:
    """K is that of the picture as prepared; the protocol scales the principal point plainly (x' = s x)."""
    K, T, listed = _calibration(calibration)
    size = image_header(existing(image))
    if not at_480:
        return _View(image, _resized(K, listed, size), T, None)
    prepared = short_side_480(size)
    scale = np.diag([prepared[1] / listed[1], prepared[0] / listed[0], 1.0])
    return _View(image, scale @ K, T, Preparation(prepared, lanczos=True))


def _resized(K: np.ndarray, size: Size, size_to: Size) -> np.ndarray:
    import torch

    from flowkit.geometry.grids import resize_intrinsics

    return resize_intrinsics(torch.from_numpy(K), size, size_to).numpy()


def _calibration(path: Path) -> tuple[np.ndarray, np.ndarray, Size]:
    """K in pixels of the picture that it was made for, world -> camera 4x4, and that picture's size."""
    import h5py

    with decoding(path, "a calibration"), h5py.File(check_input(path, "a calibration"), "r") as file:
        read = partial(_array, file, path)
        K, R, t, imsize = read("K", (3, 3)), read("R", (3, 3)), read("T", (3,)), read("imsize", (2,))
    width, height = (int(side) for side in imsize)
    if min(width, height) < 1:
        raise InputError(f"{path}: imsize is {width} x {height}; check the copy")
    K = np.array([[K[0, 0], 0, (width - 1) / 2 + K[0, 2]], [0, K[1, 1], (height - 1) / 2 + K[1, 2]], [0, 0, 1]])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, t
    return K, T, (height, width)


def _array(file: object, path: Path, name: str, shape: Sequence[int]) -> np.ndarray:
    array = np.asarray(file[name] if name in file else np.empty(0), np.float64)  # type: ignore[index, operator]
    if array.size != np.prod(shape) or not np.isfinite(array).all():
        raise InputError(f"{path}: has no {name} of {' x '.join(map(str, shape))} finite numbers; check the copy")
    return array.reshape(shape)
