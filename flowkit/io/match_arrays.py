"""Matches as files keep them: one best match per keypoint of image0; and the checks of what was read."""

from __future__ import annotations

import os

import numpy as np

from flowkit.errors import InputError
from flowkit.types import Matches


def best_matches(matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """For each keypoint of image0 the index of its best match, -1 for none, (N0,) int64; and its score, (N0,) float32."""
    best = np.full(len(matches.keypoints0), -1, np.int64)
    confidence = np.zeros(len(matches.keypoints0), np.float32)
    order = np.argsort(np.nan_to_num(matches.scores, nan=-np.inf), kind="stable")  # the best is written last
    best[matches.pairs[order, 0]] = matches.pairs[order, 1]
    confidence[matches.pairs[order, 0]] = matches.scores[order]
    return best, confidence


def pairs_of(best: np.ndarray, confidence: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The inverse: pairs (M, 2) int64 and scores (M,) float32, 1 where the file has none."""
    if best.dtype.kind not in "iu":
        raise ValueError(f"matches are integers, not {best.dtype}")
    index = np.flatnonzero(best >= 0)
    scores = np.ones(len(index)) if confidence is None else confidence[index]
    return np.column_stack([index, best[index]]).astype(np.int64), scores.astype(np.float32)


def checked_matches(matches: Matches, path: str | os.PathLike[str]) -> Matches:
    """`matches` as they are if their arrays fit together, else an InputError."""
    count = len(matches)
    for name in ("keypoints0", "keypoints1"):
        keypoints = getattr(matches, name)
        if keypoints.ndim != 2 or keypoints.shape[1] != 2 or keypoints.dtype.kind != "f":
            raise InputError(
                f"{path}: {name} is {keypoints.dtype} {keypoints.shape}, not real numbers (N, 2); it is damaged"
            )
    if matches.pairs.shape != (count, 2):
        raise InputError(f"{path}: pairs has shape {matches.pairs.shape}, not (M, 2); the file is damaged")
    limits = len(matches.keypoints0), len(matches.keypoints1)
    if count and not ((matches.pairs >= 0).all() and (matches.pairs < limits).all()):
        raise InputError(f"{path}: a match names a keypoint that is not there; the file is damaged, write it again")
    for name in ("scores", "origin", "inliers", "stage"):
        values = getattr(matches, name)
        if values is not None and values.shape != (count,):
            raise InputError(f"{path}: {name} has shape {values.shape} for {count} matches; the file is damaged")
    if matches.origin is not None and not ((matches.origin >= 0) & (matches.origin < len(matches.origins))).all():
        raise InputError(f"{path}: a match names an origin that is not there; the file is damaged, write it again")
    if matches.stage is not None and not np.isin(matches.stage, (0, 1, 2)).all():
        raise InputError(f"{path}: a match has a stage that is not 0, 1 or 2; the file is damaged, write it again")
    return matches
