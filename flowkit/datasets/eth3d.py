"""ETH3D's many-view sequences (Schöps et al., CVPR 2017) at seven intervals, as GLU-Net and GOCor (Figure 4) measure them.

SEQUENCE_every_5_rate_of_RATE, in the folder given or in its info_ETH3D_files, is a pickled list of pairs: source_image and
target_image (paths inside the folder given) and matching points Xs, Ys and Xt, Yt. The flow lives on the target.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from flowkit.datasets.files import existing, folder
from flowkit.datasets.plain_pickle import read_plain_pickle
from flowkit.datasets.samples import FlowSample, Group
from flowkit.errors import InputError
from flowkit.io.images import image_header

_INFO = re.compile(r"(.+)_every_5_rate_of_(\d+)")


class _Pair(NamedTuple):
    source: str
    target: str
    points_source: np.ndarray
    points_target: np.ndarray


def read_eth3d(root: Path, dataset: str = "eth3d") -> list[FlowSample]:
    """Every pair of every interval; the intervals are equal groups, the sequences of one its parts."""
    found = [(match, file) for file in _info_files(root) if (match := _INFO.fullmatch(file.name))]
    if not found:
        raise InputError(
            f"{root}: has no SEQUENCE_every_5_rate_of_RATE; give the folder with ETH3D's info files and images"
        )
    samples = []
    for match, file in sorted(found, key=lambda each: (int(each[0][2]), each[0][1])):
        for i, pair in enumerate(_pairs(file)):
            target, source = existing(root / pair.target), existing(root / pair.source)
            samples.append(
                FlowSample(
                    dataset,
                    f"{file.name}/{i}: {target.stem} {source.stem}",
                    target,
                    source,
                    partial(_flow, file, i, target),
                    group=Group(f"rate {match[2]}", equal=True),
                    part=match[1],
                )
            )
    return samples


def _info_files(root: Path) -> list[Path]:
    beside = folder(root) / "info_ETH3D_files"
    return sorted(path for path in (beside if beside.is_dir() else root).iterdir() if path.is_file())


def _flow(file: Path, i: int, target: Path) -> np.ndarray:
    """Source - target at each target point's nearest pixel, NaN elsewhere; of points that share a pixel the last counts."""
    pair, (height, width) = _pairs(file)[i], image_header(target)
    flow = np.full((2, height, width), np.nan, np.float32)
    x, y = np.round(pair.points_target).astype(int).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    flow[:, y[inside], x[inside]] = (pair.points_source - pair.points_target)[inside].T
    return flow


@lru_cache(maxsize=2)  # the files are large, and samples come file by file
def _pairs(file: Path) -> list[_Pair]:
    pairs = read_plain_pickle(file, "a list of ETH3D's pairs")
    if not isinstance(pairs, list | tuple) or not pairs:
        raise InputError(f"{file}: is not a list of pairs; check the copy")
    return [_pair(pair, f"{file}, pair {i}") for i, pair in enumerate(pairs)]


def _pair(pair: object, where: str) -> _Pair:
    try:
        if not isinstance(pair, Mapping):
            raise TypeError("not a dict")
        points = [np.column_stack([_numbers(pair[axis + side]) for axis in "XY"]) for side in "st"]
        if points[0].shape != points[1].shape or not all(np.isfinite(each).all() for each in points):
            raise ValueError("Xs, Ys, Xt and Yt are not equally many finite numbers")
        return _Pair(_inside(pair["source_image"]), _inside(pair["target_image"]), points[0], points[1])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        fault = f"has no {error}" if isinstance(error, KeyError) else f"is no pair of images and points ({error})"
        raise InputError(f"{where}: {fault}; check the copy") from error


def _numbers(values: object) -> np.ndarray:
    """(N,) float32, as the protocol has them."""
    if isinstance(values, np.ndarray):
        return np.asarray(values, np.float32).ravel()
    if not isinstance(values, list | tuple):
        raise TypeError("points are neither an array nor a list")
    return np.array([float(value) for value in values], np.float32)


def _inside(path: object) -> str:
    """A path that does not lead out of the folder it is relative to."""
    if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path!r} is not a path inside the data set")
    return path
