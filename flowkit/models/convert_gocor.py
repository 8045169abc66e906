"""The tensors of the published GOCor modules under our names (spec.md 5.5); for the converters of networks that have them."""

from __future__ import annotations

from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.models.gocor_objective import KNOTS

_BOTH = {
    "filter_optimizer.log_step_length": "log_step",
    "filter_optimizer.filter_reg": "decay",
    "filter_optimizer.label_map_predictor.weight": "reference.target",
    "filter_optimizer.spatial_weight_predictor.weight": "reference.positive",
    "filter_optimizer.target_mask_predictor.0.weight": "reference.asymmetry",
}
GLOBAL = {
    **_BOTH,
    "filter_initializer.target_fg": "at_place",
    "filter_initializer.target_bg": "at_mean",
    # the scores are (reference, query): the first kernel goes over the last two axes, as here
    "filter_optimizer.reg_layer.weight1": "query.over_query",
    "filter_optimizer.reg_layer.weight2": "query.over_reference",
}
"""Names in the published global module, and ours."""
LOCAL = {**_BOTH, "filter_initializer.scaling": "at_place"}
"""Names in the published local module, and ours."""


def in_our_shape(title: str, name: str, tensor: Tensor) -> Tensor:
    """A function of the distance as its values at the knots, instead of a 1x1 convolution of one; anything else as it is.

    WeightsError when that convolution has another number of knots.
    """
    if not name.endswith("_predictor.weight") and not name.endswith("_predictor.0.weight"):
        return tensor
    if tensor.shape != (1, KNOTS, 1, 1):
        raise WeightsError(
            f"{title} checkpoint: {name} has shape {tuple(tensor.shape)} where (1, {KNOTS}, 1, 1) belongs"
        )
    return tensor.flatten()
