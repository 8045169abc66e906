"""What a camera does to light: its tone curve, vignetting, blur, noise and JPEG, each picture of a batch with its own amounts.

Pictures are (N, 3, H, W) float RGB in [0, 1], as displayed or, where a function says so, in linear light; amounts are (N,).
"""

from __future__ import annotations

from math import cos, pi, sqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.geometry.grids import pixel_grid
from flowkit.types import Size

EXPONENT, OFFSET = 2.4, 0.055
TOE = (OFFSET / (1 + OFFSET)) ** EXPONENT
"""sRGB's power law does not end at 0. Moved and stretched so that it does, it needs no linear piece: within 1e-3 of sRGB."""

LUMINANCE = (0.299, 0.587, 0.114)
"""Weights of R, G and B in the luma of JPEG (ITU-R BT.601)."""

# The quantisation tables that ITU-T T.81 gives as examples (annex K.1) and that libjpeg scales with the quality.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)


def to_linear(picture: Tensor) -> Tensor:
    """Displayed values in [0, 1] as linear light in [0, 1], by the sRGB curve (within 1e-3); `to_display` is its inverse."""
    # exp(a log x): several times faster on a CPU than a power.
    power = ((picture + OFFSET) / (1 + OFFSET)).log_().mul_(EXPONENT).exp_()
    return power.sub_(TOE).div_(1 - TOE)


def to_display(light: Tensor) -> Tensor:
    """Linear light as displayed values; what is not in [0, 1] is clipped first."""
    power = light.clamp(0, 1).mul_(1 - TOE).add_(TOE).log_().div_(EXPONENT).exp_()
    return power.mul_(1 + OFFSET).sub_(OFFSET).clamp_(0, 1)


def vignette(amount: Tensor, size: Size) -> Tensor:
    """(N, 1, H, W): the share of the light that arrives, 1 in the middle and 1 / (1 + amount)^2 in the corners.

    The cos^4 law of a lens: amount (N,) is the squared tangent of the angle to the corner.
    """
    height, width = size
    x, y = pixel_grid(height, width, amount.device)
    squared = ((x - (width - 1) / 2).square() + (y - (height - 1) / 2).square()) / max(
        ((width - 1) ** 2 + (height - 1) ** 2) / 4, 1.0
    )
    return (1 + amount[:, None, None, None] * squared).square().reciprocal()


MAX_REACH = 4
"""Half the width of the blur kernels in pixels, less the middle: what reaches further is cut off."""


def blur(picture: Tensor, radius: Tensor, length: Tensor, angle: Tensor) -> Tensor:
    """Out of focus by a disc of `radius` pixels, and moved by `length` pixels along `angle` (radians) during the exposure.

    All (N,), the picture best in linear light. The kernel is the disc swept along the path, centred, so that nothing is
    displaced; radius 0 and length 0 change nothing.
    """
    reach = MAX_REACH
    x, y = pixel_grid(2 * reach + 1, 2 * reach + 1, picture.device) - reach
    along = x * angle.cos()[:, None, None] + y * angle.sin()[:, None, None]
    across = y * angle.cos()[:, None, None] - x * angle.sin()[:, None, None]
    beyond = (along.abs() - length[:, None, None] / 2).clamp_min(0)
    distance = (beyond.square() + across.square()).sqrt()
    # A pixel counts by how far it is inside the edge, so that the kernel changes smoothly with its size.
    kernel = (radius[:, None, None] + 1 - distance).clamp(0, 1)
    kernel = kernel / kernel.sum((-2, -1), keepdim=True)
    count, channels, height, width = picture.shape
    padded = F.pad(picture, (reach,) * 4, mode="replicate").reshape(1, count * channels, height + 2 * reach, -1)
    weights = kernel.repeat_interleave(channels, 0)[:, None]
    return F.conv2d(padded, weights, groups=count * channels).reshape(count, channels, height, width)


def noisy(light: Tensor, shot: Tensor, read: Tensor, generator: torch.Generator) -> Tensor:
    """Linear light with sensor noise: its variance is shot * light + read^2, independent in every channel; not clipped.

    shot and read are (N,); the generator lives on the light's device.
    """
    variance = light.clamp_min(0) * shot[:, None, None, None] + read.square()[:, None, None, None]
    noise = torch.randn(light.shape, generator=generator, device=light.device, dtype=light.dtype)
    return noise.mul_(variance.sqrt_()).add_(light)


def jpeg(picture: Tensor, quality: Tensor) -> Tensor:
    """The picture after JPEG at `quality` (N,) in 1..100: libjpeg's tables, colours at half resolution (4:2:0), in 8 bits.

    ITU-T T.81 without its lossless part: 8x8 cosine transforms, quantised, all on the picture's device. About one level of
    255 from what libjpeg gives, whose integer arithmetic rounds more often. Not differentiable.
    """
    height, width = picture.shape[-2:]
    down, right = -height % 16, -width % 16
    pixels = (F.pad(picture, (0, right, 0, down), mode="replicate") * 255).round_()
    red, green, blue = pixels.unbind(1)
    luma = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    chroma = torch.stack([(blue - luma) / (2 - 2 * LUMINANCE[2]), (red - luma) / (2 - 2 * LUMINANCE[0])], 1)
    scale = torch.where(quality < 50, 5000 / quality.clamp_min(1), 200 - 2 * quality)[:, None, None, None]
    luma = _quantised(luma[:, None].round() - 128, _table(_LUMA_TABLE, scale))[:, 0].add_(128).round_()
    chroma = _quantised(F.avg_pool2d(chroma, 2), _table(_CHROMA_TABLE, scale)).round_()
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round_()
    blue = luma + (2 - 2 * LUMINANCE[2]) * chroma[:, 0]
    red = luma + (2 - 2 * LUMINANCE[0]) * chroma[:, 1]
    green = (luma - LUMINANCE[0] * red - LUMINANCE[2] * blue) / LUMINANCE[1]
    decoded = torch.stack([red, green, blue], 1)[..., :height, :width]
    return decoded.round_().clamp_(0, 255).div_(255)


def _table(table: tuple[tuple[int, ...], ...], scale: Tensor) -> Tensor:
    """(N, 1, 8, 8): libjpeg's table at a percentage `scale` (N, 1, 1, 1)."""
    return ((scale.new_tensor(table) * scale + 50) / 100).floor().clamp(1, 255)


def _quantised(plane: Tensor, table: Tensor) -> Tensor:
    """Planes (N, C, H, W), H and W multiples of 8, after their 8x8 cosine transform is rounded to steps of `table`."""
    count, channels, height, width = plane.shape
    rows = [[sqrt((1 if k else 0.5) / 4) * cos(pi * k * (2 * n + 1) / 16) for n in range(8)] for k in range(8)]
    transform = plane.new_tensor(rows)
    # Along x as one tall matrix product, along y as one wide one: no copies into blocks.
    half = (plane.reshape(-1, 8) @ transform.T).view(-1, 8, width)
    coefficients = (transform @ half).view(count, channels, height // 8, 8, width // 8, 8)
    steps = table[:, :, None, :, None, :]
    kept = (coefficients / steps).round_().mul_(steps).reshape(-1, 8)
    back = transform.T @ (kept @ transform).view(-1, 8, width)
    return back.view(count, channels, height, width)
