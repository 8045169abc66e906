"""BaseNet, the baseline of GOCor's ablation (Truong et al., NeurIPS 2020, section 4.5, Table 6).

Three levels of the image at 256x256: a global correlation on 16x16 cells, local ones on 32x32 and 64x64. Every correlation
may be a GOCor module. The paper's appendix is not public; what it leaves open is as in GLU-Net's GLOCAL-Net (spec.md 6.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from flowkit.models.correspondences import Correspondences, compared
from flowkit.models.feature_pyramids import OwnPyramid, VGG16Pyramid
from flowkit.models.glunet_parts import (
    COARSE,
    MIDDLE,
    SIDE,
    CoarseLevels,
    Enlargement,
    GlobalCorrelation,
    LocalCorrelation,
    LocalLevel,
    MatchingLayers,
    PassedOn,
    detached,
    for_the_next_pair,
    in_pixels,
    pair_features,
    resized_flow,
)
from flowkit.models.gocor import LINEAR, PAPER, REFERENCE_ONLY, GlobalGOCor, LocalGOCor
from flowkit.models.prediction import FlowPrediction
from flowkit.models.pyramid import FEATURES
from flowkit.ops.precision import wide

FINE = 64
"""Cells a side of the finest level."""
UNITS = (FEATURES, "16", "32")
"""What a stage of training may end with: features alone, or the level of so many cells a side."""


@dataclass(frozen=True)
class BaseNetConfig:
    """A row of Table 6."""

    coarse: Literal["correlation", "consensus", "linear", "reference", "full"] = "correlation"
    """The global layer: I, II (NC-Net), III (linear regression), IV (L_r), V and VI (L_r + L_q)."""
    local: Literal["correlation", "gocor"] = "correlation"
    """The local layers: gocor in VI."""
    encoder: Literal["own", "vgg16"] = "own"


ROWS = {
    "I": BaseNetConfig(),
    "II": BaseNetConfig("consensus"),
    "III": BaseNetConfig("linear"),
    "IV": BaseNetConfig("reference"),
    "V": BaseNetConfig("full"),
    "VI": BaseNetConfig("full", "gocor"),
}


class BaseNet(nn.Module):
    """Images (B, 3, H, W) of any size, RGB in [0, 1], to a flow in their pixels."""

    def __init__(self, config: BaseNetConfig = ROWS["I"]) -> None:
        super().__init__()
        self.config = config
        self.pyramid = OwnPyramid() if config.encoder == "own" else VGG16Pyramid()
        self.matching = MatchingLayers(
            _global_layer(config, self.pyramid.channels[4]),
            LocalGOCor(PAPER) if config.local == "gocor" else LocalCorrelation(),
        )
        self.coarse = CoarseLevels(refined=False)
        self.enlarge = Enlargement()
        self.pass_on = PassedOn(self.coarse.second.decoder.hidden)
        self.fine = LocalLevel(passed_on=2, refined=True)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        *,
        initial: Tensor | None = None,
        iterations: int | None = None,
        until: str | None = None,
        through_features: bool = True,
    ) -> FlowPrediction:
        """The flow image0 -> image1, on the grid of 64x64 cells, enlarged.

        `initial` (B, 2, h, w), in cells of an h-th and w-th of the image, takes the place of the global level's answer.
        `iterations` are the steps of every GOCor module (None: 3, local ones in evaluation 7). `until` ends after the level of
        16 or 32 cells a side, or gives the features alone. Without `through_features` no error of the flow reaches them.
        ValueError for another `until`.
        """
        if until not in (None, *UNITS):
            raise ValueError(f"until={until!r}: BaseNet's levels are {', '.join(UNITS)}")
        size = int(image0.shape[-2]), int(image0.shape[-1])
        if until == FEATURES:  # local ones of the images as they are, whose flow is known in their pixels
            levels = pair_features(self.pyramid, image0, image1, size, (2, 3))
            levels |= pair_features(self.pyramid, image0, image1, (SIDE, SIDE), (4,))
            features = {2**level: pair for level, pair in levels.items()}
            return FlowPrediction(flow=torch.zeros_like(wide(image0[:, :2])), features=features)
        levels = pair_features(self.pyramid, image0, image1, (SIDE, SIDE), (2, 3, 4))
        if not through_features:
            levels = detached(levels)
        globally, locally = self.matching.with_steps(iterations)
        flows, confidence = [self.coarse.begun(globally, levels[4], initial)], None
        if until != str(COARSE):
            middle = self.coarse.locally(locally, levels[3], flows[-1])
            flows.append(middle.flow)
            if until != str(MIDDLE):
                up_flow = wide(self.enlarge(middle.flow))
                fine = self.fine(locally, *levels[2], up_flow, SIDE / FINE, self.pass_on(middle.hidden))
                flows.append(fine.flow)
                if self.matching.confident:
                    confidence = resized_flow(fine.confidence(), size)
        flows = [flow * in_pixels(size, (SIDE, SIDE), flow) for flow in flows]
        flow = resized_flow(flows[-1], size)
        strides = [max(1, round(size[1] / each.shape[-1])) for each in flows]
        coarse = for_the_next_pair(flow)
        return FlowPrediction(flow=flow, iterates=flows, strides=strides, coarse=coarse, confidence=confidence)

    def correspondences(self, image0: Tensor, image1: Tensor, steps: int | None = None) -> Correspondences:
        """What the global level compares, on 16x16 cells of either image, with so many `steps` (None: its own number)."""
        features = pair_features(self.pyramid, image0, image1, (SIDE, SIDE), (4,))
        return compared(self.matching.globally, *features[4], steps)


def _global_layer(config: BaseNetConfig, channels: int) -> nn.Module:
    gocor = {"linear": LINEAR, "reference": REFERENCE_ONLY, "full": PAPER}.get(config.coarse)
    if gocor is not None:
        return GlobalGOCor(channels, gocor)
    return GlobalCorrelation("consensus" if config.coarse == "consensus" else "none")


def basenet() -> BaseNet:
    """The baseline (I)."""
    return BaseNet(ROWS["I"])


def basenet_gocor() -> BaseNet:
    """GOCor in every layer (VI)."""
    return BaseNet(ROWS["VI"])
