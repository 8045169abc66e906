"""Recipes of GLU-Net and BaseNet: alike for plain and GOCor, stages, features first, what VGG-16 begins with."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import Shifts, tiny_photos

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.io.weights import load_checkpoint
from flowkit.models.basenet import BaseNet
from flowkit.training.glunet import BASENET, GLUNET_RECIPES, LevelsRecipe
from flowkit.training.loop import Plan, train
from flowkit.training.material import Material
from flowkit.training.recipe import Stage
from flowkit.training.recipes import recipe
from flowkit.training.schedule import Budget


@pytest.mark.parametrize("name", ["basenet", "glunet", "glunet-static", "glunet-cpu"])
def test_plain_and_gocor_differ_in_nothing_but_the_network(name: str) -> None:
    first, *rest = name.split("-")
    with_gocor = "-".join([first, "gocor", *rest])
    assert replace(GLUNET_RECIPES[name], model=f"{first}-gocor") == GLUNET_RECIPES[with_gocor]
    assert recipe("pwcnet-on-cpu") == replace(recipe("pwcnet-gocor-cpu"), model="pwcnet")
    assert recipe("pwcnet-on") == replace(recipe("pwcnet-gocor"), model="pwcnet")


def test_the_published_schedules() -> None:
    """spec.md 6.4."""
    dynamic, static = GLUNET_RECIPES["glunet-gocor"], GLUNET_RECIPES["glunet-gocor-static"]
    assert (dynamic.learning_rate, dynamic.weight_decay, dynamic.batch, dynamic.size) == (1e-4, 4e-4, 16, (520, 520))
    assert dynamic.steps == 150 * 2500 and static.steps == 100 * 2500
    assert [dynamic.rate(epoch / 150) for epoch in (99, 101, 121, 131)] == [1e-4, 5e-5, 2.5e-5, 1.25e-5]
    assert [static.rate(epoch / 100) for epoch in (64, 66, 76, 96)] == [1e-4, 5e-5, 2.5e-5, 1.25e-5]
    assert dynamic.weights == (0.32, 0.08, 0.02, 0.01) and dynamic.coarse_levels == 2
    assert dynamic.engine.geometric == 1 and dynamic.engine.warps.objects == 0.8 and static.engine.warps.objects == 0
    assert dynamic.engine.max_displacement > 2 * 520  # nothing is weakened


class Small(LevelsRecipe):
    def engine_source(self, photos):
        return Shifts(photos, 4)

    def divisor(self) -> int:
        return 8


def test_a_run_goes_through_its_stages(tmp_path: Path) -> None:
    """Features alone first, then flow, which leaves them as they are."""
    made = Small(
        **{
            **BASENET.__dict__,
            "model": "basenet-gocor",
            "size": (32, 48),
            "batch": 1,
            "stages": (Stage(until="features"), Stage(until="16"), Stage()),
            "validate_every": 0,
            "validation_pairs": 1,
            "validation_size": (32, 48),
            "workers": 0,
            "precision": "fp32",
            "mirrors": 1,
            "ema": 0.0,
            "export": "fp32",
            "log_every": 1,
        }
    )
    material = Material(tiny_photos(), tiny_photos(1))
    states = []
    for steps in (1, 3):
        folder = tmp_path / str(steps)
        stages = made.stages if steps == 3 else made.stages[:1]
        train(replace(made, stages=stages), material, Plan(folder, Budget(steps=steps), "basenet-gocor"))
        states.append(load_checkpoint("basenet-gocor", folder / "weights.safetensors"))
    start = made.network
    torch.manual_seed(made.seed)
    begun = start().state_dict()
    after_features, after_all = states
    one = "pyramid.levels.1.0.weight"
    assert not torch.equal(after_features[one], begun[one]) and torch.equal(after_all[one], after_features[one])
    flow = "coarse.first.mapping.weight"
    decayed = 1 - made.weight_decay * 1e-3
    assert torch.allclose(after_features[flow], begun[flow], rtol=1 - decayed + 1e-6)
    assert not torch.allclose(after_all[flow], begun[flow], rtol=1e-3)


def test_the_loss_counts_every_level_in_its_own_pixels() -> None:
    """The image is 512 px wide: half of the error counts in the branch at 256, all of it in the other."""
    batch = PairBatch(
        torch.zeros(1, 3, 32, 512), torch.zeros(1, 3, 32, 512), torch.zeros(1, 2, 32, 512), torch.ones(1, 32, 512) > 0
    )
    made = GLUNET_RECIPES["glunet"]
    from flowkit.models.prediction import FlowPrediction

    flows = [torch.zeros(1, 2, 2, 2) for _ in range(4)]
    losses = []
    for level in (1, 2):
        wrong = [flow.clone() for flow in flows]
        wrong[level][:, 0] = 10.0
        found = FlowPrediction(flow=torch.zeros(1, 2, 32, 512), iterates=wrong)
        losses.append(float(made.loss(found, batch)["loss"]))
    assert losses == pytest.approx([0.08 * 4 * 5, 0.02 * 4 * 10], rel=0.01)


def test_vgg16_is_asked_for_and_taken(tmp_path: Path) -> None:
    made = recipe("glunet-published")
    assert made.frozen == ("pyramid",)
    network = made.network()
    with pytest.raises(UsageError, match="--set vgg16=FILE"):
        made.begin(network)
    network.requires_grad_(False)
    names = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21]
    shapes = [layer.weight.shape for level in network.pyramid.levels for layer in level if hasattr(layer, "weight")]
    state = {}
    for number, shape in zip(names, shapes, strict=True):
        state[f"features.{number}.weight"] = torch.full(shape, float(number))
        state[f"features.{number}.bias"] = torch.full(shape[:1], -float(number))
    torch.save(state, tmp_path / "vgg16.pth")
    replace(made, vgg16=str(tmp_path / "vgg16.pth")).begin(network)
    assert (
        float(network.pyramid.levels[3][4].weight[0, 0, 0, 0]) == 21
        and float(network.pyramid.levels[1][2].bias[0]) == -7
    )


def test_rows_of_the_ablation() -> None:
    for row in ("I", "II", "III", "IV", "V", "VI"):
        assert isinstance(replace(BASENET, row=row).network(), BaseNet)
    with pytest.raises(UsageError, match="row=VII"):
        replace(BASENET, row="VII").network()


def test_pwcnet_with_gocor_begins_where_pwcnet_is() -> None:
    """The weights of the box, and volumes at the scale that its decoders know."""
    made = recipe("pwcnet-gocor-cpu")
    torch.manual_seed(0)
    network = made.network()
    made.begin(network)
    network.eval()
    plain = recipe("pwcnet").network()
    plain.load_state_dict(load_checkpoint("pwcnet"))
    plain.eval()
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 24, 36), (192, 256), mode="bicubic").clamp(0, 1)
    pair = picture, picture.roll(3, -1)
    with torch.inference_mode():
        flows = [net(*pair).flow for net in (plain, network)]
    assert (flows[0] - flows[1]).norm(dim=1).mean() < 0.5 * flows[0].norm(dim=1).mean()
