"""Dense refinement of a homography: image1 is brought onto image0, DIS measures what is left, and the matrix follows.

Few matches in one corner leave the other corners free; the flow of the aligned pair has a say everywhere. Every round
warps by the newest matrix, keeps the flow that survives the forward-backward check on textured pixels, and refits by
Tukey-weighted least squares with a bound that tightens from round to round.
"""

from __future__ import annotations

import numpy as np

from flowkit.estimators.tukey import refit_homography
from flowkit.pipelines.dis import dis_flow
from flowkit.pipelines.prepare import resized
from flowkit.pipelines.seeding import round_trip_error
from flowkit.types import Size

MAX_SIDE = 640
FIRST_BOUND, LAST_BOUND = 8.0, 4.0
"""Tukey bounds in pixels at the working size."""
TEXTURE = 2.0
"""Mean absolute Laplacian (grey levels) below which flow is only a guess."""
MIN_PIXELS = 200
MAX_SAMPLES = 5_000


def refine_homography(rgb0: np.ndarray, rgb1: np.ndarray, matrix: np.ndarray, rounds: int = 4) -> np.ndarray | None:
    """The refined 3x3 (x1 ~ H x0, H[2][2] = 1), or None where the aligned pair offers nothing to hold on to.

    `rgb0`, `rgb1` (H, W, 3) uint8 at the original sizes that `matrix` is for.
    """
    import cv2
    import torch

    from flowkit.geometry.homography import normalise

    size0: Size = rgb0.shape[:2]
    scale = min(1.0, MAX_SIDE / max(size0))
    small: Size = max(16, round(size0[0] * scale)), max(16, round(size0[1] * scale))
    grey0 = resized(cv2.cvtColor(rgb0, cv2.COLOR_RGB2GRAY), small)
    grey1 = cv2.cvtColor(rgb1, cv2.COLOR_RGB2GRAY)
    to_full = np.linalg.inv(resize_matrix(size0, small))
    textured = cv2.boxFilter(np.abs(cv2.Laplacian(grey0, cv2.CV_32F)), -1, (9, 9)) > TEXTURE
    refined = matrix
    for bound in np.linspace(FIRST_BOUND, LAST_BOUND, rounds):
        warped, valid = warp_onto(grey1, refined @ to_full, small)
        forward, backward = dis_flow(grey0, warped, "fast"), dis_flow(warped, grey0, "fast")
        keep = (round_trip_error(forward, backward) < 1.0) & valid & textured
        keep = cv2.erode(keep.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        row, column = np.nonzero(keep)
        if len(row) < MIN_PIXELS:
            return None
        step = max(1, len(row) // MAX_SAMPLES)
        row, column = row[::step], column[::step]
        points0 = np.column_stack([column, row]).astype(np.float64)
        points1 = project(refined @ to_full, points0 + forward[row, column])
        fitted = refit_homography(
            torch.from_numpy(refined),
            torch.from_numpy(project(to_full, points0)),
            torch.from_numpy(points1),
            bound / scale,
            rounds=6,
            least=50,
        )
        if fitted is None:
            return None
        refined = normalise(fitted).numpy()
    return refined


def warp_onto(picture: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """`picture` sampled at matrix(p) for every p of a grid of `size`, and where that lies inside it.

    Where the matrix shrinks it by more than 1.5, it is shrunk by area first, so that nothing aliases.
    """
    import cv2

    height, width = size
    picture, matrix = unaliased(picture, matrix, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpPerspective(picture, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = np.full(picture.shape[:2], 255, np.uint8)
    valid = cv2.warpPerspective(inside, matrix, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    return warped, valid


def unaliased(picture: np.ndarray, matrix: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """The picture and the matrix to sample it by on a grid of `size`: shrunk by area where that leaves pixels out."""
    height, width = size
    centre = np.array([(width - 1) / 2, (height - 1) / 2, 1.0]) @ matrix.T
    spacing = np.sqrt(abs(np.linalg.det(matrix)) / max(abs(centre[2]), 1e-9) ** 3)
    if spacing > 1.5:
        full: Size = picture.shape[:2]
        shrunk: Size = max(8, round(full[0] / spacing)), max(8, round(full[1] / spacing))
        if shrunk[0] < full[0] and shrunk[1] < full[1]:
            return resized(picture, shrunk), resize_matrix(full, shrunk) @ matrix
    return picture, matrix


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) points through a homography."""
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return mapped[:, :2] / mapped[:, 2:]


def resize_matrix(size_from: Size, size_to: Size) -> np.ndarray:
    """3x3 that takes an image's points along when it is resized (half-pixel rule)."""
    from flowkit.geometry.grids import resize_matrix as matrix

    return matrix(size_from, size_to).numpy()
