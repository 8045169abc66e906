"""RAFT and RAFT-small: recurrent all-pairs field transforms (Teed and Deng, ECCV 2020; BSD-3-Clause code, weights of any layout
by `convert_raft.py`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flowkit.geometry.grids import pixel_grid
from flowkit.models.prediction import FlowPrediction
from flowkit.models.raft_parts import (
    Bottleneck,
    ConvGRU,
    Encoder,
    FlowHead,
    MotionEncoder,
    Residual,
    SmallMotionEncoder,
    UpdateBlock,
)
from flowkit.ops.allpairs import AllPairs, Lookup

LEVELS = 4
"""Levels of the correlation pyramid."""


@dataclass(frozen=True)
class RAFTConfig:
    """What distinguishes RAFT from RAFT-small."""

    small: bool
    hidden: int
    context: int
    radius: int
    """Correlations are looked up at (2 radius + 1)^2 points of every level."""

    @property
    def correlations(self) -> int:
        """Channels of a lookup."""
        return LEVELS * (2 * self.radius + 1) ** 2


NORMAL = RAFTConfig(small=False, hidden=128, context=128, radius=4)
SMALL = RAFTConfig(small=True, hidden=96, context=64, radius=3)


class RAFT(nn.Module):
    """RAFT (5 257 536 parameters) or, with `config=SMALL`, RAFT-small (990 162).

    Features of both images and a context of image0 at 1/8, the correlation of every cell of image0 with every cell of image1,
    and a recurrent block that looks correlations up where the flow points and corrects it, `iterations` times.
    """

    divisor = 8

    def __init__(self, config: RAFTConfig = NORMAL) -> None:
        super().__init__()
        self.config = config
        hidden, context = config.hidden, config.context
        if config.small:
            self.fnet = Encoder(Bottleneck, (32, 64, 96), 128, "instance")
            self.cnet = Encoder(Bottleneck, (32, 64, 96), hidden + context, "none")
            encoder: nn.Module = SmallMotionEncoder(config.correlations)
            gru = ConvGRU(hidden, context, SmallMotionEncoder.channels, {"": (3, 3)})
            self.update_block = UpdateBlock(encoder, gru, FlowHead(hidden, 128), masks=False)
        else:
            self.fnet = Encoder(Residual, (64, 96, 128), 256, "instance")
            self.cnet = Encoder(Residual, (64, 96, 128), hidden + context, "batch")
            encoder = MotionEncoder(config.correlations)
            gru = ConvGRU(hidden, context, MotionEncoder.channels, {"1": (1, 5), "2": (5, 1)})
            self.update_block = UpdateBlock(encoder, gru, FlowHead(hidden, 256), masks=True)

    def freeze_bn(self) -> None:
        """Batch norms use and keep their running statistics from now on, as RAFT trains after its first stage.

        `train()` undoes it: call it again after every change to training mode.
        """
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    def forward(
        self,
        image0: Tensor,
        image1: Tensor,
        *,
        iterations: int = 12,
        initial: Tensor | None = None,
        lookup: Lookup = "auto",
    ) -> FlowPrediction:
        """The flow image0 -> image1 of images (B, 3, H, W), RGB in [0, 1], H and W divisible by 8.

        `initial` (B, 2, H/8, W/8) is a flow in cells to start from, as `FlowPrediction.coarse`; `lookup`
        chooses how correlations are kept (see `AllPairs`). In training mode `iterates` are the flows of all iterations at
        full resolution, otherwise only the last. ValueError when sizes do not fit.
        """
        self._check(image0, image1, iterations, initial)
        features0, features1 = self._features(image0, image1)
        correlation = AllPairs(features0, features1, levels=LEVELS, radius=self.config.radius, lookup=lookup)
        hidden, context = self._context(image0)
        steps = self.update_block.gru.steps(context)
        grid = pixel_grid(image0.shape[-2] // 8, image0.shape[-1] // 8, device=image0.device)
        flow = torch.zeros_like(grid).expand(len(image0), -1, -1, -1) if initial is None else initial.float()

        fine = []
        for iteration in range(iterations):
            # Gradients reach earlier iterations through the hidden state only. One layout keeps all that follows in it.
            flow = flow.detach().contiguous(memory_format=torch.channels_last)
            hidden, change = self.update_block(steps, hidden, correlation(grid + flow), flow)
            flow = flow + change.float()
            if self.training or iteration == iterations - 1:
                fine.append(self.update_block.upsample(hidden, flow))
        return FlowPrediction(flow=fine[-1], iterates=fine, strides=[1] * len(fine), coarse=flow)

    def _features(self, image0: Tensor, image1: Tensor) -> tuple[Tensor, Tensor]:
        """Features of both images, (B, C, H/8, W/8) each."""
        if torch.is_grad_enabled() or image0.is_cuda:
            features0, features1 = self.fnet(self._scaled(torch.cat([image0, image1]))).chunk(2)
            return features0, features1
        return self.fnet(self._scaled(image0)), self.fnet(self._scaled(image1))  # half the memory, and faster for it

    def _context(self, image0: Tensor) -> tuple[Tensor, Tensor]:
        """The first hidden state and the context, (B, hidden or context, H/8, W/8)."""
        first, context = self.cnet(self._scaled(image0)).split([self.config.hidden, self.config.context], dim=1)
        return torch.tanh(first), torch.relu(context)

    @staticmethod
    def _scaled(images: Tensor) -> Tensor:
        """[0, 1] -> [-1, 1], channels innermost: convolutions are faster so."""
        return (2 * images - 1).contiguous(memory_format=torch.channels_last)

    def _check(self, image0: Tensor, image1: Tensor, iterations: int, initial: Tensor | None) -> None:
        batch, channels, height, width = image0.shape
        if channels != 3 or image1.shape != image0.shape:
            raise ValueError(f"images must both be (B, 3, H, W), got {tuple(image0.shape)} and {tuple(image1.shape)}")
        if height % 8 or width % 8 or not height * width:
            raise ValueError(f"height and width must be divisible by 8, got {(height, width)}")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {iterations}")
        if initial is not None and initial.shape != (batch, 2, height // 8, width // 8):
            raise ValueError(
                f"initial must be {(batch, 2, height // 8, width // 8)}, in cells of 8 pixels, got {tuple(initial.shape)}"
            )


def raft() -> RAFT:
    """RAFT, 5 257 536 parameters."""
    return RAFT(NORMAL)


def raft_small() -> RAFT:
    """RAFT-small, 990 162 parameters."""
    return RAFT(SMALL)
