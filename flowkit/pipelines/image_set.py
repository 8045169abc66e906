"""Matching pairs out of a set of images, each image's keypoints found once: what COLMAP and hloc can use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from pathlib import Path

from flowkit.features.guided import RADIUS
from flowkit.features.matching import DescriptorMatcher, notes_of
from flowkit.features.registry import descriptor_matchers, matcher
from flowkit.features.remembered import remember
from flowkit.pipelines.guide import guide_flows, guide_provenance, guided_matches
from flowkit.pipelines.match import FeatureChoice, check_guide, chosen_features, in_original_pixels, working_pair
from flowkit.pipelines.prepare import Resize, load_pair, resolve_device
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
    """Matches pairs of images with different names; an image has the same keypoints in every pair, guided or not.

    The options are those of `pipelines.match.match`. `store` keeps the features by feature and image name, in memory unless
    another mapping is given. `weights`, `notes` and `options` are for the provenance.
    """

    def __init__(
        self,
        *,
        features: FeatureChoice | None = None,
        feature_weights: Mapping[str, str | Path] | None = None,
        guide: str | None = None,
        guide_radius: float | None = None,
        max_keypoints: int | None = None,
        resize: Resize = None,
        device: str = "auto",
        seed: int = 0,
        store: MutableMapping[str, Features] | None = None,
    ) -> None:
        check_guide(guide, guide_radius)
        chosen = chosen_features(features, feature_weights)
        self.name, self.resize, self.device, self.seed = chosen.names, resize, resolve_device(device), seed
        self.guide, self.radius = guide, guide_radius or RADIUS
        store = {} if store is None else store
        self.led: list[DescriptorMatcher] = []
        if guide is None:
            self.matcher = remember(matcher(chosen, device=self.device, max_keypoints=max_keypoints), store)
            self.weights, self.notes = dict(self.matcher.weights), notes_of(self.matcher)
        else:
            self.led = list(descriptor_matchers(chosen, device=self.device, max_keypoints=max_keypoints))
            for each in self.led:
                remember(each, store)
            self.weights = {name: hash for each in self.led for name, hash in each.weights.items()}
            self.notes = tuple(dict.fromkeys(note for each in self.led for note in notes_of(each)))
        led_by = {} if guide is None else guide_provenance(guide, self.radius)
        self.options = {"features": chosen.names, "max_keypoints": max_keypoints, **led_by}

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in original pixels of both; both sets of keypoints are whole, also where nothing matches."""
        pair = load_pair(image0, image1)
        work = working_pair(pair, self.resize)
        if self.guide is not None:
            flows = guide_flows(*pair, self.guide, resize=self.resize, device=self.device, seed=self.seed)
            self.weights |= flows.weights
            self.notes = tuple(dict.fromkeys((*self.notes, *flows.notes)))
            return guided_matches(self.led, pair, work, flows, self.radius)
        return in_original_pixels(self.matcher.match(*work), work, pair)
