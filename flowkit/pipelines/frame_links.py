"""What ties consecutive frames together: matches of each pair, and points followed through two pairs with a frame in common.

Either from local features, each frame's found once, or from a dense flow both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from flowkit.pipelines.dense_matches import MOST, TRUSTED, spread_matches, usable
from flowkit.pipelines.flow import flow
from flowkit.pipelines.image_set import SetMatcher
from flowkit.pipelines.prepare import Resize, resolve_device
from flowkit.types import Features, Flow, Image, Matches, Run

Through = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Three (N, 2): where the same points of the scene are in the frame before, the common one, and the frame after."""


@dataclass(frozen=True)
class Link:
    """Two consecutive frames: their matches in stored pixels, and the flow both ways that they come from, if one does."""

    matches: Matches
    flow: Flow | None = None


class Linker(Protocol):
    """Makes links, and joins two that have a frame in common. `run` says how, for provenance, once a link was made."""

    run: Run | None

    def link(self, image0: Image, image1: Image) -> Link:
        """Relate two frames."""
        ...

    def through(self, before: Link, after: Link) -> Through:
        """Points that both links know, the second frame of `before` being the first of `after`."""
        ...


class FeatureLinker:
    """By local features; the options are those of `pipelines.match.match`. Frames must have different names."""

    def __init__(
        self,
        *,
        features: str | None = None,
        feature_weights: Mapping[str, str | Path] | None = None,
        guide: str | None = None,
        guide_radius: float | None = None,
        resize: Resize = None,
        device: str = "auto",
        seed: int = 0,
    ) -> None:
        self._store: dict[str, Features] = {}
        self._matcher = SetMatcher(
            features=features,
            feature_weights=feature_weights,
            guide=guide,
            guide_radius=guide_radius,
            resize=resize,
            device=device,
            seed=seed,
            store=self._store,
        )
        self.run: Run | None = None

    def link(self, image0: Image, image1: Image) -> Link:
        """Only the features of the later frame are kept: two frames' at most are in memory."""
        matches = self._matcher.match(image0, image1)
        for key in [key for key in self._store if not key.endswith(f":{image1.name}")]:
            del self._store[key]
        made = self._matcher
        self.run = Run(
            method=made.name,
            options=made.options,
            weights=made.weights,
            seed=made.seed,
            device=made.device,
            notes=tuple(made.notes),
        )
        return Link(matches)

    def through(self, before: Link, after: Link) -> Through:
        """The common frame has the same keypoints in both, so their numbers tell."""
        pairs0, pairs1 = before.matches.pairs, after.matches.pairs
        _, i, j = np.intersect1d(pairs0[:, 1], pairs1[:, 0], return_indices=True)
        return before.matches.points0[i], after.matches.points0[j], after.matches.points1[j]


class FlowLinker:
    """By a dense flow both ways, from its pixels that are at least so `confident`; `options` are those of `pipelines.flow`."""

    def __init__(self, *, confidence: float = TRUSTED, device: str = "auto", **options: Any) -> None:
        self._confidence = confidence
        self._options = {**options, "device": resolve_device(device)}
        self.run: Run | None = None

    def link(self, image0: Image, image1: Image) -> Link:
        """Matches spread evenly over the first frame."""
        found = flow(image0, image1, bidirectional=True, **self._options)
        keep = usable(found, self._confidence)
        if self.run is None and found.run is not None:
            said = {**found.run.options, "confidence": self._confidence}
            self.run = replace(found.run, options=said, seconds={})
        matches = spread_matches(found, keep, MOST, found.run.method if found.run else "flow")
        return Link(matches, found)

    def through(self, before: Link, after: Link) -> Through:
        """The flow back of the one and forth of the other begin at the same pixels."""
        assert before.flow is not None and before.flow.backward is not None and after.flow is not None
        back = before.flow.backward
        keep = usable(back, self._confidence) & usable(after.flow, self._confidence)
        matches = spread_matches(after.flow, keep, MOST, "flow")
        here = matches.points0
        x, y = here.astype(int).T
        return here + back.uv[:, y, x].T, here, matches.points1
