"""What a level of a network compares, before GOCor's first step and after each: for looking at, not for training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from flowkit.models.glunet_parts import unit
from flowkit.models.gocor import RADIUS, GOCor
from flowkit.models.gocor_volumes import GlobalVolume, LocalVolume, Volume
from flowkit.ops.precision import wide

Answers = tuple[Tensor, Tensor]
"""Volumes (B, K, H, W), K the cells compared with: of the reference with the query, and with the reference itself."""


@dataclass(frozen=True)
class Correspondences:
    """The volumes of one level on H x W cells of image0."""

    correlation: Answers
    """Cosines of the features, in [-1, 1]."""
    states: Iterator[Answers]
    """What GOCor's filters answer before the first step and after each, computed as it goes; nothing for plain layers."""
    flow: Tensor | None = None
    """(B, 2, H, W) in cells, by which image1's features were warped: K are then the 81 displacements about a cell's own place,
    row by row, and the cell p of the query is at p + flow(p) of image1. None: K are all cells, row by row."""


def compared(
    layer: nn.Module | None, reference: Tensor, query: Tensor, steps: int | None = None, flow: Tensor | None = None
) -> Correspondences:
    """What `layer`, GOCor or not, makes of features (B, C, H, W) of image0 and of image1, the latter warped by `flow`.

    Without `flow` the level is global. `steps` of descent: None is the layer's number in evaluation.
    """
    globally = flow is None
    own, other = unit(reference), unit(query)
    cosines = _cosines(own, other, globally), _cosines(own, own, globally)
    seen = (own, other) if globally else (wide(reference), wide(query))  # as the layers of either kind get them
    states = _states(layer, *seen, steps) if isinstance(layer, GOCor) else iter(())
    return Correspondences(cosines, states, flow)


def _states(layer: GOCor, reference: Tensor, query: Tensor, steps: int | None) -> Iterator[Answers]:
    """Both columns of the paper's Figure 5: the filters, which are optimised for the pair, answer in either image."""
    own, other = layer.volume(reference), layer.volume(query)
    filters = own.laid(layer.initial(reference))
    for found, _ in layer.descend(own, other, filters, layer.steps if steps is None else steps):
        yield other.maps(other.answers(found)), own.maps(own.answers(found))


def _cosines(reference: Tensor, other: Tensor, globally: bool) -> Tensor:
    volume: Volume = GlobalVolume(other) if globally else LocalVolume(other, RADIUS)
    return volume.maps(volume.answers(volume.laid(reference))) * volume.scale
