"""Foreign LiteFlowNet checkpoints into flowkit's names: sniklaus' LiteFlowNet, ptlflow's LiteFlowNet and LiteFlowNet2.

What those files hold that is no weight here (fixed enlargements and sums) is checked to be what it should be. sniklaus'
networks take BGR: the first layer's channels change places. ptlflow's take RGB, with one set of means for both images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.models.conversion import bgr_to_rgb, check_constant, tensors_of

_NUMBERS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")
_TRIANGLES = {4: (1, 3, 3, 1), 8: (1, 3, 5, 7, 7, 5, 3, 1)}


def convert(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under flowkit's names, ready for `load_state_dict(strict=True)`.

    `state` is what the checkpoint holds, bare or as "state_dict" beside other things; which software wrote it is told from
    its names. WeightsError in one line when a tensor is unknown or a constant is not what it should be.
    """
    tensors = tensors_of(state)
    if any(name.startswith(("moduleFeatures", "netFeatures")) for name in tensors):
        converted = _renamed(
            {re.sub(r"module(?=[A-Z])", "net", name): t for name, t in tensors.items()}, _from_sniklaus
        )
        return bgr_to_rgb(converted, "netc.levels.0.0.weight")
    if not any(name.startswith("feature_net.") for name in tensors):
        raise WeightsError(
            "no LiteFlowNet checkpoint: neither sniklaus' names (netFeatures) nor ptlflow's (feature_net)"
        )
    # its chains end with the convolution that gives the flow: the 4th in LiteFlowNet, the 6th in LiteFlowNet2
    last = max(
        (int(found[1]) for name in tensors if (found := re.search(r"matching_nets\.0\.flow_net\.(\d+)\.", name))),
        default=6,
    )
    return _renamed(tensors, partial(_from_ptlflow, last=last))


def _renamed(tensors: Mapping[str, Tensor], rename: Callable[[str], str | None]) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = rename(name)
        if new is None:
            raise WeightsError(f"LiteFlowNet checkpoint: {name} is unknown")
        if new.startswith("="):
            _check_fixed(name, new[1:], tensor)
        elif new not in converted:
            converted[new] = tensor
        elif not torch.equal(tensor, converted[new]):
            raise WeightsError(f"LiteFlowNet checkpoint: two copies of the layer {new} should be the same but differ")
    return converted


def _check_fixed(name: str, kind: str, tensor: Tensor) -> None:
    """WeightsError unless a fixed tensor is what flowkit computes without it."""
    if kind == "bilinear":
        line = torch.tensor(_TRIANGLES.get(tensor.shape[-1], (1,)), dtype=torch.float64) / tensor.shape[-1]
        check_constant("LiteFlowNet", name, tensor, line[:, None] * line)
    else:
        check_constant("LiteFlowNet", name, tensor, torch.tensor(float(kind), dtype=torch.float64))


def _from_sniklaus(name: str) -> str | None:
    """Ours, or "=..." for a constant; level 2 comes first there."""
    if match := re.fullmatch(r"netFeatures\.net(One|Two|Thr|Fou|Fiv|Six)\.(\d)\.(.*)", name):
        return f"netc.levels.{_NUMBERS.index(match[1])}.{match[2]}.{match[3]}"
    match = re.fullmatch(r"net(Matching|Subpixel|Regularization)\.(\d)\.(\w+?)(?:\.(\d+))?\.(weight|bias)", name)
    if match is None:
        return None
    unit, index, part, number, kind = match.groups()
    level = int(index) + 2
    here = f"nete.{level}"
    own = f"{here}.{unit.lower()}"
    if part in ("netUpflow", "netUpcorr") and kind == "weight":
        return "=bilinear"
    if part in ("netScaleX", "netScaleY"):
        return "=1" if kind == "weight" else "=0"
    if part == "netFeat" and number == "0":
        return f"{own}.adapter.0.{kind}" if unit == "Regularization" else f"{here}.adapter.0.{kind}"
    if part == "netDist":
        return f"{own}.distance.{kind}" if level >= 5 else f"{own}.distance.{number}.{kind}"
    if part == "netMain":
        last = number == "6" and unit != "Regularization"
        return f"{own}.flow.{kind}" if last else f"{own}.layers.{number}.{kind}"
    return None


def _from_ptlflow(name: str, last: int) -> str | None:
    """Ours, or "=..." for a constant; level 6 comes first there, and number `last` of a unit's layers gives the flow."""
    if match := re.fullmatch(r"feature_net\.convs\.(.*)", name):
        return f"netc.levels.{match[1]}"
    if name.endswith(("up_flow.weight", "up_corr.weight")):
        return "=bilinear"
    if match := re.fullmatch(r"feat2_conv\.(.*)", name):
        return f"nete.2.adapter.{match[1]}"
    if match := re.fullmatch(r"pseudo_subpixel\.flow_net\.(\d)\.(.*)", name):
        return f"pseudo.enlarge.0.{match[2]}" if match[1] == "0" else f"pseudo.flow.{match[2]}"
    if match := re.fullmatch(r"pseudo_regularization\.feat_net\.(\d)\.(.*)", name):
        return f"pseudo.enlarge.1.{match[2]}" if match[1] == "0" else f"pseudo.distance.{int(match[1]) - 1}.{match[2]}"
    match = re.fullmatch(r"(matching|subpixel|regularization)_nets\.(\d)\.(.*)", name)
    if match is None:
        return None
    unit, level, rest = match[1], 6 - int(match[2]), match[3]
    own = f"nete.{level}.{unit}"
    if unit == "regularization":
        for theirs, ours in (("feat_conv.", "adapter."), ("feat_net.", "layers."), ("dist.", "distance.")):
            if rest.startswith(theirs):
                return f"{own}.{ours}{rest.removeprefix(theirs)}"
        return None
    if match := re.fullmatch(r"feat_net\.(.*)", rest):
        return f"{own}.layers.{match[1]}"
    if match := re.fullmatch(r"flow_net\.(weight|bias)", rest):
        return f"{own}.flow.{match[1]}"
    if match := re.fullmatch(r"flow_net\.(\d+)\.(weight|bias)", rest):
        return f"{own}.flow.{match[2]}" if int(match[1]) == last else f"{own}.layers.{match[1]}.{match[2]}"
    return None
