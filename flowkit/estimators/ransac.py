"""Homographies by RANSAC in batches (RANSAC-Flow, Shen et al., ECCV 2020, section 3.1): thousands of samples at once, in torch.

Samples are drawn on the CPU by a generator of their own, so the same seed draws the same ones whatever the device. Solving
and scoring happen in coordinates that run from -1 to 1 over each picture, where official RANSAC-Flow works, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowkit.estimators.points import clean, collinear, distinct
from flowkit.estimators.significance import significant
from flowkit.estimators.tukey import refit_homography
from flowkit.types import Fit, Size, Status

if TYPE_CHECKING:
    from torch import Tensor

ESTIMATOR = "batched-ransac"
ITERATIONS = 10_000
LEAST_DETERMINANT = 1e-6
"""Of a matrix of unit norm, in coordinates from -1 to 1: below it the plane collapses onto a line."""
CHUNK_ELEMENTS = 4_000_000
"""Samples times matches that are scored at a time: 48 MB."""

Threshold = float | tuple[float, float]
"""Pixels of image1: the radius of a disc, or the (x, y) half axes of an ellipse."""


def official_threshold(size1: Size, bound: float = 0.05) -> tuple[float, float]:
    """RANSAC-Flow's inlier bound, which it gives where image1 of that (height, width) runs from -1 to 1, in pixels (x, y)."""
    return bound * size1[1] / 2, bound * size1[0] / 2


def fit_homography_ransac(
    points0: np.ndarray,
    points1: np.ndarray,
    *,
    threshold: Threshold = 3.0,
    seed: int = 0,
    iterations: int = ITERATIONS,
    polish: bool = True,
    min_inliers: int = 8,
    size0: Size | None = None,
    size1: Size | None = None,
    device: str = "cpu",
    chunk: int | None = None,
) -> Fit:
    """H with x1 ~ H x0 from (N, 2) pixel points; for RANSAC-Flow image0 is the target, whose grid it samples the source on.

    The error is one-sided, |x1 - H x0| in image1, and a point that H sends through infinity or turns over is an outlier.
    Of `iterations` draws of four, those with a match drawn twice are left out; the sample with the most inliers wins, the
    first of equals. `polish` then refits it (`estimators.tukey`); without it, with `official_threshold` and
    the sizes of the images (else the points' extent is taken for them) these are the official rules. `chunk` samples are
    scored at a time (None: as memory allows). `residuals` are one-sided, too.

    Degenerate when the inliers are (nearly) collinear or no sample has an orientation-preserving matrix; no_overlap when
    those that agree in both directions are fewer than `min_inliers` distinct ones, or no more than chance explains. Never
    raises on bad geometry; ValueError for a threshold or a number of iterations that is not positive.
    """
    import torch

    half_axes = np.broadcast_to(np.asarray(threshold, np.float64), (2,))
    if not (half_axes > 0).all() or iterations < 1:
        raise ValueError(f"threshold and iterations must be positive, got {threshold} and {iterations}")
    radius = float(np.sqrt(half_axes.prod()))
    points0, points1, finite = clean(points0, points1)
    residuals = np.full(len(finite), np.nan)

    def failure(status: Status) -> Fit:
        return Fit(None, np.zeros(len(finite), bool), status, residuals, radius, ESTIMATOR)

    known0, known1 = points0[finite], points1[finite]
    if distinct(known0, known1) < max(4, min_inliers):
        return failure(Status.TOO_FEW_MATCHES)
    if collinear(known0, 1e-3) or collinear(known1, 1e-3):
        return failure(Status.DEGENERATE)
    to_unit0, to_unit1 = _to_unit(known0, size0), _to_unit(known1, size1)
    unit0 = torch.as_tensor(known0 * to_unit0[0] + to_unit0[1], device=device)
    unit1 = torch.as_tensor(known1 * to_unit1[0] + to_unit1[1], device=device)
    bound = torch.as_tensor(half_axes * to_unit1[0], device=device)
    samples = draw(len(known0), iterations, seed).to(device)
    best = _best(unit0, unit1, samples, bound, chunk or max(1, CHUNK_ELEMENTS // len(known0)))
    if best is None:
        return failure(Status.DEGENERATE)
    if polish:
        refitted = refit_homography(best, unit0, unit1, bound)
        best = best if refitted is None else refitted
    matrix = np.linalg.inv(_affine(*to_unit1)) @ best.cpu().numpy() @ _affine(*to_unit0)
    errors = _errors(matrix, known0, known1)
    residuals[finite] = np.linalg.norm(errors, axis=1)
    inliers = np.zeros(len(finite), bool)
    inliers[finite] = np.linalg.norm(errors / half_axes, axis=1) <= 1
    # A matrix that sends all of image0 to one spot has inliers, too, but it does not send that spot back to them.
    evidence = inliers.copy()
    back = _errors(np.linalg.pinv(matrix), known1, known0)
    evidence[finite] &= np.linalg.norm(back * to_unit0[0] / (half_axes * to_unit1[0]), axis=1) <= 1
    if distinct(points0[evidence], points1[evidence]) < min_inliers or not significant(
        points0, points1, evidence, sample=4, threshold=radius, line=False
    ):
        return failure(Status.NO_OVERLAP)
    if collinear(points0[inliers], 0.02) or collinear(points1[inliers], 0.02) or abs(matrix[2, 2]) < 1e-12:
        return failure(Status.DEGENERATE)
    return Fit(matrix / matrix[2, 2], inliers, Status.OK, residuals, radius, ESTIMATOR)


def draw(count: int, iterations: int, seed: int) -> Tensor:
    """(M, 4) int64: `iterations` draws of four of `count` matches with replacement, less those that repeat one."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(count, (iterations, 4), generator=generator)
    ordered = draws.sort(dim=1).values
    return draws[(ordered[:, 1:] != ordered[:, :-1]).all(dim=1)]


def solve_four(points0: Tensor, points1: Tensor) -> Tensor:
    """(..., 3, 3): the matrices with x1 ~ H x0 through four points (..., 4, 2) of both pictures, norm 1 and det >= 0.

    In closed form: the adjugate of three points takes the fourth to its coordinates in their frame, (l1, l2, l3) and, in the
    other picture, (m1, m2, m3); H = sum of (mi / li) x1_i (x0_j cross x0_k)^T, here multiplied by l1 l2 l3. It is the null
    vector of the direct linear transform's 8 x 9 matrix (Hartley and Zisserman, 2nd ed., eq. 4.3), without its SVD. Three
    points on a line give a matrix of determinant 0, or NaN.
    """
    import torch

    p, q = (torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) for points in (points0, points1))
    cross0, cross1 = _opposite(p[..., :3, :]), _opposite(q[..., :3, :])
    own = (cross0 * p[..., 3:, :]).sum(-1)
    other = (cross1 * q[..., 3:, :]).sum(-1)
    weights = other * own.roll(1, -1) * own.roll(2, -1)
    H = (weights[..., None] * q[..., :3, :]).mT @ cross0
    H = H / torch.linalg.matrix_norm(H)[..., None, None]
    return H * torch.where(determinant(H) < 0, -1, 1)[..., None, None]


def determinant(H: Tensor) -> Tensor:
    """(...): of matrices (..., 3, 3), by cofactors; as exact as LAPACK's for matrices of norm 1, and many times faster."""
    a, b, c = H.unbind(-2)
    return (a * b.cross(c, dim=-1)).sum(-1)


def count_inliers(H: Tensor, points0: Tensor, points1: Tensor, bound: Tensor) -> Tensor:
    """(M,) int64: of the points (N, 2), how many each H (M, 3, 3) of positive determinant maps within `bound` (2,), in front.

    Nothing is divided: |x1 - H x0| < t is |w x1 - (H x0)_xy| < t w where w > 0. Computed in float32.
    """
    import torch

    x = torch.cat([points0, torch.ones_like(points0[:, :1])], dim=1)
    none = torch.zeros_like(x)
    # Row by row linear in the nine elements of H: one matrix product gives both errors and w.
    error_x = torch.cat([x, none, -points1[:, :1] * x], dim=1) / bound[0]
    error_y = torch.cat([none, x, -points1[:, 1:] * x], dim=1) / bound[1]
    depth = torch.cat([none, none, x], dim=1)
    flat = H.flatten(1).float()
    squared = (flat @ error_x.float().T).square_().add_((flat @ error_y.float().T).square_())
    return (squared < (flat @ depth.float().T).clamp_(min=0).square_()).sum(dim=1)


def _best(points0: Tensor, points1: Tensor, samples: Tensor, bound: Tensor, chunk: int) -> Tensor | None:
    """The (3, 3) matrix of the sample with the most inliers, the first of equals; None where none of them is a homography."""
    import torch

    best, most = None, 0
    for rows in samples.split(chunk):
        H = solve_four(points0[rows], points1[rows])
        H = H[determinant(H) > LEAST_DETERMINANT]  # NaN is not, either
        if not len(H):
            continue
        counts = count_inliers(H, points0, points1, bound)
        most_here = int(counts.max())
        if most_here > most:
            best, most = H[int(torch.nonzero(counts == most_here)[0])], most_here
    return best


def _opposite(points: Tensor) -> Tensor:
    """(..., 3, 3): for each of three homogeneous points (..., 3, 3) the line through the other two, in turn."""
    import torch

    return torch.linalg.cross(points.roll(-1, -2), points.roll(-2, -2), dim=-1)


def _to_unit(points: np.ndarray, size: Size | None) -> tuple[np.ndarray, np.ndarray]:
    """Scale (2,) and shift (2,) that take a picture of that size, or the points' extent, to -1 ... 1."""
    if size is not None:
        low, high = np.full(2, -0.5), np.array([size[1], size[0]]) - 0.5
    else:
        low, high = points.min(axis=0), points.max(axis=0)
    scale = 2 / np.maximum(high - low, 1e-9)
    return scale, -1 - low * scale


def _affine(scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    return np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]], [0, 0, 1]])


def _errors(matrix: np.ndarray, points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(N, 2) pixels of image1; inf for what is behind the plane."""
    mapped = np.column_stack([points0, np.ones(len(points0))]) @ (matrix * np.sign(np.linalg.det(matrix))).T
    front = mapped[:, 2:] > 0
    return np.where(front, mapped[:, :2] / np.where(front, mapped[:, 2:], 1) - points1, np.inf)
