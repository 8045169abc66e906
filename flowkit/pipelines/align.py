"""SOURCE onto TARGET: coarse by homographies on sparse matches, fine by dense flow on the coarsely aligned pair.

The loop is RANSAC-Flow's (Shen et al., ECCV 2020): a homography from the matches, fine flow on the pair it aligns, the next
homography from the matches that are left, until none has enough support. Each pixel of TARGET then takes the homography
under which its neighbourhood fits best; the final flow is evaluated once, at the original resolution.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from flowkit.errors import UsageError
from flowkit.estimators.magsac import fit_homography
from flowkit.estimators.ransac import fit_homography_ransac, official_threshold
from flowkit.pipelines.evidence import believable, errors, one_plane
from flowkit.pipelines.fine_network import FineAligner
from flowkit.pipelines.fine_stage import AUTO, FineStage, fine_network, fine_size
from flowkit.pipelines.flow import SEED_FEATURES, seed_matches
from flowkit.pipelines.homography import EFFORTS, default_threshold, find, from_matches
from flowkit.pipelines.joining import join
from flowkit.pipelines.masks import MaskChoice, Masks, allowed, chosen_masks, masked_matches
from flowkit.pipelines.match import FeatureChoice, chosen_features, match
from flowkit.pipelines.multi_homography import RULES, Fitter, Rules, aggregated, homographies_in_turn
from flowkit.pipelines.network import Settings
from flowkit.pipelines.prepare import (
    Resize,
    load_pair,
    resolve_device,
    size_note,
)
from flowkit.pipelines.refinement import resize_matrix
from flowkit.types import Alignment, Flow, Homography, Image, Matches, Run, Size, Status

MAX_HOMOGRAPHIES = 10
DENSE = {"xfeat*"}
_OTHER = {"mask0": "mask1", "mask1": "mask0"}
"""`align` counts SOURCE first, what is below it TARGET."""


def align(
    source: object,
    target: object,
    *,
    multi_h: bool = False,
    model: str = "dis",
    rules: str | None = None,
    weights: str | Path | None = None,
    precision: str = "auto",
    iterations: int | None = None,
    features: FeatureChoice | None = None,
    feature_weights: Mapping[str, str | Path] | None = None,
    effort: str = "normal",
    mask0: MaskChoice = None,
    mask1: MaskChoice = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Alignment:
    """SOURCE brought onto TARGET: the flow lives on TARGET's grid and p + uv(p) is in SOURCE, in original pixels of both.

    `multi_h` adds homographies from the remaining matches and, with DIS, lets the matches themselves seed the fine flow, for
    scenes with depth. `model` is the dense method of the fine stage: `ransac-flow`, which was made for it and knows what
    matches, `dis`, another network, with `weights`, `precision` and `iterations` as for `flow`, or `auto`: `ransac-flow` where
    all is one plane, which it leaves as it is, `dis` elsewhere. `rules` (official, paper, kitti; only with ransac-flow) joins
    homographies as the paper or its code does (`flowkit.pipelines.multi_homography`) instead of by error and cost. `mask0` of
    SOURCE and `mask1` of TARGET (`flowkit.pipelines.masks`) say where matches may lie; elsewhere the confidence is 0, as it is
    where the two directions of the fine flow disagree or the way leaves SOURCE.
    Homographies are target -> source. Without a reliable one the status says why and all of the flow is NaN.
    """
    settings = Settings(weights, iterations, precision)
    network = fine_network(model, settings, device)
    if effort not in EFFORTS:
        raise UsageError(f"--effort {effort}: unknown; use one of {', '.join(EFFORTS)}")
    if rules is not None and (rules not in RULES or not isinstance(network, FineAligner)):
        raise UsageError(f"--rules {rules}: {', '.join(RULES)}, and only together with --model ransac-flow")
    if features is not None or feature_weights:
        features = chosen_features(features, feature_weights)
    started = time.perf_counter()
    source_image, target_image = load_pair(source, target)
    masks = chosen_masks((target_image, source_image), mask1, mask0)
    threshold = default_threshold(source_image.size, target_image.size, features=features)
    seeds = None
    if multi_h:
        seeds = seed_matches(target_image, source_image, features or SEED_FEATURES, device, seed)
    found = _coarse(target_image, source_image, masks, threshold, features, effort, device, seed, seeds)
    judged = rules is None and (model == AUTO or isinstance(network, FineAligner))
    plane = judged and found.matrix is not None and one_plane(found.matches, found.matrix, threshold)
    if model == AUTO:
        model = "ransac-flow" if plane else "dis"
        network = fine_network(model, settings, device)
    coarse_done = time.perf_counter()
    size = fine_size(target_image.size, resize, network)
    run = _run(found.matches, source_image, target_image, size, model, multi_h, rules, effort, seed)
    if said := masks.provenance:
        run = replace(run, options={**run.options, **{_OTHER[name]: value for name, value in said.items()}})
    if found.matrix is None:
        return _failed(found.status, found.matches, source_image, target_image, run)
    matches = found.matches if seeds is None else masked_matches(seeds, masks)
    if _supporters(matches, found.matrix, threshold) < _supporters(found.matches, found.matrix, threshold):
        matches = found.matches  # those of the pictures turned or zoomed
    if matches.run is not None:
        run = replace(run, weights={**run.weights, **matches.run.weights})
    fine = FineStage(target_image, source_image, size, network)
    if isinstance(network, FineAligner) and rules is None:
        fine.witnesses = believable(matches, found.matrix, threshold)
        fine.plane = plane
    if rules is not None:
        limit = RULES[rules] if multi_h else replace(RULES[rules], limit=1)
        fit = _batched_ransac(limit, source_image.size, threshold, resolve_device(device), seed)
        first = fit(matches.points0, matches.points1).model
        first = found.matrix if first is None else first
        models, layers = homographies_in_turn(matches, first, fit, fine.layer, limit, threshold)
        joined = aggregated(layers, limit)
    else:
        models = [found.matrix]
        if multi_h and not plane:
            models += further_homographies(matches, found.matrix, threshold, seed)
        near = [matches.points0[errors(matches, matrix) <= threshold] for matrix in models[1:]]
        layers = [fine.layer(found.matrix, seeds=matches if multi_h else None)]
        layers += [fine.layer(matrix, around=points) for matrix, points in zip(models[1:], near, strict=True)]
        to_full = np.linalg.inv(resize_matrix(target_image.size, size))
        joined = join(layers, [matrix @ to_full for matrix in models], source_image.size, fine.picture, plane)
    if network is not None:
        run = replace(
            run,
            weights={**run.weights, **network.weights},
            options={**run.options, **network.options},
            notes=tuple(dict.fromkeys((*run.notes, *network.notes))),
        )
    flow, regions = original_flow(joined.residual, joined.choice, models, size, target_image.size)
    confidence = _enlarged(joined.confidence, target_image.size) * allowed(Flow(flow, source_image.size), masks)
    seconds = {"coarse": coarse_done - started, "fine": time.perf_counter() - coarse_done}
    return Alignment(
        flow=Flow(flow, source_image.size, confidence.astype(np.float32), (confidence < 0.05), run=run),
        status=Status.OK,
        homographies=tuple(models),
        regions=regions,
        inliers=tuple(_supporters(matches if k else found.matches, m, threshold) for k, m in enumerate(models)),
        matches=found.matches,
        run=replace(run, seconds={**run.seconds, **seconds, "total": time.perf_counter() - started}),
    )


def _coarse(
    target: Image,
    source: Image,
    masks: Masks,
    threshold: float,
    features: FeatureChoice | None,
    effort: str,
    device: str,
    seed: int,
    seeds: Matches | None,
) -> Homography:
    """The first homography, from `seeds` where there are some already.

    With masks from the matches that they leave, without a look at the pictures turned or zoomed.
    """
    if not masks.provenance:
        return find(
            target,
            source,
            features=features,
            effort=effort,
            threshold=threshold,
            device=device,
            seed=seed,
            turn=True,
            matches=None if seeds is None else _of_keypoints(seeds),
        )
    if seeds is None:
        seeds = match(target, source, features=features, device=device, seed=seed)
    return from_matches(_of_keypoints(masked_matches(seeds, masks)), threshold, seed)


def _of_keypoints(matches: Matches) -> Matches:
    """Without those of dense cells: neighbours move together there, and would vouch for a homography that there is not."""
    if matches.origin is None or not set(matches.origins) - DENSE:
        return matches
    keep = ~np.isin(matches.origin, [k for k, name in enumerate(matches.origins) if name in DENSE])
    return replace(matches, pairs=matches.pairs[keep], scores=matches.scores[keep], origin=matches.origin[keep])


def _batched_ransac(rules: Rules, size: Size, threshold: float, device: str, seed: int) -> Fitter:
    """RANSAC-Flow's own estimator, in a source of `size`; with the official code's bound where the rules are its."""
    if rules.remove_inliers:
        return partial(fit_homography_ransac, threshold=threshold, device=device, seed=seed)
    bound = official_threshold(size)
    return partial(
        fit_homography_ransac,
        threshold=bound,
        polish=False,
        size1=size,
        iterations=rules.draws,
        device=device,
        seed=seed,
    )


def coarse_flow(alignment: Alignment) -> np.ndarray:
    """(2, H, W): the flow of an alignment's homographies alone, each where it holds; NaN without any."""
    size = alignment.flow.size
    if not alignment.homographies:
        return np.full((2, *size), np.nan, np.float32)
    still = np.zeros((*size, 2), np.float32)
    return original_flow(still, np.maximum(alignment.regions, 0), alignment.homographies, size, size)[0]


def further_homographies(matches: Matches, first: np.ndarray, threshold: float, seed: int) -> list[np.ndarray]:
    """More homographies from the matches that the ones before leave over, until one lacks support."""
    found: list[np.ndarray] = []
    left = errors(matches, first) > 2 * threshold
    enough = max(20, int(0.01 * len(matches)))
    while len(found) < MAX_HOMOGRAPHIES - 1:
        fit = fit_homography(
            matches.points0[left], matches.points1[left], threshold=threshold, seed=seed, min_inliers=enough
        )
        if fit.model is None:
            break
        found.append(fit.model)
        left &= errors(matches, fit.model) > 2 * threshold
    return found


def original_flow(
    residual: np.ndarray, choice: np.ndarray, models: Sequence[np.ndarray], size: Size, size0: Size
) -> tuple[np.ndarray, np.ndarray]:
    """uv (2, H, W) float32 on TARGET's original grid, and which homography each pixel took (H, W) int16.

    p goes to H(p + residual(p)): the residual is interpolated, the homography is evaluated exactly.
    """
    import cv2

    to_full = np.linalg.inv(resize_matrix(size0, size))
    to_small = np.linalg.inv(to_full)
    uv = np.full((2, *size0), np.nan, np.float32)
    regions = cv2.resize(choice.astype(np.int16), size0[::-1], interpolation=cv2.INTER_NEAREST)
    x = np.arange(size0[1], dtype=np.float64)
    # Strips: a 48 megapixel picture must not need a dozen copies in float64.
    for top in range(0, size0[0], 512):
        rows = slice(top, min(top + 512, size0[0]))
        y = np.arange(rows.start, rows.stop, dtype=np.float64)
        small_x = (x * to_small[0, 0] + to_small[0, 2])[None].repeat(len(y), 0)
        small_y = (y * to_small[1, 1] + to_small[1, 2])[:, None].repeat(len(x), 1)
        moved = cv2.remap(
            residual,
            small_x.astype(np.float32),
            small_y.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        small_x += moved[..., 0]
        small_y += moved[..., 1]
        for k, model in enumerate(models):
            here = regions[rows] == k
            if not here.any():
                continue
            mapped = np.stack([small_x[here], small_y[here], np.ones(here.sum())], 1) @ (model @ to_full).T
            with np.errstate(divide="ignore", invalid="ignore"):
                mapped = mapped[:, :2] / np.where(mapped[:, 2:] * np.sign(model[2, 2]) > 1e-9, mapped[:, 2:], np.nan)
            row, column = np.nonzero(here)
            uv[0, rows][here] = mapped[:, 0] - x[column]
            uv[1, rows][here] = mapped[:, 1] - y[row]
    return uv, regions


def _supporters(matches: Matches, model: np.ndarray, threshold: float) -> int:
    return int((errors(matches, model) <= threshold).sum())


def _enlarged(values: np.ndarray, size: Size) -> np.ndarray:
    import cv2

    return values if values.shape == size else cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)


def _failed(status: Status, matches: Matches, source: Image, target: Image, run: Run) -> Alignment:
    nothing = np.full((2, *target.size), np.nan, np.float32)
    zero = np.zeros(target.size, np.float32)
    flow = Flow(nothing, source.size, zero, np.ones(target.size, bool), run=run)
    return Alignment(flow, status, (), np.full(target.size, -1, np.int16), (), matches, run)


def _run(
    matches: Matches,
    source: Image,
    target: Image,
    size: Size,
    model: str,
    multi_h: bool,
    rules: str | None,
    effort: str,
    seed: int,
) -> Run:
    made = matches.run
    assert made is not None
    note = size_note(target, size)
    return Run(
        method=f"{made.method} + homographies + {model}",
        options={
            "model": model,
            "multi_h": multi_h,
            "rules": rules,
            "effort": effort,
            "features": made.options.get("features"),
        },
        weights=made.weights,
        seed=seed,
        device=made.device,
        working_size0=source.size,
        working_size1=size,
        seconds=dict(made.seconds),
        notes=tuple(dict.fromkeys((*source.notes, *target.notes, *made.notes, *([note] if note else [])))),
    )
