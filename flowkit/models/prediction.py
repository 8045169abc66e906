"""What every flow network returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class FlowPrediction:
    """The flow image0 -> image1 of a network, in pixels of the images it was given.

    `flow` (B, 2, H, W) is the final one at input resolution, channel 0 = x. `iterates` are the successive estimates, last one
    last, each (B, 2, h, w) in the same pixels of the input; `strides` says how coarse each one's grid is (1 = full
    resolution; at stride s, cell (i, j) stands for the centre of its s x s pixels). `coarse` (B, 2, h, w) is the last estimate
    on the network's working grid, in that grid's cells: what a sequence hands to its next pair (`initial=`). `confidence`
    (B, 1, H, W) in [0, 1] is None where the network knows nothing of it. `features` of image0 and image1, (B, C, H / s, W / s)
    by stride s, are given by networks that were asked for nothing else, to be trained by themselves; `flow` is then 0.
    `mirrored` (B,) bool says for which pairs a flip test has matched image0's mirror image.
    """

    flow: Tensor
    iterates: list[Tensor] = field(default_factory=list)
    strides: list[int] = field(default_factory=list)
    coarse: Tensor | None = None
    confidence: Tensor | None = None
    features: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    mirrored: Tensor | None = None
