"""What BaseNet and GLU-Net are made of: correlation layers, plain or GOCor, and the decoders of their volumes (spec.md 6.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.gocor import RADIUS, GOCor, answer_at
from flowkit.models.neighbourhood_consensus import NeighbourhoodConsensus, mutual_matching
from flowkit.ops.correlation import local_correlation
from flowkit.ops.precision import wide
from flowkit.ops.warping import warped

SIDE = 256
"""Pixels a side of the image that the coarse levels see."""
COARSE, MIDDLE = 16, 32
"""Cells a side of the levels of that image."""
CELL = 8
"""Pixels a side of the cells in which a flow is handed on to the next pair."""
VOLUME = (2 * RADIUS + 1) ** 2
DECODER = (128, 128, 96, 64, 32)
"""Channels that a decoder's convolutions give, or add."""
CONTEXT = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))
"""(channels, dilation) of a refinement's hidden convolutions."""

Filtering = Literal["mutual", "consensus", "none"]
GlobalMatching = Callable[[Tensor, Tensor], Tensor]
"""Features of length 1 (B, C, H, W) of reference and query -> (B, cells of the query, H, W)."""
Features = dict[int, tuple[Tensor, Tensor]]
"""By level l the features of both images at 1/2^l."""
LocalMatching = Callable[[Tensor, Tensor], Tensor]
"""Features (B, C, H, W) of reference and warped query -> (B, 81, H, W)."""


class GlobalCorrelation(nn.Module):
    """Cosines of every cell of the reference with every cell of the query: (B, cells of the query, H, W), of length 1 each.

    Before that they may go through mutual matching (GLU-Net) or neighbourhood consensus (Table 6, II).
    """

    def __init__(self, filtering: Filtering = "none") -> None:
        super().__init__()
        self.filtering = filtering
        self.consensus = NeighbourhoodConsensus() if filtering == "consensus" else None

    def forward(self, reference: Tensor, query: Tensor) -> Tensor:
        """Of features (B, C, H, W) with vectors of length 1."""
        volume = (query.flatten(2).mT @ reference.flatten(2)).unflatten(2, reference.shape[-2:])
        if self.consensus is not None:
            volume = self.consensus(volume, (int(query.shape[-2]), int(query.shape[-1])))
        elif self.filtering == "mutual":
            volume = mutual_matching(volume)
        return unit(F.relu(volume))


class LocalCorrelation(nn.Module):
    """PWC-Net's cost volume: (B, 81, H, W)."""

    def forward(self, reference: Tensor, query: Tensor) -> Tensor:
        """Of features (B, C, H, W)."""
        return local_correlation(reference, query, RADIUS)


class MatchingLayers(nn.Module):
    """The correlation layers of a network, either of which may be a GOCor module; the local one serves all its levels."""

    def __init__(self, globally: nn.Module, locally: nn.Module) -> None:
        super().__init__()
        self.globally, self.locally = globally, locally

    @property
    def confident(self) -> bool:
        """Whether a local volume says how sure a match is (see `Level.confidence`)."""
        return isinstance(self.locally, GOCor)

    def with_steps(self, steps: int | None) -> tuple[GlobalMatching, LocalMatching]:
        """Both, GOCor modules with that number of steps; None is their own."""
        layers = self.globally, self.locally
        if steps is None:
            return layers
        first, second = (partial(layer, steps=steps) if isinstance(layer, GOCor) else layer for layer in layers)
        return first, second


class MappingDecoder(nn.Module):
    """A global volume to the place in the query of every cell of the reference, as a flow in cells."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        inputs, layers = cells + 2, []
        for width in DECODER:
            layers.append(normalised(inputs, width, nn.ReLU(inplace=True)))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.mapping = conv(inputs, 2)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, 2, H, W)."""
        height, width = volume.shape[-2:]
        nothing_yet = volume.new_zeros(len(volume), 2, height, width)
        mapping = wide(self.mapping(self.layers(torch.cat([volume, nothing_yet], 1))))  # in [-1, 1] of the query
        extent = mapping.new_tensor([width - 1, height - 1]).view(2, 1, 1)
        x = torch.arange(width, device=mapping.device, dtype=mapping.dtype).expand(height, width)
        y = torch.arange(height, device=mapping.device, dtype=mapping.dtype)[:, None].expand(height, width)
        return (mapping + 1) * extent / 2 - torch.stack([x, y])


class DenseDecoder(nn.Module):
    """A local volume and the flow so far to what is to be added to it; every convolution sees all before it."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers = []
        for width in DECODER:
            layers.append(normalised(inputs, width, nn.LeakyReLU(0.1, inplace=True)))
            inputs += width
        self.layers = nn.ModuleList(layers)
        self.flow = conv(inputs, 2)
        self.hidden = inputs

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The change of flow (B, 2, H, W), and all that it was made of."""
        for layer in self.layers:
            inputs = torch.cat([layer(inputs), inputs], 1)
        return wide(self.flow(inputs)), inputs


class Refinement(nn.Module):
    """Dilated convolutions over a decoder's features: what else is to be added to the flow."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers = []
        for width, dilation in CONTEXT:
            layers.append(normalised(inputs, width, nn.LeakyReLU(0.1, inplace=True), dilation))
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.flow = conv(inputs, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, 2, H, W)."""
        change: Tensor = wide(self.flow(self.layers(hidden)))
        return change


class PassedOn(nn.ConvTranspose2d):
    """A decoder's features (B, C, h, w) for the next level: two channels at twice the size."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 2, 4, stride=2, padding=1)
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]


class Enlargement(nn.ConvTranspose2d):
    """A flow (B, 2, h, w) at twice the size, learned, beginning bilinearly; the numbers keep their unit."""

    def __init__(self) -> None:
        super().__init__(2, 2, 4, stride=2, padding=1)
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.weight.copy_(torch.eye(2)[:, :, None, None] * tent[:, None] * tent)
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]


def normalised(inputs: int, outputs: int, activation: nn.Module, dilation: int = 1) -> nn.Sequential:
    """A convolution, batch normalisation, activation; scales begin uniform in (0, 1), as torch's once did."""
    norm = nn.BatchNorm2d(outputs)
    nn.init.uniform_(norm.weight)
    return nn.Sequential(conv(inputs, outputs, dilation), norm, activation)


def conv(inputs: int, outputs: int, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with "same" padding, initialised by He et al. (2015), bias 0."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def in_pixels(size: tuple[int, int], side: tuple[int, int], like: Tensor) -> Tensor:
    """(2, 1, 1): pixels (x, y) of an image of `size` (height, width) per pixel of the same at another size."""
    return wide(like).new_tensor([size[1] / side[1], size[0] / side[0]]).view(2, 1, 1)


def unit(features: Tensor) -> Tensor:
    """Vectors over channels of (almost) length 1, float32: x / sqrt(sum x^2 + 1e-6)."""
    features = wide(features)
    return features * (features.square().sum(1, keepdim=True) + 1e-6).rsqrt()


def for_the_next_pair(flow: Tensor) -> Tensor:
    """A flow (B, 2, H, W) on cells of 8 pixels, in these cells: what a sequence goes on from."""
    height, width = flow.shape[-2:]
    return F.adaptive_avg_pool2d(flow, (max(1, height // CELL), max(1, width // CELL))) / CELL


def resized_flow(flow: Tensor, size: tuple[int, int]) -> Tensor:
    """A flow (B, 2, h, w) on another grid, bilinear; the numbers keep their unit."""
    return F.interpolate(flow, size, mode="bilinear", align_corners=False)


class LocalLevel(nn.Module):
    """Decoder of one level's local volume; flows are in pixels of the branch's image, of which a cell is `stride` a side."""

    def __init__(self, passed_on: int = 0, refined: bool = False) -> None:
        super().__init__()
        self.decoder = DenseDecoder(VOLUME + 2 + passed_on)
        self.refinement = Refinement(self.decoder.hidden) if refined else None

    def forward(
        self,
        correlate: LocalMatching,
        reference: Tensor,
        query: Tensor,
        flow: Tensor,
        stride: float,
        passed_on: Tensor | None = None,
    ) -> Level:
        """The flow (B, 2, h, w), improved by what the warped query shows."""
        volume = correlate(reference, warped(query, flow / stride))
        inputs = [F.leaky_relu(volume, 0.1), flow] + ([] if passed_on is None else [passed_on])
        # GOCor's volumes are float32, which under autocast would make all of the decoder so
        change, hidden = self.decoder(torch.cat([part.to(reference.dtype) for part in inputs], 1))
        if self.refinement is not None:
            change = change + self.refinement(hidden)
        return Level(flow + change, hidden, volume, change / stride)


class Level(NamedTuple):
    """What a level has found."""

    flow: Tensor
    hidden: Tensor
    """The decoder's features."""
    volume: Tensor
    """Local correspondences (B, 81, h, w) about the flow it was given ..."""
    change: Tensor
    """... and where in there, (x, y) in cells, it went."""

    def confidence(self) -> Tensor:
        """(B, 1, h, w) in [0, 1], of a volume of GOCor's."""
        return answer_at(self.volume, self.change)


class CoarseLevels(nn.Module):
    """The image at 256x256: a global volume on its 16x16 cells, a local one on 32x32; flows in pixels of that image."""

    def __init__(self, refined: bool) -> None:
        super().__init__()
        self.first = MappingDecoder(COARSE * COARSE)
        self.enlarge = Enlargement()
        self.second = LocalLevel(refined=refined)

    def mapped(self, correlate: GlobalMatching, features: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, 16, 16) and the volume (B, 256, 16, 16) it was read from, of features (B, C, 16, 16) of both."""
        volume = correlate(*map(unit, features))
        return self.first(F.leaky_relu(volume, 0.1)) * (SIDE / COARSE), volume

    def begun(self, correlate: GlobalMatching, features: tuple[Tensor, Tensor], initial: Tensor | None) -> Tensor:
        """The flow that the local levels begin with: `mapped`, or in its place on 32x32 cells a given one.

        `initial` (B, 2, h, w) is in cells of an h-th and w-th of the image.
        """
        if initial is None:
            return self.mapped(correlate, features)[0]
        cells = in_pixels((SIDE, SIDE), (initial.shape[-2], initial.shape[-1]), initial)
        return resized_flow(wide(initial) * cells, (MIDDLE, MIDDLE))

    def locally(self, correlate: LocalMatching, features: tuple[Tensor, Tensor], flow: Tensor) -> Level:
        """The flow on 32x32 cells, of features (B, C, 32, 32) of both images, from a flow on as many, or on 16x16."""
        if flow.shape[-1] != MIDDLE:
            flow = wide(self.enlarge(flow))
        level: Level = self.second(correlate, *features, flow, SIDE / MIDDLE)
        return level


def pair_features(
    pyramid: nn.Module, image0: Tensor, image1: Tensor, size: tuple[int, int], levels: tuple[int, ...]
) -> Features:
    """By level l the features of both images at 1/2^l of `size`."""
    both = pyramid(torch.cat([at_size(image, size) for image in (image0, image1)]), levels)
    halves = {level: maps.chunk(2) for level, maps in both.items()}
    return {level: (first, second) for level, (first, second) in halves.items()}


def detached(features: Features) -> Features:
    """The same, through which no error goes back."""
    return {level: (first.detach(), second.detach()) for level, (first, second) in features.items()}


def at_size(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, C, H, W) at another size: means of areas where that is smaller (as published), else bilinear."""
    if images.shape[-2:] == size:
        return images
    if images.shape[-2] >= size[0] and images.shape[-1] >= size[1]:
        return F.interpolate(images, size, mode="area")
    return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
