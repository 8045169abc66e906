"""Homographies and fundamental matrices by OpenCV's USAC_MAGSAC (Barath et al., MAGSAC++, CVPR 2020).

Homographies are then fitted anew to the matches near them (`estimators.tukey`): on rendered pairs that leaves a third of the
error that OpenCV's own polishing does.

OpenCV raises on fewer points than the minimum, returns None for collinear ones and survives NaN only by luck, so the input is
cleaned first and the output is judged: what comes back is a model that can be used, or a status that says why there is none.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from flowkit.estimators.points import clean, collinear, distinct
from flowkit.estimators.significance import significant
from flowkit.estimators.tukey import refit_homography
from flowkit.types import Fit, Status

ESTIMATOR = "opencv-usac-magsac"
ITERATIONS = 10_000
CONFIDENCE = 0.99999
REFIT = 0.5
"""Of the inlier bound: so far off a match has no say in the last fit."""
MIN_REFIT = 8
"""Matches that it needs."""


def fit_homography(
    points0: np.ndarray,
    points1: np.ndarray,
    *,
    threshold: float = 3.0,
    seed: int = 0,
    min_inliers: int = 8,
    iterations: int = ITERATIONS,
    refit: bool = True,
) -> Fit:
    """H with x1 ~ H x0 from (N, 2) pixel points of both images; `threshold` is the inlier bound in pixels.

    `refit` by least squares to the matches within half of it; without, the answer is OpenCV's own.

    Degenerate when the inliers are (nearly) collinear or the matrix folds or mirrors the plane on them; no_overlap when
    fewer than `min_inliers` distinct points agree. Never raises on bad geometry.
    """
    import cv2

    def usac(p0: np.ndarray, p1: np.ndarray) -> np.ndarray | None:
        if collinear(p0, 1e-3) or collinear(p1, 1e-3):
            return None
        params = _usac_params(cv2, threshold, seed, iterations)
        matrix, _ = cv2.findHomography(p0, p1, params)
        return matrix

    points0, points1, finite = clean(points0, points1)
    residuals = np.full(len(finite), np.nan)
    if distinct(points0[finite], points1[finite]) < max(4, min_inliers):
        return _failure(Status.TOO_FEW_MATCHES, residuals, threshold)
    matrix = _call(cv2, usac, points0[finite], points1[finite])
    if matrix is None or abs(matrix[2, 2]) < 1e-12 or not np.isfinite(matrix).all():
        return _failure(Status.DEGENERATE, residuals, threshold)
    matrix = matrix / matrix[2, 2]
    if refit:
        matrix = _refitted(matrix, points0[finite], points1[finite], REFIT * threshold)
    residuals[finite] = transfer_error(matrix, points0[finite], points1[finite])
    inliers = residuals <= threshold
    if distinct(points0[inliers], points1[inliers]) < min_inliers or not significant(
        points0, points1, inliers, sample=4, threshold=threshold, line=False
    ):
        return _failure(Status.NO_OVERLAP, residuals, threshold)
    if (
        collinear(points0[inliers], 0.02)
        or collinear(points1[inliers], 0.02)
        or not keeps_orientation(matrix, points0[inliers])
    ):
        return _failure(Status.DEGENERATE, residuals, threshold)
    return Fit(matrix, inliers, Status.OK, residuals, threshold, ESTIMATOR)


def fit_fundamental(
    points0: np.ndarray,
    points1: np.ndarray,
    *,
    threshold: float = 1.0,
    seed: int = 0,
    min_inliers: int = 12,
    iterations: int = ITERATIONS,
) -> Fit:
    """F with x1' F x0 = 0 (|F| = 1) from (N, 2) pixel points; `threshold` bounds the Sampson distance in pixels."""
    import cv2

    def usac(p0: np.ndarray, p1: np.ndarray) -> np.ndarray | None:
        matrix, _ = cv2.findFundamentalMat(p0, p1, _usac_params(cv2, threshold, seed, iterations))
        return None if matrix is None or matrix.shape != (3, 3) else matrix

    points0, points1, finite = clean(points0, points1)
    residuals = np.full(len(finite), np.nan)
    if distinct(points0[finite], points1[finite]) < max(8, min_inliers):
        return _failure(Status.TOO_FEW_MATCHES, residuals, threshold)
    matrix = None
    if not (collinear(points0[finite], 1e-3) or collinear(points1[finite], 1e-3)):
        matrix = _call(cv2, usac, points0[finite], points1[finite])
    if matrix is None or not np.isfinite(matrix).all() or np.linalg.norm(matrix) < 1e-12:
        return _failure(Status.DEGENERATE, residuals, threshold)
    matrix = matrix / np.linalg.norm(matrix)
    residuals[finite] = sampson_error(matrix, points0[finite], points1[finite])
    inliers = residuals <= threshold
    if distinct(points0[inliers], points1[inliers]) < min_inliers or not significant(
        points0, points1, inliers, sample=7, threshold=threshold, line=True
    ):
        return _failure(Status.NO_OVERLAP, residuals, threshold)
    if collinear(points0[inliers], 0.02) or collinear(points1[inliers], 0.02):
        return _failure(Status.DEGENERATE, residuals, threshold)
    return Fit(matrix, inliers, Status.OK, residuals, threshold, ESTIMATOR)


def transfer_error(matrix: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(N,) symmetric transfer error in pixels: the larger of the distances in the two images; inf behind the plane."""
    return np.maximum(
        _distance(matrix, points0, points1),
        _distance(np.linalg.pinv(matrix), points1, points0),
    )


def sampson_error(matrix: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(N,) Sampson distance in pixels of x1' F x0 (first-order geometric error, Hartley & Zisserman eq. 11.9)."""
    x0 = np.column_stack([points0, np.ones(len(points0))])
    x1 = np.column_stack([points1, np.ones(len(points1))])
    line1, line0 = x0 @ matrix.T, x1 @ matrix
    numerator = np.abs((x1 * line1).sum(1))
    return numerator / np.sqrt(np.maximum((line1[:, :2] ** 2).sum(1) + (line0[:, :2] ** 2).sum(1), 1e-300))


def keeps_orientation(matrix: np.ndarray, points: np.ndarray) -> bool:
    """True when the matrix neither mirrors the plane nor sends any of `points` through infinity."""
    w = np.column_stack([points, np.ones(len(points))]) @ matrix[2]
    # The Jacobian's determinant of x -> H x is det(H) / w^3.
    return bool((np.sign(w) == np.sign(w[0])).all() and np.linalg.det(matrix) * w[0] > 0)


def _refitted(matrix: np.ndarray, points0: np.ndarray, points1: np.ndarray, bound: float) -> np.ndarray:
    """By least squares on the matches within `bound`; the matrix as it is where they are too few."""
    import torch

    from flowkit.geometry.homography import normalise

    points = torch.from_numpy(points0), torch.from_numpy(points1)
    refitted = refit_homography(torch.from_numpy(matrix), *points, bound, least=MIN_REFIT)
    if refitted is None:
        return matrix
    found = normalise(refitted).numpy()
    return found if np.isfinite(found).all() else matrix


def _usac_params(cv2: ModuleType, threshold: float, seed: int, iterations: int) -> Any:
    params = cv2.UsacParams()
    params.threshold = float(threshold)
    params.confidence = CONFIDENCE
    params.maxIterations = int(iterations)
    params.randomGeneratorState = int(seed) & 0x7FFFFFFF
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.sampler = cv2.SAMPLING_UNIFORM
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations = 10
    params.loSampleSize = 50
    params.final_polisher = cv2.MAGSAC
    params.final_polisher_iterations = 10
    params.isParallel = False
    return params


def _call(
    cv2: ModuleType,
    function: Callable[[np.ndarray, np.ndarray], np.ndarray | None],
    points0: np.ndarray,
    points1: np.ndarray,
) -> np.ndarray | None:
    """What the solver says, or None where OpenCV gives up with an exception of its own."""
    try:
        return function(points0, points1)
    except cv2.error:
        return None


def _distance(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    projected = np.column_stack([source, np.ones(len(source))]) @ matrix.T
    w = projected[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(projected[:, :2] / w[:, None] - target, axis=1)
    return np.where(np.isfinite(error), error, np.inf)


def _failure(status: Status, residuals: np.ndarray, threshold: float) -> Fit:
    return Fit(None, np.zeros(len(residuals), bool), status, residuals, threshold, ESTIMATOR)
