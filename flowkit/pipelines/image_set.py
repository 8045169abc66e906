"""Matching pairs out of a set of images, each image's keypoints found once: what COLMAP and hloc can use."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import replace

from flowkit.features.registry import matcher as make_matcher
from flowkit.features.remembered import remember
from flowkit.pipelines.match import DEFAULT_FEATURES, MAX_SIDE, matcher_name
from flowkit.pipelines.prepare import Resize, load_pair, resized_image, resolve_device, scaled_points, working_size
from flowkit.types import Features, Image, Matches

Names = tuple[str, str]
"""A pair of images by name."""


def unique_pairs(pairs: Iterable[Names]) -> list[Names]:
    """Each pair once, in the order and the way round in which it comes first, and none of an image with itself."""
    unique: dict[frozenset[str], Names] = {}
    for pair in pairs:
        if pair[0] != pair[1]:
            unique.setdefault(frozenset(pair), pair)
    return list(unique.values())


class SetMatcher:
    """Matches pairs of images with different names; an image has the same keypoints in every pair.

    `store` keeps the features by feature and image name, in memory unless another mapping is given.
    """

    def __init__(
        self,
        *,
        features: str | None = None,
        max_keypoints: int | None = None,
        resize: Resize = None,
        device: str = "auto",
        seed: int = 0,
        store: MutableMapping[str, Features] | None = None,
    ) -> None:
        self.name, self.resize, self.seed = matcher_name(features or DEFAULT_FEATURES), resize, seed
        self.device = resolve_device(device)
        fresh = make_matcher(self.name, device=self.device, max_keypoints=max_keypoints)
        self.matcher = remember(fresh, {} if store is None else store)
        self.weights = dict(self.matcher.weights)

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in original pixels of both; both sets of keypoints are whole, also where nothing matches."""
        pair = load_pair(image0, image1)
        sizes = [working_size(image.size, self.resize, max_side=MAX_SIDE) for image in pair]
        found = self.matcher.match(*(resized_image(image, size) for image, size in zip(pair, sizes, strict=True)))
        return replace(
            found,
            keypoints0=scaled_points(found.keypoints0, sizes[0], pair[0].size),
            keypoints1=scaled_points(found.keypoints1, sizes[1], pair[1].size),
            size0=pair[0].size,
            size1=pair[1].size,
        )
