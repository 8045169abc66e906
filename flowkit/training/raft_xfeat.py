"""The recipe of RAFT-XFeat: its backbone begins with XFeat's published weights, and learns slower than the rest."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowkit.io.weights import find_weights, load_checkpoint
from flowkit.models.raft_xfeat import RaftXFeat
from flowkit.synth.engine import EngineSettings
from flowkit.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from torch import nn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RaftXFeatRecipe(Recipe):
    """Two hours on two CPU cores; a GPU takes larger crops and batches (--set)."""

    def begin(self, network: nn.Module) -> None:
        """Load XFeat's weights into the backbone; WeightsError when they are not there."""
        assert isinstance(network, RaftXFeat)
        network.backbone.load_xfeat(load_checkpoint("xfeat"))
        log.info("the backbone begins with XFeat's weights (%s)", find_weights("xfeat"))


RAFT_XFEAT = RaftXFeatRecipe(
    model="raft-xfeat",
    size=(128, 192),
    batch=8,
    stages=(
        Stage(share=0.4, size=(128, 192), batch=8, max_displacement=32, iterations=4),
        Stage(share=0.35, size=(160, 256), batch=6, max_displacement=64, iterations=5),
        Stage(share=0.25, size=(256, 384), batch=4, max_displacement=120, iterations=6),
    ),
    engine=EngineSettings(both_ways=True),
    iterations=6,
    fine_tuned=("backbone",),
    fine_tuning=0.3,
    gamma=0.85,
    steps=10_000,
    checkpoint_every=250,
    validate_every=250,
    validation_iterations=8,
)
