"""The recipes by name: a new one is one row here, or a file of its own where the loss is its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from flowkit.errors import UsageError
from flowkit.training.egoflow import EGOFLOW_RECIPES
from flowkit.training.glunet import GLUNET_RECIPES
from flowkit.training.life import LIFE_RECIPE, LIFE_SMALL
from flowkit.training.pyramid import PYRAMID_RECIPES
from flowkit.training.raft_xfeat import RAFT_XFEAT
from flowkit.training.ransac_flow import RANSAC_FLOW_RECIPES
from flowkit.training.recipe import Recipe, Stage

_CPU_STAGES = (
    Stage(share=0.35, size=(128, 192), batch=8, max_displacement=32),
    Stage(share=0.35, size=(160, 256), batch=6, max_displacement=64),
    Stage(share=0.30, size=(256, 384), batch=3, max_displacement=128),
)
"""Small crops while the network learns what a match is, large ones once it has to follow large motion."""

_RAFT = Recipe(model="raft")
"""The first stage of RAFT's training (spec.md 1.4): 100 000 steps of 10 crops of 368x496, 12 iterations, one cycle to 4e-4."""

_LATER = replace(_RAFT, learning_rate=1.25e-4, batch=6, freeze_batchnorm=True)
_PUBLIC = {
    "raft-chairs": replace(_RAFT, source="chairs"),
    "raft-things": replace(_LATER, source="things", size=(400, 720)),
    "raft-sintel": replace(_LATER, source="sintel", size=(368, 768), weight_decay=1e-5, gamma=0.85),
    "raft-kitti": replace(
        _LATER, source="kitti", size=(288, 960), learning_rate=1e-4, weight_decay=1e-5, gamma=0.85, steps=50_000
    ),
}
"""RAFT's four stages on the public data sets (spec.md 1.4), each begun with --init from the one before."""

_CPU = replace(
    _RAFT,
    size=(128, 192),
    batch=8,
    iterations=6,
    stages=_CPU_STAGES,
    steps=10_000,
    checkpoint_every=250,
    validate_every=250,
)
"""The same, compressed to what two cores do in some hours: 6 iterations, and crops that grow."""

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "raft": _RAFT,
        "raft-small": replace(_CPU, model="raft-small"),
        "raft-xfeat": RAFT_XFEAT,
        "life": LIFE_RECIPE,
        "life-small": LIFE_SMALL,
        **PYRAMID_RECIPES,
        **GLUNET_RECIPES,
        **RANSAC_FLOW_RECIPES,
        **EGOFLOW_RECIPES,
        **_PUBLIC,
    }
)


def recipe(name: str) -> Recipe:
    """The recipe of that name; UsageError listing the known ones if there is none."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(f"no recipe is called {name!r}; known: {', '.join(RECIPES)}") from None
