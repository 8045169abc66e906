"""PWC-Net (Sun, Yang, Liu, Kautz: PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume, CVPR 2018).

A pyramid of features of either image; at every level from 6 to 2 the features of image1 are warped by the flow so far, a
cost volume compares them with image0's, and a densely connected decoder gives the flow; a context network of dilated
convolutions refines the last one. Inside, flow is in units of 20 pixels of the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.correspondences import Correspondences, compared
from flowkit.models.gocor import PUBLISHED, GOCorConfig, LocalGOCor, answer_at
from flowkit.models.prediction import FlowPrediction
from flowkit.models.pyramid import FEATURES, UNIT, SiamesePyramid, check_pair, only_features, prediction, stilled
from flowkit.ops.correlation import local_correlation
from flowkit.ops.precision import wide
from flowkit.ops.warping import warped_inside

RADIUS = 4
COARSEST, FINEST = 6, 2
LEVELS = range(COARSEST, FINEST - 1, -1)
DIVISOR = 2**COARSEST
DECODER = (128, 128, 96, 64, 32)
"""Channels that the decoder's convolutions add, one after the other."""
CONTEXT = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))
"""(channels, dilation) of the context network's hidden convolutions."""


@dataclass(frozen=True)
class PWCNetConfig:
    """What distinguishes the published model from the paper's."""

    features: tuple[int, ...] = (16, 32, 64, 96, 128, 196)
    """Channels of the pyramid, levels 1 to 6."""
    convolutions: int = 3
    """Convolutions per level of the pyramid: 3 as published, 2 in the paper."""
    inside: float = 0.9999
    """How much of a warped sample must lie in image1 for it to count."""
    gocor: GOCorConfig | None = None
    """How GOCor modules, each level its own, take the place of the cost volumes (NeurIPS 2020); None: they do not."""


PWCNET = PWCNetConfig()
PWCNET_GOCOR = PWCNetConfig(gocor=PUBLISHED)
"""The sharp bend: the published form, and indifferent to the scale of the features (see `PWCNet.adapt_volumes`)."""
PWCNET_PAPER = PWCNetConfig(convolutions=2, inside=0.999)


class PWCNet(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], H and W divisible by 64, to a flow in pixels."""

    divisor = DIVISOR

    def __init__(self, config: PWCNetConfig = PWCNET) -> None:
        super().__init__()
        self.config = config
        self.pyramid = feature_pyramid(config)
        costs = (2 * RADIUS + 1) ** 2
        levels = {level: costs + (config.features[level - 1] + 4 if level < COARSEST else 0) for level in LEVELS}
        self.decoders = nn.ModuleDict({str(level): Decoder(inputs, level > FINEST) for level, inputs in levels.items()})
        self.context = ContextNetwork(levels[FINEST] + sum(DECODER))
        self.matching = nn.ModuleDict()
        if config.gocor is not None:
            self.matching.update({str(level): LocalGOCor(config.gocor) for level in LEVELS})

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        *,
        initial: Tensor | None = None,
        iterations: int | None = None,
        until: str | None = None,
        through_flows: bool = True,
    ) -> FlowPrediction:
        """The flow image0 -> image1, with GOCor also its confidence.

        `initial` (B, 2, H/64, W/64), in cells of 64 pixels, is what the coarsest level starts from: its answer is then added
        to it. `iterations` are the steps of every GOCor module (None: 3 in training, 7 in evaluation). In training mode
        `iterates` are the flows of all levels at their own strides, and the last one enlarged. Without `through_flows` no
        level's error reaches the flow of the level before it. `until="features"` gives those and
        flow 0. ValueError when sizes or names do not fit.
        """
        check_pair(image0, image1, initial, DIVISOR)
        if until not in (None, FEATURES):
            raise ValueError(f"until={until!r}: PWC-Net is trained whole, or its {FEATURES} alone")
        features0, features1 = self.pyramid(image0, image1)
        if until == FEATURES:
            return only_features(features0, features1, LEVELS, image0)
        start = None if initial is None else wide(initial) * (DIVISOR / UNIT)
        flows, strides = [], []
        for found in self._levels(features0, features1, start, iterations, through_flows):
            flows.append(found.flow)
            strides.append(2**found.level)
        answer = prediction(flows, strides, DIVISOR, self.training)
        if self.config.gocor is not None and found.guess is not None:
            change = (found.flow - wide(found.guess)) * (UNIT / 2**FINEST)
            sure = answer_at(wide(found.volume), change)
            answer.confidence = F.interpolate(sure, scale_factor=2.0**FINEST, mode="bilinear", align_corners=False)
        return answer

    def correspondences(self, image0: Tensor, image1: Tensor, steps: int | None = None) -> Correspondences:
        """What the finest level compares: cells of 4 pixels with those about the flow that the level before has found.

        So many `steps` at this level (None: its own number); the levels before it take their own. ValueError for sizes.
        """
        check_pair(image0, image1, None, DIVISOR)
        features0, features1 = self.pyramid(image0, image1)
        for last in self._levels(features0, features1, None, None, True):  # noqa: B007
            pass
        assert last.guess is not None
        layer = self.matching[str(FINEST)] if self.config.gocor is not None else None
        return compared(layer, last.reference, last.query, steps, last.guess * (UNIT / 2**FINEST))

    def _levels(
        self,
        features0: dict[int, Tensor],
        features1: dict[int, Tensor],
        flow: Tensor | None,
        iterations: int | None,
        through_flows: bool,
    ) -> Iterator[Level]:
        """What each level finds, the coarsest first, which starts from `flow`."""
        up_flow = up_features = None
        for level in LEVELS:
            cells0, cells1 = features0[level], features1[level]
            guess = flow if level == COARSEST else up_flow
            if guess is not None:
                cells1 = warped_inside(cells1, guess * (UNIT / 2**level), self.config.inside)
            volume = self._volume(level, cells0, cells1, iterations)
            costs = F.leaky_relu(volume, 0.1).to(cells0.dtype)
            inputs = [costs] if up_flow is None else [costs, cells0, up_flow.to(costs.dtype), up_features]
            decoder = self.decoders[str(level)]
            assert isinstance(decoder, Decoder)
            joined = torch.cat([part for part in inputs if part is not None], 1)
            found, hidden = decoder(joined, self.context.first if level == FINEST else None)
            flow = found if flow is None or level < COARSEST else flow + found
            if level == FINEST:
                flow = flow + self.context(hidden)
            else:
                up_flow, up_features = decoder.enlarged(flow if through_flows else flow.detach(), hidden)
            yield Level(level, cells0, cells1, guess, volume, flow)

    def _volume(self, level: int, cells0: Tensor, cells1: Tensor, iterations: int | None) -> Tensor:
        if self.config.gocor is None:
            return local_correlation(cells0, cells1, RADIUS)
        volume: Tensor = self.matching[str(level)](cells0, cells1, iterations)
        return volume

    @torch.no_grad()
    def adapt_volumes(self) -> None:
        """Let GOCor's answers begin at the scale of the cost volumes that the decoders have been trained on.

        Those are, at a match, the features' mean square, between 0.001 and 0.2; GOCor's are 1. It is measured on noise with
        the spectrum of photographs. Initial filters and the target are scaled alike, and so all of the descent is.
        """
        noise = _photographic_noise(512).to(next(self.parameters()).device)
        features, _ = self.pyramid(noise, noise)
        for level in LEVELS:
            module = self.matching[str(level)]
            assert isinstance(module, LocalGOCor)
            energy = features[level].square().mean()
            module.at_place.mul_(energy)
            module.reference.target.mul_(energy)

    @torch.no_grad()
    def still(self) -> None:
        """Begin near zero flow, which is enlarged bilinearly."""
        stilled(self.context.flow)
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
        for decoder in self.decoders.values():
            assert isinstance(decoder, Decoder)
            stilled(decoder.flow)
            if decoder.up_flow is not None:
                decoder.up_flow.weight.copy_(torch.eye(2)[:, :, None, None] * tent[:, None] * tent)


class Level(NamedTuple):
    """What a level compares and finds; flows (B, 2, h, w) are in units."""

    level: int
    reference: Tensor
    """Features (B, C, h, w) of image0 ..."""
    query: Tensor
    """... and of image1, warped by the guess."""
    guess: Tensor | None
    """The flow so far; None at the coarsest level unless it was given one."""
    volume: Tensor
    flow: Tensor


def feature_pyramid(config: PWCNetConfig) -> SiamesePyramid:
    """Level l at 1/2^l."""
    levels, before = [], 3
    for width in config.features:
        layers = [conv(before, width, stride=2)] + [conv(width, width) for _ in range(config.convolutions - 1)]
        levels.append(nn.Sequential(*(module for layer in layers for module in (layer, activation()))))
        before = width
    return SiamesePyramid(levels)


class Decoder(nn.Module):
    """Costs (and features, flow and what the level before has passed on) to a flow; every convolution sees all before it."""

    def __init__(self, inputs: int, passes_on: bool) -> None:
        super().__init__()
        layers = []
        for width in DECODER:
            layers.append(nn.Sequential(conv(inputs, width), activation()))
            inputs += width
        self.layers = nn.ModuleList(layers)
        self.flow = conv(inputs, 2)
        self.up_flow = deconv(2, 2) if passes_on else None
        self.up_features = deconv(inputs, 2) if passes_on else None

    def forward(self, inputs: Tensor, then: nn.Conv2d | None = None) -> tuple[Tensor, Tensor]:
        """The flow (B, 2, h, w), and everything it was made of, the newest in front, or `then`, a 3x3 convolution, of that."""
        if torch.is_grad_enabled():
            for layer in self.layers:
                inputs = torch.cat([layer(inputs), inputs], 1)
            return wide(self.flow(inputs)), inputs if then is None else then(inputs)
        return self._without_copies(inputs, then)

    def _without_copies(self, inputs: Tensor, then: nn.Conv2d | None) -> tuple[Tensor, Tensor]:
        """The same: a convolution over joined parts is the sum of convolutions over the parts, so none has to be copied.

        Layer by layer: one convolution for all layers that see a part gives tensors so large that their memory is fresh each
        time, and what that costs is more than reading the part again.
        """
        layers = [*(layer[0] for layer in self.layers), *([] if then is None else [then]), self.flow]  # type: ignore[index]
        seen = [sum(DECODER[:number]) for number in range(len(DECODER))] + [sum(DECODER)] * 2
        sums: list[Tensor] = []
        parts = [inputs]
        for number in range(len(DECODER) + 1):
            part = parts[0]
            for later, layer in enumerate(layers[number:]):
                # what lies in front of this part in the input of a layer is what came after it
                start = seen[number + later] - seen[number]
                weight = layer.weight[:, start : start + part.shape[1]]
                if number == 0:
                    sums.append(F.conv2d(part, weight, layer.bias, padding=1))
                else:
                    sums[later].add_(F.conv2d(part, weight, padding=1))
            if number < len(DECODER):
                parts.insert(0, F.leaky_relu_(sums.pop(0), 0.1))
        return wide(sums[-1]), torch.cat(parts, 1) if then is None else sums[0]

    def enlarged(self, flow: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """What the next level is given of this one's flow and hidden features, (B, 2, 2h, 2w) each."""
        assert self.up_flow is not None and self.up_features is not None
        return wide(self.up_flow(flow)), self.up_features(hidden)


class ContextNetwork(nn.Module):
    """Dilated convolutions over the last decoder's features: what is to be added to its flow."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width, dilation in CONTEXT:
            layers += [conv(inputs, width, dilation=dilation), activation()]
            inputs = width
        self.layers = nn.Sequential(*layers)
        self.flow = conv(inputs, 2)

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that sees the decoder's features; the decoder computes it along with its own."""
        layer = self.layers[0]
        assert isinstance(layer, nn.Conv2d)
        return layer

    def forward(self, begun: Tensor) -> Tensor:
        """(B, 2, h, w), of what `first` gives."""
        change: Tensor = wide(self.flow(self.layers[1:](begun)))
        return change


def _photographic_noise(side: int) -> Tensor:
    """(1, 3, side, side) in [0, 1], the same each time: amplitudes fall with the frequency, colours mostly go together."""
    generator = torch.Generator().manual_seed(0)
    fx, fy = torch.fft.rfftfreq(side), torch.fft.fftfreq(side)[:, None]
    white = torch.randn(1, 1, side, side, generator=generator) + 0.5 * torch.randn(
        1, 3, side, side, generator=generator
    )
    noise = torch.fft.irfft2(torch.fft.rfft2(white) / torch.hypot(fx, fy).clamp_min(1 / side), s=(side, side))
    return (0.45 + 0.22 * (noise - noise.mean()) / noise.std()).clamp(0, 1)


def conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """A 3x3 convolution with "same" padding, initialised by He et al. (2015), bias 0."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def deconv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    """A learned enlargement to twice the size."""
    layer = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def activation() -> nn.LeakyReLU:
    """What follows every convolution that does not give a flow."""
    return nn.LeakyReLU(0.1, inplace=True)


def pwcnet() -> PWCNet:
    """The published PWC-Net, 9.37 M parameters."""
    return PWCNet(PWCNET)


def pwcnet_gocor() -> PWCNet:
    """The published PWC-Net with GOCor in its published form."""
    return PWCNet(PWCNET_GOCOR)


def pwcnet_paper() -> PWCNet:
    """The paper's, 8.75 M parameters."""
    return PWCNet(PWCNET_PAPER)
