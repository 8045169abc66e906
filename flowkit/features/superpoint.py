"""SuperPoint (DeTone, Malisiewicz and Rabinovich, CVPRW 2018): corners that a network learnt to find again, with descriptors.

The network is written from the paper; it reads the authors' `superpoint_v1.pth`, which is licensed for non-commercial research
and which the user brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.errors import WeightsError
from flowkit.features.base import MIN_SIDE, assemble, nothing, working
from flowkit.geometry.sampling import sample
from flowkit.io import weights as files
from flowkit.io.own_weights import OwnWeights, find_own_weights
from flowkit.types import Features, Image

WEIGHTS = OwnWeights(
    "superpoint",
    ("superpoint_v1.pth",),
    "Magic Leap's, non-commercial research only",
    "https://github.com/magicleap/SuperPointPretrainedNetwork",
)
CELL = 8
"""Side in pixels of the cells of the coarse maps."""
LEAST_SCORE, NMS_RADIUS, BORDER = 0.015, 4, 4
"""Of the authors' demonstration; radius and border in pixels."""


class Network(nn.Module):
    """A score for every pixel and a descriptor for every cell of 8 x 8 pixels. Parameters are named as in the official file."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1a, self.conv1b = _convolution(1, 64), _convolution(64, 64)
        self.conv2a, self.conv2b = _convolution(64, 64), _convolution(64, 64)
        self.conv3a, self.conv3b = _convolution(64, 128), _convolution(128, 128)
        self.conv4a, self.conv4b = _convolution(128, 128), _convolution(128, 128)
        self.convPa, self.convPb = _convolution(128, 256), nn.Conv2d(256, CELL**2 + 1, 1)
        self.convDa, self.convDb = _convolution(128, 256), nn.Conv2d(256, 256, 1)

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, H, W) in [0, 1], sides multiples of 8 -> scores (B, H, W), descriptors (B, 256, H/8, W/8) of unit length."""
        x = F.relu(self.conv1b(F.relu(self.conv1a(grey))))
        for first, second in (
            (self.conv2a, self.conv2b),
            (self.conv3a, self.conv3b),
            (self.conv4a, self.conv4b),
        ):
            x = F.relu(second(F.relu(first(F.max_pool2d(x, 2)))))
        logits = self.convPb(F.relu(self.convPa(x)))
        return pixel_scores(logits), F.normalize(self.convDb(F.relu(self.convDa(x))), dim=1)


class SuperPoint:
    """256-dimensional descriptors at the corners that stand out within 4 pixels."""

    name = "superpoint"

    def __init__(
        self,
        *,
        device: str = "cpu",
        max_keypoints: int | None = None,
        max_side: int | None = None,
        weights: str | Path | None = None,
    ) -> None:
        path = find_own_weights(WEIGHTS, weights)
        self.network = load_network(path, path.stat().st_mtime_ns, device)
        self.device, self.max_side = device, max_side
        self.max_keypoints = 4096 if max_keypoints is None else max_keypoints
        self.weights: Mapping[str, str] = {path.name: files.sha256(path)}
        self.notes = (WEIGHTS.note,)

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length."""
        work = working(image, max_side=self.max_side, grey=True)
        height, width = work.pixels.shape[:2]
        if work.blank or min(height, width) < MIN_SIDE:
            return nothing(image.size, self.name, 256)
        with torch.inference_mode():
            scores, coarse = self.network(work.tensor(self.device, divisor=CELL))
            y, x = corners(scores[0, :height, :width])
            keypoints = torch.stack([x, y], dim=1)
            descriptors = describe(coarse[0], keypoints)
        return assemble(
            work,
            self.name,
            keypoints.cpu().numpy(),
            descriptors.cpu().numpy(),
            scores[0, y, x].cpu().numpy(),
            mask=mask,
            max_keypoints=self.max_keypoints,
        )


def pixel_scores(logits: Tensor) -> Tensor:
    """(B, 65, h, w) -> (B, 8h, 8w): channel 8 row + column is that pixel of the cell, the last one "no corner in it"."""
    chances = logits.softmax(dim=1)[:, :-1]
    return F.pixel_shuffle(chances, CELL)[:, 0]


def corners(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of (H, W) scores above LEAST_SCORE, the best first to suppress all within NMS_RADIUS (a square)."""
    left = scores.where(scores >= LEAST_SCORE, 0)
    kept = torch.zeros_like(scores, dtype=torch.bool)
    while True:
        best = (left > 0) & (left == _highest_near(left))
        if not best.any():
            break
        kept |= best
        left = left.where(_highest_near(best.to(left)) == 0, 0)
    for edge in (kept[:BORDER], kept[-BORDER:], kept[:, :BORDER], kept[:, -BORDER:]):
        edge.fill_(False)
    y, x = kept.nonzero(as_tuple=True)
    return y, x


def describe(coarse: Tensor, keypoints: Tensor) -> Tensor:
    """(N, D) unit descriptors of (D, h, w) cells at (N, 2) pixels, bilinear: the centre of cell 0 is at pixel 3.5."""
    return F.normalize(sample(coarse, (keypoints + 0.5) / CELL - 0.5, padding="border").T, dim=1)


@lru_cache(maxsize=4)
def load_network(path: Path, version: int, device: str) -> Network:
    """The network with the official weights, ready to run; `version` changes with the file. WeightsError for other files."""
    state = files.load_checkpoint("superpoint", path)
    if not isinstance(state, Mapping):
        raise WeightsError(f"{path}: holds no tensors by name, so it is not SuperPoint's; get it from {WEIGHTS.source}")
    network = Network()
    files.load_strictly(network, dict(state), f"superpoint ({path})")
    return network.eval().requires_grad_(False).to(device)


def _convolution(channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=1)


def _highest_near(values: Tensor) -> Tensor:
    """The largest of the (H, W) values within NMS_RADIUS of each."""
    return F.max_pool2d(values[None], 2 * NMS_RADIUS + 1, stride=1, padding=NMS_RADIUS)[0]
