"""One check for all of geometry: the trailing dimensions of a tensor, whatever the batch dimensions before them."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.types import Size


def check(name: str, tensor: Tensor, *shape: int | str) -> None:
    """ValueError unless `tensor` is float32 or float64 and ends in `shape`; a letter stands for any length."""
    tail = tensor.shape[-len(shape) :]
    fits = len(tail) == len(shape) and all(isinstance(s, str) or s == n for s, n in zip(shape, tail, strict=True))
    if not fits:
        expected = ", ".join(map(str, ("...", *shape)))
        raise ValueError(f"{name} must have shape ({expected}), got {tuple(tensor.shape)}")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{name} must be float32 or float64 (no pixel coordinates in half precision), got {tensor.dtype}"
        )


def check_same(name0: str, tensor0: Tensor, name1: str, tensor1: Tensor) -> None:
    """ValueError unless both tensors have the same shape."""
    if tensor0.shape != tensor1.shape:
        raise ValueError(
            f"{name0} and {name1} must have the same shape, got {tuple(tensor0.shape)} and {tuple(tensor1.shape)}"
        )


def check_size(name: str, size: Size) -> Size:
    """The size as two ints; ValueError unless it is a positive (height, width)."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name} must be a positive (height, width), got {tuple(size)}")
    return int(size[0]), int(size[1])
