"""The JSON document beside every result: built from the value types, written whole or not at all, read back, checked.

Its models are in flowkit.io.schema, its JSON schemas in docs/schema/.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from pydantic import ValidationError

from flowkit.errors import FlowkitError, InputError
from flowkit.io.atomic import write_text
from flowkit.io.inputs import decoding
from flowkit.io.provenance import provenance
from flowkit.io.schema import (
    RECORDS,
    SCHEMA_VERSION,
    AlignHomography,
    AlignRecord,
    AnyRecord,
    BackwardFlow,
    FlowEgomotion,
    FlowRecord,
    FlowStatistics,
    GroupImage,
    GroupRecord,
    HomographyRecord,
    ImageInfo,
    MatchesRecord,
    Model,
    PointCloudInfo,
    PoseRecord,
    WarpRecord,
    schemas,
)
from flowkit.io.text import read_text
from flowkit.types import Alignment, Egomotion, Flow, Homography, Matches, RelativePose, Run, Size, Status, Warped

__all__ = [
    "AlignRecord",
    "AnyRecord",
    "FlowRecord",
    "GroupImage",
    "GroupRecord",
    "HomographyRecord",
    "ImageInfo",
    "MatchesRecord",
    "PointCloudInfo",
    "PoseRecord",
    "WarpRecord",
    "align_record",
    "flow_record",
    "group_image",
    "group_record",
    "homography_record",
    "is_complete",
    "matches_record",
    "pose_record",
    "read_record",
    "schemas",
    "to_json",
    "unreadable_image",
    "warp_record",
    "write_json",
    "write_schemas",
]

Names = Iterable[str | os.PathLike[str]]

# --- building --------------------------------------------------------------------------------------------------------


def flow_record(flow: Flow, name0: str, name1: str, files: Names = (), argv: Iterable[str] = ()) -> FlowRecord:
    """flow.json of a flow from the image called `name0` to `name1`; without any known pixel its status is no_overlap."""
    image0, image1 = _image(name0, flow.size), _image(name1, flow.size1)
    backward = None
    if flow.backward is not None:
        backward = BackwardFlow(grid=image1, points_into=image0, statistics=_statistics(flow.backward))
    return FlowRecord(
        status=Status.OK if flow.valid.any() else Status.NO_OVERLAP,
        image0=image0,
        image1=image1,
        grid=image0,
        points_into=image1,
        statistics=_statistics(flow),
        backward=backward,
        egomotion=None if flow.egomotion is None else _egomotion(flow.egomotion),
        **_written(files, argv, flow.run),
    )


def _egomotion(egomotion: Egomotion) -> FlowEgomotion:
    residual = egomotion.residual[np.isfinite(egomotion.residual)]
    pose = egomotion.pose
    return FlowEgomotion(
        status=pose.status,
        median_residual_px=_number(float(np.median(residual))) if len(residual) else None,
        unexplained_share=_share(float((residual > pose.threshold).mean())) if len(residual) else None,
        **_camera_motion(pose),
    )


def matches_record(
    matches: Matches, name0: str, name1: str, files: Names = (), argv: Iterable[str] = ()
) -> MatchesRecord:
    """matches.json; without any match its status is too_few_matches."""
    return MatchesRecord(
        status=Status.OK if len(matches) else Status.TOO_FEW_MATCHES,
        image0=_image(name0, matches.size0),
        image1=_image(name1, matches.size1),
        keypoints0=len(matches.keypoints0),
        keypoints1=len(matches.keypoints1),
        mean_score=_share(_mean(matches.scores)),
        **_agreement(matches),
        **_written(files, argv, matches.run),
    )


def homography_record(
    homography: Homography, name0: str, name1: str, files: Names = (), argv: Iterable[str] = ()
) -> HomographyRecord:
    """homography.json; the matrix is null unless the status is ok."""
    return HomographyRecord(
        status=homography.status,
        image0=_image(name0, homography.matches.size0),
        image1=_image(name1, homography.matches.size1),
        matrix=_listed(homography.matrix),
        refined=homography.refined,
        estimator=homography.estimator,
        threshold_px=float(homography.threshold),
        **_agreement(homography.matches),
        **_written(files, argv, homography.run),
    )


def pose_record(
    pose: RelativePose,
    name0: str,
    name1: str,
    files: Names = (),
    argv: Iterable[str] = (),
    *,
    cloud: PointCloudInfo | None = None,
) -> PoseRecord:
    """pose.json, the rotation also as a quaternion and an angle; `cloud` says what became of the point cloud."""
    return PoseRecord(
        status=pose.status,
        image0=_image(name0, pose.matches.size0),
        image1=_image(name1, pose.matches.size1),
        point_cloud=cloud,
        **_camera_motion(pose),
        **_written(files, argv, pose.run),
    )


def _camera_motion(pose: RelativePose) -> dict[str, Any]:
    """The fields of `CameraMotion`."""
    quaternion = angle = None
    if pose.R is not None:
        from scipy.spatial.transform import Rotation

        rotation = Rotation.from_matrix(pose.R)
        quaternion = rotation.as_quat(canonical=True, scalar_first=True).tolist()
        angle = math.degrees(rotation.magnitude())
    return {
        "R": _listed(pose.R),
        "t": _listed(None if pose.t is None else np.ravel(pose.t)),
        "E": _listed(pose.E),
        "quaternion_wxyz": quaternion,
        "rotation_angle_deg": angle,
        "K0": _listed(pose.K0),
        "K1": _listed(pose.K1),
        "degeneracy": pose.degeneracy,
        "epipolar_error_px": _number(pose.epipolar_error),
        "estimator": pose.estimator,
        "threshold_px": float(pose.threshold),
        **_agreement(pose.matches),
    }


def align_record(
    alignment: Alignment, source: str, target: str, files: Names = (), argv: Iterable[str] = ()
) -> AlignRecord:
    """align.json of `source` brought onto `target`."""
    flow = alignment.flow
    source_info, target_info = _image(source, flow.size1), _image(target, flow.size)
    statistics = _statistics(flow)
    return AlignRecord(
        status=alignment.status,
        source=source_info,
        target=target_info,
        grid=target_info,
        points_into=source_info,
        homographies=_planes(alignment),
        coverage=float(alignment.flow.inside.mean()),
        mean_confidence=statistics.mean_confidence,
        statistics=statistics,
        **_agreement(alignment.matches),
        **_written(files, argv, alignment.run),
    )


def group_image(alignment: Alignment, name: str, file: str | None = None) -> GroupImage:
    """The entry of group.json for the image called `name`; `file` is its picture on the target's grid, if it got one."""
    return GroupImage(
        **_image(name, alignment.flow.size1).model_dump(),
        status=alignment.status,
        message=None,
        file=file,
        inliers=int(sum(alignment.inliers)),
        homographies=_planes(alignment),
    )


def unreadable_image(name: str, message: str) -> GroupImage:
    """The entry of group.json for an image that could not be used; `message` says why."""
    return GroupImage(name=name, size=None, status="unreadable", message=message, file=None, inliers=0, homographies=[])


def group_record(
    images: Iterable[GroupImage],
    target: str,
    size: Size,
    files: Names = (),
    argv: Iterable[str] = (),
    *,
    run: Run | None = None,
) -> GroupRecord:
    """group.json of a set brought onto `target` of that (height, width); when nothing was, its status is no_overlap."""
    entries = list(images)
    return GroupRecord(
        status=Status.OK if any(entry.status is Status.OK for entry in entries) else Status.NO_OVERLAP,
        target=_image(target, size),
        images=entries,
        **_written(files, argv, run),
    )


def warp_record(
    warped: Warped,
    image: str,
    size: Size,
    files: Names = (),
    argv: Iterable[str] = (),
    *,
    flow: str | None = None,
    homography: str | None = None,
    splat: bool = False,
    other: str | None = None,
) -> WarpRecord:
    """warp.json of the image called `image` with that (height, width), warped by the flow or homography of that name.

    `other` is the flow's other image, if its name is known: the one whose grid the output has.
    """
    info, output = _image(image, size), _image(other, warped.valid.shape)
    grid, points_into = (info, output) if splat else (output, info)
    return WarpRecord(
        status=Status.OK if warped.valid.any() else Status.NO_OVERLAP,
        image=info,
        output_size=warped.valid.shape,
        flow=flow,
        homography=homography,
        splat=splat,
        grid=None if flow is None else grid,
        points_into=None if flow is None else points_into,
        valid_share=float(np.mean(warped.valid)),
        **_written(files, argv, warped.run),
    )


def _written(files: Names, argv: Iterable[str], run: Run | None) -> dict[str, Any]:
    return {"files": [PurePath(file).as_posix() for file in files], "provenance": provenance(run, argv)}


def _planes(alignment: Alignment) -> list[AlignHomography]:
    return [
        AlignHomography(matrix=_listed(matrix), inliers=int(inliers), share=float(np.mean(alignment.regions == index)))
        for index, (matrix, inliers) in enumerate(zip(alignment.homographies, alignment.inliers, strict=True))
    ]


def _agreement(matches: Matches) -> dict[str, Any]:
    inliers = None if matches.inliers is None else int(np.count_nonzero(matches.inliers))
    origins = Counter(matches.origins[index] for index in matches.origin) if matches.origin is not None else {}
    return {
        "matches": len(matches),
        "inliers": inliers,
        "inlier_ratio": inliers / len(matches) if inliers is not None and len(matches) else None,
        "origins": {name: origins[name] for name in matches.origins if name in origins},
        "stages": None if matches.stage is None else _stages(matches.stage),
    }


def _stages(stage: np.ndarray) -> dict[str, int]:
    """How many matches each stage of guided matching gave; 1 and 2 always, 0 where some were not guided."""
    counts = np.bincount(stage, minlength=3)
    return {str(number): int(counts[number]) for number in (0, 1, 2) if number or counts[0]}


def _statistics(flow: Flow) -> FlowStatistics:
    magnitude = np.hypot(*flow.uv[:, flow.valid].astype(np.float64))
    return FlowStatistics(
        known_share=float(np.mean(flow.valid)),
        mean_magnitude=_mean(magnitude),
        median_magnitude=float(np.median(magnitude)) if magnitude.size else None,
        max_magnitude=float(magnitude.max()) if magnitude.size else None,
        mean_confidence=None if flow.confidence is None else _share(_mean(flow.confidence)),
        occluded_share=None if flow.occlusion is None else float(np.mean(flow.occlusion)),
    )


def _image(name: str | os.PathLike[str] | None, size: Size) -> ImageInfo:
    height, width = (int(side) for side in size)
    return ImageInfo(name=None if name is None else str(name), size=(height, width) if height and width else None)


def _mean(values: np.ndarray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean(dtype=np.float64)) if finite.size else None


def _share(value: float | None) -> float | None:
    """A mean of numbers in [0, 1] without what rounding may have put beyond them."""
    return None if value is None else min(max(value, 0.0), 1.0)


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _listed(array: np.ndarray | None) -> Any:
    return None if array is None else np.asarray(array, np.float64).tolist()


# --- writing and reading ---------------------------------------------------------------------------------------------


def to_json(record: Model | Mapping[str, Any]) -> str:
    """The document as text: keys in the schema's order, null for unknown, never NaN, a line break at the end."""
    data = record.model_dump(mode="json") if isinstance(record, Model) else record
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
    # A row of numbers on one line. No string has a raw line break, so the pattern cannot match inside one.
    text = re.sub(r"\[\n\s*([-+.\deE,\s]*?)\n\s*\]", lambda row: "[" + re.sub(r",\s+", ", ", row[1]) + "]", text)
    return text + "\n"


def write_json(path: str | os.PathLike[str], record: Model | Mapping[str, Any]) -> None:
    """Write a record (or plain JSON data, say a manifest) to `path`, wholly or not at all."""
    write_text(path, to_json(record))


def read_record(path: str | os.PathLike[str]) -> AnyRecord:
    """The record in a JSON file, of the model that its "kind" names; an InputError if it is not whole and valid."""
    text = read_text(path, "a result's JSON")
    with decoding(path, "JSON"):
        data = json.loads(text, parse_constant=_refuse)
    model = RECORDS.get(data["kind"]) if isinstance(data, dict) and isinstance(data.get("kind"), str) else None
    if model is None:
        raise InputError(f'{path}: is no result of flowkit ("kind" is none of {", ".join(RECORDS)}); check the path')
    if data.get("schema_version") != SCHEMA_VERSION:
        found = data.get("schema_version")
        raise InputError(f"{path}: has schema {found}, not {SCHEMA_VERSION}; read it with the flowkit that wrote it")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path}: {where}: {first['msg']} (schema {SCHEMA_VERSION}); compute the result again"
        ) from None


def is_complete(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a whole, valid record and the files it lists are there, so that a batch need not redo it."""
    try:
        record = read_record(path)
    except FlowkitError:
        return False
    return all((Path(path).parent / file).is_file() for file in record.files)


def write_schemas(directory: str | os.PathLike[str]) -> None:
    """Write the JSON schema of every kind to `directory`, as docs/schema has them."""
    for kind, schema in schemas().items():
        write_json(Path(directory) / f"{kind}.json", schema)


def _refuse(token: str) -> None:
    raise ValueError(f"{token} is not JSON")
