"""Matches in hloc's pair of HDF5 files, for SfM and localisation there.

`features.h5` has a group per image name with `keypoints` (N, 2), `scores` (N,) and `image_size` (width, height);
`matches.h5` has a group name0/name1, '/' in the names replaced by '-', with `matches0` (N0,), -1 for none, and
`matching_scores0` (N0,). hloc's pixels are ours: the centre of the top-left one is (0, 0); it adds COLMAP's half pixel.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError, OutputError
from flowkit.io.atomic import atomic_path
from flowkit.io.inputs import check_input, decoding
from flowkit.io.match_arrays import best_matches, checked_matches, pairs_of
from flowkit.types import Matches, Size

_Path = str | os.PathLike[str]


def write_hloc(features_h5: _Path, matches_h5: _Path, name0: str, name1: str, matches: Matches) -> None:
    """Add one pair to hloc's files, which are made if they are not there; see `write_hloc_pairs`."""
    write_hloc_pairs(features_h5, matches_h5, [(name0, name1, matches)])


def write_hloc_pairs(features_h5: _Path, matches_h5: _Path, pairs: Iterable[tuple[str, str, Matches]]) -> None:
    """Add (name0, name1, matches) of many pairs to hloc's files; both are replaced at the end or not at all.

    An image has one set of keypoints, whatever pair it is in; other keypoints for it are an OutputError. Its `scores` are
    the best matching score that each keypoint has had in any pair. A pair that is there already is replaced. Each call
    copies the files, so that a killed run leaves them whole: give many pairs at once.
    """
    import h5py

    with atomic_path(features_h5) as new_features, atomic_path(matches_h5) as new_matches:
        for old, new in ((features_h5, new_features), (matches_h5, new_matches)):
            if Path(old).exists():
                with decoding(old, "HDF5"):
                    h5py.File(check_input(old, "an HDF5 file"), "r").close()
                shutil.copyfile(old, new)
        with h5py.File(new_features, "a") as features, h5py.File(new_matches, "a") as store:
            for name0, name1, matches in pairs:
                _add_image(features, features_h5, name0, matches.keypoints0, matches.size0, _scores(matches, 0))
                _add_image(features, features_h5, name1, matches.keypoints1, matches.size1, _scores(matches, 1))
                _add_pair(store, matches_h5, name0, name1, matches)


def read_hloc(features_h5: _Path, matches_h5: _Path, name0: str, name1: str) -> Matches:
    """The matches of one pair, also when the file has it the other way round; sizes are (0, 0) where it has none."""
    import h5py

    files = check_input(features_h5, "hloc's features"), check_input(matches_h5, "hloc's matches")
    with decoding(matches_h5, "hloc's matches"), h5py.File(files[1], "r") as store:
        for first, second in ((name0, name1), (name1, name0)):
            group = store.get(_pair_key(first, second)) or store.get(_pair_key(first, second).replace("/", "_"))
            if group is not None:
                break
        else:
            raise InputError(f"{matches_h5}: has no pair {name0} {name1}; check both names")
        confidence = group["matching_scores0"][()] if "matching_scores0" in group else None
        pairs, scores = pairs_of(group["matches0"][()], confidence)
    if (first, second) != (name0, name1):
        pairs = pairs[:, ::-1]
    with decoding(features_h5, "hloc's features"), h5py.File(files[0], "r") as store:
        (keypoints0, size0), (keypoints1, size1) = (_image(store, features_h5, name) for name in (name0, name1))
        return checked_matches(Matches(keypoints0, keypoints1, pairs, scores, size0, size1), matches_h5)


def pairs_in(matches_h5: _Path) -> set[tuple[str, str]]:
    """The (name0, name1) of every pair that flowkit has written to hloc's matches; hloc's own files do not say the names."""
    import h5py

    with decoding(matches_h5, "hloc's matches"), h5py.File(check_input(matches_h5, "hloc's matches"), "r") as store:
        groups = [group for first in store.values() for group in first.values()]
        named = [group.attrs["names"] for group in groups if "names" in group.attrs]
        return {(str(name0), str(name1)) for name0, name1 in named}


def _pair_key(name0: str, name1: str) -> str:
    return "/".join(name.replace("/", "-") for name in (name0, name1))


def _scores(matches: Matches, side: int) -> np.ndarray:
    scores = np.zeros(len((matches.keypoints0, matches.keypoints1)[side]), np.float32)
    np.maximum.at(scores, matches.pairs[:, side], np.nan_to_num(matches.scores))
    return scores


def _group(store: Any, path: _Path, key: str) -> Any:
    if any(part in ("", ".", "..") for part in key.strip("/").split("/")):
        raise OutputError(f"{path}: {key!r} cannot name an image in HDF5; use plain names relative to the image folder")
    try:
        return store.require_group(key)
    except (TypeError, ValueError) as error:
        raise OutputError(f"{path}: {key!r} is in the way of another name ({error}); rename the image") from None


def _replace(group: Any, name: str, data: np.ndarray) -> None:
    if name in group:
        del group[name]
    group.create_dataset(name, data=data)


def _add_image(store: Any, path: _Path, name: str, keypoints: np.ndarray, size: Size, scores: np.ndarray) -> None:
    group = _group(store, path, name)
    if "keypoints" in group:
        if not np.array_equal(group["keypoints"][()], keypoints, equal_nan=True):
            raise OutputError(
                f"{path}: {name} has other keypoints there ({len(group['keypoints'])}, now {len(keypoints)}), but hloc needs "
                "one set per image; use a feature that extracts each image by itself, or other files"
            )
        if "scores" in group and group["scores"].shape == scores.shape:
            scores = np.maximum(scores, group["scores"][()])
    else:
        group.create_dataset("keypoints", data=keypoints)
    _replace(group, "scores", scores)
    if all(size):
        _replace(group, "image_size", np.array(size[::-1], np.int64))


def _add_pair(store: Any, path: _Path, name0: str, name1: str, matches: Matches) -> None:
    group = _group(store, path, _pair_key(name0, name1))
    names = [name0, name1]
    if list(group.attrs.get("names", names)) != names:  # hloc itself would mix the two up
        raise OutputError(
            f"{path}: {names} and {list(group.attrs['names'])} differ only in '/' and '-'; rename an image"
        )
    group.attrs["names"] = names
    best, confidence = best_matches(matches)
    _replace(group, "matches0", best.astype(np.int32))
    _replace(group, "matching_scores0", confidence)


def _image(store: Any, path: _Path, name: str) -> tuple[np.ndarray, Size]:
    if name not in store or "keypoints" not in store[name]:
        raise InputError(f"{path}: has no keypoints of {name}; check the name")
    group = store[name]
    width, height = group["image_size"][()] if "image_size" in group else (0, 0)
    keypoints = group["keypoints"][()]
    return keypoints.astype(np.promote_types(keypoints.dtype, np.float32)), (int(height), int(width))
