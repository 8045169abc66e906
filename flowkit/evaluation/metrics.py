"""The metrics, each with its exact definition (docs/bench.md). Arrays in, numbers out; a failure is an error of infinity.

Shares are in [0, 1]; tables show them in percent. Angles are in degrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flowkit.types import Size

# --- flow ------------------------------------------------------------------------------------------------------------


def endpoint_error(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(H, W) Euclidean distance of two (2, H, W) flows, NaN where either is unknown."""
    return np.linalg.norm(flow.astype(np.float64) - truth, axis=0)


def flow_errors(flow: np.ndarray, truth: np.ndarray, visible: np.ndarray | None = None) -> dict[str, float]:
    """What is measured of one predicted flow (2, H, W) against the truth (2, H, W), NaN = unknown in both.

    `epe` is the mean over the pixels that have truth and a prediction, infinite when there is none, NaN when none has truth;
    `epe_visible` the same over `visible` (H, W) pixels. Over all `pixels` with truth: `coverage`, the share that has a
    prediction, `fl`, the share with an error above 3 px and above 5 % of the true length, `within_N`, the share with an error
    of at most N px. There a pixel without prediction is wrong. `fl_visible` is `fl` over the `pixels_visible`.
    """
    error = endpoint_error(flow, truth)
    known = np.isfinite(truth).all(axis=0)
    with np.errstate(invalid="ignore"):
        right = ~((error > 3) & (error > 0.05 * np.linalg.norm(truth, axis=0))) & np.isfinite(error)
        scores = {f"within_{n}": _share(error <= n, known) for n in (1, 3, 5)}
    scores |= {
        "pixels": int(known.sum()),
        "epe": _mean_known(error, known),
        "coverage": _share(np.isfinite(error), known),
        "fl": 1 - _share(right, known),
    }
    if visible is not None:
        seen = known & visible
        scores["epe_visible"] = _mean_known(error, seen)
        scores |= {"pixels_visible": int(seen.sum()), "fl_visible": 1 - _share(right, seen)}
    return scores


def flow_on_grid(flow: np.ndarray, size1: Size, size: Size) -> np.ndarray:
    """A flow (2, h, w) into an image of `size1`, read on a grid of `size` (2, H, W) in its pixels; NaN stays unknown.

    Of both images the centres of the corner pixels fall on those of the grid, as where coordinates run from -1 to 1.
    """
    height, width = size
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(width), np.arange(height)))
    grid = np.column_stack([x, y]).astype(np.float64)
    last, last0, last1 = (np.array([w - 1, h - 1], np.float64) for h, w in (size, flow.shape[1:], size1))
    points = grid * last0 / last
    moved = (points + sample_flow_at(flow, points)) * last / last1
    return (moved - grid).T.reshape(2, height, width)


def flow_pck(flow: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    """Share of the pixels with truth whose error is at most `threshold` pixels; one without prediction is wrong."""
    with np.errstate(invalid="ignore"):
        return _share(endpoint_error(flow, truth) <= threshold, np.isfinite(truth).all(axis=0))


def area_under_sparsification(error: np.ndarray, confidence: np.ndarray, steps: int = 20) -> float:
    """AUSE: how much worse than the oracle the confidence orders the pixels, 0 = as well as the errors themselves.

    The mean error of what is left is recorded while 0/steps .. (steps-1)/steps of the pixels are removed, the least confident
    first, divided by the mean error of all; the result is the mean difference to the same curve with the largest errors
    removed first. Pixels with an unknown error or confidence are left out.
    """
    known = np.isfinite(error) & np.isfinite(confidence)
    errors, confidences = error[known].astype(np.float64), confidence[known]
    if errors.size == 0:
        return float("nan")
    if not errors.any():
        return 0.0
    kept = errors.size - (errors.size * np.arange(steps) // steps)
    curves = (
        _running_mean(errors[order])[kept - 1]
        for order in (np.argsort(-confidences, kind="stable"), np.argsort(errors))
    )
    by_confidence, by_error = curves
    return float((by_confidence - by_error).mean() / errors.mean())


def _running_mean(values: np.ndarray) -> np.ndarray:
    return np.cumsum(values) / np.arange(1, values.size + 1)


def _mean_known(error: np.ndarray, among: np.ndarray) -> float:
    predicted = error[among & np.isfinite(error)]
    return float(predicted.mean()) if predicted.size else float("inf") if among.any() else float("nan")


def _share(right: np.ndarray, among: np.ndarray) -> float:
    return float(right[among].mean()) if among.any() else float("nan")


# --- points ----------------------------------------------------------------------------------------------------------


def pck(errors: np.ndarray, threshold: float) -> float:
    """Percentage of correct keypoints, as a share: errors of at most `threshold`; NaN (no prediction) is wrong."""
    with np.errstate(invalid="ignore"):
        return float(np.mean(errors <= threshold)) if errors.size else float("nan")


def sample_flow_at(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) vectors of a (2, H, W) flow at (N, 2) points by bilinear interpolation; NaN where a neighbour is unknown.

    At the centre of a pixel that pixel alone counts. Points beyond the border take the border's value.
    """
    height, width = flow.shape[1:]
    x, y = np.clip(points[:, 0], 0, width - 1), np.clip(points[:, 1], 0, height - 1)
    x0, y0, x1, y1 = (each.astype(int) for each in (np.floor(x), np.floor(y), np.ceil(x), np.ceil(y)))
    a, b = x - x0, y - y0
    upper = (1 - a) * flow[:, y0, x0] + a * flow[:, y0, x1]
    lower = (1 - a) * flow[:, y1, x0] + a * flow[:, y1, x1]
    return ((1 - b) * upper + b * lower).T


# --- homography ------------------------------------------------------------------------------------------------------


def warp_points(H: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) points through the 3x3 homography; NaN for a point that goes to infinity."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ np.asarray(H, np.float64).T
    with np.errstate(divide="ignore", invalid="ignore"):
        warped = mapped[:, :2] / mapped[:, 2:]
    return np.where(np.isfinite(warped), warped, np.nan)


def corner_error(H: np.ndarray | None, H_true: np.ndarray, size0: Size) -> float:
    """Mean distance, in image1's pixels, of image0's four corner pixels under both homographies; infinite for None."""
    if H is None:
        return float("inf")
    height, width = size0
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
    distances = np.linalg.norm(warp_points(H, corners) - warp_points(H_true, corners), axis=1)
    return _failure_if_unknown(float(distances.mean()))


def transfer_errors(H: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(N,) distances |H p0 - p1| in image1's pixels."""
    return np.linalg.norm(warp_points(H, points0) - points1, axis=1)


# --- pose ------------------------------------------------------------------------------------------------------------


def rotation_error(R: np.ndarray | None, R_true: np.ndarray) -> float:
    """Angle of R R_true^T in degrees; infinite for None."""
    if R is None:
        return float("inf")
    # Through the chord, |R - R_true| = sqrt(8) sin(angle / 2): arccos of the trace has no digits left near 0.
    chord = np.linalg.norm(np.asarray(R, np.float64) - R_true) / np.sqrt(8)
    return _failure_if_unknown(float(np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))))


def translation_error(t: np.ndarray | None, t_true: np.ndarray, sign_fold: bool = True) -> float:
    """Angle between two directions in degrees; infinite for None.

    With `sign_fold` t and -t are the same, min(e, 180 - e), as SuperGlue and LoFTR count; YFCC's protocol does not fold.
    """
    if t is None:
        return float("inf")
    a, b = np.ravel(t).astype(np.float64), np.ravel(t_true).astype(np.float64)
    error = float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))
    return _failure_if_unknown(min(error, 180 - error) if sign_fold else error)


def pose_error(R: np.ndarray | None, t: np.ndarray | None, T_true: np.ndarray, sign_fold: bool = True) -> float:
    """The larger of the rotation's and the translation's error in degrees."""
    return max(rotation_error(R, T_true[:3, :3]), translation_error(t, T_true[:3, 3], sign_fold))


# --- epipolar geometry and matches -----------------------------------------------------------------------------------


def epipolar_errors(F: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(N,) mean of the two distances of each point to the epipolar line of its partner, in pixels (x1' F x0 = 0)."""
    h0, h1 = (np.column_stack([points, np.ones(len(points))]) for points in (points0, points1))
    lines1, lines0 = h0 @ F.T, h1 @ F
    residual = np.abs((h1 * lines1).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (residual / np.linalg.norm(lines1[:, :2], axis=1) + residual / np.linalg.norm(lines0[:, :2], axis=1)) / 2


MMA_THRESHOLDS = tuple(range(1, 11))
"""Pixels at which the mean matching accuracy is reported (D2-Net's protocol)."""


def precision(errors: np.ndarray, thresholds: Sequence[float] = (1, 3, 5)) -> dict[str, float]:
    """Share of matches with an error of at most each threshold; 0 when there is no match."""
    return {f"precision_{t:g}": pck(errors, t) if errors.size else 0.0 for t in thresholds}


# --- over a data set -------------------------------------------------------------------------------------------------


def auc(errors: Sequence[float], threshold: float) -> float:
    """Area under the recall-error curve up to `threshold`, divided by it, as SuperGlue, LoFTR and glue-factory compute it.

    The sorted errors e_1 .. e_n are joined by straight lines through (0, 0), (e_i, i / n); at the threshold the recall of
    the last error below it is kept. NaN counts as infinite.
    """
    if len(errors) == 0:
        return float("nan")
    values = np.sort(np.nan_to_num(np.asarray(errors, np.float64), nan=np.inf))
    below = values[values < threshold]
    x = np.concatenate([[0.0], below, [threshold]])
    recall = np.arange(below.size + 1) / values.size
    return float(np.trapezoid(np.append(recall, recall[-1]), x) / threshold)


def share_below(errors: Sequence[float], threshold: float) -> float:
    """Share of errors below the threshold."""
    return float(np.mean([error < threshold for error in errors])) if len(errors) else float("nan")


def mean_accuracies(errors: Sequence[float]) -> dict[str, float]:
    """`acc_5`, 10, 15 and 20, shares of errors below so many degrees, and their means up to 5, 10 and 20: `map_5`, 10, 20.

    OANet's (Zhang et al., ICCV 2019) mean average precision in bins of 5 degrees, as RANSAC-Flow reports it.
    """
    accuracies = {t: share_below(errors, t) for t in (5, 10, 15, 20)}
    means = {f"map_{up_to}": float(np.mean([a for t, a in accuracies.items() if t <= up_to])) for up_to in (5, 10, 20)}
    return means | {f"acc_{t}": accuracy for t, accuracy in accuracies.items()}


def pooled(scores: Sequence[Mapping[str, float]], key: str, weight: Sequence[float]) -> float:
    """Mean of `key` over all pixels (or points) of all pairs: each pair counts by its `weight`, their number."""
    parts = [(score[key], w) for score, w in zip(scores, weight, strict=True) if w > 0]
    total = sum(w for _, w in parts)
    return sum(value * w for value, w in parts) / total if total else float("nan")


def _failure_if_unknown(error: float) -> float:
    return float(error) if np.isfinite(error) else float("inf")
