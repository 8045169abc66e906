"""Per task: what is measured of one prediction, and how the pairs of a data set become one row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.samples import FlowSample, HomographySample, MatchSample, PoseSample, Sample
from flowkit.errors import InputError
from flowkit.evaluation import metrics
from flowkit.evaluation.methods import Arrays
from flowkit.io.images import image_header

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """`adapt` turns the kinds of samples the task accepts into its own.

    `judge(sample, arrays)` measures one prediction, `summarise(scores of all pairs)` a data set.
    """

    adapt: Mapping[type, Callable[[Sample], Sample]]
    judge: Callable[[Sample, Arrays], dict[str, float]]
    summarise: Callable[[Sequence[Scores]], dict[str, float]]


# --- flow ------------------------------------------------------------------------------------------------------------


def _judge_flow(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, FlowSample)
    truth, flow = sample.flow(), arrays["uv"]
    if flow.shape != truth.shape:
        sizes = f"is {flow.shape[1:]} but its ground truth {truth.shape[1:]}"
        raise InputError(f"{sample.image0}: {sizes}; check the copy")
    scores = metrics.flow_errors(flow, truth, sample.visible() if sample.visible else None)
    if "confidence" in arrays:
        scores["ause"] = metrics.area_under_sparsification(metrics.endpoint_error(flow, truth), arrays["confidence"])
    return scores


def _summarise_flow(scores: Sequence[Scores]) -> dict[str, float]:
    pixels = [score["pixels"] for score in scores]
    predicted = [score["pixels"] * score["coverage"] for score in scores]
    row = {"aepe": _mean(scores, "epe"), "epe_pooled": metrics.pooled(scores, "epe", predicted)}
    row |= {key: metrics.pooled(scores, key, pixels) for key in ("fl", "within_1", "within_3", "within_5", "coverage")}
    return row | {key: _mean(scores, source) for key, source in (("aepe_visible", "epe_visible"), ("ause", "ause"))}


def _flow_of_homography(sample: Sample) -> Sample:
    """The same pair with the homography's flow as truth, over the pixels of image0 that land inside image1."""
    assert isinstance(sample, HomographySample)
    flow = partial(_dense_homography, sample.H, sample.image0, sample.image1)
    return FlowSample(sample.dataset, sample.name, sample.image0, sample.image1, flow)


def _dense_homography(H: np.ndarray, image0: Path, image1: Path) -> np.ndarray:
    import torch

    from flowkit.geometry.flow import flow_from_homography
    from flowkit.geometry.grids import flow_targets

    size0, (height1, width1) = image_header(image0), image_header(image1)
    flow = flow_from_homography(torch.from_numpy(H), size0)
    x, y = flow_targets(flow).unbind(-1)
    flow[:, ~((x >= 0) & (x <= width1 - 1) & (y >= 0) & (y <= height1 - 1))] = torch.nan
    return flow.numpy()


# --- homography ------------------------------------------------------------------------------------------------------


def _judge_homography(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, HomographySample)
    H = _known(arrays["H"])
    scores = {"corner_error": metrics.corner_error(H, sample.H, image_header(sample.image0))}
    if sample.points0 is not None and sample.points1 is not None:
        errors = [np.inf] if H is None else metrics.transfer_errors(H, sample.points0, sample.points1)
        scores["points_error"] = float(np.mean(errors))
    return scores


def _summarise_homography(scores: Sequence[Scores]) -> dict[str, float]:
    errors = [score["corner_error"] for score in scores]
    row = {f"auc_{t}": metrics.auc(errors, t) for t in (3, 5, 10)}
    row |= {f"below_{t}": sum(error < t for error in errors) for t in (3, 5, 10)}
    return row | {"corner_error_median": float(np.median(errors)), "points_error": _mean(scores, "points_error")}


# --- pose ------------------------------------------------------------------------------------------------------------


def _judge_pose(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, PoseSample)
    scores = {"rotation_error": metrics.rotation_error(_known(arrays["R"]), sample.T_0to1[:3, :3])}
    if not sample.rotation_only:
        scores["translation_error"] = metrics.translation_error(_known(arrays["t"]), sample.T_0to1[:3, 3])
    return scores | {"pose_error": max(scores.values())}


def _summarise_pose(scores: Sequence[Scores]) -> dict[str, float]:
    errors = [score["pose_error"] for score in scores]
    row = {f"auc_{t}": metrics.auc(errors, t) for t in (5, 10, 20)}
    return row | {f"{key}_median": _median(scores, key) for key in ("rotation_error", "translation_error")}


# --- matching --------------------------------------------------------------------------------------------------------


def _judge_matching(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, MatchSample)
    if "uv" in arrays:
        return _judge_dense_matching(sample, arrays["uv"])
    points0, points1 = arrays["points0"].astype(np.float64), arrays["points1"].astype(np.float64)
    scores: dict[str, float] = {"matches": len(points0)}
    if sample.H is not None:
        scores |= metrics.precision(metrics.transfer_errors(sample.H, points0, points1))
    elif sample.rigid:
        if (truth := _fundamental(sample.points0, sample.points1)) is not None:
            scores |= metrics.precision(metrics.epipolar_errors(truth, points0, points1))
        F = _known(arrays["F"])
        failed = np.full(len(sample.points0), np.inf)
        errors = failed if F is None else metrics.epipolar_errors(F, sample.points0, sample.points1)
        scores |= {"epipolar_error": float(np.mean(errors)), "labels_within_5": metrics.pck(errors, 5)}
    return scores


def _judge_dense_matching(sample: MatchSample, flow: np.ndarray) -> dict[str, float]:
    moved = sample.points0 + metrics.sample_flow_at(flow, sample.points0)
    errors = np.linalg.norm(moved - sample.points1, axis=1)
    extent = sample.extent or max(image_header(sample.image1))
    scores = {f"pck_{t}": metrics.pck(errors, t) for t in (5, 10)}
    return scores | {f"pck_{a}": metrics.pck(errors, a * extent) for a in (0.05, 0.1)}


def _fundamental(points0: np.ndarray, points1: np.ndarray) -> np.ndarray | None:
    """Least-squares F (normalised eight points) through all labels; None for fewer than eight."""
    import cv2

    if len(points0) < 8:
        return None
    F, _ = cv2.findFundamentalMat(points0, points1, cv2.FM_8POINT)
    return F if F is not None and F.shape == (3, 3) else None


def _summarise_matching(scores: Sequence[Scores]) -> dict[str, float]:
    sparse = ("matches", "precision_1", "precision_3", "precision_5", "labels_within_5")
    means = (*sparse, "pck_5", "pck_10", "pck_0.05", "pck_0.1")
    return {key: _mean(scores, key) for key in means} | {"epipolar_error_median": _median(scores, "epipolar_error")}


def _matches_of_homography(sample: Sample) -> Sample:
    """The same pair as labelled matches: the verification points, or a lattice of image0 mapped by H."""
    assert isinstance(sample, HomographySample)
    points0, points1 = sample.points0, sample.points1
    if points0 is None or points1 is None:
        (height, width), (height1, width1) = image_header(sample.image0), image_header(sample.image1)
        x, y = np.meshgrid(np.linspace(0, width - 1, 21), np.linspace(0, height - 1, 21))
        points0 = np.column_stack([x.ravel(), y.ravel()])
        points1 = metrics.warp_points(sample.H, points0)
        inside = ((points1 >= 0) & (points1 <= (width1 - 1, height1 - 1))).all(axis=1)
        points0, points1 = points0[inside], points1[inside]
    return MatchSample(sample.dataset, sample.name, sample.image0, sample.image1, points0, points1, H=sample.H)


# --- all -------------------------------------------------------------------------------------------------------------


def _same(sample: Sample) -> Sample:
    return sample


def _known(array: np.ndarray) -> np.ndarray | None:
    return array if np.isfinite(array).all() else None


def _values(scores: Sequence[Scores], key: str) -> list[float]:
    return [score[key] for score in scores if key in score and not np.isnan(score[key])]


def _mean(scores: Sequence[Scores], key: str) -> float:
    values = _values(scores, key)
    return float(np.mean(values)) if values else float("nan")


def _median(scores: Sequence[Scores], key: str) -> float:
    values = _values(scores, key)
    return float(np.median(values)) if values else float("nan")


TASKS: dict[str, Task] = {
    "flow": Task({FlowSample: _same, HomographySample: _flow_of_homography}, _judge_flow, _summarise_flow),
    "homography": Task({HomographySample: _same}, _judge_homography, _summarise_homography),
    "pose": Task({PoseSample: _same}, _judge_pose, _summarise_pose),
    "matching": Task(
        {MatchSample: _same, HomographySample: _matches_of_homography}, _judge_matching, _summarise_matching
    ),
}
