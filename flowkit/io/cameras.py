"""Intrinsics: 3x3 float64 [[fx, s, cx], [0, fy, cy], [0, 0, 1]], where the centre of the top-left pixel is (0, 0).

So the middle of a picture is at ((width - 1) / 2, (height - 1) / 2). COLMAP and others put the origin at the corner of
that pixel: their principal points are larger by a half, converted here and nowhere else.
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError, UsageError
from flowkit.io.inputs import check_input, decoding
from flowkit.io.text import parse_numbers, read_lines, read_text
from flowkit.types import Image, Size

FRAME_35MM = 36.0
"""The longer side of a 35 mm frame, in millimetres."""

_WAYS = "give fx,fy,cx,cy or a file with a 3x3 matrix"


def parse_intrinsics(text: str | os.PathLike[str], size: Size | None = None) -> np.ndarray:
    """K from "fx,fy,cx,cy" (pixels) or from a file: 3x3 as text, .csv, .npy, or .json (nested lists, or under "K").

    With the image's `size` a principal point far outside the image is refused. Wrong words are a UsageError, wrong files
    an InputError.
    """
    words = [word.strip() for word in str(text).split(",")]
    if len(words) == 1 and not _is_number(words[0]):
        return _read_matrix(Path(text), size)
    if not all(_is_number(word) for word in words):
        if Path(text).is_file():  # a file with a comma in its name
            return _read_matrix(Path(text), size)
        raise UsageError(f"intrinsics {text!s}: neither four numbers nor a file that exists; {_WAYS}")
    if len(words) != 4:
        raise UsageError(f"intrinsics {text!s}: {len(words)} numbers where four belong; {_WAYS}")
    fx, fy, cx, cy = (float(word) for word in words)
    K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    if (fault := intrinsics_fault(K, size)) is not None:
        raise UsageError(f"intrinsics {text!s}: {fault}; {_WAYS}")
    return K


def intrinsics_fault(K: np.ndarray, size: Size | None = None) -> str | None:
    """What is wrong with a 3x3 K, in words; None if nothing is."""
    if K.shape != (3, 3):
        return f"its shape is {' x '.join(map(str, K.shape)) or 'that of one number'}, not 3 x 3"
    if not np.isfinite(K).all():
        return "it has numbers that are not finite"
    if not np.allclose(K[2], [0, 0, 1]) or abs(K[1, 0]) > 1e-9 * abs(K).max():
        return "it is not upper triangular with 0 0 1 as its last row (is it transposed?)"
    (fx, _, cx), (_, fy, cy) = K[:2]
    if fx <= 0 or fy <= 0:
        return f"the focal lengths {fx:g}, {fy:g} are not both positive (the matrix is singular or mirrored)"
    if size is not None:
        height, width = size
        if abs(cx - (width - 1) / 2) > width or abs(cy - (height - 1) / 2) > height:
            return f"the principal point {cx:g}, {cy:g} is far outside the {width} x {height} image"
    return None


def intrinsics_from_fov(fov_degrees: float, size: Size) -> np.ndarray:
    """K of a camera that sees `fov_degrees` across the longer side of its picture, principal point in the middle.

    The longer side is the width of a landscape picture; a camera turned upright keeps its K's focal length that way.
    """
    if not 0 < fov_degrees < 180:
        raise UsageError(f"field of view {fov_degrees:g}: must be between 0 and 180 degrees, across the longer side")
    return _centred(max(size) / 2 / math.tan(math.radians(fov_degrees) / 2), size)


def intrinsics_from_exif(image: Image) -> np.ndarray | None:
    """K from the focal length in 35 mm equivalents that the picture's EXIF states, None if it states none."""
    focal = focal_length(image)
    return None if focal is None else _centred(focal, image.size)


def focal_length(image: Image) -> float | None:
    """In pixels, by the focal length in 35 mm equivalents that the picture's EXIF states, None if it states none."""
    focal = image.focal_35mm
    if focal is None or not math.isfinite(focal) or focal <= 0:
        return None
    return focal / FRAME_35MM * max(image.size)


def pixel_centre_to_colmap(K: np.ndarray) -> np.ndarray:
    """K for an origin at the corner of the top-left pixel (COLMAP): the principal point grows by half a pixel."""
    return shifted(K, 0.5)


def colmap_to_pixel_centre(K: np.ndarray) -> np.ndarray:
    """K for our origin, the centre of the top-left pixel, from COLMAP's."""
    return shifted(K, -0.5)


def shifted(K: np.ndarray, offset: float) -> np.ndarray:
    """K after `offset` was added to every x and y."""
    K = np.array(K, np.float64)
    K[:2, 2] += offset
    return K


def _centred(focal: float, size: Size) -> np.ndarray:
    height, width = size
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_matrix(file: Path, size: Size | None) -> np.ndarray:
    try:
        K = _MATRIX_READERS.get(file.suffix.lower(), _read_text)(file)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{file}: is not a matrix of numbers; {_WAYS}") from None
    if (fault := intrinsics_fault(K, size)) is not None:
        raise InputError(f"{file}: {fault}; {_WAYS}")
    return K


def _read_text(file: Path) -> np.ndarray:
    rows = [(where, re.split(r"[,;\s]+", line.strip(",; \t"))) for where, line in read_lines(file, "a 3x3 matrix")]
    numbers = [parse_numbers(words, where) for where, words in rows]
    values = np.concatenate(numbers) if numbers else np.empty(0)
    if values.size == 9:  # in three lines or in one, row by row
        return values.reshape(3, 3)
    raise InputError(f"{file}: has {values.size} numbers, not the 9 of a 3x3 matrix; {_WAYS}")


def _read_npy(file: Path) -> np.ndarray:
    check_input(file, "a 3x3 matrix")
    with decoding(file, "a .npy array"):
        return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False), np.float64)


def _read_json(file: Path) -> np.ndarray:
    text = read_text(file, "a 3x3 matrix")
    with decoding(file, "JSON"):
        data: Any = json.loads(text)
    if isinstance(data, dict):
        if "K" not in data:
            raise InputError(f'{file}: has no "K"; {_WAYS}')
        data = data["K"]
    return np.array(data, np.float64)


_MATRIX_READERS = {".npy": _read_npy, ".json": _read_json}
