"""R2D2 (Revaud et al., NeurIPS 2019): descriptors at points that can be found again and told apart, at several scales.

The network is written from its description; it reads the authors' checkpoints, which are licensed for non-commercial use and
which the user brings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from flowkit.errors import WeightsError
from flowkit.features.base import MIN_SIDE, assemble, nothing, working
from flowkit.io import weights as files
from flowkit.io.own_weights import OwnWeights, find_own_weights
from flowkit.types import Features, Image

WEIGHTS = OwnWeights(
    "r2d2",
    ("r2d2_WASF_N16.pt", "r2d2_WAF_N16.pt", "r2d2_WASF_N8_big.pt"),
    "CC BY-NC-SA 3.0",
    "https://github.com/naver/r2d2 (models/)",
)
WIDTHS = (32, 32, 64, 64, 128, 128, 128, 128, 128)
"""Channels of the nine convolutions; the last ones are the descriptor."""
KERNELS = (3, 3, 3, 3, 3, 3, 2, 2, 2)
DILATIONS = (1, 1, 1, 2, 2, 4, 4, 8, 16)
"""Strides of convolutions 3, 5, 7, 8 are made up for by dilating those that follow: a descriptor for every pixel."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of RGB in [0, 1]."""
LEAST_RELIABILITY = LEAST_REPEATABILITY = 0.7
SCALE_STEP, SMALLEST_SIDE, LARGEST_SIDE = 2**0.25, 256, 1024
"""The image is searched at longer sides from LARGEST_SIDE (or its own) down to SMALLEST_SIDE."""
PATCH = 16.0
"""Radius in working pixels of what a descriptor is of."""


class Network(nn.Module):
    """Dense descriptors and two maps that say where they are good, at every pixel.

    Names of parameters are those of the authors' checkpoints: `ops.N`, `clf`, `sal`.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for index, (width, kernel, dilation) in enumerate(zip(widths, KERNELS, DILATIONS, strict=True)):
            layers.append(nn.Conv2d(channels, width, kernel, padding=(kernel - 1) * dilation // 2, dilation=dilation))
            if index < len(widths) - 1:
                layers.append(nn.BatchNorm2d(width, affine=False))
            if kernel == 3:
                layers.append(nn.ReLU(inplace=True))
            channels = width
        self.ops = nn.Sequential(*layers)
        self.clf = nn.Conv2d(channels, 2, 1)
        self.sal = nn.Conv2d(channels, 1, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) normalised RGB -> descriptors (B, D, H, W) of any length, reliability and repeatability (B, H, W)."""
        found = self.ops(image)
        squared = found**2
        reliability = self.clf(squared).softmax(dim=1)[:, 1]
        salience = F.softplus(self.sal(squared)[:, 0])
        return found, reliability, salience / (1 + salience)


class R2D2:
    """128-dimensional descriptors at local maxima of the repeatability, over scales a fourth root of two apart."""

    name = "r2d2"

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
        self.device = device
        self.max_keypoints = 5000 if max_keypoints is None else max_keypoints
        self.max_side = LARGEST_SIDE if max_side is None else max_side
        self.weights: Mapping[str, str] = {path.name: files.sha256(path)}
        self.notes = (WEIGHTS.note,)

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length, `scales` is their radius."""
        longest = max(image.size)
        scale = min(1.0, self.max_side / longest)
        found = [self._at(image, mask, scale)]
        while (scale := scale / SCALE_STEP) * longest >= SMALLEST_SIDE:
            found.append(self._at(image, mask, scale))
        best = np.argsort(-np.concatenate([each.scores for each in found]), kind="stable")[: self.max_keypoints]

        def gather(field: str) -> np.ndarray:
            return np.concatenate([getattr(each, field) for each in found])[best]

        return Features(
            gather("keypoints"),
            gather("descriptors"),
            gather("scores"),
            image.size,
            self.name,
            gather("scales"),
        )

    def _at(self, image: Image, mask: np.ndarray | None, scale: float) -> Features:
        """The keypoints of one scale."""
        work = working(image, scale=scale)
        if work.blank or min(work.pixels.shape[:2]) < MIN_SIDE:
            return nothing(image.size, self.name, self.network.clf.in_channels)
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (MEAN, STD))
        with torch.inference_mode():
            found, reliability, repeatability = self.network((work.tensor(self.device) - mean) / std)
            y, x = peaks(reliability[0], repeatability[0])
            descriptors = F.normalize(found[0, :, y, x].T, dim=1)
            scores = (reliability * repeatability)[0, y, x]
        keypoints = torch.stack([x, y], dim=1).cpu().numpy()
        radii = np.full(len(keypoints), PATCH, np.float32)
        return assemble(
            work,
            self.name,
            keypoints,
            descriptors.cpu().numpy(),
            scores.cpu().numpy(),
            mask=mask,
            max_keypoints=self.max_keypoints,
            scales=radii,
        )


def peaks(reliability: Tensor, repeatability: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of the 3x3 maxima of (H, W) repeatability where both maps are high enough."""
    highest = F.max_pool2d(repeatability[None], 3, stride=1, padding=1)[0]
    good = (repeatability == highest) & (repeatability >= LEAST_REPEATABILITY) & (reliability >= LEAST_RELIABILITY)
    y, x = good.nonzero(as_tuple=True)
    return y, x


@lru_cache(maxsize=4)
def load_network(path: Path, version: int, device: str) -> Network:
    """The network with the weights of an official checkpoint, ready to run; `version` changes with the file.

    WeightsError when the file cannot be read safely or is not R2D2's.
    """
    held = files.load_checkpoint("r2d2", path)
    state = held.get("state_dict") if isinstance(held, Mapping) else None
    if not isinstance(state, Mapping):
        raise WeightsError(f'{path}: has no "state_dict", so it is no checkpoint of R2D2; get it from {WEIGHTS.source}')
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    network = Network(_widths(state, path))
    files.load_strictly(network, state, f"r2d2 ({path})")
    network.ops = _folded(network.ops.eval())
    return network.eval().requires_grad_(False).to(device)


def _widths(state: Mapping[str, Any], path: Path) -> tuple[int, ...]:
    """Channels of the convolutions: the "big" networks of the authors have more."""
    convolutions = [name for name in Network().state_dict() if name.startswith("ops.") and name.endswith("weight")]
    try:
        return tuple(int(state[name].shape[0]) for name in convolutions)
    except (KeyError, AttributeError, IndexError) as error:
        raise WeightsError(f"{path}: not a checkpoint of R2D2 ({error}); get it from {WEIGHTS.source}") from None


def _folded(layers: nn.Sequential) -> nn.Sequential:
    """The same without batch norms, which are fixed and go into their convolutions."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer)  # type: ignore[type-var]
        else:
            kept.append(layer)
    return nn.Sequential(*kept)
