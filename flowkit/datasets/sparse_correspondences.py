"""Sparse correspondences of MegaDepth (1600 pairs) and RobotCar (6511) as RANSAC-Flow (Shen et al., ECCV 2020) has them.

`megadepth-sparse-gocor` are MegaDepth's by the rules of GLU-Net's and GOCor's authors (GOCor, Table 2).

A .csv with the columns scene, source_image, target_image, XA, YA (source), XB, YB (target), coordinates joined by ";", beside
a folder of images: called like the .csv, or img, or imgs. Dense flow is judged on the target, pointing into the source.
"""

import csv
import math
from functools import lru_cache
from pathlib import Path

import numpy as np

from flowkit.datasets.files import existing, first_folder
from flowkit.datasets.samples import MatchSample, Preparation
from flowkit.datasets.short_side import short_side_480
from flowkit.errors import InputError
from flowkit.io.images import image_header
from flowkit.types import Size

THRESHOLDS = (1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 22.0, 36.0)
"""Pixels: RANSAC-Flow's eight, round(logspace(0, log10 36, 8))."""
THRESHOLDS_GOCOR = (1.0, 2.0, 3.0, 5.0, 8.0, 10.0, 13.0, 22.0, 36.0)
_COLUMNS = ("scene", "source_image", "target_image", "XA", "YA", "XB", "YB")
_FIELD_LIMIT = 10**8  # all x of a pair are one field


def read_sparse_correspondences(root: Path, dataset: str) -> list[MatchSample]:
    """Every pair; `root` is the .csv or a folder that has one. image0 is the target, image1 the source.

    Both images are resized (Lanczos) to a short side of 480 and sides divisible by 16, the points with them (x' = s x) and
    then cut to whole pixels. The data sets of MegaDepth drop the points that are not strictly inside both images.
    `-gocor` keeps the fractions, reads the flow at the pixel nearest to a target's point, and pads both images to one size.
    """
    table = _table(root)
    images = first_folder(table.parent, table.stem, "img", "imgs", "images")
    return [_sample(row, images, dataset, f"{table}:{line}") for line, row in _rows(table)]


def _sample(row: dict[str, str], images: Path, dataset: str, where: str) -> MatchSample:
    scene = row["scene"].strip("/")
    source, target = (existing(images / scene / row[name]) for name in ("source_image", "target_image"))
    sizes = [_size(target), _size(source)]
    prepared = [short_side_480(size) for size in sizes]
    points0, points1 = (
        _scaled(_points(row, axis, where), *pair) for axis, *pair in zip("BA", sizes, prepared, strict=True)
    )
    if points0.shape != points1.shape:
        raise InputError(
            f"{where}: has {len(points1)} points in the source but {len(points0)} in the target; check the copy"
        )
    gocor = dataset.endswith("-gocor")
    padded = (max(size[0] for size in prepared), max(size[1] for size in prepared)) if gocor else None
    if dataset.startswith("megadepth"):
        kept = _inside(points0, prepared[0]) & _inside(points1, prepared[1])
        if padded:
            kept &= (np.round(points0) < padded[::-1]).all(axis=1)
        points0, points1 = points0[kept], points1[kept]
    return MatchSample(
        dataset,
        f"{scene}: {row['target_image']} {row['source_image']}",
        target,
        source,
        points0 if gocor else np.trunc(points0),
        points1 if gocor else np.trunc(points1),
        pooled_pck=THRESHOLDS_GOCOR if gocor else THRESHOLDS,
        nearest=gocor,
        preparation0=Preparation(prepared[0], lanczos=True, padded=padded),
        preparation1=Preparation(prepared[1], lanczos=True, padded=padded),
    )


def _points(row: dict[str, str], axis: str, where: str) -> np.ndarray:
    try:
        columns = [[float(value) for value in row[name + axis].split(";") if value.strip()] for name in "XY"]
    except ValueError as error:
        raise InputError(f"{where}: {error} in X{axis} or Y{axis}; check the copy") from error
    if len(columns[0]) != len(columns[1]) or not all(map(math.isfinite, columns[0] + columns[1])):
        raise InputError(f"{where}: X{axis} and Y{axis} are not equally many finite numbers; check the copy")
    return np.array(columns, np.float64).reshape(2, -1).T


def _scaled(points: np.ndarray, size: Size, size_to: Size) -> np.ndarray:
    """In float32, as the protocol's code has it: what is then cut to whole pixels may depend on it."""
    scale = np.array([size_to[1] / size[1], size_to[0] / size[0]], np.float32)
    return (points.astype(np.float32) * scale).astype(np.float64)


def _inside(points: np.ndarray, size: Size) -> np.ndarray:
    return np.all((points > 0) & (points < (size[1], size[0])), axis=1)


@lru_cache(maxsize=1 << 16)
def _size(path: Path) -> Size:
    return image_header(path)


def _table(root: Path) -> Path:
    tables = [root] if root.is_file() else sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise InputError(f"{root}: has {len(tables)} .csv files where one belongs; give the .csv itself")
    return tables[0]


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """(line number, row) of the whole table."""
    limit = csv.field_size_limit(_FIELD_LIMIT)
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
                raise InputError(f"{table}: has no column {missing[0]}; it needs {', '.join(_COLUMNS)}")
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: is not a table of correspondences ({error}); check the copy") from error
    finally:
        csv.field_size_limit(limit)
    for line, row in rows:
        if any(row[name] is None for name in _COLUMNS):
            raise InputError(f"{table}:{line}: has too few fields; check the copy")
    if not rows:
        raise InputError(f"{table}: has no pairs; check the copy")
    return rows
