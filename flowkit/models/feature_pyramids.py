"""Features at 1/2, 1/4, 1/8 and 1/16 of the image: VGG-16's, as published with GLU-Net, or a smaller pyramid of our own.

Both take images (N, 3, H, W), RGB in [0, 1], and answer by level l, at 1/2^l of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.errors import WeightsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
VGG16 = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512)}
"""Channels of the convolutions of VGG-16 (Simonyan and Zisserman, ICLR 2015) by the level at whose end they are pooled."""
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


class VGG16Pyramid(nn.Module):
    """VGG-16 up to conv4_3; level l ends with its max-pool (spec.md 6.1). It is meant to stay as ImageNet has taught it."""

    channels: Mapping[int, int] = {level: widths[-1] for level, widths in VGG16.items()}

    def __init__(self) -> None:
        super().__init__()
        levels, before = [], 3
        for widths in VGG16.values():
            layers: list[nn.Module] = []
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
                before = width
            levels.append(nn.Sequential(*layers, nn.MaxPool2d(2)))
        self.levels = nn.ModuleList(levels)

    def forward(self, images: Tensor, levels: Iterable[int]) -> dict[int, Tensor]:
        """The features of those levels."""
        wanted, found = set(levels), {}
        mean, deviation = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        maps = (images - mean) / deviation
        for number, level in enumerate(self.levels, start=1):
            if number > max(wanted):
                break
            maps = level(maps)
            if number in wanted:
                found[number] = maps
        return found

    def load_torchvision(self, state: Mapping[str, Tensor]) -> None:
        """Take the convolutions of torchvision's VGG-16 file (`features.N.weight`); WeightsError when one is missing."""
        self.load_state_dict(from_torchvision(state))


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names, `features.{0, 2, 5, ...}`, as a VGG16Pyramid's; what comes after conv4_3 is left out."""
    found: dict[str, Tensor] = {}
    number = 0
    for level, widths in enumerate(VGG16.values()):
        for place in range(len(widths)):
            for kind in ("weight", "bias"):
                name = f"features.{number}.{kind}"
                if name not in state:
                    raise WeightsError(f"no VGG-16 of torchvision's: {name} is missing")
                found[f"levels.{level}.{2 * place}.{kind}"] = state[name].to(torch.float32)
            number += 2  # a ReLU after each
        number += 1  # the pool
    return found
