"""The homography between two images: robust fit to sparse matches, dense refinement where they are few."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from flowkit.errors import UsageError
from flowkit.estimators.magsac import fit_homography
from flowkit.pipelines.match import match
from flowkit.pipelines.prepare import Resize, load_pair
from flowkit.pipelines.refinement import refine_homography
from flowkit.types import Homography, Matches, Run, Status

EFFORTS = ("normal", "high")
THRESHOLD = 3.0
"""Inlier bound in pixels of the original images at 1000 pixels a side; larger images scale it."""
WEAK_SUPPORT = 350
"""Fits on fewer inliers than this are refined densely: with more, the matches alone pin all four corners down."""


def homography(
    image0: object,
    image1: object,
    *,
    features: str | None = None,
    effort: str = "normal",
    threshold: float | None = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Homography:
    """H with x1 ~ H x0 in original pixels, H[2][2] = 1; `matches.inliers` are the sparse matches that agree with it.

    `effort="high"` tries several features, scales, rotations and simulated viewpoints where support is weak, and always
    refines densely. The status says why there is no matrix. Raises InputError, UsageError, WeightsError.
    """
    if effort not in EFFORTS:
        raise UsageError(f"--effort {effort}: unknown; use one of {', '.join(EFFORTS)}")
    started = time.perf_counter()
    pair = load_pair(image0, image1)
    bound = threshold if threshold is not None else default_threshold(pair[0].size, pair[1].size)
    if effort == "high":
        from flowkit.pipelines.viewpoints import thorough_homography

        found = thorough_homography(pair[0], pair[1], features=features, threshold=bound, device=device, seed=seed)
    else:
        matches = match(pair[0], pair[1], features=features, resize=resize, device=device, seed=seed)
        found = from_matches(matches, bound, seed)
        if found.matrix is not None and _support(found) < WEAK_SUPPORT:
            refined = refine_homography(pair[0].rgb8, pair[1].rgb8, found.matrix)
            if refined is not None:
                found = replace(found, matrix=refined, refined=True)
    assert found.matches.run is not None
    run = found.matches.run
    options = {"features": run.options.get("features"), "effort": effort, "threshold": bound}
    seconds = {**run.seconds, "total": time.perf_counter() - started}
    return replace(found, run=Run(
        method=run.method, options=options, weights=run.weights, seed=seed, device=run.device,
        working_size0=run.working_size0, working_size1=run.working_size1, seconds=seconds, notes=run.notes,
    ))  # fmt: skip


def default_threshold(*sizes: tuple[int, int]) -> float:
    """THRESHOLD pixels up to 1000 pixels a side, in proportion beyond."""
    return THRESHOLD * max(1.0, max(max(size) for size in sizes) / 1000)


def from_matches(matches: Matches, threshold: float, seed: int = 0) -> Homography:
    """The robust fit alone."""
    fit = fit_homography(matches.points0, matches.points1, threshold=threshold, seed=seed)
    judged = replace(matches, inliers=fit.inliers)
    if fit.model is not None and not _plausible(fit.model, matches):
        return Homography(
            None, Status.DEGENERATE, replace(matches, inliers=fit.inliers & False), threshold, fit.estimator
        )
    return Homography(fit.model, fit.status, judged, threshold, fit.estimator)


def _plausible(matrix: np.ndarray, matches: Matches) -> bool:
    import torch

    from flowkit.geometry.homography import is_plausible

    return bool(is_plausible(torch.as_tensor(matrix), matches.size0, matches.size1))


def _support(found: Homography) -> int:
    return 0 if found.matches.inliers is None else int(found.matches.inliers.sum())
