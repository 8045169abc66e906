"""What networks have in common that go down a pyramid of features and regress flow in units of 20 pixels at every level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.prediction import FlowPrediction
from flowkit.ops.precision import wide

UNIT = 20.0
"""Pixels of the input per unit of regressed flow."""
FEATURES = "features"
"""The `until` of a network of which only the features are wanted."""


BAND = 2**22
"""Numbers of a band's first features: 16 MB. Memory for more than 32 comes fresh from the kernel each time, which costs."""
HALO = 8
"""Rows of the image beyond a band that what is kept of it may depend on: 7 by LiteFlowNet's and by PWC-Net's first levels."""


class SiamesePyramid(nn.Module):
    """Images (N, 3, H, W) to features by level, from level 2 on, each made from those of the level before.

    Level 1, which no network matches, is only on the way. A level is a convolution and what follows it.
    """

    def __init__(self, levels: Sequence[nn.Sequential]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, image0: Tensor, image1: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The features of both images."""
        if torch.is_grad_enabled() or image0.is_cuda:
            both = {level: maps.chunk(2) for level, maps in self._of(torch.cat([image0, image1])).items()}
            return {level: maps[0] for level, maps in both.items()}, {level: maps[1] for level, maps in both.items()}
        return self._of(image0), self._of(image1)  # half the memory at a time, and faster for it

    def _of(self, images: Tensor) -> dict[int, Tensor]:
        first, second, *others = self.levels
        assert isinstance(first, nn.Sequential) and isinstance(second, nn.Sequential)
        begin = nn.Sequential(*first, second[0])
        maps = begin(images) if torch.is_grad_enabled() or images.is_cuda else in_bands(begin, images)
        maps = second[1:](maps)
        features = {2: maps}
        for number, level in enumerate(others, start=3):
            features[number] = maps = level(maps)
        return features


def in_bands(layers: nn.Sequential, images: Tensor, numbers: int = BAND) -> Tensor:
    """layers(images) of convolutions that see no further than `HALO` rows, computed in bands of rows of the images.

    What is large in between, as features at full size, is then never there as a whole.
    """
    first = layers[0]
    assert isinstance(first, nn.Conv2d)
    height, width = images.shape[-2:]
    rows = max(HALO, numbers // (len(images) * first.out_channels * width) // HALO * HALO)
    parts = []
    for top in range(0, height, rows):
        low, bottom = max(0, top - HALO), min(height, top + rows)
        band = images[..., low : min(height, bottom + HALO), :]
        found = layers(band)
        stride = band.shape[-2] // found.shape[-2]
        parts.append(found[..., (top - low) // stride : (bottom - low) // stride, :])
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)


def check_pair(image0: Tensor, image1: Tensor, initial: Tensor | None, divisor: int) -> None:
    """ValueError unless images are (B, 3, H, W) of one size that `divisor` divides, and `initial` (B, 2, H/d, W/d) if given."""
    batch, channels, height, width = image0.shape
    if channels != 3 or image1.shape != image0.shape or height % divisor or width % divisor or not height * width:
        shapes = f"{tuple(image0.shape)}, {tuple(image1.shape)}"
        raise ValueError(f"images must both be (B, 3, H, W), H and W divisible by {divisor}: {shapes}")
    cells = batch, 2, height // divisor, width // divisor
    if initial is not None and initial.shape != cells:
        raise ValueError(f"initial must be {cells}, in cells of {divisor} pixels, got {tuple(initial.shape)}")


def only_features(
    features0: Mapping[int, Tensor], features1: Mapping[int, Tensor], levels: Iterable[int], image0: Tensor
) -> FlowPrediction:
    """The features of some levels, by stride, and no flow: 0."""
    pairs = [(features0[level], features1[level]) for level in levels]
    by_stride = {image0.shape[-1] // f0.shape[-1]: (f0, f1) for f0, f1 in pairs}
    return FlowPrediction(flow=torch.zeros_like(wide(image0[:, :2])), features=by_stride)


@torch.no_grad()
def stilled(head: nn.Conv2d) -> None:
    """Let a convolution that gives flow begin with next to none: a hundredth of its weights, no bias."""
    head.weight.mul_(0.01)
    if head.bias is not None:
        head.bias.zero_()


def prediction(flows: Sequence[Tensor], strides: Sequence[int], divisor: int, training: bool) -> FlowPrediction:
    """Of flows (B, 2, H / s, W / s) in units: the last one enlarged, in pixels; in training with all the others.

    `coarse` is the last one's mean over cells of `divisor` pixels, in those cells.
    """
    last, stride = flows[-1], strides[-1]
    coarse = F.avg_pool2d(last, divisor // stride) * (UNIT / divisor)
    flow = UNIT * F.interpolate(last, scale_factor=float(stride), mode="bilinear", align_corners=False)
    if not training:
        return FlowPrediction(flow=flow, iterates=[flow], strides=[1], coarse=coarse)
    iterates = [*(UNIT * each for each in flows), flow]
    return FlowPrediction(flow=flow, iterates=iterates, strides=[*strides, 1], coarse=coarse)
