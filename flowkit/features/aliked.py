"""ALIKED-N(16) (Zhao et al., TIM 2023), on kornia's network (which needs no torchvision)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.features.base import MIN_SIDE, assemble, nothing, working
from flowkit.io.weights import card, load_checkpoint, load_strictly
from flowkit.types import Features, Image

if TYPE_CHECKING:
    from kornia.feature import ALIKED

MIN_SCORE = 0.01
"""Peaks below it are noise on flat ground."""


class Aliked:
    """128-dimensional descriptors sampled deformably at sub-pixel peaks of a dense score map."""

    name = "aliked"

    def __init__(self, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None) -> None:
        self.network = load_network(device)
        self.device = device
        self.max_keypoints = 2048 if max_keypoints is None else max_keypoints
        self.max_side = 1024 if max_side is None else max_side
        self.weights: Mapping[str, str] = {"aliked": card("aliked").sha256}

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length."""
        import torch

        work = working(image, max_side=self.max_side)
        if work.blank or min(work.pixels.shape[:2]) < MIN_SIDE:
            return nothing(image.size, self.name, 128)
        self.network.dkd.top_k = self.max_keypoints if mask is None else 4 * self.max_keypoints
        with torch.inference_mode():
            found = self.network(work.tensor(self.device))[0]
        strong = found.keypoint_scores > MIN_SCORE
        arrays = (t[strong].cpu().numpy() for t in (found.keypoints, found.descriptors, found.keypoint_scores))
        return assemble(work, self.name, *arrays, mask=mask, max_keypoints=self.max_keypoints)


@lru_cache(maxsize=4)
def load_network(device: str) -> ALIKED:
    """The network with its published weights, keeping the best peaks rather than all above a threshold."""
    from kornia.feature import ALIKED

    network = ALIKED("aliked-n16", max_num_keypoints=2048, detection_threshold=0.0)
    derived: dict[str, Any] = {"dkd.hw_grid": network.dkd.hw_grid}  # a constant that the published file leaves out
    load_strictly(network, {**derived, **load_checkpoint("aliked")}, "aliked")
    return network.eval().to(device)
