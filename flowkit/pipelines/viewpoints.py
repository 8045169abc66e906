"""Homographies across strong viewpoint changes: rough candidates, rematching in a common view, one fit to everything found.

A few correct matches suffice for a rough homography. Both images are then brought into one common view, squeezed only where
the other one has less detail, and matched again: what was a change of viewpoint is now a shift of a few pixels, so a right
candidate multiplies its support and a wrong one does not. The rematching looks everywhere in the view, not only near the
candidate, so that a wrong candidate cannot make up its own support (two-step matching as in Mishkin et al., MODS, CVIU 2015).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from flowkit.estimators.magsac import fit_homography, transfer_error
from flowkit.features.matching import deduplicate, match_descriptors, merge, select
from flowkit.pipelines.homography import WEAK_SUPPORT, from_matches
from flowkit.pipelines.match import DEFAULT_FEATURES, FeatureChoice, kept_matcher, match
from flowkit.pipelines.prepare import resized_image, resolve_device, scaled_points, working_size
from flowkit.pipelines.refinement import project, refine_homography
from flowkit.types import Homography, Image, Matches, Size, Status

ROUNDS = 2
"""Rematchings of a rough homography before it is settled."""
ROUGH = 4
"""Rough candidates may miss by so many thresholds: few features agree exactly across strong tilts."""
MIN_ROUGH = 6
"""Matches that make a rough candidate; chance makes some too, which rematching weeds out."""
MIN_SUPPORT, MIN_SHARE = 20, 0.1
"""Rematched inliers, and their share of the rematches, below which the images have nothing in common."""
VIEW_SIDE = 1000
MIN_VIEW_SIDE = 48
VIEW_BOUND = 3.0
"""Inlier bound in the common view, pixels."""
BORDER = 6
"""Keypoints so close to the edge of the overlap see the edge, not the picture."""
SIMULATED_TILTS = (1.0, 2.0, 4.0, 4 * 2**0.5, 8.0)
"""Up to 8 on either side: pictures taken from opposite grazing angles differ by more than 20."""
SIMULATED_SIDE, SIMULATED_KEYPOINTS, SIMULATED_PER_VIEW = 1000, 30_000, 1000
SIMULATED_RATIOS = (0.9, 0.8)


def thorough_homography(
    image0: Image,
    image1: Image,
    *,
    features: FeatureChoice | None = None,
    guide: str | None = None,
    guide_radius: float | None = None,
    threshold: float,
    device: str = "auto",
    seed: int = 0,
) -> Homography:
    """H with x1 ~ H x0 by every means; `matches` are all that were found on the way, `inliers` those that agree with H.

    Simulated viewpoints join in where `features` is left open and plain matches lead nowhere. Unrelated images come back
    without a matrix.
    """
    device = resolve_device(device)
    found = match(image0, image1, features=features, guide=guide, guide_radius=guide_radius, device=device, seed=seed)
    run, pool = found.run, [found]
    plain = from_matches(found, threshold, seed)

    def candidates() -> Iterator[np.ndarray]:
        # Simulated viewpoints are dear: only when no plain candidate would do.
        yield from _candidates([found, *_by_origin(found)], threshold, seed)
        if features is None:
            simulated = _simulated_viewpoints(image0, image1)
            pool.append(simulated[0])
            yield from _candidates(simulated, threshold, seed)

    best: Rematched | None = None
    for matrix in candidates():
        again = rematch(image0, image1, matrix, features or DEFAULT_FEATURES, device, seed)
        if again is not None and (best is None or again.support > best.support):
            best = again
        if best is not None and best.support >= WEAK_SUPPORT:
            break
    if best is not None:
        settled = settle(image0, image1, best.matrix, pool, features, threshold, device, seed)
        if settled is not None:
            return replace(settled, matches=replace(settled.matches, run=run))
    status = Status.NO_OVERLAP if plain.status is Status.OK else plain.status
    nobody = np.zeros(len(found), bool)
    return Homography(None, status, replace(found, inliers=nobody, run=run), threshold, plain.estimator)


def settle(
    image0: Image,
    image1: Image,
    matrix: np.ndarray,
    pool: list[Matches],
    features: FeatureChoice | None,
    threshold: float,
    device: str,
    seed: int,
) -> Homography | None:
    """The best homography that a rough one leads to, None when rematching does not bear the rough one out.

    The images are matched again in the common view, ROUNDS times. Two fits are made from what is found: one robust fit to all
    matches, and its dense refinement. The one that all matches together agree with more is kept: on a plane that is the
    refined one, which has a say everywhere; on a bent or stepped surface DIS follows the surface, and the matches win. The
    robust fit is MAGSAC's own: one made the most of by least squares would win by this measure whatever is true.
    """
    again: Rematched | None = None
    for _ in range(ROUNDS):
        # A right homography reproduces itself; the rounds differ by little, so the newest is as good as any.
        again = rematch(image0, image1, matrix, features or DEFAULT_FEATURES, device, seed)
        if again is None or not again.convincing:
            return None
        matrix = again.matrix
    assert again is not None
    # Every match has a say in the original pixels: the view weighs squeezed parts less than the images do.
    everything = deduplicate(merge([*(replace(m, inliers=None) for m in pool), again.matches]))
    fitted = from_matches(everything, threshold, seed, refit=False)
    if fitted.matrix is None:
        return None
    refined = refine_homography(image0.rgb8, image1.rgb8, fitted.matrix)
    if refined is None or _agreement(refined, everything, threshold) <= _agreement(
        fitted.matrix, everything, threshold
    ):
        return fitted
    near = transfer_error(refined, everything.points0, everything.points1) <= threshold
    return replace(fitted, matrix=refined, refined=True, matches=replace(everything, inliers=near))


def _agreement(matrix: np.ndarray, matches: Matches, threshold: float) -> float:
    """How well the matches agree with a homography: Tukey's weights, summed."""
    error = transfer_error(matrix, matches.points0, matches.points1)
    return float((np.maximum(0.0, 1 - (error / threshold) ** 2) ** 2).sum())


@dataclass(frozen=True)
class CommonView:
    """Where both images look alike: `to_view0`, `to_view1` (3x3) take their pixels to a picture of `size`."""

    to_view0: np.ndarray
    to_view1: np.ndarray
    size: Size


def common_view(matrix: np.ndarray, size0: Size, size1: Size) -> CommonView | None:
    """The view of the overlap that magnifies neither image in any direction more than the other, at most VIEW_SIDE a side.

    None when the images hardly overlap under `matrix` or too little of them would be left.
    """
    y, x = np.mgrid[0 : size0[0] - 1 : 40j, 0 : size0[1] - 1 : 40j]
    grid = np.column_stack([x.ravel(), y.ravel()])
    mapped = project(matrix, grid)
    depth = np.column_stack([grid, np.ones(len(grid))]) @ matrix[2]
    with np.errstate(invalid="ignore"):
        inside = (depth > 0) & (mapped >= 0).all(axis=1) & (mapped[:, 0] < size1[1]) & (mapped[:, 1] < size1[0])
    if inside.sum() < 8:
        return None
    centre = grid[inside].mean(axis=0)
    steps = 0.5 * np.eye(2)
    jacobian = (project(matrix, centre + steps) - project(matrix, centre - steps)).T
    if not np.isfinite(jacobian).all():
        return None
    _, stretch, directions = np.linalg.svd(jacobian)
    # Squeeze image0 in the directions in which image1 shows it smaller; image1 follows it through the matrix.
    squeeze = directions.T @ np.diag(np.minimum(1, stretch)) @ directions
    corners = grid[inside] @ squeeze.T
    low, high = corners.min(axis=0) - 2 * BORDER, corners.max(axis=0) + 2 * BORDER
    scale = min(2.0, VIEW_SIDE / max(high - low))
    width, height = np.ceil((high - low) * scale).astype(int)
    if min(width, height) < MIN_VIEW_SIDE:
        return None
    to_view0 = np.eye(3)
    to_view0[:2, :2], to_view0[:2, 2] = scale * squeeze, -scale * low
    return CommonView(to_view0, to_view0 @ np.linalg.inv(matrix), (int(height), int(width)))


@dataclass(frozen=True)
class Rematched:
    """What rematching a candidate gave: a better matrix and matches in original pixels."""

    matrix: np.ndarray
    matches: Matches
    support: int

    @property
    def convincing(self) -> bool:
        """True when the images have more in common than chance gives."""
        return self.support >= max(MIN_SUPPORT, MIN_SHARE * len(self.matches))


def rematch(
    image0: Image, image1: Image, matrix: np.ndarray, features: FeatureChoice, device: str, seed: int
) -> Rematched | None:
    """Both images in the common view of `matrix`, matched and fitted there; None where that gives no homography."""
    import cv2

    view = common_view(matrix, image0.size, image1.size)
    if view is None:
        return None
    picture0, seen0 = render(image0.rgb8, view.to_view0, view.size)
    picture1, seen1 = render(image1.rgb8, view.to_view1, view.size)
    seen = seen0 & seen1
    # Neither shows more than the other: the network matchers look at the whole picture.
    picture0[~seen] = picture1[~seen] = 0
    found = kept_matcher(features, device, None).match(Image(picture0), Image(picture1))
    kernel = np.ones((2 * BORDER + 1, 2 * BORDER + 1), np.uint8)
    inner = cv2.erode(seen.astype(np.uint8), kernel, borderValue=0) > 0
    column0, row0 = np.rint(found.points0).astype(int).T
    column1, row1 = np.rint(found.points1).astype(int).T
    found = select(found, inner[row0, column0] & inner[row1, column1])
    fit = fit_homography(found.points0, found.points1, threshold=VIEW_BOUND, seed=seed, refit=False)
    if fit.model is None:
        return None
    back0, back1 = np.linalg.inv(view.to_view0), np.linalg.inv(view.to_view1)
    better = back1 @ fit.model @ view.to_view0
    points0, points1 = project(back0, found.points0), project(back1, found.points1)
    matches = Matches(
        keypoints0=points0.astype(np.float32),
        keypoints1=points1.astype(np.float32),
        pairs=np.repeat(np.arange(len(found))[:, None], 2, axis=1),
        scores=found.scores,
        size0=image0.size,
        size1=image1.size,
        origins=found.origins,
        origin=found.origin,
    )
    return Rematched(better / better[2, 2], matches, int(fit.inliers.sum()))


def render(pixels: np.ndarray, to_view: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) `pixels` in a view, averaged over what each view pixel covers, and where the view shows the image."""
    import cv2

    height, width = size
    back = np.linalg.inv(to_view)
    middle = np.array([[(width - 1) / 2, (height - 1) / 2]])

    def fineness(step: np.ndarray) -> int:
        # Image pixels per view pixel in the middle; rendered that much finer, nothing aliases.
        pixels_per_step = np.linalg.norm(project(back, middle + step) - project(back, middle - step))
        return int(np.clip(np.ceil(pixels_per_step - 0.5), 1, 8)) if np.isfinite(pixels_per_step) else 1

    fine = (fineness(np.array([0.0, 0.5])), fineness(np.array([0.5, 0.0])))
    finer = np.array([[fine[1], 0, fine[1] / 2 - 0.5], [0, fine[0], fine[0] / 2 - 0.5], [0, 0, 1]])
    fine_size = (width * fine[1], height * fine[0])
    drawn = cv2.warpPerspective(pixels, finer @ to_view, fine_size, flags=cv2.INTER_LINEAR)
    there = np.full(pixels.shape[:2], 255, np.uint8)
    seen = cv2.warpPerspective(there, finer @ to_view, fine_size, flags=cv2.INTER_NEAREST)
    if fine != (1, 1):
        drawn, seen = (cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in (drawn, seen))
    return drawn, seen == 255


def _candidates(sources: list[Matches], threshold: float, seed: int) -> Iterator[np.ndarray]:
    """Rough homographies: every source by itself, exactly and then roughly, the most inliers first."""
    for bound in (threshold, ROUGH * threshold):
        fits = [
            fit_homography(m.points0, m.points1, threshold=bound, seed=seed, min_inliers=MIN_ROUGH, refit=False)
            for m in sources
        ]
        for fit in sorted(fits, key=lambda fit: -int(fit.inliers.sum())):
            if fit.model is not None:
                yield fit.model


def _by_origin(matches: Matches) -> list[Matches]:
    """The matches of each feature by itself: one with few but good ones is not drowned by another."""
    if matches.origin is None or len(matches.origins) < 2:
        return []
    return [select(matches, matches.origin == k) for k in range(len(matches.origins))]


def _simulated_viewpoints(image0: Image, image1: Image) -> list[Matches]:
    """SIFT from simulated viewpoints of both images, under a lax and a strict ratio test."""
    from flowkit.features.affine import AffineSimulation
    from flowkit.features.sift import Sift

    extractor = AffineSimulation(
        Sift(max_keypoints=SIMULATED_PER_VIEW), tilts=SIMULATED_TILTS, max_keypoints=SIMULATED_KEYPOINTS
    )
    images = image0, image1
    sizes = [working_size(image.size, max_side=SIMULATED_SIDE) for image in images]
    seen = [extractor.extract(resized_image(image, size)) for image, size in zip(images, sizes, strict=True)]
    results = []
    for ratio in SIMULATED_RATIOS:
        found = deduplicate(match_descriptors(seen[0], seen[1], ratio=ratio))
        results.append(replace(
            found,
            keypoints0=scaled_points(found.keypoints0, sizes[0], image0.size),
            keypoints1=scaled_points(found.keypoints1, sizes[1], image1.size),
            size0=image0.size,
            size1=image1.size,
        ))  # fmt: skip
    return results
