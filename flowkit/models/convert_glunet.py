"""GLU-Net and GLU-Net-GOCor checkpoints of PruneTruong's repositories (GLU-Net, GOCor, DenseMatching) into flowkit's layout.

Both networks take RGB with ImageNet's mean and deviation, order displacements row by row and regress (x, y), as ours do, so
that tensors only change their names (spec.md 5.5, 6.1, 6.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.models.conversion import tensors_of
from flowkit.models.convert_gocor import GLOBAL, LOCAL, in_our_shape
from flowkit.models.glunet_parts import CONTEXT, DECODER

TITLE = "GLU-Net"
_GLOBAL, _LOCAL = "corr.corr_module.", "local_corr."
_DECODERS = {
    "decoder4.conv": "coarse.first.",
    "decoder3.conv_": "coarse.second.decoder.",
    "decoder2.conv_": "eighth.decoder.",
    "decoder1.conv_": "quarter.decoder.",
}
_REFINEMENTS = {"dc_conv": "coarse.second.refinement.", "l_dc_conv": "quarter.refinement."}
_CONVOLUTIONS = {
    "pyramid.level_0.0": "pyramid.levels.0.0",  # there the first level of VGG-16 is two
    "pyramid.level_1.0": "pyramid.levels.0.2",
    **{f"pyramid.level_2.{place}": f"pyramid.levels.1.{place}" for place in (0, 2)},
    **{
        f"pyramid.level_{level}.{place}": f"pyramid.levels.{level - 1}.{place}"
        for level in (3, 4)
        for place in (0, 2, 4)
    },
    "decoder4.final": "coarse.first.mapping",
    "decoder3.predict_flow": "coarse.second.decoder.flow",
    "decoder2.predict_flow": "eighth.decoder.flow",
    "decoder1.predict_flow": "quarter.decoder.flow",
    "deconv4": "coarse.enlarge",
    "deconv2": "enlarge",
    "upfeat2": "pass_on",
    "dc_conv7": "coarse.second.refinement.flow",
    "l_dc_conv7": "quarter.refinement.flow",
}
"""Convolutions that no normalisation follows."""
_BATCHES = "num_batches_tracked"


def convert(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under flowkit's names, ready for `load_state_dict(strict=True)`.

    The network is the one with GOCor if any tensor is a GOCor module's. The number of batches that a normalisation has
    seen, which files of torch before 0.4.1 lack and nothing here uses, may be missing and is then 0. WeightsError when a
    tensor is unknown or missing.
    """
    tensors = tensors_of(state)
    names = _names(gocor=any(name.startswith((_GLOBAL, _LOCAL)) for name in tensors))
    if unknown := next((name for name in tensors if name not in names), None):
        raise WeightsError(f"{TITLE} checkpoint: {unknown} is unknown")
    converted: dict[str, Tensor] = {}
    for name, new in names.items():
        if name in tensors:
            converted[new] = in_our_shape(TITLE, name, tensors[name])
        elif name.endswith(_BATCHES):
            converted[new] = torch.tensor(0)
        else:
            raise WeightsError(f"{TITLE} checkpoint: {name} is missing")
    return converted


def _names(gocor: bool) -> dict[str, str]:
    """Every tensor's name there, and ours."""
    convolutions, normalisations = dict(_CONVOLUTIONS), {}
    for theirs, ours, count, first in (
        *((theirs, ours, len(DECODER), 0) for theirs, ours in _DECODERS.items()),
        *((theirs, ours, len(CONTEXT), 1) for theirs, ours in _REFINEMENTS.items()),
    ):
        for layer in range(count):
            convolutions[f"{theirs}{layer + first}.0"] = f"{ours}layers.{layer}.0"
            normalisations[f"{theirs}{layer + first}.1"] = f"{ours}layers.{layer}.1"
    names: dict[str, str] = {}
    for places, kinds in (
        (convolutions, ("weight", "bias")),
        (normalisations, ("weight", "bias", "running_mean", "running_var", _BATCHES)),
    ):
        names |= {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in places.items() for kind in kinds}
    if gocor:
        names |= {_GLOBAL + theirs: f"matching.globally.{ours}" for theirs, ours in GLOBAL.items()}
        names |= {_LOCAL + theirs: f"matching.locally.{ours}" for theirs, ours in LOCAL.items()}
    return names
