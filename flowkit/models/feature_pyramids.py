"""Features at 1/2, 1/4, 1/8 and 1/16 of the image: VGG-16's, as published with GLU-Net, or a smaller pyramid of our own.

Both take images (N, 3, H, W), RGB in [0, 1], and answer by level l, at 1/2^l of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.backbones.vgg16 import VGG16Pyramid

__all__ = ["OWN", "OwnPyramid", "VGG16Pyramid"]

OWN = {1: 32, 2: 64, 3: 128, 4: 192}
"""Channels of our own pyramid by level."""


class OwnPyramid(nn.Module):
    """Three convolutions a level, the first with stride 2; features are linear, what goes on to the next level is not."""

    channels: Mapping[int, int] = OWN

    def __init__(self) -> None:
        super().__init__()
        levels, before = [], 3
        for width in OWN.values():
            layers = [
                nn.Conv2d(before, width, 3, 2, 1),
                nn.Conv2d(width, width, 3, 1, 1),
                nn.Conv2d(width, width, 3, 1, 1),
            ]
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, a=0.1)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            between = [nn.LeakyReLU(0.1, inplace=True) for _ in range(2)]
            levels.append(nn.Sequential(layers[0], between[0], layers[1], between[1], layers[2]))
            before = width
        self.levels = nn.ModuleList(levels)

    def forward(self, images: Tensor, levels: Iterable[int]) -> dict[int, Tensor]:
        """The features of those levels."""
        wanted, maps, found = set(levels), 2 * images - 1, {}
        for number, level in enumerate(self.levels, start=1):
            if number > max(wanted):
                break
            maps = level(maps if number == 1 else F.leaky_relu(maps, 0.1))
            if number in wanted:
                found[number] = maps
        return found
