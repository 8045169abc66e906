"""Recipes of GLU-Net and BaseNet, with and without GOCor: static and dynamic synthetic pairs, one loss for every level.

Truong et al., GLU-Net (CVPR 2020) and GOCor (NeurIPS 2020, section 4); spec.md 6.4. Whatever is plain and whatever has GOCor
is trained by the same recipe but for the network's name, so that the comparison says something about the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from flowkit.losses.levels import levels_loss
from flowkit.losses.matching import global_matching_loss, matching_loss
from flowkit.losses.sequence import flow_metrics
from flowkit.models.pyramid import FEATURES
from flowkit.synth.engine import EngineSettings
from flowkit.synth.geometric import DYNAMIC
from flowkit.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowkit.batch import PairBatch
    from flowkit.models.prediction import FlowPrediction

GLOBAL_STRIDE = 16
"""The features that are matched with the whole of the other image."""
_SIDE = 256


@dataclass(frozen=True)
class LevelsRecipe(Recipe):
    """What BaseNet and GLU-Net share: sums over the cells of every level, a weight for each."""

    weights: tuple[float, ...] = (0.32, 0.08, 0.02)
    """Weight of each level, the coarsest first."""
    coarse_levels: int = 3
    """How many of them see the image at 256x256, in whose pixels their errors count."""

    def loss(self, prediction: FlowPrediction, batch: PairBatch) -> dict[str, Tensor]:
        """The loss of all levels, or while only features are trained the matching loss; see `Recipe.loss`."""
        if prediction.features:
            return {"loss": self._matching(prediction, batch)}
        sides = [_SIDE if level < self.coarse_levels else None for level in range(len(self.weights))]
        loss = levels_loss(
            prediction.iterates,
            batch,
            weights=self.weights,
            sides=sides,
            max_flow=self.max_flow,
            occluded=self.occluded,
        )
        return {"loss": loss, **flow_metrics(prediction.flow, batch, self.max_flow)}

    def _matching(self, prediction: FlowPrediction, batch: PairBatch) -> Tensor:
        local = {stride: pair for stride, pair in prediction.features.items() if stride != GLOBAL_STRIDE}
        loss = matching_loss(local, batch, max_flow=self.max_flow)
        return loss + global_matching_loss(*prediction.features[GLOBAL_STRIDE], batch, max_flow=self.max_flow)

    def enter(self, network: nn.Module, stage: int) -> bool:
        """Average anew when flow begins to be trained."""
        return self.stages[stage - 1].until == FEATURES and self.stages[stage].until != FEATURES


BASENET = LevelsRecipe(
    model="basenet",
    size=(256, 256),
    batch=8,
    iterations=None,
    validation_iterations=None,
    validation_size=(256, 256),
    stages=(
        Stage(share=0.12, max_displacement=96, until=FEATURES, learning_rate=1e-3),
        Stage(share=0.28, max_displacement=128, until="32"),
        Stage(share=0.60, max_displacement=160),
    ),
    learning_rate=4e-4,
    clip=1.0,
    clip_each=True,
    mirrors=2,
    max_flow=1000.0,
    engine=EngineSettings(layered=0.15, scenes3d=0.25, geometric=0.6, warps=DYNAMIC, lighting=0.5, both_ways=True),
    steps=20_000,
    checkpoint_every=250,
    validate_every=500,
)
"""In hours on two cores: dynamic pairs, and the engine's scenes; features first, then the coarse levels, then all."""

GLUNET_RECIPES: Mapping[str, LevelsRecipe] = MappingProxyType(
    {
        "basenet": BASENET,
        "basenet-gocor": replace(BASENET, model="basenet-gocor"),
    }
)
