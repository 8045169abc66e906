"""GLU-Net and GLU-Net-GOCor: dense matching of any two images at any resolution.

Truong, Danelljan, Timofte: GLU-Net: Global-Local Universal Network for Dense Flow and Correspondences, CVPR 2020, and with
GOCor modules in place of its correlations, NeurIPS 2020. Two branches: the image at 256x256, where a global correlation sees
all of the other image and a local one follows, and the image as it is, where two local ones refine at 1/8 and 1/4 of it. In
between, where the image is much larger than the first branch, the flow is refined at sizes in between (adaptive resolution).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.correspondences import Correspondences, compared
from flowkit.models.feature_pyramids import OwnPyramid, VGG16Pyramid
from flowkit.models.glunet_parts import (
    COARSE,
    MIDDLE,
    SIDE,
    CoarseLevels,
    Enlargement,
    Features,
    GlobalCorrelation,
    LocalCorrelation,
    LocalLevel,
    LocalMatching,
    MatchingLayers,
    PassedOn,
    detached,
    for_the_next_pair,
    in_pixels,
    pair_features,
    resized_flow,
)
from flowkit.models.gocor import PAPER, PUBLISHED, GlobalGOCor, GOCorConfig, LocalGOCor
from flowkit.models.prediction import FlowPrediction
from flowkit.models.pyramid import FEATURES
from flowkit.ops.precision import wide

DIVISOR = 8
JUMP = 3
"""Refinements in between make up for more than so large a ratio between the two branches."""
UNITS = (FEATURES, "16", "32")
"""What a stage of training may end with: features alone, or a level of the branch at 256x256, of so many cells a side."""


@dataclass(frozen=True)
class GLUNetConfig:
    """What distinguishes the published networks from those whose weights come with flowkit."""

    gocor: GOCorConfig | None = None
    """How GOCor modules take the place of the correlations; None: they do not."""
    encoder: Literal["own", "vgg16"] = "own"
    adaptive: Literal["both", "width", "off"] = "both"
    """Which axes decide about the sizes in between: the longer one, or as the official code has it the width alone."""


class GLUNet(nn.Module):
    """Images (B, 3, H, W) with sides divisible by 8, RGB in [0, 1], to a flow in their pixels."""

    divisor = DIVISOR

    def __init__(self, config: GLUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GLUNetConfig()
        self.pyramid = OwnPyramid() if config.encoder == "own" else VGG16Pyramid()
        if config.gocor is None:
            self.matching = MatchingLayers(GlobalCorrelation("mutual"), LocalCorrelation())
        else:
            channels = self.pyramid.channels[4]
            self.matching = MatchingLayers(GlobalGOCor(channels, config.gocor), LocalGOCor(config.gocor))
        self.coarse = CoarseLevels(refined=True)
        self.eighth = LocalLevel()
        self.enlarge = Enlargement()
        self.pass_on = PassedOn(self.eighth.decoder.hidden)
        self.quarter = LocalLevel(passed_on=2, refined=True)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        *,
        initial: Tensor | None = None,
        iterations: int | None = None,
        until: str | None = None,
        through_features: bool = True,
        flip_test: bool = False,
    ) -> FlowPrediction:
        """The flow image0 -> image1, found at a quarter of the size and enlarged.

        `initial` (B, 2, h, w), in cells of an h-th and w-th of the image, takes the place of the global level's answer.
        `iterations` are the steps of every GOCor module (None: 3, local ones in evaluation 7). `until` ends after the level of
        16 or 32 cells a side of the first branch, or gives the features alone. Without `through_features` no error
        of the flow reaches them. `flip_test` looks whether image0 fits better mirrored left to right, as two things of one
        kind may face each other; the flow is then that of the mirrored one, on image0's grid all the same. Images smaller
        than 256 are enlarged. ValueError for another `until`.
        """
        if until not in (None, *UNITS):
            raise ValueError(f"until={until!r}: GLU-Net's units are {', '.join(UNITS)}")
        if flip_test:
            return self._flip_tested(image0, image1, iterations)
        size = int(image0.shape[-2]), int(image0.shape[-1])
        working = tuple(max(SIDE, side // DIVISOR * DIVISOR) for side in size)
        small = pair_features(self.pyramid, image0, image1, (SIDE, SIDE), (3, 4))
        large: Features = {}
        if until in (None, FEATURES):
            large = pair_features(self.pyramid, image0, image1, (working[0], working[1]), (2, 3))
        if until == FEATURES:
            pairs = {4: small[4], **large}
            return FlowPrediction(
                flow=torch.zeros_like(wide(image0[:, :2])), features={2**level: pair for level, pair in pairs.items()}
            )
        if not through_features:
            small, large = detached(small), detached(large)
        globally, locally = self.matching.with_steps(iterations)
        flows = [self.coarse.begun(globally, small[4], initial)]
        if until != str(COARSE):
            flows.append(self.coarse.locally(locally, small[3], flows[0]).flow)
        flows = [flow * in_pixels(size, (SIDE, SIDE), flow) for flow in flows]
        confidence = None
        if until is None:
            per_pixel = in_pixels(size, (working[0], working[1]), flows[-1])
            found, sure = self._full_size(locally, large, flows[-1] / per_pixel)
            flows += [flow * per_pixel for flow in found]
            confidence = resized_flow(sure, size) if sure is not None else None
        flow = resized_flow(flows[-1], size)
        strides = [max(1, round(size[1] / each.shape[-1])) for each in flows]
        coarse = for_the_next_pair(flow)
        return FlowPrediction(flow=flow, iterates=flows, strides=strides, coarse=coarse, confidence=confidence)

    def correspondences(self, image0: Tensor, image1: Tensor, steps: int | None = None) -> Correspondences:
        """What the global level compares, on 16x16 cells of either image, with so many `steps` (None: its own number)."""
        return compared(
            self.matching.globally, *pair_features(self.pyramid, image0, image1, (SIDE, SIDE), (4,))[4], steps
        )

    def _full_size(
        self, locally: LocalMatching, features: Features, flow: Tensor
    ) -> tuple[list[Tensor], Tensor | None]:
        """The flows at 1/8 and 1/4 from one on any grid, all in pixels of that image, and the confidence at 1/4 if known."""
        eighth0, eighth1 = features[3]
        height, width = eighth0.shape[-2:]
        for shrunk in range(0 if self.training else self.steps_between((height, width)), 0, -1):
            grid = max(1, height // 2**shrunk), max(1, width // 2**shrunk)
            smaller = (F.interpolate(wide(each), grid, mode="area") for each in (eighth0, eighth1))
            flow = self.eighth(locally, *smaller, resized_flow(flow, grid), float(DIVISOR * 2**shrunk)).flow
        third = self.eighth(locally, eighth0, eighth1, resized_flow(flow, (height, width)), float(DIVISOR))
        up_flow = wide(self.enlarge(third.flow))
        last = self.quarter(locally, *features[2], up_flow, DIVISOR / 2, self.pass_on(third.hidden))
        return [third.flow, last.flow], last.confidence() if self.matching.confident else None

    def steps_between(self, grid: tuple[int, int]) -> int:
        """How many sizes in between there are for a grid (height, width) at 1/8 of the image: n of spec.md 6.3."""
        side = {"both": max(grid), "width": grid[1], "off": 0}[self.config.adaptive]
        return max(0, round(math.log2(side / MIDDLE / JUMP))) if side else 0

    # --- flip test ---------------------------------------------------------------------------------------------------

    def fits_mirrored(self, image0: Tensor, image1: Tensor, iterations: int | None = None) -> Tensor:
        """(B,) bool: whether the global level says that image0 mirrored left to right fits image1 better.

        GOCor's volume is looked at for how sure it is of the best match of every cell of image1, the plain network's flow for
        how little it moves sideways. A verdict "mirrored" is only believed if the images' roles exchanged give it, too.
        """
        first = self._mirrored_is_better(image0, image1, iterations)
        return first & self._mirrored_is_better(image1, image0, iterations) if bool(first.any()) else first

    def _mirrored_is_better(self, image0: Tensor, image1: Tensor, iterations: int | None) -> Tensor:
        globally, _ = self.matching.with_steps(iterations)
        upright, mirrored = (
            self.coarse.mapped(globally, pair_features(self.pyramid, image, image1, (SIDE, SIDE), (4,))[4])
            for image in (image0, image0.flip(-1))
        )
        if self.config.gocor is None:
            return mirrored[0][:, 0].abs().mean((1, 2)) < upright[0][:, 0].abs().mean((1, 2))
        return _sureness(mirrored[1]) > _sureness(upright[1])

    def _flip_tested(self, image0: Tensor, image1: Tensor, iterations: int | None) -> FlowPrediction:
        mirrored = self.fits_mirrored(image0, image1, iterations)
        turned = mirrored[:, None, None, None]
        found = self.forward(torch.where(turned, image0.flip(-1), image0), image1, iterations=iterations)
        flow, confidence = torch.where(turned, unmirrored(found.flow), found.flow), found.confidence
        if confidence is not None:
            confidence = torch.where(turned, confidence.flip(-1), confidence)
        return FlowPrediction(flow=flow, iterates=[flow], strides=[1], confidence=confidence, mirrored=mirrored)


def unmirrored(flow: Tensor) -> Tensor:
    """The flow (B, 2, H, W) of an image that was mirrored left to right, on the grid of the image as it was."""
    width = flow.shape[-1]
    x = torch.arange(width, device=flow.device, dtype=flow.dtype)
    there = flow.flip(-1)
    # the place in image1 is that of the mirrored pixel, (W - 1 - x) + flow; what leads there from x is the flow now
    return torch.stack([there[:, 0] + (width - 1 - 2 * x), there[:, 1]], 1)


def _sureness(volume: Tensor) -> Tensor:
    """(B,): the sum over the query's cells (B, Q, H, W) of the best answer that any of the reference's gives."""
    return volume.flatten(2).amax(2).sum(1)


def glunet() -> GLUNet:
    """With our own features."""
    return GLUNet()


def glunet_gocor() -> GLUNet:
    """With our own features and GOCor in the paper's form."""
    return GLUNet(GLUNetConfig(gocor=PAPER))


def glunet_published() -> GLUNet:
    """As published: VGG-16."""
    return GLUNet(GLUNetConfig(encoder="vgg16"))


def glunet_gocor_published() -> GLUNet:
    """As published: VGG-16, GOCor in the form of the published code."""
    return GLUNet(GLUNetConfig(gocor=PUBLISHED, encoder="vgg16"))
