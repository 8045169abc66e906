"""XFeat (Potje et al., CVPR 2024), sparse and semi-dense, on kornia's network."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flowkit.features.base import MIN_SIDE, assemble, nothing, working
from flowkit.features.matching import match_descriptors, no_matches
from flowkit.io.weights import card, load_checkpoint, load_strictly
from flowkit.types import Features, Image, Matches

if TYPE_CHECKING:
    import torch
    from kornia.feature import XFeat as Network


class XFeat:
    """Sparse XFeat: 64-dimensional descriptors at the peaks of a keypoint map."""

    name = "xfeat"

    def __init__(self, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None) -> None:
        self.network = load_network(device)
        self.device, self.max_side = device, max_side
        self.max_keypoints = 4096 if max_keypoints is None else max_keypoints
        self.weights: Mapping[str, str] = {"xfeat": card("xfeat").sha256}

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length."""
        work = working(image, max_side=self.max_side)
        if work.blank or min(work.pixels.shape[:2]) < MIN_SIDE:
            return nothing(image.size, self.name, 64)
        tensor = work.tensor(self.device, divisor=32)  # so that the network itself resizes nothing
        found = self.network.detectAndCompute(tensor, top_k=tensor.shape[-1] * tensor.shape[-2])[0]
        keypoints, descriptors, scores = (found[k].cpu().numpy() for k in ("keypoints", "descriptors", "scores"))
        return assemble(
            work, self.name, keypoints, descriptors, scores, mask=mask, max_keypoints=self.max_keypoints
        )


@lru_cache(maxsize=4)
def load_network(device: str) -> Network:
    """The network with its published weights, ready to run."""
    from kornia.feature import XFeat as Network

    network = Network()
    load_strictly(network.net, load_checkpoint("xfeat"), "xfeat")
    return network.eval().to(device)
