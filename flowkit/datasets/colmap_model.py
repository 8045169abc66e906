"""Pairs of photographs with poses from COLMAP models: SCENE/images/ and SCENE/sparse/ or SCENE/sparse/0/ (binary or text)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowkit.datasets.files import existing, folder
from flowkit.datasets.posed_views import Lens, PosedPair, View, rotation_degrees
from flowkit.errors import InputError, UsageError
from flowkit.io.cameras import colmap_to_pixel_centre
from flowkit.io.colmap import require_pycolmap
from flowkit.io.inputs import decoding
from flowkit.io.sequences import natural_key

if TYPE_CHECKING:
    import pycolmap

log = logging.getLogger(__name__)

MODELS = {
    "SIMPLE_PINHOLE": 1,
    "PINHOLE": 2,
    "SIMPLE_RADIAL": 1,
    "RADIAL": 1,
    "OPENCV": 2,
    "FULL_OPENCV": 2,
}
"""COLMAP's camera models that are read, and how many focal lengths each has; cx, cy and the distortion follow those."""


@dataclass(frozen=True)
class PairLimits:
    """Which pairs of a scene are taken."""

    max_rotation: float = 80.0
    """Largest relative rotation in degrees (CAPS and LIFE: 80)."""
    min_rotation: float = 0.0
    """Smallest one."""
    covisibility: tuple[float, float] = (0.1, 0.9)
    """Limits of the points seen in both pictures over those seen in the one that sees fewer."""
    min_common: int = 30
    """Fewest points seen in both."""
    min_parallax: float = 1.0
    """Smallest median angle in degrees under which those points see the two cameras: without a baseline there is no F."""
    max_pairs: int = 1000
    """Most pairs of a scene."""

    def __post_init__(self) -> None:
        low, high = self.covisibility
        if not 0 <= low <= high <= 1 or not 0 <= self.min_rotation <= self.max_rotation or self.max_pairs < 1:
            raise UsageError(f"limits of pairs: {self} leave none; 0 <= lower <= upper and max_pairs >= 1")

    @property
    def nothing(self) -> str:
        """What is to be said where no pair is left."""
        low, high = self.covisibility
        return (
            f"no two pictures share {100 * low:g} to {100 * high:g} % of their points and at least {self.min_common}, turn by "
            f"{self.min_rotation:g} to {self.max_rotation:g} degrees and have a parallax of {self.min_parallax:g} or more"
        )


def read_colmap_pairs(
    root: Path, dataset: str = "colmap", limits: PairLimits | None = None, seed: int = 0
) -> list[PosedPair]:
    """Pairs of every scene in `root`, which is a scene or a folder of scenes.

    Pictures whose lens distorts by more than 0.05 px get the K of their undistorted selves, which `PosedPair.view0.read()`
    gives. Where more pairs keep the limits than wanted, `seed` draws some. UsageError without pycolmap, InputError when a
    model or a picture is missing or unreadable, or no pair keeps the limits.
    """
    limits = limits or PairLimits()
    scenes = _scenes(folder(root))
    if not scenes:
        raise InputError(
            f"{root}: has no COLMAP model (sparse/images.bin or sparse/0/images.bin), nor has a folder in it; "
            "lay it out as SCENE/images/ and SCENE/sparse/"
        )
    pairs: list[PosedPair] = []
    for scene, models in scenes.items():
        found: list[PosedPair] = []
        for model in models:
            views, xyz = _read_model(model, scene)
            chosen = _choose(views, xyz, limits, np.random.default_rng(seed))
            found += [_pair(dataset, scene.name, views[i], views[j]) for i, j in chosen]
        if not found:
            log.warning("%s: %s; the scene is left out", scene, limits.nothing)
        pairs += found
    if not pairs:
        raise InputError(f"{root}: {limits.nothing}; reconstruct more pictures or widen the limits")
    return pairs


def read_colmap_views(root: Path) -> dict[str, list[View]]:
    """The posed views of every model in `root`, which is a scene or a folder of scenes, in the order of their file names.

    By the model's folder as it is called in `root`; nothing where there is no model. Pictures are undistorted as in
    `read_colmap_pairs`. UsageError without pycolmap, InputError when a model or a picture is missing or unreadable.
    """
    found = {}
    for scene, models in _scenes(folder(root)).items():
        for model in models:
            views = sorted(_read_model(model, scene)[0], key=lambda view: natural_key(view.image.name))
            found[str(model.relative_to(root))] = views
    return found


def _scenes(root: Path) -> dict[Path, list[Path]]:
    """The scenes and the folders of their models."""
    candidates = [root] if _models(root) else sorted(path for path in root.iterdir() if not path.name.startswith("."))
    return {scene: models for scene in candidates if (models := _models(scene))}


def _models(scene: Path) -> list[Path]:
    """The models of a scene: sparse/ itself or the folders in it; each has a world of its own."""
    sparse = scene / "sparse"
    places = [sparse] if _is_model(sparse) else sorted(sparse.iterdir()) if sparse.is_dir() else []
    return [place for place in places if _is_model(place)]


def _is_model(place: Path) -> bool:
    return any((place / f"images{suffix}").is_file() for suffix in (".bin", ".txt"))


# --- reading ---------------------------------------------------------------------------------------------------------


def _read_model(model: Path, scene: Path) -> tuple[list[View], np.ndarray]:
    """The views of a model by name, and its points (N, 3), which `View.tracks` count."""
    pycolmap = require_pycolmap("reading COLMAP models")
    with decoding(model, "a COLMAP model"):
        reconstruction = pycolmap.Reconstruction(str(model))
    ids = np.sort(np.fromiter(reconstruction.points3D.keys(), np.int64))
    xyz = np.array([reconstruction.points3D[int(index)].xyz for index in ids]).reshape(-1, 3)
    cameras = {key: _camera(camera, model) for key, camera in reconstruction.cameras.items()}
    views = []
    posed = [image for image in reconstruction.images.values() if image.has_pose]
    for image in sorted(posed, key=lambda image: str(image.name)):
        K, lens = cameras[image.camera_id]
        if K is None:
            log.warning("%s: the distortion of %s cannot be undone; it is left out", model, image.name)
            continue
        camera = reconstruction.cameras[image.camera_id]
        tracks, points = _observed(image, camera, K, ids)
        T = np.eye(4)
        T[:3] = image.cam_from_world().matrix()
        size = int(camera.height), int(camera.width)
        views.append(View(existing(scene / "images" / image.name), K, T, size, lens, tracks, points))
    return views, xyz


def _camera(camera: pycolmap.Camera, model: Path) -> tuple[np.ndarray | None, Lens | None]:
    """K of the undistorted picture (None: its distortion cannot be undone), and the lens where one distorts."""
    if camera.model_name not in MODELS:
        raise InputError(
            f"{model}: has a camera of the model {camera.model_name}; known are {', '.join(MODELS)}; "
            "run `colmap image_undistorter` on it first"
        )
    focal = MODELS[camera.model_name]
    values = np.asarray(camera.params, np.float64)
    (fx, fy), (cx, cy) = values[[0, focal - 1]], values[focal : focal + 2]
    K = colmap_to_pixel_centre(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]]))
    lens = Lens.of(K, values[focal + 2 :].tolist())
    size = int(camera.height), int(camera.width)
    return (K, None) if lens.negligible(size) else (lens.pinhole(size), lens)


def _observed(
    image: pycolmap.Image, camera: pycolmap.Camera, K: np.ndarray, ids: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which points a picture sees (positions in `ids`, rising) and where, in the pixels of K."""
    observations = image.get_observation_points2D()
    numbers = np.array([point.point3D_id for point in observations], np.int64)
    corner = np.array([point.xy for point in observations], np.float64).reshape(-1, 2)
    tracks, first = np.unique(np.searchsorted(ids, numbers), return_index=True)
    rays = np.asarray(camera.cam_from_img(corner[first]), np.float64).reshape(-1, 2)
    known = np.isfinite(rays).all(1)
    return tracks[known], rays[known] * K[[0, 1], [0, 1]] + K[:2, 2]


# --- choosing pairs --------------------------------------------------------------------------------------------------


def _pair(dataset: str, scene: str, view0: View, view1: View) -> PosedPair:
    return PosedPair.of(dataset, f"{scene}/{view0.image.stem}-{view1.image.stem}", view0, view1)


def _choose(views: list[View], xyz: np.ndarray, limits: PairLimits, rng: np.random.Generator) -> list[tuple[int, int]]:
    """The pairs i < j that keep the limits, at most `max_pairs` of them, sorted."""
    first, second = _candidates(views, limits)
    kept: list[tuple[int, int]] = []
    for index in rng.permutation(len(first)):  # in random order, so that the costlier test may stop early
        i, j = int(first[index]), int(second[index])
        if len(kept) == limits.max_pairs:
            break
        if _parallax(views[i], views[j], xyz) >= limits.min_parallax:
            kept.append((i, j))
    return sorted(kept)


def _candidates(views: list[View], limits: PairLimits) -> tuple[np.ndarray, np.ndarray]:
    """The pairs i < j within the limits of co-visibility and rotation, as two arrays of positions."""
    from scipy.sparse import csr_array, triu

    if not views:
        return np.empty(0, int), np.empty(0, int)
    counts = np.array([len(view.tracks) for view in views])
    seen = np.concatenate([view.tracks for view in views])
    rows = csr_array((np.ones(len(seen), np.int32), seen, np.concatenate([[0], np.cumsum(counts)])))
    common = triu(rows @ rows.T, 1).tocoo()
    first, second = common.row, common.col
    share = common.data / np.minimum(counts[first], counts[second])
    R = np.stack([view.T[:3, :3] for view in views])
    angle = rotation_degrees(R[first], R[second])
    low, high = limits.covisibility
    kept = (share >= low) & (share <= high) & (common.data >= limits.min_common)
    kept &= (angle >= limits.min_rotation) & (angle <= limits.max_rotation)
    order = np.lexsort((second[kept], first[kept]))
    return first[kept][order], second[kept][order]


def _parallax(view0: View, view1: View, xyz: np.ndarray) -> float:
    """The median angle in degrees under which the points that both see, see the two cameras."""
    points = xyz[np.intersect1d(view0.tracks, view1.tracks, assume_unique=True)]
    rays = [points + view.T[:3, :3].T @ view.T[:3, 3] for view in (view0, view1)]  # the centre is -R' t
    a, b = (ray / np.linalg.norm(ray, axis=1, keepdims=True) for ray in rays)
    return float(np.degrees(np.median(2 * np.arcsin(np.clip(np.linalg.norm(a - b, axis=1) / 2, 0, 1)))))
