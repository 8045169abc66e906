"""Per task: what is measured of one prediction, and how the pairs of a data set become one row of the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from flowkit.datasets.homography_flow import homography_flow
from flowkit.datasets.samples import FlowSample, HomographySample, MatchSample, PoseSample, Sample
from flowkit.errors import InputError
from flowkit.evaluation import metrics
from flowkit.evaluation.methods import Arrays
from flowkit.evaluation.preparation import prepared_sizes

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Task:
    """`adapt` turns the kinds of samples the task accepts into its own.

    `judge(sample, arrays)` measures one prediction, `summarise(scores of all pairs)` a data set. `means` are those of its
    values that are means over pairs.
    """

    adapt: Mapping[type, Callable[[Sample], Sample]]
    judge: Callable[[Sample, Arrays], dict[str, float]]
    summarise: Callable[[Sequence[Scores]], dict[str, float]]
    means: tuple[str, ...] = ()


# --- flow ------------------------------------------------------------------------------------------------------------


def _judge_flow(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, FlowSample)
    truth, flow = sample.flow(), arrays["uv"]
    if sample.grid is not None:
        read = metrics.flow_on_grid(flow, prepared_sizes(sample)[1], sample.grid)
        return metrics.flow_errors(np.where(np.isfinite(read).all(axis=0), read, 0), truth)
    if flow.shape != truth.shape:
        sizes = f"is {flow.shape[1:]} but its ground truth {truth.shape[1:]}"
        raise InputError(f"{sample.image0}: {sizes}; check the copy")
    scores = metrics.flow_errors(flow, truth, sample.visible() if sample.visible else None)
    if sample.extent is not None:
        scores[_FLOW_PCK] = metrics.flow_pck(flow, truth, 0.05 * sample.extent)
    if "confidence" in arrays:
        scores["ause"] = metrics.area_under_sparsification(metrics.endpoint_error(flow, truth), arrays["confidence"])
    return scores


def _summarise_flow(scores: Sequence[Scores]) -> dict[str, float]:
    pixels = [score["pixels"] for score in scores]
    predicted = [score["pixels"] * score["coverage"] for score in scores]
    row = {"epe_pooled": metrics.pooled(scores, "epe", predicted)}
    row |= {key: metrics.pooled(scores, key, pixels) for key in ("fl", "within_1", "within_3", "within_5", "coverage")}
    seen = [score for score in scores if "fl_visible" in score]
    row["fl_visible"] = metrics.pooled(seen, "fl_visible", [score["pixels_visible"] for score in seen])
    row |= {key: _mean(scores, source) for key, source in _FLOW_MEANS.items()}
    return row | ({_FLOW_PCK: _mean(scores, _FLOW_PCK)} if any(_FLOW_PCK in score for score in scores) else {})


_FLOW_MEANS = {
    "aepe": "epe",
    "aepe_visible": "epe_visible",
    "mean_within_1": "within_1",
    "mean_within_3": "within_3",
    "mean_within_5": "within_5",
    "ause": "ause",
}
"""Value of a data set -> the score of a pair that it is the mean of."""
_FLOW_PCK = "pck_0.05"


def _flow_of_homography(sample: Sample) -> Sample:
    """The same pair with the homography's flow as truth, over the pixels of image0 that land inside image1."""
    assert isinstance(sample, HomographySample)
    flow = partial(_dense_homography, sample)
    return FlowSample(sample.dataset, sample.name, sample.image0, sample.image1, flow, group=sample.group)


def _dense_homography(sample: HomographySample) -> np.ndarray:
    return homography_flow(sample.H, *prepared_sizes(sample))


# --- homography ------------------------------------------------------------------------------------------------------


def _judge_homography(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, HomographySample)
    H = _known(arrays["H"])
    scores = {"corner_error": metrics.corner_error(H, sample.H, prepared_sizes(sample)[0])}
    if sample.points0 is not None and sample.points1 is not None:
        errors = [np.inf] if H is None else metrics.transfer_errors(H, sample.points0, sample.points1)
        scores["points_error"] = float(np.mean(errors))
    return scores


def _summarise_homography(scores: Sequence[Scores]) -> dict[str, float]:
    errors = [score["corner_error"] for score in scores]
    row = {f"auc_{t}": metrics.auc(errors, t) for t in (3, 5, 10)}
    row |= {f"below_{t}": sum(error < t for error in errors) for t in (3, 5, 10)}
    row |= {f"correct_{t}": metrics.share_below(errors, t) for t in (3, 5, 10)}
    return row | {"corner_error_median": float(np.median(errors)), "points_error": _mean(scores, "points_error")}


# --- pose ------------------------------------------------------------------------------------------------------------


def _judge_pose(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, PoseSample)
    candidates = [arrays[name] for name in ("R", "R_other") if name in arrays]
    scores = {"rotation_error": min(metrics.rotation_error(_known(R), sample.T_0to1[:3, :3]) for R in candidates)}
    if not sample.rotation_only:
        scores["translation_error"] = metrics.translation_error(_known(arrays["t"]), sample.T_0to1[:3, 3])
    scores["pose_error"] = max(scores.values())
    if sample.signed:
        signed = metrics.translation_error(_known(arrays["t"]), sample.T_0to1[:3, 3], sign_fold=False)
        scores["pose_error_signed"] = max(scores["rotation_error"], signed)
    return scores


def _summarise_pose(scores: Sequence[Scores]) -> dict[str, float]:
    errors = [score["pose_error"] for score in scores]
    row = {f"auc_{t}": metrics.auc(errors, t) for t in (5, 10, 20)}
    for key in ("rotation_error", "translation_error"):
        row |= {f"{key}_median": _median(scores, key), f"{key}_below_10": metrics.share_below(_values(scores, key), 10)}
    signed = _values(scores, "pose_error_signed")
    return row | (metrics.mean_accuracies(signed) if signed else {})


_POSE_MEANS = tuple(metrics.mean_accuracies([]))


# --- matching --------------------------------------------------------------------------------------------------------


def _judge_matching(sample: Sample, arrays: Arrays) -> dict[str, float]:
    assert isinstance(sample, MatchSample)
    if "uv" in arrays:
        return _judge_dense_matching(sample, arrays["uv"])
    points0, points1 = arrays["points0"].astype(np.float64), arrays["points1"].astype(np.float64)
    scores: dict[str, float] = {"matches": len(points0)}
    if "features" in arrays:
        scores["features"] = float(np.mean(arrays["features"]))
    if sample.H is not None:
        scores |= metrics.precision(metrics.transfer_errors(sample.H, points0, points1), metrics.MMA_THRESHOLDS)
    elif sample.rigid:
        if (truth := _fundamental(sample.points0, sample.points1)) is not None:
            scores |= metrics.precision(metrics.epipolar_errors(truth, points0, points1))
        F = _known(arrays["F"])
        failed = np.full(len(sample.points0), np.inf)
        errors = failed if F is None else metrics.epipolar_errors(F, sample.points0, sample.points1)
        scores |= {"epipolar_error": float(np.mean(errors)), "labels_within_5": metrics.pck(errors, 5)}
    return scores


def _judge_dense_matching(sample: MatchSample, flow: np.ndarray) -> dict[str, float]:
    read_at = np.round(sample.points0) if sample.nearest else sample.points0
    moved = sample.points0 + metrics.sample_flow_at(flow, read_at)
    errors = np.linalg.norm(moved - sample.points1, axis=1)
    if sample.pooled_pck:
        pooled = {f"pooled_pck_{t:g}": metrics.pck(errors, t) for t in sample.pooled_pck}
        return {"points": len(errors), **pooled}
    extent = sample.extent or max(prepared_sizes(sample)[1])
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
    row = {key: _mean(scores, key) for key in _MATCHING_MEANS}
    row["epipolar_error_median"] = _median(scores, "epipolar_error")
    points = [score for score in scores if "points" in score]
    weights = [score["points"] for score in points]
    pooled = dict.fromkeys(key for score in points for key in score if key.startswith("pooled_pck_"))
    return row | {key: metrics.pooled(points, key, weights) for key in pooled}


_MATCHING_MEANS = (
    "features",
    "matches",
    *(f"precision_{t}" for t in metrics.MMA_THRESHOLDS),
    "labels_within_5",
    "pck_5",
    "pck_10",
    "pck_0.05",
    "pck_0.1",
)


def _matches_of_homography(sample: Sample) -> Sample:
    """The same pair as labelled matches: the verification points, or a lattice of image0 mapped by H."""
    assert isinstance(sample, HomographySample)
    points0, points1 = sample.points0, sample.points1
    if points0 is None or points1 is None:
        (height, width), (height1, width1) = prepared_sizes(sample)
        x, y = np.meshgrid(np.linspace(0, width - 1, 21), np.linspace(0, height - 1, 21))
        points0 = np.column_stack([x.ravel(), y.ravel()])
        points1 = metrics.warp_points(sample.H, points0)
        inside = ((points1 >= 0) & (points1 <= (width1 - 1, height1 - 1))).all(axis=1)
        points0, points1 = points0[inside], points1[inside]
    images = sample.image0, sample.image1
    return MatchSample(sample.dataset, sample.name, *images, points0, points1, H=sample.H, group=sample.group)


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
    "flow": Task(
        {FlowSample: _same, HomographySample: _flow_of_homography}, _judge_flow, _summarise_flow, tuple(_FLOW_MEANS)
    ),
    "homography": Task({HomographySample: _same}, _judge_homography, _summarise_homography),
    "pose": Task({PoseSample: _same}, _judge_pose, _summarise_pose, _POSE_MEANS),
    "matching": Task(
        {MatchSample: _same, HomographySample: _matches_of_homography},
        _judge_matching,
        _summarise_matching,
        _MATCHING_MEANS,
    ),
}
