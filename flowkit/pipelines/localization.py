"""What hloc and COLMAP need for visual localisation: keypoints once per image, matches of a list of pairs.

`export_matches` writes hloc's features.h5 and matches.h5 and can be taken up again where it was stopped; `localize` finds the
camera of one image in a model from these files, as hloc's own localisation does.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import FlowkitError, InputError, UsageError
from flowkit.io.atomic import atomic_path, write_text
from flowkit.io.cameras import focal_length
from flowkit.io.colmap import Intrinsics, export_database
from flowkit.io.hloc import pairs_in, read_hloc, write_hloc_pairs
from flowkit.io.images import read_image
from flowkit.io.pairs import Pair, read_pairs, write_pairs
from flowkit.pipelines.dense_keypoints import DenseSetMatcher
from flowkit.pipelines.image_set import Names, SetMatcher
from flowkit.types import Features, Image, Matches, Size, Status

if TYPE_CHECKING:
    import pycolmap

log = logging.getLogger(__name__)

DECODED = 24
"""Images, and features of images, held in memory."""
WORK = ".work"
MAX_ERROR = 12.0
"""Reprojection error in pixels that an inlier of a camera's pose may have, hloc's value."""
MIN_INLIERS = 12


# --- export ----------------------------------------------------------------------------------------------------------


class LocalizationExport:
    """The files of one folder: features.h5, matches.h5, pairs.txt, and while it is made a work folder with single pairs.

    `options` are those that shape the matches: a folder made with others is refused (UsageError) unless `overwrite`.
    """

    def __init__(self, directory: Path, root: Path, options: dict[str, Any], *, overwrite: bool = False) -> None:
        self.directory, self.root, self.work = directory, root, directory / WORK
        self.features_h5, self.matches_h5 = directory / "features.h5", directory / "matches.h5"
        if overwrite:
            for file in (self.features_h5, self.matches_h5):
                file.unlink(missing_ok=True)
            shutil.rmtree(self.work, ignore_errors=True)
        self._remember(options, overwrite)
        self.done = pairs_in(self.matches_h5) if self.matches_h5.exists() else set()
        listing = directory / "pairs.txt"
        self.listed = (
            [(pair.name0, pair.name1) for pair in read_pairs(listing)] if self.done and listing.exists() else []
        )

    def finished(self, pair: Names) -> bool:
        """Whether an earlier run has matched this pair, whichever way round."""
        return pair in self.done or pair[::-1] in self.done or self._file("pairs", pair).exists()

    def matcher(self, **options: Any) -> SetMatcher | DenseSetMatcher:
        """A matcher that keeps features in the work folder: with a `model` that of its dense flow."""
        kind = DenseSetMatcher if "model" in options else SetMatcher
        return kind(store=FeatureFiles(self.work / "features"), **options)

    def images(self) -> Callable[[str], Image]:
        """Reads images by their name in the list, some of them held in memory."""

        @lru_cache(maxsize=DECODED)
        def load(name: str) -> Image:
            return read_image(self.root / name)

        return load

    def add(self, pair: Names, matches: Matches) -> None:
        """Keep the matches of a pair; keypoints go to a file of each image."""
        sides = ((matches.keypoints0, matches.size0), (matches.keypoints1, matches.size1))
        for name, (keypoints, size) in zip(pair, sides, strict=True):
            file = self._file("images", (name,))
            if not file.exists():
                _save(file, keypoints=keypoints, size=np.array(size))
        stage = {} if matches.stage is None else {"stage": matches.stage}
        _save(self._file("pairs", pair), pairs=matches.pairs, scores=matches.scores, **stage)

    def matches(self, pair: Names) -> Matches:
        """Those of a pair kept before, in work or in hloc's files."""
        file = self._file("pairs", pair)
        if not file.exists():
            return read_hloc(self.features_h5, self.matches_h5, *pair)
        (keypoints0, size0), (keypoints1, size1) = (self._keypoints(name) for name in pair)
        with np.load(file) as stored:
            stage = stored.get("stage")
            return Matches(keypoints0, keypoints1, stored["pairs"], stored["scores"], size0, size1, stage=stage)

    def finish(self, pairs: Sequence[Names]) -> None:
        """Write hloc's files with the new ones of `pairs` in them, and the list; then the work folder goes."""
        new = [pair for pair in pairs if self._file("pairs", pair).exists()]
        if new:
            write_hloc_pairs(self.features_h5, self.matches_h5, ((*pair, self.matches(pair)) for pair in new))
        self.done |= set(new)
        self.listed += new  # in the list's order: of a query's pairs hloc takes the first for the best
        write_pairs(self.directory / "pairs.txt", [Pair(*names) for names in self.listed])
        shutil.rmtree(self.work, ignore_errors=True)

    def _keypoints(self, name: str) -> tuple[np.ndarray, Size]:
        with np.load(self._file("images", (name,))) as stored:
            height, width = stored["size"].tolist()
            return stored["keypoints"], (height, width)

    def _file(self, kind: str, names: Sequence[str]) -> Path:
        return self.work / kind / f"{_key(*names)}.npz"

    def _remember(self, options: dict[str, Any], overwrite: bool) -> None:
        file = self.directory / "options.json"
        try:
            before = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            before = None
        if before is not None and before != options and not overwrite:
            name = min(key for key in {*before, *options} if before.get(key) != options.get(key))
            raise UsageError(
                f"{self.directory}: was made with other options ({name}: {before.get(name)}, now {options.get(name)}); choose "
                "another folder, or --overwrite"
            )
        if before != options:
            write_text(file, json.dumps(options, indent=2) + "\n")


def export_matches(
    pairs: Sequence[Names], export: LocalizationExport, matcher: SetMatcher | DenseSetMatcher
) -> Iterator[tuple[Names, FlowkitError | None]]:
    """Match what is not there yet, and give each of `pairs` with what went wrong: an image that cannot be read, or nothing.

    Run through to the end it writes hloc's files; stopped before, the next run goes on where it was.
    """
    load = export.images()
    for pair in pairs:
        fault: FlowkitError | None = None
        if not export.finished(pair):
            try:
                export.add(pair, matcher.match(load(pair[0]), load(pair[1])))
            except InputError as error:
                fault = error
        yield pair, fault
    export.finish(pairs)


def write_database(path: Path, export: LocalizationExport) -> None:
    """All pairs of the folder as a COLMAP database: a camera for each image, begun from its EXIF's focal length."""
    load = export.images()
    images: dict[str, tuple[Size, Intrinsics]] = {}
    for name in sorted({name for pair in export.done for name in pair}):
        image = load(name)
        images[name] = image.size, focal_length(image)
    export_database(path, images, ((*pair, export.matches(pair)) for pair in sorted(export.done)))


class FeatureFiles(MutableMapping[str, Features]):
    """Features by name, a file each, the last few also in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recent: dict[str, Features] = {}

    def __getitem__(self, name: str) -> Features:
        if name not in self.recent:
            file = self.folder / f"{_key(name)}.npz"
            if not file.exists():
                raise KeyError(name)
            with np.load(file) as stored:
                arrays = {key: stored[key] for key in stored.files}
            height, width = arrays.pop("size").tolist()
            self._hold(name, Features(**arrays, size=(height, width), name=name.partition(":")[0]))
        return self.recent[name]

    def __setitem__(self, name: str, features: Features) -> None:
        arrays = {
            key: value
            for key in ("keypoints", "descriptors", "scores", "scales", "angles")
            if (value := getattr(features, key)) is not None
        }
        _save(self.folder / f"{_key(name)}.npz", size=np.array(features.size), **arrays)
        self._hold(name, features)

    def __delitem__(self, name: str) -> None:
        self.recent.pop(name, None)
        (self.folder / f"{_key(name)}.npz").unlink()

    def __iter__(self) -> Iterator[str]:
        return iter(self.recent)

    def __len__(self) -> int:
        return len(self.recent)

    def _hold(self, name: str, features: Features) -> None:
        self.recent[name] = features
        if len(self.recent) > DECODED:
            del self.recent[next(iter(self.recent))]


def _key(*names: str) -> str:
    return sha256("\0".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _save(file: Path, **arrays: np.ndarray) -> None:
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes the names for other arguments


# --- localisation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Localized:
    """A camera in a model's world: `T` 4x4, X_camera = T X_world, None unless the status is ok.

    `correspondences` is how many of the image's keypoints met points of the model, `inliers` how many agree.
    """

    T: np.ndarray | None
    status: Status
    correspondences: int
    inliers: int


def localize(
    query: str,
    model: pycolmap.Reconstruction,
    camera: pycolmap.Camera,
    features_h5: Path,
    matches_h5: Path,
    *,
    max_error: float = MAX_ERROR,
    seed: int = 0,
) -> Localized:
    """The pose of image `query`, whose intrinsics `camera` (COLMAP's) are known, from its matches with the model's images.

    The model must have been made from the keypoints of `features_h5`, in their order, as COLMAP does from a database or
    hloc from these files. The pose is COLMAP's: LO-RANSAC and refinement.
    """
    import pycolmap

    points, places = correspondences(query, model, features_h5, matches_h5)
    if len(points) < MIN_INLIERS:
        return Localized(None, Status.TOO_FEW_MATCHES, len(points), 0)
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = max_error
    options.ransac.random_seed = seed
    found = pycolmap.estimate_and_refine_absolute_pose(points + 0.5, places, camera, options)
    inliers = 0 if found is None else int(found["num_inliers"])
    if found is None or inliers < MIN_INLIERS:
        return Localized(None, Status.NO_OVERLAP, len(points), inliers)
    T = np.vstack([found["cam_from_world"].matrix(), [0, 0, 0, 1]])
    return Localized(T, Status.OK, len(points), inliers)


def correspondences(
    query: str, model: pycolmap.Reconstruction, features_h5: Path, matches_h5: Path
) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2) keypoints of `query` in our pixels and (M, 3) points of the model, each pair of them once."""
    listed = pairs_in(matches_h5)
    found: dict[tuple[int, int], None] = {}
    keypoints = np.zeros((0, 2))
    for number in model.reg_image_ids():
        image = model.image(number)
        if image.name == query or not {(query, image.name), (image.name, query)} & listed:
            continue
        matches = read_hloc(features_h5, matches_h5, query, image.name)
        keypoints = matches.keypoints0
        known = [point.point3D_id if point.has_point3D() else -1 for point in image.points2D]
        found |= {(int(i), known[j]): None for i, j in matches.pairs if known[j] >= 0}
    points = np.array([keypoints[i] for i, _ in found], np.float64).reshape(-1, 2)
    places = np.array([model.point3D(number).xyz for _, number in found], np.float64).reshape(-1, 3)
    return points, places
