"""LIFE's objective: what the camera poses, the way back and a synthetic warp say of a triplet A, B, B'.

Huang et al., LIFE: Lighting Invariant Flow Estimation (ICCV 2021), section 3.1 and Table 6; spec.md 2.1 closes the gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.losses.cycle import cycle_loss
from flowkit.losses.epipolar import SedForm, symmetric_epipolar_loss
from flowkit.losses.transformation import transformation_loss
from flowkit.ops.precision import wide

Row = Literal["T", "BiT", "SED", "SED+FC", "SED+AC", "SED+BiT+AC"]
"""A row of the paper's Table 6: T one direction of BiT, FC the cycle of all pixels, AC the adaptive one."""
Direction = Literal["AB", "BA", "BW", "WB"]
"""A -> B, back, B -> B' (W, the warped one), back."""


@dataclass(frozen=True)
class Terms:
    """Which terms a row has."""

    epipolar: bool
    cycle: Literal["none", "full", "adaptive"]
    transformation: Literal["none", "one way", "both ways"]

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The flows that the terms are about."""
        posed: tuple[Direction, ...] = ("AB", "BA") if self.epipolar else ()
        warped: dict[str, tuple[Direction, ...]] = {"none": (), "one way": ("BW",), "both ways": ("BW", "WB")}
        return posed + warped[self.transformation]


ROWS: Mapping[Row, Terms] = MappingProxyType(
    {
        "T": Terms(False, "none", "one way"),
        "BiT": Terms(False, "none", "both ways"),
        "SED": Terms(True, "none", "none"),
        "SED+FC": Terms(True, "full", "none"),
        "SED+AC": Terms(True, "adaptive", "none"),
        "SED+BiT+AC": Terms(True, "adaptive", "both ways"),
    }
)


@dataclass(frozen=True)
class LifeWeights:
    """How the terms count and their constants; all weights are 1 in NeuralMarker's code."""

    epipolar: float = 1.0
    cycle: float = 1.0
    transformation: float = 1.0
    sed_form: SedForm = "sum"
    """The sum of the two distances (LIFE), or the root of the sum of their squares (NeuralMarker)."""
    sed_clamp: float = 200.0
    """Largest epipolar distance of a pixel that counts, in pixels."""
    alpha: float = 3.0
    """The adaptive cycle keeps pixels that miss by at most max(alpha px, beta |flow|)."""
    beta: float = 0.05


WEIGHTS = LifeWeights()


def life_loss(
    flows: Mapping[Direction, Sequence[Tensor]],
    strides: Sequence[int],
    batch: PairBatch,
    terms: Terms,
    weights: LifeWeights = WEIGHTS,
    gamma: float = 0.8,
) -> dict[str, Tensor]:
    """`loss`, and its parts `sed`, `cycle` and `bit` (weighted over the iterates, without their own weights); scalars.

    flows[d] are the N iterates (B, 2, H / s, W / s) of a direction, in pixels of the input; each part is the sum over them of
    gamma^(N-1-i) times the loss of iterate i, the mean of the directions where there are two. The batch has F for the
    epipolar term and the warp of image1 for BiT (`warp`, `unwarp` and their masks). ValueError when something is missing.
    """
    if missing := [d for d in terms.directions if d not in flows]:
        raise ValueError(f"no flows of {', '.join(missing)}")
    count = len(strides)
    parts: dict[str, Tensor] = {}
    for index, stride in enumerate(strides):
        at = {direction: wide(iterates[index]) for direction, iterates in flows.items()}
        for name, value in _iterate_terms(at, stride, batch, terms, weights).items():
            parts[name] = parts.get(name, 0.0) + gamma ** (count - 1 - index) * value
    factors = {"sed": weights.epipolar, "cycle": weights.cycle, "bit": weights.transformation}
    total = torch.stack([factors[name] * value for name, value in parts.items()]).sum()
    return {"loss": total, **{name: value.detach() for name, value in parts.items()}}


def _iterate_terms(
    flows: Mapping[Direction, Tensor], stride: int, batch: PairBatch, terms: Terms, weights: LifeWeights
) -> dict[str, Tensor]:
    parts = {}
    if terms.epipolar:
        parts["sed"] = _epipolar(flows, stride, batch, weights)
    if terms.cycle != "none":
        both = ((flows["AB"], flows["BA"]), (flows["BA"], flows["AB"]))
        kind = {"stride": stride, "alpha": weights.alpha, "beta": weights.beta, "adaptive": terms.cycle == "adaptive"}
        parts["cycle"] = torch.stack([cycle_loss(there, back, **kind) for there, back in both]).mean()  # type: ignore[arg-type]
    if terms.transformation != "none":
        parts["bit"] = _transformation(flows, stride, batch, terms)
    return parts


def _epipolar(flows: Mapping[Direction, Tensor], stride: int, batch: PairBatch, weights: LifeWeights) -> Tensor:
    """Both directions: the way back obeys F^T."""
    if batch.F is None:
        raise ValueError("the epipolar term needs F, which this batch does not know")
    kind = {"stride": stride, "form": weights.sed_form, "clamp": weights.sed_clamp}
    still = None if batch.moving is None else _still(batch.moving, stride)
    there = symmetric_epipolar_loss(flows["AB"], batch.F, weight=still, **kind)  # type: ignore[arg-type]
    back = symmetric_epipolar_loss(flows["BA"], batch.F.mT, **kind)  # type: ignore[arg-type]
    return (there + back) / 2


def _still(moving: Tensor, stride: int) -> Tensor:
    """(B, h, w): the share of each cell that the cameras explain."""
    return F.avg_pool2d((~moving).float()[:, None], stride)[:, 0]


def _transformation(flows: Mapping[Direction, Tensor], stride: int, batch: PairBatch, terms: Terms) -> Tensor:
    ways: list[tuple[Direction, Tensor | None, Tensor | None]] = [("BW", batch.warp, batch.warp_valid)]
    if terms.transformation == "both ways":
        ways.append(("WB", batch.unwarp, batch.unwarp_valid))
    losses = []
    for direction, truth, valid in ways:
        if truth is None or valid is None:
            raise ValueError("the transformation term needs a warp of image1, which this batch does not have")
        losses.append(transformation_loss(flows[direction], truth, valid, stride=stride))
    return torch.stack(losses).mean()
