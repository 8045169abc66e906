"""VGG-16 (Simonyan and Zisserman, ICLR 2015) up to conv4_3, in torchvision's names or ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from flowkit.backbones.imagenet import normalised
from flowkit.errors import WeightsError

VGG16 = {1: (64, 64), 2: (128, 128), 3: (256, 256, 256), 4: (512, 512, 512)}
"""Channels of the convolutions by the level at whose end they are pooled."""


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
        """The features, by level l at 1/2^l, of images (N, 3, H, W), RGB in [0, 1]."""
        wanted, found = set(levels), {}
        maps = normalised(images)
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
                found[f"levels.{level}.{2 * place}.{kind}"] = state[name].float()
            number += 2  # a ReLU after each
        number += 1  # the pool
    return found
