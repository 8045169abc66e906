"""RANSAC-Flow's fine network: two pictures that a homography has brought together in, small flow and matchability out.

Shen et al., RANSAC-Flow, ECCV 2020, section 3.4; spec.md 9.2.

    image -> features at 1/8 -> 7x7 cosine correlation -> flow: expectation of a softmax over the 49 displacements
                                                       -> matchability: how sure it is that there is a match at all
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from flowkit.geometry.grids import flow_targets, grid_like, inside
from flowkit.geometry.sampling import sample
from flowkit.models.prediction import FlowPrediction
from flowkit.ops.correlation import local_correlation
from flowkit.ops.precision import wide

RADIUS = 3
"""Cells that the correlation reaches: 24 pixels."""
STRIDE = 8
TRUNK = (512, 256, 128)
"""Channels of both heads."""


@dataclass
class FineAlignment(FlowPrediction):
    """A `FlowPrediction` in both directions; `confidence` is the matchability both pictures agree on."""

    backward: Tensor | None = None
    """(B, 2, H, W): image1 -> image0, in pixels."""
    matchability: Tensor | None = None
    """(B, 1, H, W) in [0, 1]: what is predicted on image0's grid alone; None where it was not asked for."""
    backward_matchability: Tensor | None = None
    described: tuple[Tensor, Tensor] | None = None
    """Features (B, 256, H/8, W/8) of unit length of both pictures."""
    scores: tuple[Tensor, Tensor] | None = None
    """(B, 49, H/8, W/8) of both directions: what the flow is the expectation of, under a softmax."""


class BlurPool(nn.Module):
    """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)): every second pixel after the filter [1 2 1]^2 (Zhang, ICML 2019)."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.channels = channels
        self.register_buffer("filt", torch.outer(line, line).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class; borders are reflected."""
        return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), self.filt, stride=2, groups=self.channels)


class BasicBlock(nn.Module):
    """ResNet's block of two convolutions; where it halves the resolution only the way around is anti-aliased."""

    def __init__(self, before: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Sequential | None = None
        if stride == 2:
            self.downsample = nn.Sequential(
                BlurPool(before), nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, channels, H / stride, W / stride)."""
        around = maps if self.downsample is None else self.downsample(maps)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(maps))))) + around)


class FeatureExtractor(nn.Module):
    """ResNet-18 up to its third layer with a 3x3 first convolution of stride 1: (B, 3, H, W) -> (B, 256, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Sequential(nn.MaxPool2d(2, stride=1), BlurPool(64))
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256))
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Of RGB images in [0, 1], not normalised."""
        maps: Tensor = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3):
            maps = layer(maps)
        return maps


class Head(nn.Module):
    """Four 3x3 convolutions over the 49 similarities; `out` channels at the end."""

    def __init__(self, out: int) -> None:
        super().__init__()
        widths = ((2 * RADIUS + 1) ** 2, *TRUNK)
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(before, after, 3, 1, 1, bias=False) for before, after in pairwise(widths)
        )
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(width) for width in TRUNK)
        self.conv4 = nn.Conv2d(TRUNK[-1], out, 3, 1, 1, bias=False)
        _initialise(self)

    def forward(self, similarities: Tensor) -> Tensor:
        """(B, 49, h, w) -> (B, out, h, w)."""
        maps = F.relu(self.bn1(self.conv1(similarities)))
        maps = F.relu(self.bn2(self.conv2(maps)))
        maps = F.relu(self.bn3(self.conv3(maps)))
        scores: Tensor = self.conv4(maps)
        return scores


class FineAlign(nn.Module):
    """See the module; `features` and both heads are used for either direction."""

    def __init__(self) -> None:
        super().__init__()
        self.features = FeatureExtractor()
        self.flow = Head((2 * RADIUS + 1) ** 2)
        self.matchability = Head(1)
        nn.init.normal_(self.matchability.conv4.weight, 0, 1e-4)

    def forward(
        self, image0: Tensor, image1: Tensor, *, matchability: bool = True, through_features: bool = True
    ) -> FineAlignment:
        """Flow image0 -> image1 (B, 2, H, W) in pixels, never leading out of image1, its way back, and how sure both are.

        Images (B, 3, H, W) in [0, 1], sides divisible by 8. `confidence` is m0(p) m1(p + flow(p)), the matchability of
        both ends (equation 2); without `matchability` that head does not run. With `through_features` off the flow's gradient
        ends before the features.
        """
        maps0, maps1 = self.described(torch.cat([image0, image1])).chunk(2)
        if through_features:
            return self.between(maps0, maps1, matchability=matchability)
        found = self.between(maps0.detach(), maps1.detach(), matchability=matchability)
        found.described = maps0, maps1
        return found

    def described(self, images: Tensor) -> Tensor:
        """(B, 256, H/8, W/8): features of unit length."""
        return F.normalize(wide(self.features(images)), dim=1)

    def between(self, maps0: Tensor, maps1: Tensor, *, matchability: bool = True) -> FineAlignment:
        """The same as `forward` from `described` pictures: a target's are the same under every homography."""
        both, other = torch.cat([maps0, maps1]), torch.cat([maps1, maps0])
        similarities = maps0.shape[1] * local_correlation(both, other, RADIUS)
        scores = self.flow(similarities)
        flows = enlarged(expectation(scores))
        targets = flow_targets(STRIDE * flows)
        targets = kept_inside(targets, (int(flows.shape[-2]), int(flows.shape[-1])))
        forward, backward = (targets.movedim(-1, 1) - grid_like(flows)).chunk(2)
        there, back = scores.chunk(2)
        answer = FineAlignment(
            forward, [forward], [1], backward=backward, described=(maps0, maps1), scores=(there, back)
        )
        if matchability:
            sure = enlarged(torch.sigmoid(wide(self.matchability(similarities))))
            answer.matchability, answer.backward_matchability = sure.chunk(2)
            answer.confidence = agreed(answer.matchability, answer.backward_matchability, forward)
        return answer


def finealign() -> FineAlign:
    """The network of the paper: 6 236 992 parameters."""
    return FineAlign()


def folded(network: FineAlign) -> FineAlign:
    """A copy for inference alone, whose batch normalisations have become part of the convolutions before them."""
    network = copy.deepcopy(network).eval()
    for part in network.modules():
        children = dict(part.named_children())
        pairs = [(name, name.replace("conv", "bn")) for name in children if name.startswith("conv")]
        if isinstance(part, nn.Sequential) and isinstance(children.get("2"), nn.BatchNorm2d):
            pairs = [("1", "2")]
        for conv, norm in pairs:
            if norm in children:
                setattr(part, conv, fuse_conv_bn_eval(children[conv], children[norm]))  # type: ignore[type-var, arg-type]
                setattr(part, norm, nn.Identity())
    return network


def expectation(scores: Tensor) -> Tensor:
    """(B, 2, h, w): the mean displacement in cells under a softmax over scores (B, 49, h, w), row-major (dy, dx)."""
    chance = wide(scores).softmax(dim=1)
    steps = torch.arange(-RADIUS, RADIUS + 1, dtype=chance.dtype, device=chance.device)
    grid = chance.unflatten(1, (2 * RADIUS + 1, 2 * RADIUS + 1))
    x = (grid.sum(1) * steps[:, None, None]).sum(1)
    y = (grid.sum(2) * steps[:, None, None]).sum(1)
    return torch.stack([x, y], dim=1)


def enlarged(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 8h, 8w), bilinear; values stay."""
    return F.interpolate(maps, scale_factor=STRIDE, mode="bilinear", align_corners=False)


def kept_inside(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Points (..., 2), moved to the nearest place within a picture, its rim included."""
    limit = points.new_tensor([size[1] - 0.5, size[0] - 0.5])
    return torch.minimum(points.clamp_min(-0.5), limit)


def agreed(sure0: Tensor, sure1: Tensor, flow: Tensor) -> Tensor:
    """(B, 1, H, W): m0(p) m1(p + flow(p)) of matchabilities (B, 1, H, W), 0 where that leads out of image1 (equation 2)."""
    targets = flow_targets(flow)
    seen = inside(targets.detach(), (int(sure1.shape[-2]), int(sure1.shape[-1])))
    return sure0 * sample(sure1, targets, padding="border") * seen[:, None]


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
