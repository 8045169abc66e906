"""RAFT-XFeat: recurrent all-pairs matching at 1/8 on XFeat's features, recurrent refinement at 1/4. Our own architecture.

The coarse stage is RAFT's (Teed and Deng, ECCV 2020): all-pairs correlation, looked up in a pyramid around the current flow, a
convolutional GRU. Its features start from XFeat's published backbone (Potje et al., CVPR 2024), so that little training goes a
long way. The fine stage repeats the same game at 1/4 with local correlations of features warped by the current flow, for sharp
motion boundaries and sub-pixel precision, and ends in RAFT's convex upsampling.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.geometry.grids import grid_like
from flowkit.models.prediction import FlowPrediction
from flowkit.ops.allpairs import AllPairs
from flowkit.ops.convex_upsampling import convex_upsample
from flowkit.ops.correlation import local_correlation
from flowkit.ops.warping import warped

DIVISOR = 32
LEVELS, RADIUS = 4, 3
"""Pyramid levels and radius of the coarse lookup: 3 cells of the coarsest level are 192 px."""
FINE_RADIUS = 4
COARSE, FINE, CONTEXT = 96, 64, 64
"""Hidden channels of the two recurrent units, context channels of both."""


class RaftXFeat(nn.Module):
    """Images (B, 3, H, W) RGB in [0, 1], H and W divisible by 32, to a flow in pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.stem = Stem()
        self.match = nn.Sequential(conv(64 + FINE, 96, 1), nn.ReLU(), nn.Conv2d(96, 64, 1))
        self.sharpness = nn.Parameter(torch.tensor(8.0))
        self.coarse_context = Context(64 + FINE, COARSE)
        self.fine_context = Context(COARSE + FINE, FINE)
        self.coarse = UpdateBlock(LEVELS * (2 * RADIUS + 1) ** 2, hidden=COARSE, mask=4 * 9)
        self.fine = UpdateBlock((2 * FINE_RADIUS + 1) ** 2, hidden=FINE, mask=16 * 9)

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        *,
        iterations: int = 6,
        fine_iterations: int | None = None,
        initial: Tensor | None = None,
    ) -> FlowPrediction:
        """`iterations` updates at 1/8 and `fine_iterations` (half as many unless given) at 1/4.

        It was trained with 6 and 3; more do not help.
        `initial` (B, 2, H/8, W/8) in cells starts the coarse stage: `coarse` of an earlier prediction. In training every
        iterate is returned, the coarse ones at their own stride. ValueError unless the sizes are divisible by 32.
        """
        if image0.shape != image1.shape or image0.shape[-1] % DIVISOR or image0.shape[-2] % DIVISOR:
            raise ValueError(
                f"images must have one size divisible by {DIVISOR}: {tuple(image0.shape)}, {tuple(image1.shape)}"
            )
        fine_iterations = max(1, iterations // 2) if fine_iterations is None else fine_iterations
        fine, matching, deep = self.features(torch.cat([image0, image1]))
        fine0, fine1 = fine.chunk(2)
        iterates, strides = [], []

        hidden, context = self.coarse_context(deep.chunk(2)[0])
        context = self.coarse.prepared(context)
        correlation = AllPairs(*matching.chunk(2), levels=LEVELS, radius=RADIUS)
        flow = (
            torch.zeros_like(matching[: len(image0), :2], dtype=torch.float32) if initial is None else initial.float()
        )
        for _ in range(iterations):
            flow = flow.detach()
            hidden, delta = self.coarse(hidden, context, correlation(flow + grid_like(flow)), flow)
            flow = flow + delta
            if self.training:
                iterates.append(8 * flow)
                strides.append(8)

        coarse = flow
        flow = 2 * convex_upsample(flow, self.coarse.mask(hidden), 2, rim="replicate")
        if self.training:
            iterates.append(4 * flow)
            strides.append(4)
        hidden, context = self.fine_context(torch.cat([F.interpolate(hidden, scale_factor=2.0), fine0], 1))
        context = self.fine.prepared(context)
        for _ in range(fine_iterations):
            flow = flow.detach()
            volume = local_correlation(fine0, warped(fine1.float(), flow).to(fine1.dtype), FINE_RADIUS)
            hidden, delta = self.fine(hidden, context, volume, flow)
            flow = flow + delta
            if self.training:
                iterates.append(4 * flow)
                strides.append(4)
        iterates.append(4 * convex_upsample(flow, self.fine.mask(hidden), 4, rim="replicate"))
        strides.append(1)
        return FlowPrediction(flow=iterates[-1], iterates=iterates, strides=strides, coarse=coarse)

    def features(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of images (N, 3, H, W): fine features at 1/4, matching features at 1/8, and what the context is made of at 1/8."""
        colours = F.instance_norm(images)
        shallow, deep = self.backbone(F.instance_norm(images.mean(1, keepdim=True)))
        fine = self.stem(colours, shallow, deep)
        joined = torch.cat([deep, F.avg_pool2d(fine, 2)], 1)
        # The learned part corrects XFeat's descriptors, which alone already match well.
        matching = F.normalize(F.normalize(deep.float(), dim=1) + self.match(joined).float(), dim=1)
        return fine, matching * self.sharpness, joined


def raft_xfeat() -> RaftXFeat:
    """The network of `--model raft-xfeat`."""
    return RaftXFeat()


def conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution with "same" padding, initialised as RAFT's (He et al., fan out)."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Backbone(nn.Module):
    """XFeat's backbone, batch normalisation folded into the convolutions: grey (N, 1, H, W) -> 24 at 1/4 and 64 at 1/8."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = nn.Conv2d(1, 24, 1)
        self.block1 = _chain((1, 4, 3, 1), (4, 8, 3, 2), (8, 8, 3, 1), (8, 24, 3, 2))
        self.block2 = _chain((24, 24, 3, 1), (24, 24, 3, 1))
        self.block3 = _chain((24, 64, 3, 2), (64, 64, 3, 1), (64, 64, 1, 1))
        self.block4 = _chain((64, 64, 3, 2), (64, 64, 3, 1), (64, 64, 3, 1))
        self.block5 = _chain((64, 128, 3, 2), (128, 128, 3, 1), (128, 128, 3, 1), (128, 64, 1, 1))
        self.fusion = _chain((64, 64, 3, 1), (64, 64, 3, 1))
        self.out = nn.Conv2d(64, 64, 1)

    def forward(self, grey: Tensor) -> tuple[Tensor, Tensor]:
        """Shallow features at 1/4 and fused deep features at 1/8."""
        shallow = self.block2(self.block1(grey) + self.skip(F.avg_pool2d(grey, 4)))
        x3 = self.block3(shallow)
        x4 = self.block4(x3)
        x5 = self.block5(x4)
        size = x3.shape[-2:]
        wide = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in (x4, x5)]
        return shallow, self.out(self.fusion(x3 + wide[0] + wide[1]))

    @torch.no_grad()
    def load_xfeat(self, state: Mapping[str, Tensor]) -> None:
        """Take over XFeat's published weights (keys of `kornia.feature.XFeat().net`)."""
        self.skip.load_state_dict({"weight": state["skip1.1.weight"], "bias": state["skip1.1.bias"]})
        self.out.load_state_dict({"weight": state["block_fusion.2.weight"], "bias": state["block_fusion.2.bias"]})
        names = {"block1": "block1", "block2": "block2", "block3": "block3", "block4": "block4", "block5": "block5"}
        for ours, theirs in (names | {"fusion": "block_fusion"}).items():
            layers = [layer for layer in getattr(self, ours) if isinstance(layer, nn.Conv2d)]
            for i, layer in enumerate(layers):
                scale = (state[f"{theirs}.{i}.layer.1.running_var"] + 1e-5).rsqrt()
                layer.weight.copy_(state[f"{theirs}.{i}.layer.0.weight"] * scale[:, None, None, None])
                layer.bias.copy_(-state[f"{theirs}.{i}.layer.1.running_mean"] * scale)  # type: ignore[union-attr]


def _chain(*layers: tuple[int, int, int, int]) -> nn.Sequential:
    """Convolution and ReLU by turns; each layer is (inputs, outputs, size, stride)."""
    return nn.Sequential(*(module for layer in layers for module in (conv(*layer), nn.ReLU())))


class Stem(nn.Module):
    """Fine features (N, 64, H/4, W/4): colours at 1/4, joined with XFeat's shallow and deep features."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = _chain((3, 32, 7, 2), (32, 64, 3, 2))
        self.join = nn.Sequential(conv(64 + 24 + 64, 96), nn.ReLU(), conv(96, 96), nn.ReLU(), conv(96, FINE))

    def forward(self, colours: Tensor, shallow: Tensor, deep: Tensor) -> Tensor:
        """Colours (N, 3, H, W), shallow (N, 24, H/4, W/4), deep (N, 64, H/8, W/8)."""
        fine = self.colours(colours)
        wide = F.interpolate(deep, fine.shape[-2:], mode="bilinear", align_corners=False)
        return self.join(torch.cat([fine, shallow, wide], 1))


class Context(nn.Module):
    """The recurrent unit's first state and its constant input."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.layers = nn.Sequential(conv(inputs, 128), nn.ReLU(), conv(128, hidden + CONTEXT))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, hidden, h, w) in (-1, 1) and (N, CONTEXT, h, w) >= 0."""
        hidden, context = self.layers(features).split([self.hidden, CONTEXT], 1)
        return hidden.tanh(), context.relu()


class UpdateBlock(nn.Module):
    """RAFT-small's update: motion features, a 3x3 convolutional GRU, a flow step, and the mask of the convex upsampling."""

    def __init__(self, volume: int, hidden: int, mask: int) -> None:
        super().__init__()
        self.volume = nn.Sequential(conv(volume, 96, 1), nn.ReLU())
        self.flow = nn.Sequential(conv(2, 32, 7), nn.ReLU(), conv(32, 32), nn.ReLU())
        self.motion = nn.Sequential(conv(96 + 32, 64), nn.ReLU())
        self.context = nn.Conv2d(CONTEXT, 3 * hidden, 3, padding=1)
        self.inputs = nn.Conv2d(64, 3 * hidden, 3, padding=1, bias=False)
        self.gates = nn.Conv2d(hidden, 2 * hidden, 3, padding=1, bias=False)
        self.candidate = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.step = nn.Sequential(conv(hidden, 128), nn.ReLU(), nn.Conv2d(128, 2, 3, padding=1))
        self.to_mask = nn.Sequential(conv(hidden, 128), nn.ReLU(), nn.Conv2d(128, mask, 1))

    def prepared(self, context: Tensor) -> Tensor:
        """The context's share of the GRU, which is the same in all iterations: a convolution is linear in its channels."""
        return self.context(context)

    def forward(self, hidden: Tensor, context: Tensor, volume: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """The next hidden state and the change of the flow (N, 2, h, w), in cells, float32; `context` is prepared."""
        inputs = context + self.inputs(self.motion(torch.cat([self.volume(volume), self.flow(flow)], 1)))
        channels = hidden.shape[1]
        gates, candidate = inputs.split([2 * channels, channels], 1)
        update, reset = (gates + self.gates(hidden)).sigmoid().chunk(2, 1)
        candidate = (candidate + self.candidate(reset * hidden)).tanh()
        hidden = hidden + update * (candidate - hidden)
        return hidden, self.step(hidden).float()

    def mask(self, hidden: Tensor) -> Tensor:
        """Logits of the convex upsampling."""
        return 0.25 * self.to_mask(hidden)
