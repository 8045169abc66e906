"""What converters of foreign checkpoints have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import WeightsError

_TOLERANCE = 1e-4
"""How far a constant may be from what it should be: checkpoints may have gone through half precision."""


def tensors_of(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint, bare or as "state_dict" or "model" beside other things, without the prefix `module.`."""
    inner = state.get("state_dict", state.get("model", state))
    tensors = {name: value for name, value in inner.items() if isinstance(value, Tensor)}
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def check_constant(title: str, name: str, tensor: Tensor, expected: Tensor) -> None:
    """WeightsError unless all of `tensor` is as `expected`, which is broadcast."""
    if not torch.allclose(tensor.double(), expected.expand(tensor.shape), atol=_TOLERANCE):
        raise WeightsError(f"{title} checkpoint: {name} should be constant, but was changed: not the published network")


def bgr_to_rgb(tensors: dict[str, Tensor], first: str) -> dict[str, Tensor]:
    """The same with the input channels of the convolution `first` in the other order; WeightsError when it is missing."""
    if first not in tensors:
        raise WeightsError("the first layer's weights are missing")
    return {**tensors, first: tensors[first].flip(1)}
