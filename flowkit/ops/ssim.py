"""Structural similarity of two pictures, pixel by pixel (Wang et al., IEEE TIP 2004)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

SIDE, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def ssim(image0: Tensor, image1: Tensor) -> Tensor:
    """(B, C, H, W): the similarity of two pictures (B, C, H, W) in [0, 1] around each pixel, channel by channel; 1 is alike.

    Means, variances and the covariance are taken in a Gaussian window of 11x11 pixels, sigma 1.5; beyond the border
    everything is 0, as in the code that most papers use. Differentiable as often as one likes.
    """
    count = int(image0.shape[1])
    moments = torch.cat([image0, image1, image0 * image0, image1 * image1, image0 * image1], dim=1)
    mean0, mean1, square0, square1, product = _blurred(moments).split(count, dim=1)
    variance0, variance1, covariance = square0 - mean0**2, square1 - mean1**2, product - mean0 * mean1
    alike = (2 * mean0 * mean1 + C1) * (2 * covariance + C2)
    return alike / ((mean0**2 + mean1**2 + C1) * (variance0 + variance1 + C2))


def _blurred(maps: Tensor) -> Tensor:
    """A Gaussian of each channel, rows after columns."""
    at = torch.arange(SIDE, dtype=maps.dtype, device=maps.device) - SIDE // 2
    line = torch.exp(-(at**2) / (2 * SIGMA**2))
    line = (line / line.sum()).expand(maps.shape[1], 1, 1, SIDE)
    maps = F.conv2d(maps, line, padding=(0, SIDE // 2), groups=maps.shape[1])
    return F.conv2d(maps, line.mT, padding=(SIDE // 2, 0), groups=maps.shape[1])
