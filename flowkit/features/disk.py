"""DISK (Tyszkiewicz et al., NeurIPS 2020), on kornia's network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flowkit.features.base import MIN_SIDE, assemble, nothing, working
from flowkit.io.weights import card, load_checkpoint, load_strictly
from flowkit.types import Features, Image

if TYPE_CHECKING:
    from kornia.feature import DISK

OFFSET = 0.45
"""Working pixels that the published network's keypoints lie too far right and down: 0.41, 0.48 by regression over photos at
known scales, 0.46, 0.48 against SIFT on graf and HPatches."""


class Disk:
    """128-dimensional descriptors at the peaks of a dense score map."""

    name = "disk"

    def __init__(self, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None) -> None:
        self.network = load_network(device)
        self.device = device
        self.max_keypoints = 2048 if max_keypoints is None else max_keypoints
        self.max_side = 1024 if max_side is None else max_side
        self.weights: Mapping[str, str] = {"disk": card("disk").sha256}

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length."""
        import torch

        work = working(image, max_side=self.max_side)
        if work.blank or min(work.pixels.shape[:2]) < MIN_SIDE:
            return nothing(image.size, self.name, 128)
        with torch.inference_mode():
            found = self.network(work.tensor(self.device, divisor=16))[0]
        arrays = (t.cpu().numpy() for t in (found.keypoints - OFFSET, found.descriptors, found.detection_scores))
        return assemble(work, self.name, *arrays, mask=mask, max_keypoints=self.max_keypoints)


@lru_cache(maxsize=4)
def load_network(device: str) -> DISK:
    """The network with its published weights (depth supervision), ready to run."""
    from kornia.feature import DISK

    network = DISK()
    load_strictly(network, load_checkpoint("disk").get("extractor", {}), "disk")
    return network.eval().to(device)
