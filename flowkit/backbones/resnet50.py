"""ResNet-50 (He et al., CVPR 2016) up to conv4 (layer3), in torchvision's names: RANSAC-Flow's coarse features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.backbones.imagenet import normalised
from flowkit.errors import WeightsError

STRIDE, CHANNELS = 16, 1024
EXPANSION = 4
"""Channels that leave a bottleneck, per channel inside it."""
PREFIX = re.compile(r"^(module\.)?(encoder_q\.)?")
"""Of MoCo's names: a network trained on several devices, the encoder of its queries."""
LEFT_OUT = re.compile(r"^(layer4\.|fc\.|encoder_k\.|queue)")
"""What comes after conv4, and what MoCo has besides the encoder."""


class Bottleneck(nn.Module):
    """1x1 convolution to `width` channels, 3x3 (with the stride, as in torchvision), 1x1 to 4 `width`, added to the input."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(EXPANSION * width)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(channels, EXPANSION * width, 1, stride, bias=False), nn.BatchNorm2d(EXPANSION * width)
            )
            if channels != EXPANSION * width
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, 4 width, H / stride, W / stride)."""
        skip = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + skip, inplace=True)


class ResNet50Conv4(nn.Module):
    """conv1, layer1, layer2 and layer3: 3, 4 and 6 bottlenecks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W), RGB in [0, 1], sides multiples of 16 -> (N, 1024, H / 16, W / 16)."""
        x = F.relu(self.bn1(self.conv1(normalised(images))), inplace=True)
        x = F.max_pool2d(x, 3, 2, 1)
        features: Tensor = self.layer3(self.layer2(self.layer1(x)))
        return features


def _stage(channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    following = [Bottleneck(EXPANSION * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(channels, width, stride), *following)


def read_resnet50(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a ResNet50Conv4 from torchvision's resnet50 file or from MoCo's, under torchvision's names.

    MoCo's lie in an entry "state_dict" or "model", named `module.` or `module.encoder_q.` and so on. WeightsError where a file
    of neither layout gives none of them.
    """
    state: Any = checkpoint
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise WeightsError("holds no tensors by name")
    renamed = {PREFIX.sub("", str(name)): tensor for name, tensor in state.items()}
    found = {name: t.float() if _real(t) else t for name, t in renamed.items() if not LEFT_OUT.match(name)}
    if "layer3.5.conv3.weight" not in found:
        raise WeightsError("has no layer3.5.conv3.weight, so it is neither torchvision's ResNet-50 nor MoCo's")
    return found


def _real(value: object) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
