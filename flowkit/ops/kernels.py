"""Triton kernels, where there is a use for them: CUDA tensors, and triton installed (it comes with torch's CUDA builds)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

from torch import Tensor


def triton_kernels(name: str, tensor: Tensor) -> ModuleType | None:
    """`flowkit.ops.NAME_triton` for CUDA tensors where triton is installed, else None."""
    return _module(f"flowkit.ops.{name}_triton") if tensor.is_cuda else None


@cache
def _module(path: str) -> ModuleType | None:
    try:
        return import_module(path)
    except ImportError:
        return None
