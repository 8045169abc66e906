"""Sparse matches between two images, in the original pixels of both."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from flowkit.pipelines.prepare import (
    Resize,
    load_pair,
    resized_image,
    resolve_device,
    scaled_points,
    size_note,
    working_size,
)
from flowkit.types import Matches, Run

if TYPE_CHECKING:
    from flowkit.features.base import PairMatcher

DEFAULT_FEATURES = "sift+xfeat"
MAX_SIDE = 1600
"""Larger images are matched at this longer side unless `resize` says otherwise: keypoints do not get better, only dearer."""


def match(
    image0: object,
    image1: object,
    *,
    features: str | None = None,
    max_keypoints: int | None = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Matches:
    """Matches of `features` (one name, or several joined by "+"), points in original pixels of both images.

    Raises InputError for images that cannot be read or are too small, UsageError for unknown names, WeightsError.
    """
    started = time.perf_counter()
    pair = load_pair(image0, image1)
    device = resolve_device(device)
    name = matcher_name(features or DEFAULT_FEATURES)
    sizes = [working_size(image.size, resize, max_side=MAX_SIDE) for image in pair]
    work = [resized_image(image, size) for image, size in zip(pair, sizes, strict=True)]
    matcher = kept_matcher(name, device, max_keypoints)
    loaded = time.perf_counter()
    found = matcher.match(work[0], work[1])
    notes = [note for image, size in zip(pair, sizes, strict=True) if (note := size_note(image, size))]
    return replace(
        found,
        keypoints0=scaled_points(found.keypoints0, sizes[0], pair[0].size),
        keypoints1=scaled_points(found.keypoints1, sizes[1], pair[1].size),
        size0=pair[0].size,
        size1=pair[1].size,
        run=Run(
            method=name,
            options={"features": name, "max_keypoints": max_keypoints},
            weights=dict(matcher.weights),
            seed=seed,
            device=device,
            working_size0=sizes[0],
            working_size1=sizes[1],
            seconds={"load": loaded - started, "match": time.perf_counter() - loaded},
            notes=(*pair[0].notes, *pair[1].notes, *notes),
        ),
    )


def matcher_name(features: str) -> str:
    """ "sift, xfeat" and "sift+xfeat" are the same union."""
    return features.replace(",", "+").replace(" ", "")


@lru_cache(maxsize=8)
def kept_matcher(name: str, device: str, max_keypoints: int | None) -> PairMatcher:
    """The matcher of that name, kept between pairs: a batch loads each network once."""
    from flowkit.features.registry import matcher

    return matcher(name, device=device, max_keypoints=max_keypoints)
