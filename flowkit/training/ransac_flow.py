"""RANSAC-Flow's fine network, trained without labels: two pictures brought together by a homography, and how alike they become.

Shen et al., RANSAC-Flow, ECCV 2020, sections 3.2 and 3.4; spec.md 9.5. Pairs are the engine's, as near to each other as a
coarse alignment leaves them, and photographs that the coarse stage itself has aligned (training/aligned_pairs.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.losses.alignment import (
    around,
    central,
    cycle_loss,
    matchability_loss,
    reconstruction_loss,
    smoothness_loss,
)
from flowkit.losses.matching import global_matching_loss, window_matching_loss
from flowkit.losses.sequence import flow_metrics, sequence_loss
from flowkit.models.finealign import FineAlignment, agreed
from flowkit.pipelines.dis import dis_flow
from flowkit.pipelines.seeding import round_trip_error
from flowkit.synth.engine import EngineSettings
from flowkit.synth.lighting import relight
from flowkit.synth.scene3d import Scene3DSettings
from flowkit.training.aligned_pairs import open_aligned
from flowkit.training.recipe import Recipe, Source, Stage, either

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.models.prediction import FlowPrediction
    from flowkit.training.material import Material
    from flowkit.types import Size

IMITATION = "imitation"
STAGES = ("reconstruction", "cycle", "matchability", "smoothness")
"""What `until` names: the paper's three stages, each with the losses of those before, and the official code's last one.

Before them there may be one of ours for short runs, imitation: similarity of pictures says little to a network that knows
nothing, so it first learns what OpenCV's DIS finds in the pictures before the change of light, where both directions agree.
That takes no labels either; a true flow that the engine knows is thrown away.
"""

_GENTLY = 0.01
AGREES = 0.7
"""Pixels by which DIS may miss there and back, to be imitated."""


@dataclass(frozen=True)
class AlignmentRecipe(Recipe):
    """What the fine network's training has besides: the weights of its losses, its light, and photographs."""

    cycle: float = 1.0
    """mu of equation 1."""
    matchability: float = 0.01
    """lambda of equation 1."""
    smoothness: float = 1.0
    """Weight of the flow's differences where nothing matches, in the stage of that name."""
    margin: int = 88
    """Pixels along the borders of a crop that do not count: their match may lie outside of the other crop."""
    scales: int = 1
    """Sizes of the pictures that are compared: as they are, halved, quartered ..."""
    hard: bool = True
    """Reconstruction counts wholly or not at all, as in the official code; else by matchability, as in equation 4."""
    lighting: float = 0.0
    """Strongest change of light in what the network sees; what is compared are the pictures before it."""
    photographs: float = 0.5
    """Share of batches from photographs that the coarse stage has aligned, where --data aligned=PATH gives some."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {stage.until for stage in self.stages} | {self.until}
        if unknown := known - {None, IMITATION, *STAGES}:
            raise UsageError(f"until={unknown.pop()}: known: {', '.join((IMITATION, *STAGES))}")
        if not 0 <= self.lighting <= 1 or not 0 <= self.photographs <= 1:
            raise UsageError("lighting and photographs must lie between 0 and 1")
        sizes = [self.size, *(stage.size for stage in self.stages if stage.size is not None)]
        if self.margin < 0 or any(min(size) <= 2 * self.margin for size in sizes):
            raise UsageError(
                f"margin={self.margin}: leaves nothing of crops of {min(min(size) for size in sizes)} pixels"
            )

    @property
    def renders(self) -> bool:
        """Whether any of its pairs are made from photos."""
        return self.photographs < 1

    def begin(self, network: torch.nn.Module) -> None:
        """Every displacement equally likely, so that the first flow is 0: for pairs that are aligned already the best guess."""
        with torch.no_grad():
            network.flow.conv4.weight.mul_(_GENTLY)  # type: ignore[union-attr, operator]

    def source_from(self, material: Material) -> Source:
        """The engine's pairs, the aligned photographs of `material.data`, or both; see `Lit`."""
        aligned = open_aligned(material.data) if material.data else None
        if aligned is None and self.photographs == 1:
            raise UsageError(
                "photographs=1 needs photographs that overlap; give --data aligned=PATH or --finetune PATH"
            )
        return Lit(super().source_from(material) if self.renders else None, aligned, self)

    def predict(self, network: torch.nn.Module, image0: Tensor, image1: Tensor) -> FlowPrediction:
        """The network's answer; matchability only in the stages that train it."""
        features = (
            self.until != IMITATION
        )  # which learn by themselves there: a head that knows nothing would spoil them
        prediction: FlowPrediction = network(image0, image1, matchability=self.judges, through_features=features)
        return prediction

    @property
    def judges(self) -> bool:
        """Whether the stage asks what matches."""
        return self.until in (None, *STAGES[2:])

    def loss(self, prediction: FlowPrediction, batch: PairBatch) -> dict[str, Tensor]:
        """`loss` and its terms of both directions; the true flow of the batch only serves the figures."""
        assert isinstance(prediction, FineAlignment)
        assert prediction.backward is not None
        if self.until == IMITATION:
            return self._imitation(prediction, batch)
        image0 = batch.image0 if batch.unlit0 is None else batch.unlit0
        image1 = batch.image1 if batch.unlit1 is None else batch.unlit1
        flow, back = (
            torch.cat([prediction.flow, prediction.backward]),
            torch.cat([prediction.backward, prediction.flow]),
        )
        image0, image1 = torch.cat([image0, image1]), torch.cat([image1, image0])
        inner = weight = central(image0, self.margin)
        both = self._both_ends(prediction, inner) if self.judges else None
        if both is not None:
            weight = both
        terms = {
            "reconstruction": reconstruction_loss(
                image0, image1, flow, around(weight) if self.hard else weight, self.scales
            )
        }
        if self.until != STAGES[0]:
            terms["cycle"] = self.cycle * cycle_loss(flow, back, weight)
        if both is not None:
            terms["matchability"] = self.matchability * matchability_loss(both, inner)
        if self.until == STAGES[3] and both is not None:
            terms["smoothness"] = self.smoothness * smoothness_loss(flow, (1 - both) * inner)
        total = sum(terms.values(), torch.zeros((), device=flow.device))
        figures = {} if not bool(batch.valid.any()) else flow_metrics(prediction.flow, batch, self.max_flow)
        return {"loss": total, **terms, **figures}

    def _imitation(self, prediction: FineAlignment, batch: PairBatch) -> dict[str, Tensor]:
        """By how many pixels both flows differ from those of `imitated` pairs, how sure the softmax is of their displacements,
        and how well the features find their cells."""
        assert prediction.backward is not None
        assert prediction.described is not None
        assert prediction.scores is not None
        backwards = batch.reversed()
        there = sequence_loss([prediction.flow], [1], batch, max_flow=self.max_flow)
        back = sequence_loss([prediction.backward], [1], backwards, max_flow=self.max_flow)
        window = sum(
            window_matching_loss(scores, each, max_flow=self.max_flow) / 2
            for scores, each in zip(prediction.scores, (batch, backwards), strict=True)
        )
        features = global_matching_loss(*prediction.described, batch, max_flow=self.max_flow)
        terms = {"imitation": (there + back) / 2, "window": torch.as_tensor(window), "features": features}
        total = sum(terms.values(), torch.zeros((), device=features.device))
        return {"loss": total, **terms, **flow_metrics(prediction.flow, batch, self.max_flow)}

    @staticmethod
    def _both_ends(prediction: FineAlignment, inner: Tensor) -> Tensor:
        """(2B, 1, H, W): the matchability of both ends, borders of the crops counting as nothing, in both directions."""
        assert prediction.matchability is not None
        assert prediction.backward is not None
        assert prediction.backward_matchability is not None
        sure0, sure1 = (
            sure * part
            for sure, part in zip(
                (prediction.matchability, prediction.backward_matchability), inner.chunk(2), strict=True
            )
        )
        return torch.cat([agreed(sure0, sure1, prediction.flow), agreed(sure1, sure0, prediction.backward)])

    def enter(self, network: torch.nn.Module, stage: int) -> bool:
        """Average anew once matchability begins to be trained."""
        return self.stages[stage].until in STAGES[2:] and self.stages[stage - 1].until not in STAGES[2:]


class Lit:
    """Pairs of either source in other light, with the pictures before that as `unlit0` and `unlit1`."""

    def __init__(self, rendered: Source | None, photographs: Source | None, recipe: AlignmentRecipe) -> None:
        self.rendered, self.photographs, self.recipe = rendered, photographs, recipe

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size`; the same arguments give the same."""
        host = torch.Generator().manual_seed(seed)
        source = either(self.rendered, self.photographs, self.recipe.photographs, host)
        pairs = source.batch(count, size, seed)
        if self.recipe.until == IMITATION:
            pairs = imitated(pairs)
        strength = self.recipe.lighting * torch.rand(count, generator=host)
        lit = relight(pairs, strength, host) if self.recipe.lighting else pairs
        return replace(lit, unlit0=pairs.image0, unlit1=pairs.image1)


def imitated(pairs: PairBatch) -> PairBatch:
    """The pairs with the flows that DIS finds, valid where they agree; nothing that was known of them is kept."""
    grey = [(255 * image.movedim(1, -1)).round().byte().numpy() for image in (pairs.image0, pairs.image1)]
    flows: list[list[np.ndarray]] = [[], []]
    valid: list[list[np.ndarray]] = [[], []]
    for pictures in zip(*grey, strict=True):
        grey0, grey1 = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures)
        there, back = dis_flow(grey0, grey1), dis_flow(grey1, grey0)
        for side, (flow, other) in enumerate(((there, back), (back, there))):
            flows[side].append(flow.transpose(2, 0, 1))
            valid[side].append(round_trip_error(flow, other) < AGREES)
    known = [torch.from_numpy(np.stack(masks)) for masks in valid]
    found = [torch.from_numpy(np.stack(each)) for each in flows]
    kept = [torch.where(mask[:, None], each, 0) for mask, each in zip(known, found, strict=True)]
    return PairBatch(
        image0=pairs.image0,
        image1=pairs.image1,
        flow=kept[0],
        valid=known[0],
        occlusion=~known[0],
        backward=kept[1],
        backward_valid=known[1],
        backward_occlusion=~known[1],
        made={**pairs.made, "flow": "dis"},
    )


_NEAR = EngineSettings(
    layered=0.0,
    scenes3d=0.5,
    geometric=0.5,
    max_displacement=24.0,
    lighting=0.0,
    cameras=Scene3DSettings(moving=0.2, rotation=0.0, min_displacement=2.0),
)
"""Rigid scenes and warped photos; nothing moves further than the correlation reaches."""

RANSAC_FLOW = AlignmentRecipe(
    model="ransac-flow",
    size=(224, 224),
    batch=16,
    iterations=None,
    stages=(
        Stage(share=0.6, until=STAGES[0]),
        Stage(share=0.2, until=STAGES[1]),
        Stage(share=0.2, until=STAGES[2]),
    ),
    engine=_NEAR,
    lighting=0.5,
    steps=250 * 20_000 // 16,
    learning_rate=2e-4,
    weight_decay=0.0,
    betas=(0.5, 0.999),
    clip=0.0,
    schedule="constant",
    precision="fp32",
    validation_size=(224, 224),
    validation_iterations=None,
)
"""The paper's 150 + 50 + 50 epochs of 20 000 pairs, Adam at 2e-4 throughout; the pairs and their light are ours."""

RANSAC_FLOW_CPU = replace(
    RANSAC_FLOW,
    size=(128, 128),
    batch=6,
    margin=24,
    scales=3,
    stages=(
        Stage(share=0.72, until=IMITATION, learning_rate=8e-4),
        Stage(share=0.08, until=STAGES[1]),
        Stage(share=0.20, until=STAGES[2]),
    ),
    learning_rate=3e-4,
    betas=(0.9, 0.999),
    clip=1.0,
    clip_each=True,
    schedule="onecycle",
    mirrors=2,
    ema=0.995,
    steps=5_000,
    checkpoint_every=100,
    validate_every=200,
    validation_pairs=16,
    validation_size=(192, 256),
)
"""In an hour or two on two cores: small crops, DIS imitated first, pictures compared at three sizes."""

FINETUNE = replace(
    RANSAC_FLOW_CPU,
    photographs=1.0,
    stages=(),
    until=STAGES[2],
    lighting=0.0,
    learning_rate=2e-4,
    schedule="constant",
    mirrors=1,
    steps=10_000,
    validate_every=0,
)
"""On a collection of the user's own, all losses at once (the paper's fine-tuning: 10 000 steps at 2e-4)."""

RANSAC_FLOW_RECIPES: Mapping[str, AlignmentRecipe] = MappingProxyType(
    {
        "ransac-flow": RANSAC_FLOW,
        "ransac-flow-cpu": RANSAC_FLOW_CPU,
        "ransac-flow-finetune": FINETUNE,
        "ransac-flow-visual": replace(
            RANSAC_FLOW_CPU, stages=(), until=STAGES[3], frozen=("features", "matchability"), steps=1_000
        ),
    }
)
