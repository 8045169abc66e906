"""From the name of a feature to what extracts or matches it. Nothing is imported or loaded until it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from flowkit.errors import UsageError
from flowkit.features.base import Extractor, PairMatcher


@dataclass(frozen=True)
class Feature:
    """How one name is made: a target "module:Class", and how its descriptors are matched."""

    target: str
    network: bool = True
    """Whether it runs on a device."""
    ratio: float | None = None
    min_score: float | None = None
    base: str | None = None
    """The extractor it simulates viewpoints for."""


EXTRACTORS = {
    "sift": Feature("flowkit.features.sift:Sift", network=False, ratio=0.9),
    "xfeat": Feature("flowkit.features.xfeat:XFeat"),
}


def extractor(
    name: str, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None
) -> Extractor:
    """The extractor of that name; UsageError listing the known names if there is none."""
    feature = EXTRACTORS[name]
    options = {"device": device} if feature.network else {}
    module, _, attribute = feature.target.partition(":")
    return getattr(import_module(module), attribute)(max_keypoints=max_keypoints, max_side=max_side, **options)
