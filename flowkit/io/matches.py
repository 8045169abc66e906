"""Files of matches: .npz in SuperGlue's layout with our extras, the same as .json, and hloc's pair of HDF5 files.

The keys of .npz and .json. The first four are SuperGlue's; a file with only these is read, too.

| key | shape | meaning |
|---|---|---|
| keypoints0, keypoints1 | (N0, 2), (N1, 2) | x, y in pixels of the original image |
| matches | (N0,) | for each keypoint of image0 its best match in image1, -1 for none |
| match_confidence | (N0,) | the score of that match, 0 for none |
| pairs, scores | (M, 2), (M,) | all matches, also where a keypoint has several; these are what is read back |
| size0, size1 | (2,) | height, width; 0, 0 where unknown, as in SuperGlue's own files |
| origins, origin | names, (M,) | which feature or stage each match came from (optional) |
| inliers | (M,) | an estimator's judgement (optional) |
| stage | (M,) | of guided matching: 1 near the flow's prediction, 2 among the rest, 0 without a guide (optional) |
| convention | text | how to read the coordinates |

Provenance (`Matches.run`) is not in these files but in the record beside them (flowkit.io.results).
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError, OutputError
from flowkit.io.atomic import atomic_path, write_text
from flowkit.io.hloc import read_hloc, write_hloc, write_hloc_pairs
from flowkit.io.inputs import check_input, decoding
from flowkit.io.match_arrays import best_matches, checked_matches, pairs_of
from flowkit.io.text import read_text
from flowkit.types import Matches, Size

__all__ = ["CONVENTION", "read_hloc", "read_matches", "write_hloc", "write_hloc_pairs", "write_matches"]

CONVENTION = "keypoints are (x, y) in pixels, the center of the top-left pixel is (0, 0); sizes are (height, width)"
MAX_UNPACKED = 1 << 32

_UNKNOWN_SIZE = (0, 0)
_KEYS = ("keypoints0", "keypoints1", "matches", "match_confidence", "pairs", "scores", "size0", "size1")
_OPTIONAL = ("origins", "origin", "inliers", "stage", "convention")


def write_matches(path: str | os.PathLike[str], matches: Matches) -> None:
    """Write `matches` to a .npz or .json file; `read_matches` gives back every array exactly (in .json NaN is null)."""
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        arrays: dict[str, Any] = _arrays(matches)
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **arrays)
    elif suffix == ".json":
        data = {name: _listed(array) for name, array in _arrays(matches).items()}
        lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in data.items()]
        write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
    else:
        raise OutputError(f"{path}: {suffix or 'no suffix'} is not a format for matches; use .npz or .json")


def read_matches(path: str | os.PathLike[str]) -> Matches:
    """Read a .npz or .json file of matches, SuperGlue's own included (there the sizes are unknown: (0, 0))."""
    suffix = Path(path).suffix.lower()
    if suffix not in (".npz", ".json"):
        raise InputError(f"{path}: {suffix or 'no suffix'} is not a format for matches; use .npz or .json")
    arrays = _read_npz(path) if suffix == ".npz" else _read_json(path)
    for key in _KEYS[:3]:
        if key not in arrays:
            raise InputError(f'{path}: has no "{key}"; give the matches that SuperGlue or `flowkit match` wrote')
    with decoding(path, "matches"):
        return checked_matches(_from_arrays(arrays), path)


def _arrays(matches: Matches) -> dict[str, np.ndarray]:
    best, confidence = best_matches(matches)
    arrays = {
        "keypoints0": matches.keypoints0,
        "keypoints1": matches.keypoints1,
        "matches": best,
        "match_confidence": confidence,
        "pairs": np.asarray(matches.pairs, np.int64).reshape(-1, 2),
        "scores": np.asarray(matches.scores, np.float32),
        "size0": np.array(matches.size0, np.int64),
        "size1": np.array(matches.size1, np.int64),
        "convention": np.array(CONVENTION),
    }
    if matches.origins:
        arrays["origins"] = np.array(matches.origins, np.str_)
    if matches.origin is not None:
        arrays["origin"] = np.asarray(matches.origin, np.int64)
    if matches.inliers is not None:
        arrays["inliers"] = np.asarray(matches.inliers, bool)
    if matches.stage is not None:
        arrays["stage"] = np.asarray(matches.stage, np.int64)
    return arrays


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> Matches:
    if "pairs" in arrays:
        pairs, scores = arrays["pairs"], arrays["scores"]
    else:
        pairs, scores = pairs_of(arrays["matches"], arrays.get("match_confidence"))
    origin, inliers, stage = arrays.get("origin"), arrays.get("inliers"), arrays.get("stage")
    return Matches(
        keypoints0=_two_columns(arrays["keypoints0"]),
        keypoints1=_two_columns(arrays["keypoints1"]),
        pairs=_two_columns(pairs.astype(np.int64, casting="same_kind")),
        scores=scores.astype(np.float32),
        size0=_size(arrays, "size0"),
        size1=_size(arrays, "size1"),
        origins=tuple(str(name) for name in arrays.get("origins", ())),
        origin=None if origin is None else origin.astype(np.int64, casting="same_kind"),
        inliers=None if inliers is None else inliers.astype(bool),
        stage=None if stage is None else stage.astype(np.int64, casting="same_kind"),
    )


def _two_columns(array: np.ndarray) -> np.ndarray:
    return array if array.size else array.reshape(0, 2)  # an empty list of JSON does not say of what


def _size(arrays: Mapping[str, np.ndarray], key: str) -> Size:
    height, width = (int(side) for side in arrays.get(key, _UNKNOWN_SIZE))
    return height, width


def _read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    file = check_input(path, "a file of matches")
    if not zipfile.is_zipfile(file):
        raise InputError(f"{path}: is not a .npz archive; check what wrote it")
    with decoding(path, "a .npz archive"), np.load(file, allow_pickle=False) as store:
        for member in store.zip.infolist():
            if member.file_size > MAX_UNPACKED:
                raise InputError(f"{path}: {member.filename} would unpack to {member.file_size} bytes; it is damaged")
        return {key: store[key] for key in (*_KEYS, *_OPTIONAL) if key in store}


def _read_json(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    text = read_text(path, "a file of matches")
    with decoding(path, "JSON"):
        data: Any = json.loads(text)
    if not isinstance(data, dict):
        raise InputError(f"{path}: is not a JSON object; give the matches that `flowkit match` wrote")
    if "kind" in data:
        raise InputError(f"{path}: is the record of a result, without the points; give the matches.npz beside it")
    with decoding(path, "matches"):
        return {key: _array(key, data[key]) for key in (*_KEYS, *_OPTIONAL) if key in data}


def _listed(array: np.ndarray) -> Any:
    if array.dtype.kind != "f":
        return array.tolist()
    values = array.astype(object)
    values[~np.isfinite(array)] = None
    return values.tolist()


def _array(key: str, value: Any) -> np.ndarray:
    if key in ("origins", "convention"):
        return np.array(value, np.str_)
    if key == "inliers":
        return np.array(value, bool)
    if not key.startswith("keypoints") and key not in ("scores", "match_confidence"):
        return np.array(value, np.int64)
    # JSON knows no float32, which keypoints are unless they need more.
    numbers = np.array(value, np.float64)
    single = numbers.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), numbers, equal_nan=True) else numbers
