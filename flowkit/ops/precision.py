"""In what precision flow is kept."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(flow: Tensor) -> Tensor:
    """Half precision, which cannot hold a place in a picture, made float32; float64 stays."""
    return flow if flow.dtype == torch.float64 else flow.float()
