"""The recipes as they are shipped."""

import torch

from flowkit.io.weights import load_checkpoint
from flowkit.models.registry import network_spec
from flowkit.training.recipes import RECIPES, recipe


def test_every_recipe_is_for_a_network_and_for_crops_that_it_takes() -> None:
    for name, made in RECIPES.items():
        divisor = network_spec(made.model).divisor
        sizes = [stage.size for stage in made.stages if stage.size is not None] or [made.size]
        assert all(side % divisor == 0 for size in [*sizes, made.validation_size] for side in size), name


def test_raft_xfeat_begins_with_xfeat() -> None:
    made = recipe("raft-xfeat")
    network = made.network()
    made.begin(network)
    assert torch.equal(network.backbone.out.weight, load_checkpoint("xfeat")["block_fusion.2.weight"])
