"""Recipes of the networks that go down a pyramid, LiteFlowNet's family and PWC-Net: multi-scale loss, level by level."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from flowkit.io.weights import load_checkpoint, load_strictly
from flowkit.losses.matching import matching_loss
from flowkit.losses.multiscale import Penalty, multiscale_loss
from flowkit.losses.sequence import flow_metrics
from flowkit.models.liteflownet import LiteFlowNet
from flowkit.models.liteflownet_variants import variant
from flowkit.models.pwcnet import PWCNet
from flowkit.models.pyramid import FEATURES
from flowkit.synth.engine import EngineSettings
from flowkit.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowkit.batch import PairBatch
    from flowkit.models.prediction import FlowPrediction

log = logging.getLogger(__name__)

Weights = tuple[tuple[int, float], ...]
"""(stride, weight of the flows at that stride)."""


@dataclass(frozen=True)
class PyramidRecipe(Recipe):
    """What FlowNet2, PWC-Net and LiteFlowNet share: sums over cells, a weight for each level, errors in units of 20 pixels.

    A stage with `until` trains the network down to that unit alone; what a stage adds to the one before begins as the same
    unit of the next coarser level, as far as shapes agree.
    """

    weights: Weights = ()
    """Weight of each level's flows, by stride."""
    penalty: Penalty = "l2"
    """l2 for the first training; charbonnier, (d^2 + epsilon)^q, for fine-tuning on real data."""
    epsilon: float = 0.01
    """What keeps the slope at zero finite, in squared units of 20 pixels."""
    q: float = 0.4
    """The exponent of charbonnier."""
    variant: str = ""
    """A variant of the paper's ablations instead of the network (M, MS, WM, WSR, WMS, ALL, range-3, range-3-6, range-4,
    conv-redir): for comparisons, its weights fit no model of the registry."""
    width: float = 1.0
    """A variant's channels, relative to the paper's."""
    base: str = ""
    """A network of the box whose weights it begins with; GOCor modules, which that does not have, begin as the paper has it."""
    still: bool = False
    """Begin near zero flow instead of chance flows, which would unlearn what a first stage has taught the features."""

    def network(self) -> nn.Module:
        """The recipe's network, or the variant."""
        return LiteFlowNet(variant(self.variant, self.width)) if self.variant else super().network()

    def begin(self, network: nn.Module) -> None:
        """Initial weights by chance, or those of `base`; see `still`."""
        if self.base:
            self._begin_with_base(network)
        elif self.still and isinstance(network, (LiteFlowNet, PWCNet)):
            network.still()

    def _begin_with_base(self, network: nn.Module) -> None:
        """WeightsError when what `base` has, and more than GOCor modules have besides, is not what the network has."""
        own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith("matching.")}
        load_strictly(network, {**load_checkpoint(self.base), **own}, self.base)
        if own and isinstance(network, PWCNet):
            network.adapt_volumes()
        log.info("begins with the weights of %s", self.base)

    def loss(self, prediction: FlowPrediction, batch: PairBatch) -> dict[str, Tensor]:
        """The multi-scale loss, or while only features are trained the matching loss; see `Recipe.loss`."""
        if prediction.features:
            return {"loss": matching_loss(prediction.features, batch, max_flow=self.max_flow)}
        loss = multiscale_loss(
            prediction.iterates,
            prediction.strides,
            batch,
            weights=dict(self.weights),
            penalty=self.penalty,
            epsilon=self.epsilon,
            q=self.q,
            max_flow=self.max_flow,
            occluded=self.occluded,
        )
        return {"loss": loss, **flow_metrics(prediction.flow, batch, self.max_flow)}

    def enter(self, network: nn.Module, stage: int) -> bool:
        """Let the units that this stage adds begin as those of the next coarser level (section 6.1)."""
        if self.stages[stage - 1].until == FEATURES:
            return self.stages[stage].until != FEATURES
        if not isinstance(network, LiteFlowNet):
            return False
        steps = network.config.steps
        before, now = (self.stages[index].until or steps[-1] for index in (stage - 1, stage))
        added = steps[steps.index(before) + 1 : steps.index(now) + 1]
        for step in added:
            copied, kept = network.inherit(step)
            log.info("%s begins with %d tensors of the coarser level and %d of its own", step, copied, kept)
        return bool(added)


LITEFLOWNET_WEIGHTS: Weights = ((32, 0.32), (16, 0.08), (8, 0.02), (4, 0.01), (2, 0.005))
PWCNET_WEIGHTS: Weights = ((64, 0.32), (32, 0.08), (16, 0.02), (8, 0.01), (4, 0.005))
_HALVINGS = (0.6, 0.8)
"""A stage of 200 000 steps halves its rate after 120 000 and 160 000 ..."""
_LONG_HALVINGS = (0.4, 0.5333, 0.6667, 0.8)
"""... and one of 300 000 also after 200 000 and 240 000."""


def level_by_level(finest: int, rates: Mapping[int, float]) -> tuple[Stage, ...]:
    """Section 6.1's stages: M6:S6 and R6 for 300 000 steps each, then M:S and R of every level, 200 000 each, the last 300 000.

    Shares are proportional to those lengths, so that the schedule may be run in a shorter time. `rates` are the learning
    rates by level.
    """
    stages = []
    for level in range(6, finest - 1, -1):
        for unit in "SR":
            long = level == 6 or (level == finest and unit == "R")
            stages.append(
                Stage(
                    share=300.0 if long else 200.0,
                    until=f"{unit}{level}",
                    learning_rate=rates[level],
                    milestones=_LONG_HALVINGS if long else _HALVINGS,
                )
            )
    return tuple(stages)


_COMMON = PyramidRecipe(
    model="liteflownet",
    size=(320, 448),
    batch=8,
    iterations=None,
    validation_iterations=None,
    weights=LITEFLOWNET_WEIGHTS,
    stages=level_by_level(2, {6: 1e-4, 5: 1e-4, 4: 1e-4, 3: 5e-5, 2: 4e-5}),
    schedule="multistep",
    learning_rate=1e-4,
    weight_decay=4e-4,
    clip=0.0,
    steps=2_300_000,
)
LITEFLOWNET = _COMMON
LITEFLOWNET2 = replace(
    _COMMON,
    model="liteflownet2",
    weights=(*LITEFLOWNET_WEIGHTS[:-1], (1, 6.25e-4)),
    stages=level_by_level(3, {6: 1e-4, 5: 1e-4, 4: 1e-4, 3: 6e-5}),
    steps=1_900_000,
)
PWCNET = replace(
    _COMMON,
    model="pwcnet",
    size=(384, 448),
    weights=PWCNET_WEIGHTS,
    stages=(),
    milestones=(1 / 3, 0.5, 2 / 3, 5 / 6),
    steps=1_200_000,
)

_GROWING = (
    Stage(share=0.10, size=(128, 192), max_displacement=4),
    Stage(share=0.15, size=(128, 192), max_displacement=10),
    Stage(share=0.20, size=(160, 224), max_displacement=24),
    Stage(share=0.25, size=(192, 256), max_displacement=48),
    Stage(share=0.30, size=(256, 384), batch=4, max_displacement=100),
)
"""All levels at once on motions that grow: in hours on two cores that gets further than level by level."""
_CPU = replace(
    _COMMON,
    stages=_GROWING,
    mirrors=2,
    epsilon=1e-4,
    options={"through_flows": False},
    schedule="onecycle",
    learning_rate=1e-3,
    clip=1.0,
    clip_each=True,  # distances of R go into an exponential squared: their gradients explode now and then
    engine=EngineSettings(both_ways=True),
    steps=20_000,
    checkpoint_every=250,
    validate_every=500,
)
_MATCHING = replace(
    _CPU,
    stages=(
        Stage(share=0.05, size=(128, 192), max_displacement=16, until=FEATURES, learning_rate=1e-3),
        Stage(share=0.22, size=(128, 192), max_displacement=16),
        Stage(share=0.22, size=(192, 256), max_displacement=32),
        Stage(share=0.23, size=(192, 256), max_displacement=64),
        Stage(share=0.28, size=(256, 384), batch=4, max_displacement=100),
    ),
    still=True,
    learning_rate=4e-4,
)
"""For the networks with matching: without features that match already they answered zero for a thousand steps. LiteFlowNet2
diverged at 1e-3."""
LITEFLOWNETX = replace(_CPU, model="liteflownetx", weights=(*LITEFLOWNET_WEIGHTS, (1, 0.00125)))


def _on_public_pairs(first: PyramidRecipe) -> dict[str, PyramidRecipe]:
    """FlyingChairs, FlyingThings3D, two fine-tunings (sections 6.1 and 6.3), each begun with --init from the one before."""
    things = replace(
        first,
        source="liteflownet-things",
        size=(384, 768),
        batch=4,
        stages=(),
        learning_rate=3e-6 if first.stages else 1e-5,
        milestones=(0.4, 0.6, 0.8),
        steps=500_000,
    )
    robust = replace(things, learning_rate=5e-5, penalty="charbonnier", q=0.4, epsilon=0.01, steps=600_000)
    name = first.model
    return {
        f"{name}-chairs": replace(first, source="liteflownet-chairs"),
        f"{name}-things": things,
        f"{name}-sintel": replace(
            robust, source=f"{'liteflownet2' if name == 'liteflownet2' else 'liteflownet'}-sintel"
        ),
        f"{name}-kitti": replace(robust, source="liteflownet-kitti", size=(320, 896)),
    }


def _with_gocor() -> dict[str, PyramidRecipe]:
    """PWC-Net with GOCor from the weights of PWC-Net, and PWC-Net itself trained on alike, for comparison (GOCor, section 4.2).

    S_fine of PWC-Net, on the engine's pairs or FlyingThings3D, then Sintel; and what two cores do in an hour.
    """
    public = _on_public_pairs(PWCNET)
    fine = replace(PWCNET, base="pwcnet", learning_rate=1e-5, milestones=(0.4, 0.6, 0.8), steps=500_000)
    cpu = replace(_MATCHING, base="pwcnet", weights=(*PWCNET_WEIGHTS, (1, 3.125e-4)), stages=_MATCHING.stages[3:])
    stages = {
        "{}": fine,
        "{}-cpu": replace(cpu, learning_rate=2e-4),
        "{}-things": replace(public["pwcnet-things"], base="pwcnet"),
        "{}-sintel": public["pwcnet-sintel"],
    }
    with_gocor = {name.format("pwcnet-gocor"): replace(recipe, model="pwcnet-gocor") for name, recipe in stages.items()}
    return {
        **with_gocor,
        "pwcnet-on": replace(fine, model="pwcnet"),
        "pwcnet-on-cpu": replace(stages["{}-cpu"], model="pwcnet"),
    }


PYRAMID_RECIPES: Mapping[str, PyramidRecipe] = MappingProxyType(
    {
        "liteflownet": LITEFLOWNET,
        "liteflownet2": LITEFLOWNET2,
        "liteflownetx": LITEFLOWNETX,
        "pwcnet": PWCNET,
        "liteflownet-cpu": replace(_MATCHING, model="liteflownet", weights=(*LITEFLOWNET_WEIGHTS, (1, 0.00125))),
        "liteflownet2-cpu": replace(_MATCHING, model="liteflownet2", weights=LITEFLOWNET2.weights),
        **_on_public_pairs(LITEFLOWNET),
        **_on_public_pairs(LITEFLOWNET2),
        **_on_public_pairs(PWCNET),
        **_with_gocor(),
        "pwcnet-cpu": replace(_MATCHING, model="pwcnet", weights=(*PWCNET_WEIGHTS, (1, 3.125e-4))),
    }
)
