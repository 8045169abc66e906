"""What networks that learnt on ImageNet expect of their input."""

from __future__ import annotations

from torch import Tensor

MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
"""Of RGB in [0, 1]."""


def normalised(images: Tensor) -> Tensor:
    """Images (N, 3, H, W), RGB in [0, 1], with ImageNet's mean taken off and its deviation divided out."""
    mean, deviation = (images.new_tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))
    return (images - mean) / deviation
