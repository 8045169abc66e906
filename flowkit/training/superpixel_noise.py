"""Artificial occlusion: superpixels of a picture replaced by noise, so that nothing there can be matched any more.

Liu et al., SelFlow, CVPR 2019, section 3.3; superpixels are SLIC's (Achanta et al., PAMI 2012), scikit-image's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowkit.errors import UsageError


@dataclass(frozen=True)
class SuperpixelNoise:
    """How many superpixels there are and how many of them go; SelFlow's code does not say, these numbers are ours."""

    segments: int = 300
    """Superpixels of a picture, about."""
    replaced: tuple[int, int] = (8, 12)
    """How many of them are replaced, at least and at most."""

    def __post_init__(self) -> None:
        least, most = self.replaced
        if self.segments < 1 or not 0 <= least <= most:
            raise UsageError(
                f"superpixels: segments={self.segments}, replaced={least},{most} leaves nothing to replace"
            )


def add_noise(images: Tensor, settings: SuperpixelNoise, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, H, W) in [0, 1] with noise, uniform by pixel and channel, in some superpixels, and a mask (B, H, W) bool
    of these. The generator is the CPU's; the pictures stay where they are."""
    masks = torch.from_numpy(np.stack([_chosen(image, settings, generator) for image in images.detach().float().cpu()]))
    noise = torch.rand(images.shape, generator=generator).to(images)
    masks = masks.to(images.device)
    return torch.where(masks[:, None], noise, images), masks


def _chosen(image: Tensor, settings: SuperpixelNoise, generator: torch.Generator) -> np.ndarray:
    """(H, W) bool: the superpixels of one picture that go."""
    from skimage.segmentation import slic

    labels = slic(image.movedim(0, -1).numpy(), n_segments=settings.segments, start_label=0)
    least, most = settings.replaced
    count = int(torch.randint(least, most + 1, (), generator=generator))
    chosen = torch.randperm(int(labels.max()) + 1, generator=generator)[:count]
    return np.isin(labels, chosen.numpy())
