"""LiteFlowNet, LiteFlowNet2 and LiteFlowNetX (Hui, Tang, Loy: A Lightweight Optical Flow CNN, TPAMI 2020; CVPR 2018).

Two networks: NetC, a pyramid of features of either image, and NetE, which goes down that pyramid and at every level matches
descriptors (M), refines to sub-pixels (S) and regularises (R). Inside, flow is in units of 20 pixels of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.prediction import FlowPrediction
from flowkit.models.pyramid import FEATURES, UNIT, SiamesePyramid, check_pair, only_features, prediction, stilled
from flowkit.ops.correlation import local_correlation
from flowkit.ops.local_convolution import local_convolution
from flowkit.ops.precision import wide
from flowkit.ops.warping import warped

COARSEST = 6
DIVISOR = 2 ** (COARSEST - 1)
UNITS = ("M", "S", "R")
KERNELS = {6: 3, 5: 3, 4: 5, 3: 5, 2: 7}
"""Side of the last convolution of M and S, and of R's window, by level."""
MEANS = (0.454253, 0.434631, 0.411618), (0.452793, 0.433645, 0.410782)
"""RGB means that are subtracted from image0 and from image1."""


@dataclass(frozen=True)
class CostVolume:
    """Matching costs of a level: (2 radius + 1)^2 displacements, `stride` cells apart, at every `stride`-th cell."""

    radius: int = 3
    stride: int = 1

    @property
    def channels(self) -> int:
        """How many displacements."""
        return (2 * self.radius + 1) ** 2


SPARSE = CostVolume(3, 2)
"""Up to 6 cells away, on every second cell: the paper's setting for levels of high resolution."""


@dataclass(frozen=True)
class LiteFlowNetConfig:
    """What distinguishes the networks of the family, and the variants of the paper's Tables 6 and 7."""

    features: tuple[int, ...] = (32, 32, 64, 96, 128, 192)
    """Channels of NetC, levels 1 to 6."""
    finest: int = 2
    """The last level that infers flow; its cells are 2^(finest-1) pixels."""
    inference: tuple[int, ...] = (128, 64, 32)
    """Channels of the hidden convolutions of M and S."""
    regularisation: tuple[int, ...] = (128, 128, 64, 64, 32, 32)
    """Channels of the hidden convolutions of R."""
    costs: Mapping[int, CostVolume] = field(default_factory=lambda: {3: SPARSE, 2: SPARSE})
    """Cost volumes of the levels that have not the usual one."""
    default_cost: CostVolume = CostVolume()
    """The usual one: up to 3 cells away, on every cell."""
    adapters: bool = True
    """1x1 convolutions: 64 channels for M and S at level 2, 128 for R at levels 4 to 2."""
    warping: bool = True
    """W: features of image1 are warped before they are compared."""
    matching: bool = True
    """M: descriptor matching."""
    subpixel: bool = True
    """S: sub-pixel refinement."""
    regularised: bool = True
    """R: flow regularisation."""
    redirected: int = 0
    """Channels of conv_redir, features that accompany the costs into M; 0: none."""
    pseudo: bool = False
    """A simplified level 2 after level 3, fed by the last hidden features of S and R there (LiteFlowNet2 for KITTI)."""

    def cost(self, level: int) -> CostVolume:
        """The cost volume of a level."""
        return self.costs.get(level, self.default_cost)

    def matched(self, level: int) -> int:
        """Channels of the features that M and S compare."""
        return 64 if self.adapters and level == 2 else self.features[level - 1]

    @property
    def levels(self) -> range:
        """From the coarsest to the finest."""
        return range(COARSEST, self.finest - 1, -1)

    @property
    def steps(self) -> tuple[str, ...]:
        """The units in the order in which they run: M6, S6, R6, M5, ..."""
        there = dict(zip(UNITS, (self.matching, self.subpixel, self.regularised), strict=True))
        return tuple(f"{unit}{level}" for level in self.levels for unit in UNITS if there[unit])


LITEFLOWNET = LiteFlowNetConfig()
LITEFLOWNET2 = LiteFlowNetConfig(finest=3, inference=(128, 128, 96, 64, 32))
LITEFLOWNET2_KITTI = replace(LITEFLOWNET2, pseudo=True)
LITEFLOWNETX = LiteFlowNetConfig(
    features=(16, 16, 32, 48, 64, 96),
    inference=(48, 32, 32),
    regularisation=(48, 48, 32, 32, 16, 16),
    adapters=False,
    matching=False,
)


class LiteFlowNet(nn.Module):
    """Images (B, 3, H, W), RGB in [0, 1], H and W divisible by 32, to a flow in pixels."""

    divisor = DIVISOR

    def __init__(self, config: LiteFlowNetConfig = LITEFLOWNET) -> None:
        super().__init__()
        self.config = config
        self.netc = feature_pyramid(config.features)
        self.nete = nn.ModuleDict({str(level): Level(level, config) for level in config.levels})
        self.pseudo = PseudoLevel(config) if config.pseudo else None
        self.mean0: Tensor
        self.mean1: Tensor
        for name, mean in zip(("mean0", "mean1"), MEANS, strict=True):
            self.register_buffer(name, torch.tensor(mean).view(3, 1, 1), persistent=False)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        *,
        initial: Tensor | None = None,
        until: str | None = None,
        through_flows: bool = True,
    ) -> FlowPrediction:
        """The flow image0 -> image1.

        `initial` (B, 2, H/32, W/32), in cells of 32 pixels, is what the coarsest level starts from. `until` names the last
        unit that runs, such as "S6" or "R4" (stage-wise training): its flow is enlarged; "features" gives those and flow 0. In
        training mode `iterates` are the flows of all units at their own strides, and the enlarged one. Without
        `through_flows` every unit takes the flow it is given as it is, and learns from its own error alone: gradients that
        come through eleven units in a row may grow without bound at higher learning rates. ValueError when sizes or names do
        not fit.
        """
        check_pair(image0, image1, initial, DIVISOR)
        if until not in (None, FEATURES, *self.config.steps):
            raise ValueError(f"until={until!r}: the units are {FEATURES}, {', '.join(self.config.steps)}")
        pictures0, pictures1 = image0 - self.mean0, image1 - self.mean1
        features0, features1 = self.netc(pictures0, pictures1)
        if until == FEATURES:
            return only_features(features0, features1, self.config.levels, image0)
        stop = self.config.steps[-1] if until is None else until
        last = int(stop[1:])
        smaller = zip(_halved(pictures0, COARSEST), _halved(pictures1, COARSEST), strict=True)
        pictures = dict(enumerate(smaller, start=1))

        flow = None if initial is None else wide(initial) * (DIVISOR / UNIT)
        flows: list[Tensor] = []
        strides: list[int] = []
        hidden: tuple[Tensor | None, Tensor | None] = (None, None)
        for level in range(COARSEST, last - 1, -1):
            units = UNITS[: UNITS.index(stop[0]) + 1] if level == last else UNITS
            before = flow if flow is None or level == COARSEST else doubled(flow)
            inputs = features0[level], features1[level], *pictures[level], before
            found, hidden = self.nete[str(level)](*inputs, units=units, through_flows=through_flows)
            flow = found[-1]
            flows += found
            strides += len(found) * [2 ** (level - 1)]
        assert flow is not None
        if self.pseudo is not None and stop == self.config.steps[-1]:
            found = self.pseudo(flow, *hidden)
            flows += found
            strides += len(found) * [2]
        return prediction(flows, strides, DIVISOR, self.training)

    @torch.no_grad()
    def still(self) -> None:
        """Begin near zero flow: units add next to nothing, filters of R are nearly their middle."""
        for unit in self.modules():
            if isinstance(unit, (Matching, SubPixel, PseudoLevel)):
                stilled(unit.flow)
            if isinstance(unit, (Regularization, PseudoLevel)):
                layer = unit.distance[-1] if isinstance(unit.distance, nn.Sequential) else unit.distance
                assert isinstance(layer, nn.Conv2d) and layer.bias is not None
                layer.weight.mul_(0.1)
                layer.bias.fill_(2.0)  # exp(-2^2) beside the middle's 1
                layer.bias[len(layer.bias) // 2] = 0.0

    @torch.no_grad()
    def inherit(self, step: str) -> tuple[int, int]:
        """Let a unit, such as "S4", begin as that of the next coarser level: how many tensors did, and how many not."""
        unit, level = step[0], int(step[1:])
        name = {"M": "matching", "S": "subpixel", "R": "regularization"}[unit]
        if level == COARSEST:
            return 0, len(getattr(self.nete[step[1:]], name).state_dict())
        coarser = getattr(self.nete[str(level + 1)], name).state_dict()
        copied, kept = 0, 0
        for key, tensor in getattr(self.nete[str(level)], name).state_dict().items():
            if key in coarser and coarser[key].shape == tensor.shape:
                tensor.copy_(coarser[key])
                copied += 1
            else:
                kept += 1
        return copied, kept


def feature_pyramid(channels: tuple[int, ...]) -> SiamesePyramid:
    """NetC: level l at 1/2^(l-1), of 1, 3, 2, 2, 1 and 1 convolutions (Table 8)."""
    levels, before = [], 3
    for level, (width, count) in enumerate(zip(channels, (1, 3, 2, 2, 1, 1), strict=True), start=1):
        first = conv(before, width, 7 if level == 1 else 3, stride=1 if level == 1 else 2)
        more = (layer for _ in range(count - 1) for layer in (conv(width, width), _activation()))
        levels.append(nn.Sequential(first, _activation(), *more))
        before = width
    return SiamesePyramid(levels)


class Level(nn.Module):
    """One level of NetE: M, S and R, as far as the network has them."""

    def __init__(self, level: int, config: LiteFlowNetConfig) -> None:
        super().__init__()
        channels, matched = config.features[level - 1], config.matched(level)
        self.scale = UNIT / 2 ** (level - 1)
        adapted = config.adapters and level == 2
        self.adapter = nn.Sequential(conv(channels, matched, 1), _activation()) if adapted else nn.Identity()
        self.matching = Matching(level, config) if config.matching else None
        self.subpixel = SubPixel(level, config) if config.subpixel else None
        self.regularization = Regularization(level, config) if config.regularised else None
        self.warping = config.warping

    def forward(
        self,
        features0: Tensor,
        features1: Tensor,
        picture0: Tensor,
        picture1: Tensor,
        flow: Tensor | None,
        units: tuple[str, ...] = UNITS,
        through_flows: bool = True,
    ) -> tuple[list[Tensor], tuple[Tensor | None, Tensor | None]]:
        """The flows after M, S and R (those in `units`), and the last hidden features of S and R.

        Features are (B, C, h, w), pictures (B, 3, h, w), mean-subtracted; `flow` (B, 2, h, w) is that of the level before.
        """

        def given(flow: Tensor | None) -> Tensor | None:
            return flow if through_flows or flow is None else flow.detach()

        flows: list[Tensor] = []
        hidden: dict[str, Tensor] = {}
        compared0, compared1 = self.adapter(features0), self.adapter(features1)
        if self.matching is not None and "M" in units:
            flow = given(flow)
            flow = self.matching(compared0, self._warped(compared1, flow), flow)
            flows.append(flow)
        if self.subpixel is not None and "S" in units:
            flow = torch.zeros_like(wide(compared0[:, :2])) if flow is None else given(flow)
            flow, hidden["S"] = self.subpixel(compared0, self._warped(compared1, flow), flow)
            flows.append(flow)
        if self.regularization is not None and "R" in units:
            flow = given(flow)
            assert flow is not None
            brightness = (picture0 - warped(picture1, self.scale * flow.detach())).norm(dim=1, keepdim=True)
            flow, hidden["R"] = self.regularization(brightness, flow, features0)
            flows.append(flow)
        return flows, (hidden.get("S"), hidden.get("R"))

    def _warped(self, features1: Tensor, flow: Tensor | None) -> Tensor:
        return features1 if flow is None or not self.warping else warped(features1, self.scale * flow)


class Matching(nn.Module):
    """M: a flow of pixel accuracy from the costs of matching descriptors (eq. 2, 3)."""

    def __init__(self, level: int, config: LiteFlowNetConfig) -> None:
        super().__init__()
        self.cost = config.cost(level)
        matched = config.matched(level)
        self.redirect = nn.Sequential(conv(matched, config.redirected, 1), _activation()) if config.redirected else None
        self.layers = _chain(self.cost.channels + config.redirected, *config.inference)
        self.flow = conv(config.inference[-1], 2, KERNELS[level])

    def forward(self, features0: Tensor, features1: Tensor, flow: Tensor | None) -> Tensor:
        """(B, 2, h, w); features1 (B, C, h, w) are already warped by `flow`."""
        radius, stride = self.cost.radius, self.cost.stride
        costs = local_correlation(features0, features1, radius, output_stride=stride, displacement_stride=stride)
        costs = F.leaky_relu(costs, 0.1)
        costs = doubled(costs) if stride == 2 else costs
        if self.redirect is not None:
            costs = torch.cat([costs, self.redirect(features0)], 1)
        residual = wide(self.flow(self.layers(costs)))
        return residual if flow is None else flow + residual


class SubPixel(nn.Module):
    """S: the flow made accurate below a pixel from both features and the flow itself (eq. 4)."""

    def __init__(self, level: int, config: LiteFlowNetConfig) -> None:
        super().__init__()
        self.layers = _chain(2 * config.matched(level) + 2, *config.inference)
        self.flow = conv(config.inference[-1], 2, KERNELS[level])

    def forward(self, features0: Tensor, features1: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, h, w) and the last hidden features; features1 are already warped by `flow`."""
        hidden = self.layers(torch.cat([features0, features1, flow.to(features0.dtype)], 1))
        return flow + wide(self.flow(hidden)), hidden


class Regularization(nn.Module):
    """R: the flow smoothed by a feature-driven local convolution (eq. 5-8)."""

    def __init__(self, level: int, config: LiteFlowNetConfig) -> None:
        super().__init__()
        channels = config.features[level - 1]
        adapted = config.adapters and level <= 4
        self.adapter = nn.Sequential(conv(channels, 128, 1), _activation()) if adapted else nn.Identity()
        self.layers = _chain(3 + (128 if adapted else channels), *config.regularisation)
        self.distance = _distance(config.regularisation[-1], KERNELS[level], apart=level <= 4)

    def forward(self, brightness: Tensor, flow: Tensor, features0: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 2, h, w) and the last hidden features; `brightness` (B, 1, h, w) is the pictures' distance under the flow."""
        features = self.adapter(features0)
        centred = flow - flow.mean(dim=(2, 3), keepdim=True)
        inputs = torch.cat([brightness.to(features.dtype), centred.to(features.dtype), features], 1)
        hidden = self.layers(inputs)
        return local_convolution(flow, wide(self.distance(hidden))), hidden


class PseudoLevel(nn.Module):
    """Level 2 of LiteFlowNet2 for KITTI: only the last layers of S and R, on the enlarged hidden features of level 3."""

    def __init__(self, config: LiteFlowNetConfig) -> None:
        super().__init__()
        inferred, smoothed = config.inference[-1], config.regularisation[-1]
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(width, width, 4, 2, 1) for width in (inferred, smoothed)])
        self.flow = conv(inferred, 2, KERNELS[2])
        self.distance = _distance(smoothed, KERNELS[2], apart=True)

    def forward(self, flow: Tensor, subpixel: Tensor, regularization: Tensor) -> list[Tensor]:
        """Flows (B, 2, h, w) after S and R, of level 3's flow and hidden features, both half as large."""
        flow = doubled(flow) + wide(self.flow(self.enlarge[0](subpixel)))
        return [flow, local_convolution(flow, wide(self.distance(self.enlarge[1](regularization))))]


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution with "same" padding, initialised by He et al. (2015), bias 0."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(layer.weight, a=0.1)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def doubled(maps: Tensor) -> Tensor:
    """(B, C, 2h, 2w) of maps (B, C, h, w): bilinear, with 0 outside: a transposed convolution by (.25, .75, .75, .25)."""
    large = F.interpolate(F.pad(maps, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
    return large[..., 2:-2, 2:-2]


def _chain(inputs: int, *widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in widths:
        layers += [conv(inputs, width), _activation()]
        inputs = width
    return nn.Sequential(*layers)


def _distance(inputs: int, side: int, apart: bool) -> nn.Module:
    """D: a 3x3 convolution, or one along y and one along x, to the side x side cells of the window."""
    if not apart:
        return conv(inputs, side * side)
    window = side * side
    layers = (
        nn.Conv2d(inputs, window, (side, 1), padding=(side // 2, 0)),
        nn.Conv2d(window, window, (1, side), padding=(0, side // 2)),
    )
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, a=1.0)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers)


def _activation() -> nn.LeakyReLU:
    return nn.LeakyReLU(0.1, inplace=True)


def _halved(pictures: Tensor, levels: int) -> list[Tensor]:
    """The pictures at 1, 1/2, 1/4, ..."""
    found = [pictures.detach()]
    for _ in range(levels - 1):
        found.append(F.avg_pool2d(found[-1], 2))
    return found


def liteflownet() -> LiteFlowNet:
    """LiteFlowNet: levels 6 to 2, 5.38 M parameters."""
    return LiteFlowNet(LITEFLOWNET)


def liteflownet2() -> LiteFlowNet:
    """LiteFlowNet2: levels 6 to 3, deeper units, 6.43 M parameters."""
    return LiteFlowNet(LITEFLOWNET2)


def liteflownet2_kitti() -> LiteFlowNet:
    """LiteFlowNet2 with the pseudo level 2."""
    return LiteFlowNet(LITEFLOWNET2_KITTI)


def liteflownetx() -> LiteFlowNet:
    """LiteFlowNetX: no matching, narrow, 0.90 M parameters."""
    return LiteFlowNet(LITEFLOWNETX)
