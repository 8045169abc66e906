"""Photographs or the frames of a video -> a COLMAP model (cameras, poses, sparse points) from flowkit's own matches.

The keypoints of each image are found once; COLMAP (pycolmap) verifies the matches and maps. What it cannot register is left
out, and no model at all is a status, never an invented one. Poses are up to a similarity: COLMAP knows no scale.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from flowkit.errors import InputError, OutputError, UsageError
from flowkit.io.cameras import focal_length
from flowkit.io.colmap import Intrinsics, export_database, require_pycolmap
from flowkit.io.images import read_image, write_image
from flowkit.io.sequences import Frame
from flowkit.io.sequences import Sequence as Frames
from flowkit.pipelines.image_set import Names, SetMatcher, unique_pairs
from flowkit.pipelines.match import FeatureChoice
from flowkit.pipelines.prepare import Resize
from flowkit.types import Image, Matches, Run, Size, Status

if TYPE_CHECKING:
    import pycolmap

log = logging.getLogger(__name__)

FEATURES = "sift"
"""What is matched unless other features are asked for: sub-pixel keypoints, and the most points per second."""
OFFSETS = (1, 2, 3, 5, 8, 13)
"""Which later frames each frame of a video is matched with."""
ALL_PAIRS = 30
"""Up to so many photographs are all matched with each other."""
LEAST = 3
"""Registered images below which there is no model."""
DECODED = 48
"""Images held in memory."""


@dataclass(frozen=True)
class Reconstruction:
    """What became of a set of images; `registered` are those that the model in `folder` has, its images/ and sparse/.

    `reprojection_error` is the mean over all observations in pixels; `track_length` how many images see a point.
    """

    status: Status
    given: tuple[str, ...]
    registered: tuple[str, ...]
    folder: Path
    points: int = 0
    track_length: float = 0.0
    reprojection_error: float | None = None
    pairs: int = 0
    verified: int = 0
    """Pairs that COLMAP found a geometry for."""
    run: Run | None = None


def reconstruct(
    frames: Iterable[Frame],
    output: Path,
    *,
    pairs: Iterable[Names] | None = None,
    offsets: Sequence[int] | None = None,
    features: FeatureChoice | None = None,
    feature_weights: Mapping[str, str | Path] | None = None,
    guide: str | None = None,
    guide_radius: float | None = None,
    max_keypoints: int | None = None,
    K: np.ndarray | None = None,
    distortion: Sequence[float] | None = None,
    shared_camera: bool = False,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
    overwrite: bool = False,
) -> Reconstruction:
    """Reconstruct named images and write OUTPUT/images/*.jpg, upright and without distortion, and OUTPUT/sparse/*.bin.

    Matched are `pairs` of names, else every frame with those `offsets` frames later, else all with all. K (in original
    pixels, pixel centres at integers) with `distortion` (OpenCV's k1, k2[, p1, p2]) holds for all images and is not refined;
    without K, COLMAP finds focal lengths and one radial coefficient, `shared_camera` the same for all. The names of the
    images written end in .jpg. What leads and shapes the matching is as in `pipelines.match.match`. Raises InputError,
    UsageError (no pycolmap), WeightsError, OutputError; bad geometry is the status.
    """
    started = time.perf_counter()
    require_pycolmap("--reconstruct")
    if not overwrite and (output / "sparse").exists():
        raise UsageError(f"{output}: holds a reconstruction already; choose another folder, or --overwrite")
    matcher = SetMatcher(
        features=features or FEATURES,
        feature_weights=feature_weights,
        guide=guide,
        guide_radius=guide_radius,
        max_keypoints=max_keypoints,
        resize=resize,
        device=device,
        seed=seed,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        work = Path(scratch)
        cameras, names = _write_frames(frames, work / "frames", K)
        listed = _listed(pairs, names, offsets)
        _log(f"{len(cameras)} images, {len(listed)} pairs")
        matched = _matched(listed, work / "frames", matcher)
        export_database(
            work / "database.db",
            cameras,
            matched,
            shared_camera=shared_camera or K is not None,
            distortion=distortion if K is not None else None,
        )
        match_seconds = time.perf_counter() - started
        verified = verify(work / "database.db", listed, seed)
        places = work / "database.db", work / "frames", work / "models"
        model = map_images(*places, seed=seed, refine_camera=K is None) if verified else None
        found = _described(model, verified, tuple(cameras), output)
        if model is not None:
            _write_model(model, work, output)
    run = Run(
        method=matcher.name,
        options={
            **matcher.options,
            "offsets": None if offsets is None else list(offsets),
            "shared_camera": shared_camera,
            "known_K": K is not None,
        },
        weights=matcher.weights,
        seed=seed,
        device=matcher.device,
        seconds={"match": match_seconds, "total": time.perf_counter() - started},
        notes=matcher.notes,
    )
    return Reconstruction(**{**vars(found), "pairs": len(listed), "verified": verified, "run": run})


def chosen_frames(frames: Frames, every: int = 1, most: int | None = None) -> Iterator[Frame]:
    """Every so many-th frame of a video or folder, at most `most` of them."""
    return islice(iter(frames), 0, None if most is None else every * (most - 1) + 1, every)


def verify(database: Path, pairs: Sequence[Names], seed: int = 0) -> int:
    """COLMAP's geometric verification of a database's matches of those pairs; how many pairs have a geometry now."""
    import pycolmap

    _prepare(seed)
    listing = database.with_name(f"{database.name}.pairs.txt")
    listing.write_text("".join(f"{name0} {name1}\n" for name0, name1 in pairs), "utf-8")
    options = pycolmap.TwoViewGeometryOptions()
    options.ransac.random_seed = seed
    pycolmap.verify_matches(database, listing, options=options)
    opened = pycolmap.Database.open(database)
    try:
        _, counts = opened.read_two_view_geometry_num_inliers()  # zero for the pairs without a geometry
        return sum(count > 0 for count in counts)
    finally:
        opened.close()


def map_images(
    database: Path,
    images: Path,
    models: Path,
    *,
    names: Sequence[str] = (),
    seed: int = 0,
    refine_camera: bool = True,
) -> pycolmap.Reconstruction | None:
    """COLMAP's incremental mapping of a verified database, of the images `names` or all; the largest model, None without one.

    `models` is a folder for what COLMAP writes meanwhile.
    """
    import pycolmap

    _prepare(seed)
    options = pycolmap.IncrementalPipelineOptions()
    options.min_model_size = LEAST
    options.random_seed = seed
    options.num_threads = 1  # with more, the same seed gives other points
    options.image_names = list(names)
    if not refine_camera:
        opened = pycolmap.Database.open(database)
        options.constant_cameras = {camera.camera_id for camera in opened.read_all_cameras()}
        opened.close()
    models.mkdir(parents=True, exist_ok=True)
    found = pycolmap.incremental_mapping(database, images, models, options).values()
    model = max(found, key=lambda each: (each.num_reg_images(), each.num_points3D()), default=None)
    return None if model is None or model.num_reg_images() < LEAST else model


def _prepare(seed: int) -> None:
    import pycolmap

    pycolmap.logging.minloglevel = pycolmap.logging.Level.FATAL.value  # its errors are the status
    pycolmap.set_random_seed(seed)


def _write_frames(
    frames: Iterable[Frame], folder: Path, K: np.ndarray | None
) -> tuple[dict[str, tuple[Size, Intrinsics]], dict[str, str]]:
    """Upright JPEGs by their new names, with size and intrinsics each; and the new name of each old one."""
    cameras: dict[str, tuple[Size, Intrinsics]] = {}
    names: dict[str, str] = {}
    for name, image in frames:
        new = _jpeg_name(name)
        if new in cameras:
            raise InputError(f"{name}: there is another image of that name but for its suffix; rename one of the two")
        write_image(folder / new, image.rgb8)
        cameras[new], names[name] = (image.size, K if K is not None else focal_length(image)), new
    if len(cameras) < LEAST:
        raise InputError(f"{len(cameras)} images are too few for a reconstruction, it needs at least {LEAST}")
    return cameras, names


def _jpeg_name(name: str) -> str:
    """COLMAP's lists are separated by blanks."""
    return "_".join(str(PurePosixPath(name).with_suffix("")).split()) + ".jpg"


def _listed(pairs: Iterable[Names] | None, names: dict[str, str], offsets: Sequence[int] | None) -> list[Names]:
    """The pairs to match, by new names, each once and not with itself."""
    order = list(names.values())
    if pairs is not None:
        pairs = list(pairs)
        if missing := {name for pair in pairs for name in pair} - {*names}:
            raise UsageError(f"{min(missing)}: a pair names it, but it is not among the images; check the list")
        chosen = [(names[name0], names[name1]) for name0, name1 in pairs]
    elif offsets is not None:
        chosen = [(a, order[i + o]) for o in offsets for i, a in enumerate(order) if i + o < len(order)]
    else:
        chosen = list(combinations(order, 2))
    return unique_pairs(chosen)


def _matched(pairs: Sequence[Names], folder: Path, matcher: SetMatcher) -> Iterator[tuple[str, str, Matches]]:
    @lru_cache(maxsize=DECODED)
    def load(name: str) -> Image:
        return read_image(folder / name)

    for number, (name0, name1) in enumerate(pairs, 1):
        yield name0, name1, matcher.match(load(name0), load(name1))
        if number % 100 == 0:
            _log(f"{number}/{len(pairs)} pairs matched")


def _described(
    model: pycolmap.Reconstruction | None, verified: int, given: tuple[str, ...], output: Path
) -> Reconstruction:
    if model is None:
        return Reconstruction(Status.NO_OVERLAP if verified else Status.TOO_FEW_MATCHES, given, (), output)
    return Reconstruction(
        Status.OK,
        given,
        tuple(sorted(model.image(number).name for number in model.reg_image_ids())),
        output,
        points=model.num_points3D(),
        track_length=model.compute_mean_track_length(),
        reprojection_error=model.compute_mean_reprojection_error(),
    )


def _write_model(model: pycolmap.Reconstruction, work: Path, output: Path) -> None:
    """The model and its images without distortion, first beside `output`, then moved into it."""
    import pycolmap

    done, distorted = work / "done", work / "distorted"
    distorted.mkdir()
    model.write(distorted)
    if all("PINHOLE" in camera.model.name for camera in model.cameras.values()):
        (done / "sparse").mkdir(parents=True)
        model.write(done / "sparse")
        for number in model.reg_image_ids():
            target = done / "images" / model.image(number).name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(work / "frames" / model.image(number).name, target)
    else:
        pycolmap.undistort_images(done, distorted, work / "frames", jpeg_quality=95)
    output.mkdir(parents=True, exist_ok=True)
    for part in ("images", "sparse"):
        shutil.rmtree(output / part, ignore_errors=True)
        try:
            (done / part).replace(output / part)
        except OSError as error:
            raise OutputError(f"cannot write {output / part}: {error.strerror}; choose another folder") from None


def _log(text: str) -> None:
    log.info("reconstruct: %s", text)
