"""Matches and verified geometry as a COLMAP database.

COLMAP's origin is the corner of the top-left pixel, ours its centre: keypoints and principal points grow by half a pixel
on the way, and homographies and fundamental matrices change with them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import OutputError, UsageError
from flowkit.io.atomic import atomic_path
from flowkit.io.cameras import pixel_centre_to_colmap
from flowkit.types import Homography, Matches, RelativePose, Size, Status

if TYPE_CHECKING:
    import pycolmap

Geometry = Homography | RelativePose
Intrinsics = np.ndarray | float | None
"""K 3x3, a focal length in pixels to begin from, or nothing known."""

_FOCAL_OVER_SIDE = 1.2  # COLMAP's own first guess of a focal length, in terms of the longer side
_TO_CORNER = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])


def export_database(
    path: str | os.PathLike[str],
    images: Mapping[str, tuple[Size, Intrinsics]],
    pairs: Iterable[tuple[str, str, Matches] | tuple[str, str, Matches, Geometry | None]],
    *,
    shared_camera: bool = False,
    distortion: Sequence[float] | None = None,
) -> None:
    """Write a new COLMAP database: `images` name -> (size, K) and (name0, name1, matches[, geometry]) per pair.

    A known K becomes a PINHOLE camera (COLMAP has no skew there), with `distortion` (k1, k2[, p1, p2], as OpenCV counts them,
    of every image) an OPENCV one. Where it is unknown it is SIMPLE_RADIAL for the mapper to refine, begun from a focal length
    in pixels where that is given in K's place, else from COLMAP's usual guess. With `shared_camera` all images have the first
    one's camera (frames of a video); they must be of one size.

    With a geometry its inliers are stored as verified: a homography as PLANAR_OR_PANORAMIC, a pose as CALIBRATED or PLANAR, a
    pure rotation as PANORAMIC, one that failed as DEGENERATE without inliers. Pairs without geometry wait for COLMAP's own
    verification. All pairs of an image must share its keypoints; a pair given again, either way round, is left as it was.
    """
    pycolmap = require_pycolmap("the COLMAP export")
    with atomic_path(path) as temporary:
        database = pycolmap.Database.open(temporary)
        try:
            writer = _Writer(database, path, images, shared_camera, distortion)
            for name0, name1, matches, *geometry in pairs:
                writer.add_pair(name0, name1, matches, geometry[0] if geometry else None)
        finally:
            database.close()
            for companion in ("-wal", "-shm"):  # SQLite leaves them behind where it could not close in order
                Path(f"{temporary}{companion}").unlink(missing_ok=True)


def require_pycolmap(what: str) -> Any:
    """The module; where it is not installed a UsageError that says `what` needs it."""
    import cv2  # noqa: F401  # first: OpenCV would otherwise call pycolmap's zlib when it writes a PNG, and crash

    terminate = signal.getsignal(signal.SIGTERM)
    try:
        import pycolmap
    except ImportError:
        raise UsageError(f"{what} needs pycolmap; pip install 'flowkit-align[colmap]'") from None
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, terminate)  # pycolmap takes it, prints its stack and ends the process
    return pycolmap


class _Writer:
    """The rows of one database."""

    def __init__(
        self,
        database: pycolmap.Database,
        path: str | os.PathLike[str],
        images: Mapping[str, tuple[Size, Intrinsics]],
        shared_camera: bool,
        distortion: Sequence[float] | None,
    ) -> None:
        self.database, self.path = database, path
        self.ids: dict[str, int] = {}
        sensor: _Sensor | None = None
        for name, (size, K) in images.items():
            if sensor is None or not shared_camera:
                sensor = _write_camera(database, size, K, distortion)
            elif size != sensor.size:
                raise UsageError(
                    f"{path}: {name} is {size[1]}x{size[0]}, not of the others' size; they share no camera"
                )
            self.ids[name] = _write_image(database, name, sensor)
        self.keypoints: dict[str, np.ndarray] = {}

    def add_pair(self, name0: str, name1: str, matches: Matches, geometry: Geometry | None) -> None:
        if name0 == name1:
            raise UsageError(f"{self.path}: COLMAP cannot match {name0} with itself; leave that pair out")
        self._add_keypoints(name0, matches.keypoints0)
        self._add_keypoints(name1, matches.keypoints1)
        id0, id1 = self.ids[name0], self.ids[name1]
        if self.database.exists_matches(id0, id1):
            return
        self.database.write_matches(id0, id1, _rows(matches.pairs))
        if geometry is not None:
            # Its matches may have been judged in another order than the ones given, but index the same keypoints.
            self._add_keypoints(name0, geometry.matches.keypoints0)
            self._add_keypoints(name1, geometry.matches.keypoints1)
            self.database.write_two_view_geometry(id0, id1, _two_view(geometry))

    def _add_keypoints(self, name: str, keypoints: np.ndarray) -> None:
        if name not in self.ids:
            raise UsageError(f"{self.path}: a pair names {name}, which is not among the images; add it with its size")
        known = self.keypoints.get(name)
        if known is None:
            self.keypoints[name] = keypoints
            self.database.write_keypoints(self.ids[name], np.asarray(keypoints, np.float32).reshape(-1, 2) + 0.5)
        elif known is not keypoints and not np.array_equal(known, keypoints, equal_nan=True):
            raise OutputError(
                f"{self.path}: {name} has {len(known)} keypoints in one pair and {len(keypoints)} others in another, but "
                "COLMAP needs one set per image; use a feature that extracts each image by itself"
            )


@dataclass(frozen=True)
class _Sensor:
    """A camera as the database has it; `rig` is None in versions of COLMAP that have no rigs."""

    camera: int
    rig: int | None
    size: Size


def _write_camera(
    database: pycolmap.Database, size: Size, K: Intrinsics, distortion: Sequence[float] | None
) -> _Sensor:
    import pycolmap

    height, width = size
    if isinstance(K, np.ndarray):
        (fx, _, cx), (_, fy, cy) = pixel_centre_to_colmap(K)[:2]
        model, params = "PINHOLE", [fx, fy, cx, cy]
        if distortion is not None:
            model, params = "OPENCV", [*params, *distortion, *[0.0] * (4 - len(distortion))]
    else:
        focal = _FOCAL_OVER_SIDE * max(size) if K is None else K
        model, params = "SIMPLE_RADIAL", [focal, width / 2, height / 2, 0.0]
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params)
    camera.has_prior_focal_length = K is not None
    camera.camera_id = database.write_camera(camera)
    rig_id = None
    if hasattr(pycolmap, "Rig"):
        rig = pycolmap.Rig()
        rig.add_ref_sensor(camera.sensor_id)
        rig_id = database.write_rig(rig)
    return _Sensor(camera.camera_id, rig_id, size)


def _write_image(database: pycolmap.Database, name: str, sensor: _Sensor) -> int:
    """One frame for each image, as COLMAP does for photographs that were not taken at once."""
    import pycolmap

    image = pycolmap.Image(name=name, camera_id=sensor.camera)
    image.image_id = database.write_image(image)
    if sensor.rig is not None:
        frame = pycolmap.Frame()
        frame.rig_id = sensor.rig
        frame.add_data_id(image.data_id)
        frame.frame_id = database.write_frame(frame)
    return int(image.image_id)


def _two_view(geometry: Geometry) -> pycolmap.TwoViewGeometry:
    import pycolmap

    kinds = pycolmap.TwoViewGeometryConfiguration
    result = pycolmap.TwoViewGeometry()
    rotation_only = isinstance(geometry, RelativePose) and geometry.degeneracy == "pure_rotation"
    if geometry.status is not Status.OK and not rotation_only:
        result.config = kinds.DEGENERATE
        return result
    inliers = geometry.matches.inliers
    result.inlier_matches = _rows(geometry.matches.pairs if inliers is None else geometry.matches.pairs[inliers])
    if isinstance(geometry, Homography):
        result.config = kinds.PLANAR_OR_PANORAMIC
        result.H = _TO_CORNER @ geometry.matrix @ np.linalg.inv(_TO_CORNER)
    elif rotation_only:
        result.config = kinds.PANORAMIC
    else:
        assert geometry.R is not None and geometry.t is not None and geometry.E is not None  # as its status says
        result.config = kinds.PLANAR if geometry.degeneracy == "planar" else kinds.CALIBRATED
        result.cam2_from_cam1 = pycolmap.Rigid3d(pycolmap.Rotation3d(geometry.R), geometry.t)
        result.E = geometry.E
        K0, K1 = pixel_centre_to_colmap(geometry.K0), pixel_centre_to_colmap(geometry.K1)
        result.F = np.linalg.inv(K1).T @ geometry.E @ np.linalg.inv(K0)
    return result


def _rows(pairs: np.ndarray) -> np.ndarray:
    """Each match once, in its first place, as COLMAP wants them: features joined from several sources may repeat one."""
    _, first = np.unique(pairs, axis=0, return_index=True)
    return pairs[np.sort(first)].astype(np.uint32)
