"""MegaDepth prepared for CAPS (Wang et al., ECCV 2020): undistorted pictures with cameras, and lists of pairs.

SCENE/dense*/aligned/ holds images/, img_cam.txt and pairs.txt. A line of img_cam.txt is: name, width, height, fx, fy, cx, cy,
the nine numbers of R row by row, the three of t (world -> camera); a line of pairs.txt is two names.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from flowkit.datasets.files import existing, folder
from flowkit.datasets.posed_views import PosedPair, View, rotation_degrees
from flowkit.errors import InputError
from flowkit.io.cameras import colmap_to_pixel_centre, intrinsics_fault
from flowkit.io.text import parse_numbers, read_lines

log = logging.getLogger(__name__)

_CAMERAS, _PAIRS = "img_cam.txt", "pairs.txt"
_FIELDS = 19


def read_megadepth_caps(
    root: Path,
    dataset: str = "megadepth-caps",
    *,
    part: str = "train",
    max_rotation: float = 80.0,
    max_pairs: int = 1000,
    seed: int = 0,
) -> list[PosedPair]:
    """The pairs listed for every scene, less those that turn by more than `max_rotation` degrees (CAPS, LIFE: 80).

    `root` holds the folder `part` ("train" or "test"), or the scenes, or is one. Of a scene with more than `max_pairs` pairs
    (CAPS takes 5000) `seed` draws some. The cameras are COLMAP's, whose origin is the corner of a pixel: cx and cy lose a half.
    InputError when a file is missing, broken or names what is not there.
    """
    base = root / part if (folder(root) / part).is_dir() else root
    places = sorted({file.parent for pattern in _PATTERNS for file in base.glob(f"{pattern}{_CAMERAS}")})
    if not places:
        raise InputError(
            f"{root}: has no SCENE/dense*/aligned/{_CAMERAS}; give the folder of the scenes as CAPS lays them out"
        )
    pairs: list[PosedPair] = []
    for place in places:
        if not (place / _PAIRS).is_file():  # CAPS has such scenes, too
            log.warning("%s: has no %s; the scene is left out", place, _PAIRS)
            continue
        pairs += _read_scene(place, dataset, max_rotation, max_pairs, np.random.default_rng(seed))
    if not pairs:
        raise InputError(f"{root}: lists no pair that turns by at most {max_rotation:g} degrees; check {_PAIRS}")
    return pairs


_PATTERNS = ("*/dense*/aligned/", "dense*/aligned/")


def _read_scene(
    place: Path, dataset: str, max_rotation: float, max_pairs: int, rng: np.random.Generator
) -> list[PosedPair]:
    views = _read_cameras(place / _CAMERAS)
    listed = [
        _names(where, line, views, place / _CAMERAS) for where, line in read_lines(place / _PAIRS, "a list of pairs")
    ]
    if not listed:
        return []
    R0, R1 = (np.stack([views[names[k]].T[:3, :3] for names in listed]) for k in (0, 1))
    allowed = np.flatnonzero(rotation_degrees(R0, R1) <= max_rotation)
    chosen = np.sort(rng.permutation(allowed)[:max_pairs])
    scene = f"{place.parents[1].name}/{place.parent.name}"
    pairs = []
    for index in chosen:
        name0, name1 = listed[index]
        for name in (name0, name1):
            existing(views[name].image)
        pairs.append(
            PosedPair.of(dataset, f"{scene}/{Path(name0).stem}-{Path(name1).stem}", views[name0], views[name1])
        )
    return pairs


def _read_cameras(file: Path) -> dict[str, View]:
    """The views of a scene by the names of their pictures."""
    views = {}
    for where, line in read_lines(file, "a list of cameras"):
        name, *words = line.split()
        if len(words) != _FIELDS - 1:
            raise InputError(f"{where}: has {len(words) + 1} fields where {_FIELDS} belong; check the copy")
        values = parse_numbers(words, where)
        (width, height), (fx, fy, cx, cy) = values[:2], values[2:6]
        K, T = colmap_to_pixel_centre(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])), np.eye(4)
        T[:3, :3], T[:3, 3] = values[6:15].reshape(3, 3), values[15:]
        size = int(height), int(width)
        if (fault := intrinsics_fault(K, size)) is not None:
            raise InputError(f"{where}: its intrinsics cannot be used: {fault}; check the copy")
        if abs(T[:3, :3] @ T[:3, :3].T - np.eye(3)).max() > 1e-3 or np.linalg.det(T[:3, :3]) < 0:
            raise InputError(f"{where}: the fields 8 to 16 are no rotation; check the copy")
        views[name] = View(file.parent / "images" / name, K, T, size)
    return views


def _names(where: str, line: str, views: dict[str, View], cameras: Path) -> tuple[str, str]:
    words = line.split()
    if len(words) != 2:
        raise InputError(f"{where}: has {len(words)} words where the names of two pictures belong; check the copy")
    for name in words:
        if name not in views:
            raise InputError(f"{where}: {name} has no camera in {cameras}; check the copy")
    return words[0], words[1]
