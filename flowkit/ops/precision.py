"""In what precision flow is kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor

Owner = TypeVar("Owner")


def wide(flow: Tensor) -> Tensor:
    """Half precision, which cannot hold a place in a picture, made float32; float64 stays."""
    return flow if flow.dtype == torch.float64 else flow.float()


def exactly(method: Callable[[Owner, Tensor], Tensor]) -> Callable[[Owner, Tensor], Tensor]:
    """A method of one tensor that computes in that tensor's precision, whatever autocast says."""

    @wraps(method)
    def without_autocast(self: Owner, tensor: Tensor) -> Tensor:
        with torch.autocast(tensor.device.type, enabled=False):
            return method(self, tensor)

    return without_autocast
