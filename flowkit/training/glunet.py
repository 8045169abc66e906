"""Recipes of GLU-Net and BaseNet, with and without GOCor: static and dynamic synthetic pairs, one loss for every level.

Truong et al., GLU-Net (CVPR 2020) and GOCor (NeurIPS 2020, section 4); spec.md 6.4. Whatever is plain and whatever has GOCor
is trained by the same recipe but for the network's name, so that the comparison says something about the networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from flowkit.errors import UsageError
from flowkit.io.weights import load_checkpoint
from flowkit.losses.levels import levels_loss
from flowkit.losses.matching import global_matching_loss, matching_loss
from flowkit.losses.sequence import flow_metrics
from flowkit.models.basenet import ROWS, BaseNet
from flowkit.models.feature_pyramids import VGG16Pyramid
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
    row: str = ""
    """A row of GOCor's Table 6 (I to VI) in place of the network: for comparisons, II to V fit no model of the registry."""
    vgg16: str = ""
    """torchvision's file of VGG-16 (vgg16-397923af.pth), for networks with that encoder to begin with."""

    def network(self) -> nn.Module:
        """The recipe's network, or that of the row; UsageError for a row that there is not."""
        if not self.row:
            return super().network()
        if self.row not in ROWS:
            raise UsageError(f"row={self.row}: Table 6 has the rows {', '.join(ROWS)}")
        return BaseNet(ROWS[self.row])

    def begin(self, network: nn.Module) -> None:
        """See `vgg16`; UsageError when it is not given to a network that needs it."""
        pyramid = getattr(network, "pyramid", None)
        if not isinstance(pyramid, VGG16Pyramid):
            return
        if not self.vgg16:
            raise UsageError(
                f"{self.model} begins with ImageNet's VGG-16; give torchvision's file with --set vgg16=FILE"
            )
        pyramid.load_torchvision(load_checkpoint("VGG-16", self.vgg16))

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
        Stage(share=0.30, max_displacement=96, until=FEATURES, learning_rate=1e-3),
        Stage(share=0.40, max_displacement=128, until="32"),
        Stage(share=0.30, max_displacement=160),
    ),
    learning_rate=4e-4,
    clip=1.0,
    clip_each=True,
    options={"through_features": False},  # decoders that know nothing yet would spoil them; the paper's are frozen, too
    mirrors=2,
    max_flow=1000.0,
    engine=EngineSettings(layered=0.15, scenes3d=0.25, geometric=0.6, warps=DYNAMIC, lighting=0.5, both_ways=True),
    steps=20_000,
    checkpoint_every=250,
    validate_every=500,
)
"""In hours on two cores: dynamic pairs, and the engine's scenes; features first, then the coarse levels, then all."""

_SHIFTS = (65 / 100, 75 / 100, 95 / 100)
"""GLU-Net's 100 epochs of static pairs halve the rate after 65, 75 and 95 ..."""
_DYNAMIC_SHIFTS = (100 / 150, 120 / 150, 130 / 150)
"""... and GOCor's 150 of dynamic pairs after 100, 120 and 130."""
GLUNET = replace(
    BASENET,
    model="glunet",
    weights=(0.32, 0.08, 0.02, 0.01),
    coarse_levels=2,
    size=(520, 520),
    batch=16,
    stages=(),
    engine=EngineSettings(
        layered=0.0, scenes3d=0.0, geometric=1.0, warps=DYNAMIC, lighting=0.5, max_displacement=2000.0
    ),
    schedule="multistep",
    milestones=_DYNAMIC_SHIFTS,
    learning_rate=1e-4,
    weight_decay=4e-4,
    clip=0.0,
    clip_each=False,
    options={},
    mirrors=1,
    steps=150 * 40_000 // 16,
)
"""As published (40 000 pairs an epoch), but for our own features: what DenseMatching calls dynamic data, unweakened."""


def _static(recipe: LevelsRecipe) -> LevelsRecipe:
    """The same on static pairs."""
    warps = replace(recipe.engine.warps, objects=0.0)
    return replace(
        recipe, engine=replace(recipe.engine, warps=warps), milestones=_SHIFTS, steps=recipe.steps * 100 // 150
    )


def _on_two_cores(recipe: LevelsRecipe) -> LevelsRecipe:
    """In hours without a GPU: small crops, BaseNet's pairs and stages."""
    stages = (*BASENET.stages[:-1], replace(BASENET.stages[-1], size=(256, 320), batch=6))
    return replace(BASENET, model=recipe.model, weights=recipe.weights, coarse_levels=2, stages=stages)


def _alike(name: str, recipe: LevelsRecipe) -> dict[str, LevelsRecipe]:
    """The recipe for the plain network and for the one with GOCor."""
    return {name.format(""): recipe, name.format("-gocor"): replace(recipe, model=f"{recipe.model}-gocor")}


GLUNET_RECIPES: Mapping[str, LevelsRecipe] = MappingProxyType(
    {
        **_alike("basenet{}", BASENET),
        **_alike("glunet{}", GLUNET),
        **_alike("glunet{}-static", _static(GLUNET)),
        **_alike("glunet{}-cpu", _on_two_cores(GLUNET)),
        "glunet-published": replace(GLUNET, model="glunet-published", frozen=("pyramid",)),
        "glunet-gocor-published": replace(GLUNET, model="glunet-gocor-published", frozen=("pyramid",)),
    }
)
