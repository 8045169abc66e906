"""LIFE's recipe: triplets A, B, B' with poses instead of flow, and the flows of all three directions that matter.

Huang et al., LIFE (ICCV 2021), section 3.1; constants from the authors' NeuralMarker, spec.md 2.1.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, get_args

import torch

from flowkit.batch import PairBatch
from flowkit.datasets.colmap_model import PairLimits
from flowkit.errors import UsageError
from flowkit.losses.life import ROWS, Direction, LifeWeights, Row, Terms, life_loss
from flowkit.synth.engine import EngineSettings
from flowkit.synth.geometric import LIFE, GeometricSettings
from flowkit.synth.geometric_render import transformed
from flowkit.synth.lighting import relight
from flowkit.synth.scene3d import Scene3DSettings
from flowkit.training.posed import open_posed
from flowkit.training.posed_windows import PosedSettings
from flowkit.training.recipe import Recipe, Source, Stage, either

if TYPE_CHECKING:
    from torch import Tensor, nn

    from flowkit.models.prediction import FlowPrediction
    from flowkit.training.material import Material
    from flowkit.types import Size

log = logging.getLogger(__name__)

_STILL = EngineSettings(
    layered=0.0,
    scenes3d=1.0,
    geometric=0.0,
    lighting=1.0,
    cameras=Scene3DSettings(moving=0.0, rotation=0.0, min_displacement=4.0),
)
"""Rigid scenes, which a fundamental matrix explains, under any light."""
_PICTURES: dict[Direction, tuple[str, str]] = {
    "AB": ("image0", "image1"),
    "BA": ("image1", "image0"),
    "BW": ("image1", "warped"),
    "WB": ("warped", "image1"),
}


@dataclass(frozen=True)
class LifeRecipe(Recipe):
    """What LIFE has besides: the terms of its loss, the warp that makes B', and where posed photographs come in."""

    base: str = "raft"
    """The network of the same architecture whose weights it begins with, where they are in the box."""
    terms: Row = "SED+BiT+AC"
    """A row of the paper's Table 6: T, BiT, SED, SED+FC, SED+AC or SED+BiT+AC."""
    weights: LifeWeights = field(default_factory=LifeWeights)
    """How the terms count, and their constants."""
    warp: GeometricSettings = LIFE
    """The map between B' and B, drawn as NeuralMarker does."""
    warp_least: float = 1.0
    """Each batch's map is that strong in parts, from this share of it to all of it, uniform in the logarithm."""
    warp_lighting: float = 0.0
    """Strongest change of light of B', drawn between 0 and this; the paper has none."""
    photographs: float = 0.5
    """Share of batches from posed photographs, where --data colmap=DIR or megadepth-caps=DIR gives some; the others are the
    engine's."""
    posed: PosedSettings = field(default_factory=lambda: PosedSettings(lighting=0.5))
    """What becomes of those; their change of light comes on top of their own."""
    limits: PairLimits = field(default_factory=PairLimits)
    """Which pairs of a COLMAP model are taken."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms not in get_args(Row):
            raise UsageError(f"terms={self.terms}: known: {', '.join(get_args(Row))}")
        if not 0 < self.warp_least <= 1:
            raise UsageError(f"warp_least={self.warp_least}: must lie above 0 and not above 1")
        for name in ("warp_lighting", "photographs"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)}: must lie between 0 and 1")

    @property
    def renders(self) -> bool:
        """Whether any of its pairs are made from photos."""
        return self.photographs < 1

    @property
    def losses(self) -> Terms:
        """What the row stands for."""
        return ROWS[self.terms]

    def begin(self, network: nn.Module) -> None:
        """Load the weights of `base`; without them, as of RAFT, the network begins with chance."""
        from flowkit.io.weights import cards, load_checkpoint, load_strictly

        if self.base not in cards():
            log.warning("no weights of %s in the box: begin with some by --init, or it learns from scratch", self.base)
            return
        load_strictly(network, load_checkpoint(self.base), self.base)
        log.info("begins with the weights of %s", self.base)

    def source_from(self, material: Material) -> Source:
        """Triplets of the engine, of the posed photographs of `material.data`, or of both."""
        photographs = open_posed(material.data, settings=self.posed, limits=self.limits) if material.data else None
        if photographs is None and self.photographs == 1:
            raise UsageError("photographs=1 needs posed photographs; give --data colmap=DIR or megadepth-caps=DIR")
        return Triplets(super().source_from(material) if self.renders else None, photographs, self)

    def views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """The pictures of every direction that the terms need, one after the other."""
        sides = zip(*(_PICTURES[direction] for direction in self.losses.directions), strict=True)
        first, second = (torch.cat([getattr(batch, name) for name in side]) for side in sides)
        return first, second

    def loss(self, prediction: FlowPrediction, batch: PairBatch) -> dict[str, Tensor]:
        """`loss`, and its terms over all iterates: `sed`, `cycle`, `bit`. The flow of the batch is not looked at."""
        directions = self.losses.directions
        parts = [iterate.chunk(len(directions)) for iterate in prediction.iterates]
        flows = {direction: [part[index] for part in parts] for index, direction in enumerate(directions)}
        return life_loss(flows, prediction.strides, batch, self.losses, self.weights, self.gamma)


class Triplets:
    """Pairs of either source, by batches, each with a third picture B' that is a warp of B."""

    def __init__(self, rendered: Source | None, photographs: Source | None, recipe: LifeRecipe) -> None:
        self.rendered, self.photographs, self.recipe = rendered, photographs, recipe

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` triplets of `size`; the same arguments give the same."""
        host = torch.Generator().manual_seed(seed)
        source = either(self.rendered, self.photographs, self.recipe.photographs, host)
        strength = self.recipe.warp_least ** float(torch.rand((), generator=host))
        warp = weakened(self.recipe.warp, strength)
        return triplet(source.batch(count, size, seed), warp, self.recipe.warp_lighting, host)


def weakened(settings: GeometricSettings, share: float) -> GeometricSettings:
    """Maps that go only this share of the way: turned, stretched, shifted and bent less."""
    reach = ("rotation", "scale", "translation", "corners", "knots", "knots_after")
    return replace(settings, **{name: share * getattr(settings, name) for name in reach})


def triplet(pairs: PairBatch, warp: GeometricSettings, lighting: float, generator: torch.Generator) -> PairBatch:
    """The pairs with B', a warp of image1 in a light of up to `lighting`, and the flows between the two."""
    made = transformed(pairs.image1, warp, generator)
    strength = lighting * torch.rand(len(pairs), generator=generator)
    lit = relight(made, strength, generator) if lighting else made
    return replace(
        pairs,
        warped=lit.image1,
        warp=made.flow,
        warp_valid=made.valid,
        unwarp=made.backward,
        unwarp_valid=made.backward_valid,
    )


LIFE_RECIPE = LifeRecipe(
    model="life",
    size=(480, 640),
    batch=2,
    accumulate=6,
    iterations=10,
    engine=_STILL,
    steps=50_000,
    learning_rate=1e-4,
    weight_decay=5e-5,
    freeze_batchnorm=True,
    validation_size=(480, 640),
)
"""NeuralMarker's constants: twelve pairs of 480x640 a step, 10 iterations, one cycle to 1e-4."""

LIFE_SMALL = replace(
    LIFE_RECIPE,
    model="life-small",
    base="raft-xfeat",
    size=(160, 256),
    batch=2,
    accumulate=1,
    stages=(
        Stage(share=0.5, size=(160, 256), batch=2, max_displacement=64, iterations=5),
        Stage(share=0.5, size=(256, 384), batch=1, max_displacement=120, iterations=6),
    ),
    iterations=6,
    fine_tuned=("backbone",),
    fine_tuning=0.3,
    gamma=0.85,
    warp=replace(LIFE, rotation=math.pi / 5, scale=0.3, translation=0.4, corners=0.4, knots=0.35),
    limits=PairLimits(max_rotation=60.0, covisibility=(0.3, 0.9)),
    weights=LifeWeights(sed_clamp=50.0),
    warp_least=0.1,
    warp_lighting=1.0,
    learning_rate=2e-4,
    steps=10_000,
    freeze_batchnorm=False,
    checkpoint_every=250,
    validate_every=500,
    validation_size=(256, 384),
    validation_iterations=6,
)
"""For RAFT-XFeat, in an hour or two on two cores; B' is turned and shifted less, and in another light, too."""
