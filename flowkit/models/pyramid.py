"""What networks have in common that go down a pyramid of features and regress flow in units of 20 pixels at every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.prediction import FlowPrediction
from flowkit.ops.precision import wide

UNIT = 20.0
"""Pixels of the input per unit of regressed flow."""
FEATURES = "features"
"""The `until` of a network of which only the features are wanted."""


class SiamesePyramid(nn.Module):
    """Images (N, 3, H, W) to features of every level, each made from those of the level before."""

    def __init__(self, levels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)

    def forward(self, image0: Tensor, image1: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The features by level of both images."""
        if torch.is_grad_enabled() or image0.is_cuda:
            both = [level.chunk(2) for level in self._of(torch.cat([image0, image1]))]
            return [first for first, _ in both], [second for _, second in both]
        return self._of(image0), self._of(image1)  # half the memory at a time, and faster for it

    def _of(self, images: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            images = level(images)
            features.append(images)
        return features


def check_pair(image0: Tensor, image1: Tensor, initial: Tensor | None, divisor: int) -> None:
    """ValueError unless images are (B, 3, H, W) of one size that `divisor` divides, and `initial` (B, 2, H/d, W/d) if given."""
    batch, channels, height, width = image0.shape
    if channels != 3 or image1.shape != image0.shape or height % divisor or width % divisor or not height * width:
        shapes = f"{tuple(image0.shape)}, {tuple(image1.shape)}"
        raise ValueError(f"images must both be (B, 3, H, W), H and W divisible by {divisor}: {shapes}")
    cells = batch, 2, height // divisor, width // divisor
    if initial is not None and initial.shape != cells:
        raise ValueError(f"initial must be {cells}, in cells of {divisor} pixels, got {tuple(initial.shape)}")


def only_features(features0: Sequence[Tensor], features1: Sequence[Tensor], image0: Tensor) -> FlowPrediction:
    """The features of levels that infer flow may be asked for, by stride, and no flow: 0."""
    by_stride = {image0.shape[-1] // f0.shape[-1]: (f0, f1) for f0, f1 in zip(features0, features1, strict=True)}
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
