"""Foreign RAFT checkpoints into flowkit's names: princeton-vl's (and ptlflow's), with or without `module.`, and torchvision's.

Only names differ: order and meaning of all channels are the same in the three.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.models.conversion import tensors_of
from flowkit.models.raft import NORMAL, RAFT, SMALL

_FROM_TORCHVISION = (
    (r"^feature_encoder\.", "fnet."),
    (r"^context_encoder\.", "cnet."),
    (r"^(fnet|cnet)\.convnormrelu\.0\.", r"\1.conv1."),
    (r"^(fnet|cnet)\.convnormrelu\.1\.", r"\1.norm1."),
    (r"^(fnet|cnet)\.conv\.", r"\1.conv2."),
    (r"\.convnormrelu(\d)\.0\.", r".conv\1."),
    (r"\.convnormrelu(\d)\.1\.", r".norm\1."),
    (r"\.motion_encoder\.convcorr(\d)\.0\.", r".encoder.convc\1."),
    (r"\.motion_encoder\.convflow(\d)\.0\.", r".encoder.convf\1."),
    (r"\.motion_encoder\.conv\.0\.", ".encoder.conv."),
    (r"\.recurrent_block\.convgru(\d)\.conv([zrq])\.", r".gru.conv\2\1."),
    (r"^mask_predictor\.convrelu\.0\.", "update_block.mask.0."),
    (r"^mask_predictor\.conv\.", "update_block.mask.2."),
)
_SKIP_NORM = re.compile(r"^(.*layer[23]\.0)\.norm[34]\.(.*)$")
"""princeton-vl holds the norm of a stride block's skip path twice: `norm3` (`norm4` in bottlenecks) is `downsample.1`."""


def convert(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a RAFT or RAFT-small checkpoint under flowkit's names, ready for `load_state_dict(strict=True)`.

    `state` is what the checkpoint holds, bare or as "state_dict" beside other things; the layout and which of the two
    networks it is are told from its names. WeightsError in one line when tensors are missing, left over or misshapen.
    """
    tensors = tensors_of(state)
    if any(name.startswith("feature_encoder.") for name in tensors):
        tensors = _from_torchvision(tensors)
    tensors = _without_doubles(tensors)
    small = "update_block.encoder.convc2.weight" not in tensors
    _check(tensors, small)
    return tensors


def _from_torchvision(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    one_step = not any(".convgru2." in name for name in tensors)
    renamed = {}
    for name, value in tensors.items():
        for pattern, replacement in _FROM_TORCHVISION:
            name = re.sub(pattern, replacement, name)
        # RAFT-small's only GRU step has no number.
        renamed[re.sub(r"\.gru\.conv([zrq])1\.", r".gru.conv\1.", name) if one_step else name] = value
    return renamed


def _without_doubles(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    kept = {}
    for name, value in tensors.items():
        match = _SKIP_NORM.match(name)
        twin = match and f"{match[1]}.downsample.1.{match[2]}"
        if not twin or twin not in tensors:
            kept[name] = value
        elif not torch.equal(value, tensors[twin]):
            raise WeightsError(f"RAFT checkpoint: {name} and {twin} should be one and the same but differ")
    return kept


def _check(tensors: Mapping[str, Tensor], small: bool) -> None:
    expected = RAFT(SMALL if small else NORMAL).state_dict()
    title = "RAFT-small" if small else "RAFT"
    for what, names in (("lacks", expected.keys() - tensors.keys()), ("has unknown", tensors.keys() - expected.keys())):
        if names:
            some = ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")
            raise WeightsError(f"not a {title} checkpoint: it {what} {len(names)} of {len(expected)} tensors ({some})")
    for name, value in tensors.items():
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(expected[name].shape)}"
            raise WeightsError(f"not a {title} checkpoint: {name} has shape {shapes}")
