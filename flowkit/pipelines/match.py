"""Sparse matches between two images, in the original pixels of both."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.errors import UsageError
from flowkit.features.guided import RADIUS
from flowkit.features.registry import OWN_WEIGHTS, FeatureSet
from flowkit.pipelines.guide import guide_flows, guide_provenance, guided_matches
from flowkit.pipelines.masks import MaskChoice, chosen_masks, masked_matches
from flowkit.pipelines.prepare import (
    Resize,
    load_pair,
    resized_image,
    resolve_device,
    scaled_points,
    size_note,
    working_size,
)
from flowkit.pipelines.side_by_side import import_ahead
from flowkit.types import Image, Matches, Run

if TYPE_CHECKING:
    from flowkit.features.base import PairMatcher
    from flowkit.features.matching import DescriptorMatcher

FeatureChoice = str | FeatureSet
"""One name or several joined by "+", with or without the files of those that need one."""

DEFAULT_FEATURES = "sift+xfeat"
MAX_SIDE = 1600
"""Larger images are matched at this longer side unless `resize` says otherwise: keypoints do not get better, only dearer."""


def match(
    image0: object,
    image1: object,
    *,
    features: FeatureChoice | None = None,
    feature_weights: Mapping[str, str | Path] | None = None,
    guide: str | None = None,
    guide_radius: float | None = None,
    max_keypoints: int | None = None,
    mask0: MaskChoice = None,
    mask1: MaskChoice = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Matches:
    """Matches of `features` (one name, or several joined by "+"), points in original pixels of both images.

    `feature_weights` has the files of features whose weights flowkit may not ship, `{"r2d2": path}`. `guide` is a flow model
    (`life`, or any other), begun with sparse matches: keypoints are first matched within `guide_radius` (5) pixels of
    where its flow leads, then the rest among all, and `stage` says which (LIFE, section 3.2); `disk` and `aliked` are then
    matched by their descriptors, without LightGlue. `mask0`, `mask1` (`flowkit.pipelines.masks`) say where in either image a
    match may lie. Raises InputError for images that cannot be read or are too small and masks that do not fit, UsageError
    for unknown names, WeightsError.
    """
    started = time.perf_counter()
    check_guide(guide, guide_radius)
    pair = load_pair(image0, image1)
    chosen = chosen_features(features, feature_weights)
    import_features(chosen)
    device = resolve_device(device)
    masks = chosen_masks(pair, mask0, mask1)
    work = working_pair(pair, resize)
    if guide is None:
        found = _plain(pair, work, chosen, device, max_keypoints)
    else:
        found = _guided(pair, work, chosen, device, max_keypoints, guide, guide_radius or RADIUS, resize, seed)
    found = masked_matches(found, masks)
    run = found.run
    assert run is not None
    notes = [note for image, small in zip(pair, work, strict=True) if (note := size_note(image, small.size))]
    run = replace(
        run,
        method=chosen.names,
        options={"features": chosen.names, "max_keypoints": max_keypoints, **run.options, **masks.provenance},
        seed=seed,
        device=device,
        working_size0=work[0].size,
        working_size1=work[1].size,
        seconds={"load": time.perf_counter() - started - sum(run.seconds.values()), **run.seconds},
        notes=(*pair[0].notes, *pair[1].notes, *notes, *run.notes),
    )
    return replace(found, run=run)


def _plain(
    pair: tuple[Image, Image], work: tuple[Image, Image], chosen: FeatureSet, device: str, max_keypoints: int | None
) -> Matches:
    """Without a guide; `run` says what this took."""
    from flowkit.features.matching import notes_of

    matcher = kept_matcher(chosen, device, max_keypoints)
    loaded = time.perf_counter()
    found = matcher.match(*work)
    seconds = {"match": time.perf_counter() - loaded}
    run = Run("", weights=dict(matcher.weights), seconds=seconds, notes=notes_of(matcher))
    return replace(in_original_pixels(found, work, pair), run=run)


def _guided(
    pair: tuple[Image, Image],
    work: tuple[Image, Image],
    chosen: FeatureSet,
    device: str,
    max_keypoints: int | None,
    guide: str,
    radius: float,
    resize: Resize,
    seed: int,
) -> Matches:
    """With a guide; `run` says what this took."""
    matchers = kept_descriptor_matchers(chosen, device, max_keypoints)
    flows = guide_flows(*pair, guide, resize=resize, device=device, seed=seed)
    ready = time.perf_counter()
    found = guided_matches(matchers, pair, work, flows, radius)
    weights = {name: hash for matcher in matchers for name, hash in matcher.weights.items()}
    run = Run(
        "",
        options=guide_provenance(flows.model, radius),
        weights=weights | dict(flows.weights),
        seconds={"guide": flows.seconds, "match": time.perf_counter() - ready},
        notes=(*(note for matcher in matchers for note in matcher.notes), *flows.notes),
    )
    return replace(found, run=run)


def import_features(chosen: FeatureSet) -> None:
    """Begins to import what these need, which takes seconds; SIFT works without."""
    kornia = ("kornia.feature",) if "xfeat" in chosen.names else ()
    import_ahead("torch", *kornia, "scipy.spatial")


def working_pair(pair: tuple[Image, Image], resize: Resize) -> tuple[Image, Image]:
    """Both images at the size that features see."""
    first, second = (resized_image(image, working_size(image.size, resize, max_side=MAX_SIDE)) for image in pair)
    return first, second


def in_original_pixels(found: Matches, work: tuple[Image, Image], pair: tuple[Image, Image]) -> Matches:
    """Matches found on `work`, in the pixels of `pair`."""
    return replace(
        found,
        keypoints0=scaled_points(found.keypoints0, work[0].size, pair[0].size),
        keypoints1=scaled_points(found.keypoints1, work[1].size, pair[1].size),
        size0=pair[0].size,
        size1=pair[1].size,
    )


def check_guide(guide: str | None, radius: float | None) -> None:
    """UsageError for a radius without a guide, or none at all."""
    if radius is None:
        return
    if guide is None:
        raise UsageError(f"--guide-radius {radius:g}: only together with --guide MODEL")
    if not radius > 0:
        raise UsageError(f"--guide-radius {radius:g}: give more than 0 pixels")


def guide_options(run: Run) -> dict[str, object]:
    """What provenance says of the guide; nothing without one."""
    return {name: value for name, value in run.options.items() if name.startswith("guide")}


def chosen_features(features: FeatureChoice | None, weights: Mapping[str, str | Path] | None = None) -> FeatureSet:
    """The features asked for, the default ones for None, with the user's files; UsageError for a file that none reads."""
    if isinstance(features, FeatureSet):
        return features
    chosen = FeatureSet(matcher_name(features or DEFAULT_FEATURES))
    files = {name: str(path) for name, path in (weights or {}).items()}
    for name, path in files.items():
        if name not in OWN_WEIGHTS:
            raise UsageError(f"--feature-weights {name}={path}: only {', '.join(OWN_WEIGHTS)} take a file")
        if name not in chosen.parts:
            raise UsageError(f"--feature-weights {name}={path}: {chosen} does not use it; name it in --features, too")
    return replace(chosen, files=tuple(sorted(files.items())))


def matcher_name(features: str) -> str:
    """ "sift, xfeat" and "sift+xfeat" are the same union."""
    return features.replace(",", "+").replace(" ", "")


@lru_cache(maxsize=8)
def kept_matcher(features: FeatureChoice, device: str, max_keypoints: int | None) -> PairMatcher:
    """The matcher of that name, kept between pairs: a batch loads each network once."""
    from flowkit.features.registry import matcher

    return matcher(features, device=device, max_keypoints=max_keypoints)


@lru_cache(maxsize=8)
def kept_descriptor_matchers(
    features: FeatureChoice, device: str, max_keypoints: int | None
) -> tuple[DescriptorMatcher, ...]:
    """The matchers of the descriptors of those features, which a guide leads, kept between pairs, too."""
    from flowkit.features.registry import descriptor_matchers

    return descriptor_matchers(features, device=device, max_keypoints=max_keypoints)
