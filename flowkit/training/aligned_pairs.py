"""Training pairs from photographs that overlap: one brought near the other by the coarse stage, nothing else known of them.

As RANSAC-Flow takes its pairs from MegaDepth (spec.md 9.5): kept where more than 50 matches agree on a homography.

>>> source = open_aligned({"aligned": Path("holiday")})     # pictures, videos, folders of them, lists   # doctest: +SKIP
>>> pairs = source.batch(4, (128, 128), seed=7)             # no flow is known: nothing is valid          # doctest: +SKIP
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch

from flowkit.batch import PairBatch
from flowkit.errors import InputError, UsageError
from flowkit.io.images import read_image
from flowkit.io.pairs import read_pairs
from flowkit.io.sequences import VIDEO_SUFFIXES, Folder, Video
from flowkit.pipelines.homography import default_threshold, from_matches, support
from flowkit.pipelines.match import match
from flowkit.pipelines.prepare import resized, resized_image
from flowkit.pipelines.refinement import warp_onto
from flowkit.types import Image, Size

log = logging.getLogger(__name__)

COLLECTION = "aligned"
"""Its name for --data."""
FEATURES = "xfeat"
ENOUGH = 50
"""Matches that must agree on a homography."""
SHORT_SIDE = 448
"""Pixels; larger pictures are shrunk to it. Crops see them at this size, or smaller."""
SPAN = 3
"""Pictures of a folder are paired with so many that follow; frames of a video with those `GAPS` later."""
GAPS = (6, 15)
PER_VIDEO = 12
"""Pairs from one video, evenly over its length."""
SEEN = 0.98
"""Share of a crop that both pictures must show, if one of `TRIES` places has it."""
TRIES = 8


@dataclass(frozen=True)
class Together:
    """Two pictures (H, W, 3) uint8 on one grid, and where (H, W) bool the second, which was moved, shows anything."""

    target: np.ndarray
    source: np.ndarray
    seen: np.ndarray
    name: str


class AlignedPairs:
    """Crops of aligned pairs; what it gives depends on its arguments alone."""

    def __init__(self, pairs: list[Together]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size`, in either order, perhaps mirrored, the pictures' short side once to twice the crop's."""
        rng = np.random.default_rng([seed, 5])
        chosen = rng.integers(len(self), size=count)
        crops = [_crop(self.pairs[int(k)], size, child) for k, child in zip(chosen, rng.spawn(count), strict=True)]
        image0, image1 = (
            torch.from_numpy(np.stack([np.moveaxis(crop[side], -1, 0) for crop in crops])).float().div_(255)
            for side in (0, 1)
        )
        return PairBatch(
            image0=image0,
            image1=image1,
            flow=torch.zeros(count, 2, *size),
            valid=torch.zeros(count, *size, dtype=torch.bool),
            made={"family": COLLECTION, "names": [self.pairs[int(k)].name for k in chosen]},
        )


def open_aligned(folders: Mapping[str, Path]) -> AlignedPairs:
    """The pairs of `folders["aligned"]`, aligned once a process: UsageError for other names, InputError when none overlap."""
    if unknown := sorted(folders.keys() - {COLLECTION}):
        raise UsageError(f"--data {unknown[0]}=...: photographs to align come from --data {COLLECTION}=PATH")
    return _aligned(folders[COLLECTION].resolve())


@lru_cache(maxsize=2)
def _aligned(path: Path) -> AlignedPairs:
    found, tried = [], 0
    for image0, image1, name in overlapping(path):
        tried += 1
        pair = together(image0, image1, name)
        if pair is not None:
            found.append(pair)
        if tried % 50 == 0:
            log.info("%s: %d of %d pairs aligned so far", path, len(found), tried)
    if not found:
        raise InputError(f"{path}: none of {tried} pairs of pictures overlap so that a homography aligns them")
    log.info("%s: %d of %d pairs aligned", path, len(found), tried)
    return AlignedPairs(found)


def overlapping(path: Path) -> Iterator[tuple[Image, Image, str]]:
    """Pairs of pictures that may show the same, with a name: of a list of pairs, a video, a folder, and all folders in it."""
    if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
        yield from _of_video(path)
    elif path.is_file():
        for pair in read_pairs(path):
            files = (path.parent / pair.name0, path.parent / pair.name1)
            yield read_image(files[0]), read_image(files[1]), f"{pair.name0} {pair.name1}"
    elif path.is_dir():
        yield from _of_folder(path)
    else:
        raise InputError(f"{path}: is neither a folder of pictures, nor a video, nor a list of pairs")


def _of_folder(folder: Path) -> Iterator[tuple[Image, Image, str]]:
    try:
        files = Folder(folder).files
    except InputError:  # fewer than two pictures: there may be others further down
        files = []
    for index, file in enumerate(files):
        for other in files[index + 1 : index + 1 + SPAN]:
            yield read_image(file), read_image(other), f"{file.name} {other.name}"
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() or entry.suffix.lower() in VIDEO_SUFFIXES:
            yield from overlapping(entry)


def _of_video(file: Path) -> Iterator[tuple[Image, Image, str]]:
    """Frames apart, evenly spread; only those that are needed are kept."""
    length = sum(1 for _ in Video(file))
    starts = np.unique(np.linspace(0, max(0, length - 1 - min(GAPS)), PER_VIDEO // len(GAPS)).astype(int))
    wanted = [(int(a), int(a) + gap) for a, gap in itertools.product(starts, GAPS) if a + gap < length]
    needed = {index for pair in wanted for index in pair}
    frames = {index: image for index, (_, image) in enumerate(Video(file)) if index in needed}
    for first, second in wanted:
        yield frames[first], frames[second], f"{file.name} {first} {second}"


def together(image0: Image, image1: Image, name: str = "") -> Together | None:
    """image1 brought onto image0 by a homography from sparse matches; None where they do not agree on any."""
    small0, small1 = (_small(image) for image in (image0, image1))
    matches = match(small0, small1, features=FEATURES, device="cpu")
    found = from_matches(matches, default_threshold(small0.size, small1.size))
    if found.matrix is None or support(found) <= ENOUGH:
        return None
    warped, seen = warp_onto(small1.rgb8, found.matrix, small0.size)
    return Together(small0.rgb8, warped, seen, name)


def _small(image: Image) -> Image:
    scale = min(1.0, SHORT_SIDE / min(image.size))
    return resized_image(image, (round(image.size[0] * scale), round(image.size[1] * scale)))


def _crop(pair: Together, size: Size, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures at one place, in random order."""
    full = pair.seen.shape
    fit = max(size[0] / full[0], size[1] / full[1])
    scale = min(fit * rng.uniform(1, 2), max(1.0, fit))
    shown: Size = max(size[0], round(full[0] * scale)), max(size[1], round(full[1] * scale))
    seen = cv2.resize(pair.seen.astype(np.uint8), shown[::-1], interpolation=cv2.INTER_NEAREST)
    best, share = (0, 0), -1.0
    for _ in range(TRIES):
        top, left = (int(rng.integers(a - b + 1)) for a, b in zip(shown, size, strict=True))
        here = float(seen[top : top + size[0], left : left + size[1]].mean())
        if here > share:
            best, share = (top, left), here
        if share >= SEEN:
            break
    window = slice(best[0], best[0] + size[0]), slice(best[1], best[1] + size[1])
    crops = [resized(picture, shown)[window] for picture in (pair.target, pair.source)]
    if rng.random() < 0.5:
        crops.reverse()
    if rng.random() < 0.5:
        crops = [crop[:, ::-1] for crop in crops]
    return np.ascontiguousarray(crops[0]), np.ascontiguousarray(crops[1])
