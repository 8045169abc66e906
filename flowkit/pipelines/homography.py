"""The homography between two images: robust fit to sparse matches, and more work where they are few."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from flowkit.errors import UsageError
from flowkit.estimators.magsac import fit_homography, transfer_error
from flowkit.features.registry import CELLS
from flowkit.pipelines.coarse import variants
from flowkit.pipelines.match import FeatureChoice, check_guide, chosen_features, guide_options, match
from flowkit.pipelines.prepare import Resize, is_blank, load_pair, resolve_device
from flowkit.pipelines.refinement import refine_homography
from flowkit.types import Homography, Image, Matches, Size, Status

EFFORTS = ("normal", "high")
THRESHOLD = 3.0
"""Inlier bound in pixels of the original images at 1000 pixels a side; larger images scale it."""
CELL_THRESHOLD = 12.0
"""The same for features that know only the cell, in images whose shorter side is 480 pixels: what they work at."""
ENOUGH = 30
"""Inliers with which the images as they are will do: no turns, no zooms."""
WEAK_SUPPORT = 350
"""Fits on fewer inliers than this are looked into again: with more, the matches alone pin all four corners down."""


def homography(
    image0: object,
    image1: object,
    *,
    features: FeatureChoice | None = None,
    feature_weights: Mapping[str, str | Path] | None = None,
    guide: str | None = None,
    guide_radius: float | None = None,
    effort: str = "normal",
    threshold: float | None = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Homography:
    """H with x1 ~ H x0 in original pixels, H[2][2] = 1; `matches.inliers` are the sparse matches that agree with it.

    Fits on few matches are settled by matching again in a common view and refining densely on the aligned pair.
    `effort="high"` does so always, and where support is weak tries simulated viewpoints, quarter turns and zooms. `guide` and
    `feature_weights` are those of `match`; the guide leads the matching of the images as they are, not that in other views.
    The status says why there is no matrix. Raises InputError, UsageError, WeightsError.
    """
    if effort not in EFFORTS:
        raise UsageError(f"--effort {effort}: unknown; use one of {', '.join(EFFORTS)}")
    if effort == "high" and resize is not None:
        raise UsageError("--resize: not with --effort high, which works at several sizes of its own")
    started = time.perf_counter()
    check_guide(guide, guide_radius)
    if features is not None or feature_weights:
        features = chosen_features(features, feature_weights)
    pair = load_pair(image0, image1)
    bound = threshold if threshold is not None else default_threshold(pair[0].size, pair[1].size, features=features)
    found = find(
        *pair,
        features=features,
        guide=guide,
        guide_radius=guide_radius,
        effort=effort,
        threshold=bound,
        resize=resize,
        device=device,
        seed=seed,
    )
    assert found.matches.run is not None
    run = found.matches.run
    options = {"features": run.options.get("features"), **guide_options(run), "effort": effort, "threshold": bound}
    seconds = {**run.seconds, "total": time.perf_counter() - started}
    return replace(found, run=replace(run, options=options, seconds=seconds))


def find(
    image0: Image,
    image1: Image,
    *,
    features: FeatureChoice | None,
    effort: str,
    threshold: float,
    device: str,
    seed: int,
    guide: str | None = None,
    guide_radius: float | None = None,
    resize: Resize = None,
    turn: bool = False,
    matches: Matches | None = None,
) -> Homography:
    """The work of `homography` on loaded images; `turn` tries quarter turns and zooms whatever the effort.

    `matches` of the images as they are, where there are some already, save looking for them.
    """
    device = resolve_device(device)
    features = None if features is None else chosen_features(features)
    if effort == "high":
        from flowkit.pipelines.viewpoints import thorough_homography

        best = thorough_homography(
            image0,
            image1,
            features=features,
            guide=guide,
            guide_radius=guide_radius,
            threshold=threshold,
            device=device,
            seed=seed,
        )
    else:
        if matches is None:
            matches = match(
                image0,
                image1,
                features=features,
                guide=guide,
                guide_radius=guide_radius,
                resize=resize,
                device=device,
                seed=seed,
            )
        best = from_matches(matches, threshold, seed)
    if (turn or effort == "high") and support(best) < ENOUGH and not (is_blank(image0) or is_blank(image1)):
        turned = best
        for matches in variants(image0, image1, features=features, device=device, seed=seed):
            other = from_matches(matches, threshold, seed)
            if support(other) > max(1.2 * support(turned), 12):
                turned = other
            if support(turned) >= ENOUGH:
                break
        if support(turned) >= ENOUGH:
            best = turned
        elif turned is not best:
            # Five more tries are five more chances for a wrong model: few matches must be borne out by more.
            settled = _settled(image0, image1, turned, features, threshold, device, seed)
            if settled is not None:
                return settled
    if best.matrix is not None and effort != "high" and (support(best) < WEAK_SUPPORT or _cells_only(features)):
        best = _strengthened(image0, image1, best, features, threshold, device, seed)
    return best


def _settled(
    image0: Image,
    image1: Image,
    rough: Homography,
    features: FeatureChoice | None,
    threshold: float,
    device: str,
    seed: int,
) -> Homography | None:
    """What matching again in a common view makes of a rough fit; None when that does not bear it out."""
    from flowkit.pipelines.viewpoints import settle

    assert rough.matrix is not None
    settled = settle(image0, image1, rough.matrix, [rough.matches], features, threshold, device, seed)
    return None if settled is None else replace(settled, matches=replace(settled.matches, run=rough.matches.run))


def _strengthened(
    image0: Image,
    image1: Image,
    weak: Homography,
    features: FeatureChoice | None,
    threshold: float,
    device: str,
    seed: int,
) -> Homography:
    """A fit on few matches, settled by matching again in a common view; failing that, refined densely.

    Where features know only the cell, a common view tells nothing new: there all that match are in the same cell.
    """
    if not _cells_only(features):
        settled = _settled(image0, image1, weak, features, threshold, device, seed)
        if settled is not None:
            return settled
    assert weak.matrix is not None
    refined = refine_homography(image0.rgb8, image1.rgb8, weak.matrix)
    if refined is None:
        return weak
    near = transfer_error(refined, weak.matches.points0, weak.matches.points1) <= threshold
    return replace(weak, matrix=refined, refined=True, matches=replace(weak.matches, inliers=near))


def default_threshold(*sizes: Size, features: FeatureChoice | None = None) -> float:
    """THRESHOLD pixels up to 1000 pixels a side, in proportion beyond; with features that know only the cell, more."""
    exact = THRESHOLD * max(1.0, max(max(size) for size in sizes) / 1000)
    return max(exact, CELL_THRESHOLD * max(min(size) for size in sizes) / 480) if _cells_only(features) else exact


def _cells_only(features: FeatureChoice | None) -> bool:
    """Whether all of the features know only in which cell a point is."""
    return features is not None and set(chosen_features(features).parts) <= set(CELLS)


def from_matches(matches: Matches, threshold: float, seed: int = 0, *, refit: bool = True) -> Homography:
    """The robust fit alone, `refit` by least squares or not."""
    fit = fit_homography(matches.points0, matches.points1, threshold=threshold, seed=seed, refit=refit)
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


def support(found: Homography) -> int:
    """How many matches agree with it; 0 without a matrix."""
    return 0 if found.matrix is None or found.matches.inliers is None else int(found.matches.inliers.sum())
