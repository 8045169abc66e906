"""The dense flow that leads sparse matching (`features/guided.py`): which model it is, and both directions for a pair."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowkit.errors import UsageError
from flowkit.features.guided import RADIUS, match_with_guide
from flowkit.features.matching import merge
from flowkit.io import weights as files
from flowkit.models.registry import MODELS, model_spec, network_spec
from flowkit.pipelines.prepare import Resize, scaled_points
from flowkit.types import Features, Image, Matches, Size

if TYPE_CHECKING:
    from flowkit.features.matching import DescriptorMatcher

log = logging.getLogger(__name__)

BEST, STAND_IN = "life", "life-small"
"""The network of the paper, and the one whose weights come with flowkit."""
INIT = "matches"
"""What the flow starts from: a network alone loses what moves far or shrinks, and a lost flow misleads the matching."""
MAX_SIDE = 1600
"""Longer side at which the flow of larger images is computed, as the features are, unless `resize` says otherwise."""


@dataclass(frozen=True)
class Guide:
    """Both flows in original pixels, (2, H0, W0) and (2, H1, W1), and what the provenance says of them."""

    model: str
    forward: np.ndarray
    backward: np.ndarray
    weights: Mapping[str, str]
    """Name of each weights file used -> its sha256."""
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What the name of a guide means: a flow model, a weights file in place of its own, and a note where that needs one."""

    model: str
    weights: Path | None = None
    note: str | None = None


def resolve_guide(name: str) -> Choice:
    """The flow model that a guide's name means: any of the registry's, NAME=FILE for one with a weights file of the user's.

    `life` is the model of that name where its weights are on this machine (shipped, or `life.safetensors` in flowkit's cache
    folder), else `life-small`, and the note says so. UsageError listing the models for an unknown name.
    """
    model, _, file = name.partition("=")
    if file:
        return Choice(network_spec(model).name, Path(file))
    if model != BEST or _has_weights(BEST):
        return Choice(model_spec(model).name)
    own = files.cache_folder() / f"{BEST}.safetensors"
    if BEST in MODELS and own.is_file():
        return Choice(BEST, own)
    if STAND_IN not in MODELS:
        raise UsageError(f"--guide {name}: this version of flowkit has no such weights; use one of {', '.join(MODELS)}")
    return Choice(STAND_IN, note=f"guide: no weights of {BEST!r} are on this machine; {STAND_IN!r} takes its place")


def guide_flows(
    image0: Image, image1: Image, name: str, *, resize: Resize = None, device: str = "auto", seed: int = 0
) -> Guide:
    """The flows image0 -> image1 and back by the guide of that name, begun with matches. Raises UsageError, WeightsError."""
    from flowkit.pipelines.flow import flow  # which itself may start from matches

    started = time.perf_counter()
    choice = resolve_guide(name)
    if choice.note is not None:
        _say(choice.note)
    if resize is None and max(image0.size) > MAX_SIDE:
        resize = MAX_SIDE
    found = flow(
        image0,
        image1,
        model=choice.model,
        weights=choice.weights,
        init=INIT,
        bidirectional=True,
        resize=resize,
        device=device,
        seed=seed,
    )
    assert found.backward is not None and found.run is not None
    images_own = {note for image in (image0, image1) for note in image.notes}
    notes = [choice.note] if choice.note else []
    notes += [f"guide: {note}" for note in found.run.notes if note not in images_own]
    seconds = time.perf_counter() - started
    return Guide(choice.model, found.uv, found.backward.uv, dict(found.run.weights), seconds, tuple(notes))


def guide_provenance(model: str, radius: float) -> dict[str, object]:
    """What is said of a guide wherever it led: the options of a pair's run, and of a set's."""
    return {"guide": model, "guide_init": INIT, "guide_radius": radius}


def guided_matches(
    matchers: Sequence[DescriptorMatcher],
    images: tuple[Image, Image],
    work: tuple[Image, Image],
    guide: Guide,
    radius: float = RADIUS,
) -> Matches:
    """The matches of each feature, all led by the same flows, in original pixels; `work` is `images` as features see them."""
    pixel = float(np.mean(np.divide(images[1].size, work[1].size)))
    parts = []
    for matcher in matchers:
        features0 = at_size(matcher.extractor.extract(work[0]), images[0].size)
        features1 = at_size(matcher.extractor.extract(work[1]), images[1].size)
        parts.append(
            match_with_guide(matcher, features0, features1, guide.forward, guide.backward, radius=radius, pixel=pixel)
        )
    return merge(parts)


def at_size(features: Features, size: Size) -> Features:
    """The same features in the pixels of their image at another size."""
    if features.size == size:
        return features
    scaled = scaled_points(features.keypoints, features.size, size)
    return replace(features, keypoints=scaled, size=size, scales=None)


def _has_weights(name: str) -> bool:
    """Whether the model of that name is known and weights with a card are on this machine."""
    wanted = MODELS[name].weights if name in MODELS else None
    return wanted is not None and wanted in files.cards() and files.locate(files.card(wanted)) is not None


_said: set[str] = set()


def _say(note: str) -> None:
    """Log it once, not for each pair of a batch."""
    if note not in _said:
        _said.add(note)
        log.warning("%s", note)
