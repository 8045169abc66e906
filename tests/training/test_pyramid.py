"""Level-by-level training: what each stage trains, what it begins with, its rates, and that it resumes exactly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_training import Shifts

from flowkit.models.liteflownet import LITEFLOWNET, LITEFLOWNETX, LiteFlowNet
from flowkit.training.checkpoints import read_checkpoint
from flowkit.training.loop import Plan, train
from flowkit.training.pyramid import PWCNET_WEIGHTS, PyramidRecipe, level_by_level
from flowkit.training.recipe import Stage
from flowkit.training.recipes import recipe
from flowkit.training.schedule import Budget

SMALL = replace(LITEFLOWNETX, features=(4, 4, 4, 6, 6, 6), inference=(6, 4), regularisation=(6, 4))


class SmallPyramid(PyramidRecipe):
    def network(self) -> LiteFlowNet:
        return LiteFlowNet(SMALL)

    def engine_source(self, photos):
        return Shifts(photos, self.engine.max_displacement)

    def divisor(self) -> int:
        return 32


STAGES = (Stage(share=2, until="S6"), Stage(share=1, until="R6"), Stage(share=1, until="S5"), Stage(share=2))
TINY = SmallPyramid(
    model="liteflownetx",
    size=(32, 64),
    batch=1,
    iterations=None,
    stages=STAGES,
    weights=((32, 0.32), (16, 0.08), (8, 0.02), (4, 0.01), (2, 0.005)),
    clip=1.0,
    precision="fp32",
    workers=0,
    log_every=1,
    checkpoint_every=3,
    validate_every=3,
    validation_pairs=1,
    validation_size=(32, 64),
    validation_iterations=None,
)


def weights(folder: Path, group: str = "model") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "last").group(group)


def test_the_papers_stages() -> None:
    stages = level_by_level(2, {6: 1e-4, 5: 1e-4, 4: 1e-4, 3: 5e-5, 2: 4e-5})
    assert [stage.until for stage in stages] == ["S6", "R6", "S5", "R5", "S4", "R4", "S3", "R3", "S2", "R2"]
    assert [stage.share for stage in stages] == [300, 300, 200, 200, 200, 200, 200, 200, 200, 300]
    assert all(stage.until in LITEFLOWNET.steps for stage in stages)
    made = recipe("liteflownet")
    assert made.steps == 1000 * sum(stage.share for stage in made.stages)
    # every stage begins at its full rate and has halved it twice, the long ones four times, at their ends
    assert made.rate(0.0) == 1e-4 and made.rate(299e3 / made.steps) == pytest.approx(1e-4 / 16)
    assert made.rate(301e3 / made.steps) == 1e-4
    assert made.rate(1401e3 / made.steps) == 5e-5 and made.rate(1799e3 / made.steps) == pytest.approx(5e-5 / 4)
    assert made.rate(1.0 - 1e-9) == pytest.approx(4e-5 / 16)


def test_stages_train_what_is_there_and_begin_with_the_coarser_level(material, tmp_path: Path) -> None:
    began = []

    class Watched(SmallPyramid):
        def enter(self, network, stage):
            changed = super().enter(network, stage)
            began.append((stage, changed, {name: tensor.clone() for name, tensor in network.state_dict().items()}))
            return changed

    watched = Watched(**vars(TINY))
    torch.manual_seed(watched.seed)
    first = watched.network().state_dict()
    train(watched, material, Plan(tmp_path, Budget(6)))
    assert [(stage, changed) for stage, changed, _ in began] == [(1, True), (2, True), (3, True)]
    at_r6, at_s5 = began[0][2], began[1][2]
    untouched = [name for name in first if name.startswith(("nete.5", "nete.2", "nete.6.regularization"))]
    assert all(torch.equal(at_r6[name], first[name]) for name in untouched)
    assert not torch.equal(at_r6["nete.6.subpixel.flow.weight"], first["nete.6.subpixel.flow.weight"])
    assert torch.equal(at_s5["nete.5.subpixel.flow.weight"], at_s5["nete.6.subpixel.flow.weight"])
    assert torch.equal(at_s5["nete.5.subpixel.layers.0.weight"], at_s5["nete.6.subpixel.layers.0.weight"])
    assert torch.equal(at_s5["nete.5.regularization.layers.0.weight"], first["nete.5.regularization.layers.0.weight"])
    assert not torch.equal(weights(tmp_path)["nete.2.subpixel.flow.weight"], at_s5["nete.2.subpixel.flow.weight"])


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_resumes_exactly_at_and_within_stages(material, tmp_path: Path, stop: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(replace(TINY, checkpoint_every=1), material, Plan(whole, Budget(6)))

    class KilledError(Exception):
        pass

    class Fragile(SmallPyramid):
        def loss(self, prediction, batch):
            Fragile.steps += 1
            if Fragile.steps > stop:
                raise KilledError
            return super().loss(prediction, batch)

    Fragile.steps = 0
    with pytest.raises(KilledError):
        train(replace(Fragile(**vars(TINY)), checkpoint_every=1), material, Plan(parts, Budget(6)))
    train(replace(TINY, checkpoint_every=1), material, Plan(parts, Budget(6), resume=True))
    for group in ("model", "ema"):
        one, other = weights(whole, group), weights(parts, group)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stage_is_validated_as_far_as_it_is_trained(material, tmp_path: Path) -> None:
    asked = []

    class Watched(SmallPyramid):
        def predict(self, network, image0, image1):
            asked.append((network.training, self.until))
            return super().predict(network, image0, image1)

    train(Watched(**vars(replace(TINY, validate_every=1))), material, Plan(tmp_path, Budget(6)))
    judged = [until for training, until in asked if not training]
    trained = [until for training, until in asked if training]
    assert judged == trained == ["S6", "S6", "R6", "S5", None, None]
    bests = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert sum(entry["kind"] == "validation" for entry in bests) == 6


def test_features_learn_first_and_alone(material, tmp_path: Path) -> None:
    entered = []

    class Watched(SmallPyramid):
        def enter(self, network, stage):
            entered.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
            return super().enter(network, stage)

    stages = (Stage(share=1, until="features", learning_rate=1e-3), Stage(share=1))
    watched = Watched(**vars(replace(TINY, stages=stages, still=True)))
    torch.manual_seed(watched.seed)
    begun = watched.network()
    watched.begin(begun)
    train(watched, material, Plan(tmp_path, Budget(6)))
    (at_flow,) = entered
    same = {name: torch.equal(at_flow[name], tensor) for name, tensor in begun.state_dict().items()}
    assert not any(same[name] for name in same if name.startswith("netc.levels.5") and name.endswith("weight"))
    assert all(same[name] for name in same if name.startswith("nete"))
    after = weights(tmp_path)
    assert not torch.equal(after["nete.2.subpixel.flow.weight"], at_flow["nete.2.subpixel.flow.weight"])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert ["epe" in line for line in lines if line["kind"] == "train"] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", ["liteflownet-cpu", "liteflownet2-cpu", "pwcnet-cpu"])
def test_recipes_for_two_cores_begin_with_features(name: str) -> None:
    made = recipe(name)
    assert [stage.until for stage in made.stages] == ["features", None, None, None, None]
    assert made.rate(0.0) < 1e-3 * 0.1 and made.rate(0.05 * 0.05) == pytest.approx(1e-3)
    # the others' cycle begins after it
    others = [made.rate(0.05 + 0.95 * part) for part in (0.0, 0.05, 0.5, 1.0 - 1e-9)]
    assert others[0] < 0.1 * made.learning_rate and others[1] == pytest.approx(made.learning_rate)
    assert made.learning_rate > others[2] > others[3]


def test_the_loss_has_the_papers_weights(material) -> None:
    assert dict(recipe("liteflownet").weights) == {32: 0.32, 16: 0.08, 8: 0.02, 4: 0.01, 2: 0.005}
    assert dict(recipe("liteflownet2").weights) == {32: 0.32, 16: 0.08, 8: 0.02, 4: 0.01, 1: 6.25e-4}
    assert dict(PWCNET_WEIGHTS) == {64: 0.32, 32: 0.08, 16: 0.02, 8: 0.01, 4: 0.005}
    batch = TINY.batches(TINY.source_from(material), 0)
    network = TINY.network().train()
    terms = TINY.loss(TINY.predict(network, batch.image0, batch.image1), batch)
    robust = replace(TINY, penalty="charbonnier", epsilon=0.01, q=0.4)
    assert (
        terms["loss"] > 0
        and terms["loss"] != robust.loss(TINY.predict(network, batch.image0, batch.image1), batch)["loss"]
    )
