"""LightGlue (Lindenberger et al., ICCV 2023), a learned matcher for DISK and ALIKED features, on kornia's network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.features.base import Extractor
from flowkit.features.matching import label
from flowkit.io.weights import card, load_checkpoint, load_strictly
from flowkit.types import Features, Image, Matches

if TYPE_CHECKING:
    import torch
    from kornia.feature import LightGlue as Network


UNUSED = re.compile(r"log_assignment\.\d+\.r$")
"""A scalar left in the older published file; neither the authors' network nor kornia's has a use for it."""


class LightGlueMatcher:
    """A pair matcher from an extractor that LightGlue was trained for ("disk" or "aliked")."""

    def __init__(self, extractor: Extractor, *, device: str = "cpu") -> None:
        self.extractor, self.name, self.device = extractor, extractor.name, device
        weights = f"{extractor.name}-lightglue"
        self.network = load_network(weights, device)
        self.weights: Mapping[str, str] = {**extractor.weights, weights: card(weights).sha256}

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in the original pixels of both images; the score is LightGlue's own."""
        return self.match_features(self.extractor.extract(image0), self.extractor.extract(image1))

    def match_features(self, features0: Features, features1: Features) -> Matches:
        """The same from features already extracted."""
        import torch

        if not len(features0.keypoints) or not len(features1.keypoints):
            return label(features0, features1, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), self.name)
        with torch.inference_mode():
            found = self.network({"image0": self._input(features0), "image1": self._input(features1)})
        pairs = found["matches"][0].cpu().numpy().astype(np.int64)
        return label(features0, features1, pairs, found["scores"][0].float().cpu().numpy(), self.name)

    def _input(self, features: Features) -> dict[str, torch.Tensor]:
        """One image's features as the network wants them."""
        import torch

        height, width = features.size
        arrays = {
            "keypoints": np.clip(features.keypoints, 0, [width, height]).astype(np.float32),
            "descriptors": features.descriptors,
            "image_size": np.array([width, height], np.float32),
        }
        return {key: torch.from_numpy(array)[None].to(self.device) for key, array in arrays.items()}


@lru_cache(maxsize=4)
def load_network(weights: str, device: str) -> Network:
    """The network with its published weights, ready to run; both layouts that were published are read."""
    from kornia.feature import LightGlue as Network

    network = Network(features=None, input_dim=128, flash=False)  # type: ignore[arg-type]  # None is documented
    state = {
        re.sub(r"^(self_attn|cross_attn)\.(\d+)\.", r"transformers.\2.\1.", key): value
        for key, value in load_checkpoint(weights).items()
        if not UNUSED.match(key)
    }
    derived: dict[str, Any] = {
        "confidence_thresholds": network.confidence_thresholds
    }  # a buffer made from the options, not learned
    load_strictly(network, {**derived, **state}, weights)
    return network.eval().to(device)
