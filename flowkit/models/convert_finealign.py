"""RANSAC-Flow's checkpoints (XiSHEN0220/RANSAC-Flow) into flowkit's layout: a dict of the state dicts of four networks.

Inside the networks tensors are named alike (spec.md 9.2). What both have as a constant, the blur filters, and the
correlation, which has no parameters, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.models.conversion import check_constant, tensors_of
from flowkit.models.finealign import FineAlign

TITLE = "RANSAC-Flow"
_PARTS = {"netFeatCoarse": "features.", "netFlowCoarse": "flow.", "netMatch": "matchability."}
_EMPTY = "netCorr"
_FILTER = "filt"
_BATCHES = "num_batches_tracked"


def convert(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under flowkit's names, ready for `load_state_dict(strict=True)`.

    Each of the four may have the prefix `module.`. The number of batches that a normalisation has seen may be missing and
    is then 0. WeightsError when one of the networks or a tensor is missing, is unknown or has another shape, or a blur
    filter is another than [1 2 1].
    """
    with torch.device("meta"):
        wanted = FineAlign().state_dict()
    found = _tensors(state)
    if unknown := next((new for new in found if new not in wanted), None):
        raise WeightsError(f"{TITLE} checkpoint: {_theirs(unknown)} is unknown")
    for name, ours in wanted.items():
        if name not in found and name.endswith(_BATCHES):
            found[name] = torch.tensor(0)
        if name not in found:
            raise WeightsError(f"{TITLE} checkpoint: {_theirs(name)} is missing")
        if found[name].shape != ours.shape:
            shapes = f"has shape {tuple(found[name].shape)} where {tuple(ours.shape)} belongs"
            raise WeightsError(f"{TITLE} checkpoint: {_theirs(name)} {shapes}")
    return found


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Those of the three networks that have any, under our names."""
    if extra := next((name for name in state if name not in (*_PARTS, _EMPTY)), None):
        raise WeightsError(f"{TITLE} checkpoint: {extra} is no network of it")
    found: dict[str, Tensor] = {}
    for part, prefix in _PARTS.items():
        if not isinstance(state.get(part), Mapping):
            raise WeightsError(f"{TITLE} checkpoint: {part} is missing")
        for name, tensor in tensors_of(state[part]).items():
            if name.rpartition(".")[2] == _FILTER:
                _check_filter(f"{part}.{name}", tensor)
            else:
                found[prefix + name] = tensor
    return found


def _check_filter(name: str, tensor: Tensor) -> None:
    line = torch.tensor([1.0, 2.0, 1.0]).double() / 4
    if tensor.shape[1:] != (1, 3, 3):
        raise WeightsError(
            f"{TITLE} checkpoint: {name} has shape {tuple(tensor.shape)} where (channels, 1, 3, 3) belongs"
        )
    check_constant(TITLE, name, tensor, torch.outer(line, line))


def _theirs(name: str) -> str:
    """What they call one of our tensors."""
    part, _, rest = name.partition(".")
    return f"{next(theirs for theirs, ours in _PARTS.items() if ours == f'{part}.')}.{rest}"
