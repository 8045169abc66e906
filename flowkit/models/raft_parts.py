"""The blocks of RAFT (Teed and Deng, ECCV 2020) and RAFT-small; sizes in spec order, names as in the published checkpoints.

Shapes are (B, C, h, w). "1/8" is the grid of 8 x 8 pixel cells that RAFT works on. A stride block keeps its skip path's
norm once, as `downsample.1`; the published checkpoints hold it a second time (`norm3`, `norm4`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.ops.convex_upsampling import convex_upsample


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and variance 1; no parameters. A single cell becomes 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if x.shape[-2:].numel() == 1:
            return x - x
        if x.is_cuda:
            return F.instance_norm(x)
        if torch.is_grad_enabled() and x.requires_grad:  # group_norm's way back is slow with channels innermost
            return F.instance_norm(x).contiguous(memory_format=torch.channels_last)
        return F.group_norm(x, x.shape[1])  # the same, and on the CPU ten times as fast with channels innermost


NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "instance": InstanceNorm}


def _norm(kind: str, channels: int) -> nn.Module:
    return NORMS[kind](channels) if kind != "none" else nn.Identity()


def _skip(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential | None:
    if stride == 1:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride), _norm(norm, outputs))


def _normed(conv: nn.Module, norm: nn.Module, x: Tensor, relu: bool = True) -> Tensor:
    """norm(conv(x)), with a ReLU after it. Where no gradient is wanted, in fewer passes over memory."""
    if torch.is_grad_enabled() or x.is_cuda:
        y = norm(conv(x))
    elif isinstance(norm, nn.BatchNorm2d) and not norm.training:
        y = _folded(conv, norm, x)
    else:
        y = conv(x)
        if isinstance(norm, InstanceNorm) and y.dtype != torch.float64 and y.shape[-2:].numel() > 1:
            return normalise_(y.float().contiguous(memory_format=torch.channels_last), relu)
        y = norm(y)
    return F.relu_(y) if relu else y


def _folded(conv: nn.Module, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """A batch norm that only applies its statistics, as part of the convolution before it."""
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    bias = norm.bias + scale * (conv.bias - norm.running_mean)
    return F.conv2d(x, conv.weight * scale[:, None, None, None], bias, conv.stride, conv.padding)


def normalise_(x: Tensor, relu: bool) -> Tensor:
    """Instance norm in place, of x (B, C, h, w) float32 with channels innermost; then a ReLU if wanted.

    Portion by portion, which stay in the cache meanwhile. Sums are taken of differences from one pixel and added up in
    float64: ten times closer to the truth than `group_norm` there, and no slower.
    """
    channels = x.shape[1]
    together = gcd(x.shape[-2] * x.shape[-1], 16)  # pixels in a row of what follows: few channels make short rows
    for image in x.permute(0, 2, 3, 1):
        rows = image.view(-1, together * channels)
        portions = rows.split(max(1, 2**18 // rows.shape[1]))
        shift = image[0, 0].repeat(together)
        sums = torch.zeros(2, rows.shape[1], dtype=torch.float64)
        for portion in portions:
            difference = portion - shift
            sums[0] += difference.sum(0)
            sums[1] += difference.square_().sum(0)
        mean, square = sums.view(2, together, channels).mean(1) / len(rows)
        scale = torch.rsqrt((square - mean.square()).clamp_min(0) + 1e-5)
        mean, scale = (values.float().repeat(together) for values in (mean + image[0, 0], scale))
        for portion in portions:
            portion.sub_(mean).mul_(scale)
            if relu:
                portion.relu_()
    return x


def _joined(skip: nn.Sequential | None, x: Tensor, y: Tensor) -> Tensor:
    """ReLU of the skip path plus y, which is overwritten when no gradient is wanted."""
    x = x if skip is None else _normed(skip[0], skip[1], x, relu=False)
    return F.relu_(x + y if torch.is_grad_enabled() else y.add_(x))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a skip: (B, inputs, h, w) -> (B, outputs, h / stride, w / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm1, self.norm2 = _norm(norm, outputs), _norm(norm, outputs)
        self.downsample = _skip(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Skip plus what the convolutions make of x; ReLU after each and after the sum."""
        y = _normed(self.conv1, self.norm1, x)
        y = _normed(self.conv2, self.norm2, y)
        return _joined(self.downsample, x, y)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions over a quarter of the channels beside a skip: RAFT-small's residual block."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        inner = outputs // 4
        self.conv1 = nn.Conv2d(inputs, inner, 1)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1)
        self.conv3 = nn.Conv2d(inner, outputs, 1)
        self.norm1, self.norm2, self.norm3 = _norm(norm, inner), _norm(norm, inner), _norm(norm, outputs)
        self.downsample = _skip(inputs, outputs, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Skip plus what the convolutions make of x; ReLU after each and after the sum."""
        y = _normed(self.conv1, self.norm1, x)
        y = _normed(self.conv2, self.norm2, y)
        y = _normed(self.conv3, self.norm3, y)
        return _joined(self.downsample, x, y)


class Encoder(nn.Module):
    """An image in [-1, 1] (B, 3, H, W) -> (B, outputs, H/8, W/8): a 7x7 convolution, three pairs of blocks, a 1x1 convolution.

    `widths` are the channels of the three pairs; the first convolution has as many as the first pair.
    """

    def __init__(
        self, block: type[Residual] | type[Bottleneck], widths: tuple[int, int, int], outputs: int, norm: str
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, stride=2, padding=3)
        self.norm1 = _norm(norm, widths[0])
        self.layer1 = self._pair(block, widths[0], widths[0], 1, norm)
        self.layer2 = self._pair(block, widths[0], widths[1], 2, norm)
        self.layer3 = self._pair(block, widths[1], widths[2], 2, norm)
        self.conv2 = nn.Conv2d(widths[2], outputs, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _pair(
        block: type[Residual] | type[Bottleneck], inputs: int, outputs: int, stride: int, norm: str
    ) -> nn.Sequential:
        return nn.Sequential(block(inputs, outputs, stride, norm), block(outputs, outputs, 1, norm))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, outputs, H/8, W/8)."""
        x = _normed(self.conv1, self.norm1, image)
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))


class MotionEncoder(nn.Module):
    """Correlations (B, inputs, h, w) and the flow (B, 2, h, w) in cells -> 128 channels, the last two the flow itself."""

    channels = 128

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(inputs, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, 126, 3, padding=1)

    def forward(self, correlations: Tensor, flow: Tensor) -> Tensor:
        """(B, 128, h, w)."""
        c = F.relu_(self.convc2(F.relu_(self.convc1(correlations))))
        f = F.relu_(self.convf2(F.relu_(self.convf1(flow))))
        return torch.cat([F.relu_(self.conv(torch.cat([c, f], dim=1))), flow], dim=1)


class SmallMotionEncoder(nn.Module):
    """RAFT-small's: correlations (B, inputs, h, w) and the flow (B, 2, h, w) -> 82 channels, the last two the flow itself."""

    channels = 82

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(inputs, 96, 1)
        self.convf1 = nn.Conv2d(2, 64, 7, padding=3)
        self.convf2 = nn.Conv2d(64, 32, 3, padding=1)
        self.conv = nn.Conv2d(128, 80, 3, padding=1)

    def forward(self, correlations: Tensor, flow: Tensor) -> Tensor:
        """(B, 82, h, w)."""
        c = F.relu_(self.convc1(correlations))
        f = F.relu_(self.convf2(F.relu_(self.convf1(flow))))
        return torch.cat([F.relu_(self.conv(torch.cat([c, f], dim=1))), flow], dim=1)


@dataclass
class GRUStep:
    """One convolutional GRU step made ready for many iterations.

    The gates are convolutions of [hidden, context, motion]; a convolution is linear in its input channels and the context
    stays, so its share (and the bias) is computed once: `context_zr` and `context_q`. The kernels for [hidden, motion] are
    the update and reset gate's together (`kernel_zr`) and the candidate's (`kernel_q`).
    """

    kernel_zr: Tensor
    kernel_q: Tensor
    context_zr: Tensor
    context_q: Tensor

    def __call__(self, hidden: Tensor, motion: Tensor) -> Tensor:
        """The next hidden state (B, hidden, h, w)."""
        padding = self.kernel_q.shape[-2] // 2, self.kernel_q.shape[-1] // 2
        inputs = torch.cat([hidden, motion], dim=1)
        gates = F.conv2d(inputs, self.kernel_zr, padding=padding)
        if torch.is_grad_enabled():
            z, r = torch.sigmoid(gates + self.context_zr).chunk(2, dim=1)
            inputs = torch.cat([r * hidden, motion], dim=1)
            q = torch.tanh(F.conv2d(inputs, self.kernel_q, padding=padding) + self.context_q)
            return hidden + z * (q - hidden)
        z, r = gates.add_(self.context_zr).sigmoid_().chunk(2, dim=1)  # the same in place: memory is what takes time
        torch.mul(r, hidden, out=inputs[:, : hidden.shape[1]])
        q = F.conv2d(inputs, self.kernel_q, padding=padding).add_(self.context_q).tanh_()
        return q.sub_(hidden).mul_(z).add_(hidden)


class ConvGRU(nn.Module):
    """A GRU whose gates are convolutions, one step for each kernel size: h <- (1 - z) h + z q.

    z and r are sigmoids of convolutions of [h, x], q is the tanh of one of [r h, x], x = [context, motion]. RAFT takes a 1x5
    and then a 5x1 step (convz1 ... convq2), RAFT-small one of 3x3 (convz, convr, convq).
    """

    def __init__(self, hidden: int, context: int, motion: int, kernels: dict[str, tuple[int, int]]) -> None:
        super().__init__()
        self.hidden, self.context, self.suffixes = hidden, context, tuple(kernels)
        for suffix, kernel in kernels.items():
            padding = kernel[0] // 2, kernel[1] // 2
            for gate in "zrq":
                conv = nn.Conv2d(hidden + context + motion, hidden, kernel, padding=padding)
                self.add_module(f"conv{gate}{suffix}", conv)

    def steps(self, context: Tensor) -> list[GRUStep]:
        """The steps of one iteration, for a context (B, context, h, w) that stays."""
        return [self._step(suffix, context) for suffix in self.suffixes]

    def _step(self, suffix: str, context: Tensor) -> GRUStep:
        convs = [self.get_submodule(f"conv{gate}{suffix}") for gate in "zrq"]
        kernel = torch.cat([conv.get_parameter("weight") for conv in convs])
        bias = torch.cat([conv.get_parameter("bias") for conv in convs])
        of_hidden, of_context, of_motion = kernel.split(
            [self.hidden, self.context, kernel.shape[1] - self.hidden - self.context], dim=1
        )
        padding = kernel.shape[-2] // 2, kernel.shape[-1] // 2
        share = F.conv2d(context, of_context, bias, padding=padding)
        moving = torch.cat([of_hidden, of_motion], dim=1)
        gates = 2 * self.hidden
        share_zr, share_q = (
            part.contiguous(memory_format=torch.channels_last) for part in share.tensor_split([gates], 1)
        )
        return GRUStep(moving[:gates], moving[gates:], share_zr, share_q)


class FlowHead(nn.Module):
    """Hidden state (B, hidden, h, w) -> change of the flow (B, 2, h, w) in cells."""

    def __init__(self, hidden: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(hidden, inner, 3, padding=1)
        self.conv2 = nn.Conv2d(inner, 2, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, 2, h, w)."""
        return self.conv2(F.relu_(self.conv1(hidden)))


class UpdateBlock(nn.Module):
    """What an iteration consists of: motion encoder, GRU, flow head, and RAFT's head for the upsampling weights."""

    def __init__(self, encoder: nn.Module, gru: ConvGRU, flow_head: FlowHead, masks: bool) -> None:
        super().__init__()
        self.encoder = encoder
        self.gru = gru
        self.flow_head = flow_head
        self.mask = (
            nn.Sequential(nn.Conv2d(gru.hidden, 256, 3, padding=1), nn.ReLU(), nn.Conv2d(256, 9 * 64, 1))
            if masks
            else None
        )

    def forward(
        self, steps: list[GRUStep], hidden: Tensor, correlations: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next hidden state (B, hidden, h, w) and the change of the flow (B, 2, h, w)."""
        motion = self.encoder(correlations, flow)
        for step in steps:
            hidden = step(hidden, motion)
        return hidden, self.flow_head(hidden)

    def upsample(self, hidden: Tensor, flow: Tensor) -> Tensor:
        """The flow (B, 2, h, w) in cells -> (B, 2, 8h, 8w) in pixels."""
        if self.mask is None:
            size = 8 * flow.shape[-2], 8 * flow.shape[-1]
            return 8 * F.interpolate(flow, size=size, mode="bilinear", align_corners=True)
        return 8 * convex_upsample(flow, 0.25 * self.mask(hidden), 8)
