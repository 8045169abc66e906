"""PWC-Net checkpoints in NVlabs' names (pwc_net.pth.tar; ptlflow's are the same) into flowkit's, also PWC-Net-GOCor's.

NVlabs' network takes BGR, flowkit's RGB: the first layer's channels change places. A layer there that nothing uses (deconv2) is
left out. PWC-Net-GOCor (PruneTruong's GOCor and DenseMatching) is the same network with a GOCor module for every level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.models.conversion import bgr_to_rgb, tensors_of
from flowkit.models.convert_gocor import LOCAL, in_our_shape


def convert(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under flowkit's names, ready for `load_state_dict(strict=True)`.

    The model with three convolutions per level and the paper's with two are told apart by their names. WeightsError when a
    tensor is unknown, or one of a GOCor module is of another shape.
    """
    tensors = tensors_of(state)
    deep = any(name.startswith("conv1aa") for name in tensors)
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("deconv2."):
            continue
        new = _renamed(name, deep)
        if new is None:
            raise WeightsError(f"PWC-Net checkpoint: {name} is unknown")
        converted[new] = in_our_shape("PWC-Net", name, tensor)
    return bgr_to_rgb(converted, "pyramid.levels.0.0.weight")


def _renamed(name: str, deep: bool) -> str | None:
    if match := re.fullmatch(r"conv([1-6])(aa|a|b)\.0\.(.*)", name):
        level, place = int(match[1]), match[2]
        order = ("a", "aa", "b") if deep else ("a", "b")
        if deep and level == 6:
            order = ("aa", "a", "b")  # there the convolution with stride 2 has the other's name
        return f"pyramid.levels.{level - 1}.{2 * order.index(place)}.{match[3]}" if place in order else None
    if match := re.fullmatch(r"conv([2-6])_([0-4])\.0\.(.*)", name):
        return f"decoders.{match[1]}.layers.{match[2]}.0.{match[3]}"
    for theirs, ours in (("predict_flow", "flow"), ("deconv", "up_flow"), ("upfeat", "up_features")):
        if match := re.fullmatch(rf"{theirs}([2-6])\.(.*)", name):
            return f"decoders.{match[1]}.{ours}.{match[2]}"
    if match := re.fullmatch(r"dc_conv([1-6])\.0\.(.*)", name):
        return f"context.layers.{2 * (int(match[1]) - 1)}.{match[2]}"
    if match := re.fullmatch(r"dc_conv7\.(.*)", name):
        return f"context.flow.{match[1]}"
    if match := re.fullmatch(r"local_corr_([2-6])\.(.*)", name):
        return f"matching.{match[1]}.{LOCAL[match[2]]}" if match[2] in LOCAL else None
    return None
