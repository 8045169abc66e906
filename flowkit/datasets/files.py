"""What the readers share: finding an image whatever its suffix, reading tables of numbers, one clear error for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".ppm", ".jpeg", ".pgm", ".tif", ".tiff", ".bmp", ".webp")


def folder(path: Path) -> Path:
    """`path` itself when it is a folder, an InputError otherwise."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the data set's own folder")
    return path


def existing(path: Path) -> Path:
    """`path` itself when it is a file, an InputError otherwise."""
    if not path.is_file():
        raise InputError(f"{path}: no such file, but the data set's layout has it there; check the copy")
    return path


def first_folder(root: Path, *names: str) -> Path:
    """The first of `names` that is a folder inside `root`."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise InputError(f"{root}: has no folder {' or '.join(names)}; give the data set's own folder")


def find_image(stem: Path) -> Path:
    """The image called `stem` plus one of the usual suffixes."""
    for suffix in IMAGE_SUFFIXES:
        for path in (Path(f"{stem}{suffix}"), Path(f"{stem}{suffix.upper()}")):
            if path.is_file():
                return path
    raise InputError(f"{stem}: no image of that name ({' '.join(IMAGE_SUFFIXES)}); check the copy")


def images_in(directory: Path) -> list[Path]:
    """The images of a folder, by name."""
    return sorted(path for path in folder(directory).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def read_numbers(path: Path, columns: int | None = None) -> np.ndarray:
    """A text table of numbers as (rows, columns) float64; lines that begin with # are skipped."""
    try:
        table = np.loadtxt(existing(path), ndmin=2)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a table of numbers ({error}); check the copy") from error
    if table.size == 0 or (columns is not None and table.shape[1] != columns):
        raise InputError(f"{path}: has {table.shape[1] if table.size else 0} columns, not {columns}; check the copy")
    return table


def read_homography(path: Path) -> np.ndarray:
    """A 3x3 text matrix scaled to H[2][2] = 1."""
    H = read_numbers(path, 3)
    if H.shape != (3, 3) or not np.isfinite(H).all() or abs(H[2, 2]) < 1e-12:
        raise InputError(f"{path}: is not a 3x3 homography; check the copy")
    return H / H[2, 2]


def read_json(path: Path) -> Any:
    """A JSON file."""
    try:
        return json.loads(existing(path).read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: is not JSON ({error}); check the copy") from error


def read_map(path: Path) -> np.ndarray:
    """A single-channel picture (mask, disparity) in its own depth, (H, W)."""
    import cv2

    pixels = cv2.imdecode(np.fromfile(existing(path), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise InputError(f"{path}: cannot be decoded; check the copy")
    return pixels if pixels.ndim == 2 else pixels[..., 0]


def transform(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """A 4x4 transform from its upper 3x4 part, row by row."""
    T = np.eye(4)
    T[:3] = np.reshape(np.asarray(values, np.float64)[:12], (3, 4))
    return T


def matrix(values: object, shape: tuple[int, int], where: Path) -> np.ndarray:
    """A matrix from nested lists, checked for its shape."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {values!r} is not a matrix; check the copy") from error
    if array.shape != shape or not np.isfinite(array).all():
        raise InputError(f"{where}: has a matrix of shape {array.shape} where {shape} belongs; check the copy")
    return array
