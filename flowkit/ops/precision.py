"""In what precision flow is kept, and what a device computes in."""

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


def emulates_bf16(device: str) -> bool:
    """Whether bf16 is float32 rounded there, so that it only costs time: x86 CPUs without AVX512-BF16 and AMX."""
    if torch.device(device).type != "cpu":
        return False
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return able.get("architecture") == "x86_64" and not (able.get("avx512_bf16") or able.get("amx_bf16"))
