"""LIFE's recipe: triplets from the engine and from posed photographs, their directions, and a run that learns."""

from dataclasses import dataclass, replace

import pytest
import torch
from tiny_training import TinyFlow, tiny_photos

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.geometry.sampling import warp
from flowkit.losses.epipolar import symmetric_epipolar_loss
from flowkit.losses.transformation import seen
from flowkit.models.prediction import FlowPrediction
from flowkit.training.life import LIFE_SMALL, LifeRecipe, Triplets
from flowkit.training.loop import Plan, train
from flowkit.training.material import Material
from flowkit.training.recipes import recipe as recipe_of
from flowkit.training.schedule import Budget


@dataclass(frozen=True)
class TinyLife(LifeRecipe):
    def network(self):
        return TinyFlow(plain=True)

    def begin(self, network):
        pass

    def divisor(self):
        return 4

    def batches(self, source, index):
        """The same few triplets again and again."""
        return super().batches(source, index % 2)


TINY = TinyLife(
    model="tiny",
    size=(32, 48),
    batch=2,
    iterations=2,
    engine=replace(LIFE_SMALL.engine, max_displacement=8.0, lighting=0.0),
    precision="fp32",
    workers=0,
    log_every=2,
    checkpoint_every=20,
    validate_every=20,
    validation_pairs=2,
    validation_size=(32, 48),
    validation_iterations=2,
    ema=0.0,
)


@pytest.fixture(scope="module")
def material():
    photos = tiny_photos()
    return Material(photos, photos)


class Grey:
    """A source of photographs: grey pairs with an F, no flow."""

    def batch(self, count, size, seed):
        image = torch.full((count, 3, *size), 0.5)
        F = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]]).expand(count, 3, 3)
        return PairBatch(image, image, torch.zeros(count, 2, *size), torch.zeros(count, *size, dtype=torch.bool), F=F)


def test_triplets_of_the_engine(material):
    source = TINY.source_from(material)
    batch, again = (source.batch(2, (32, 48), 5) for _ in range(2))
    for name, tensor in batch.tensors().items():
        torch.testing.assert_close(tensor, again.tensors()[name], rtol=0, atol=0)
    # F explains the flow of every pixel: the scenes are rigid
    weight = batch.valid.float()
    assert not batch.moving.any()
    assert symmetric_epipolar_loss(batch.flow, batch.F, weight=weight) < 1e-3
    assert symmetric_epipolar_loss(batch.flow, batch.F.mT, weight=weight) > 0.1
    # B' is a warp of B, in the same light
    for flow, valid, start, end in (
        (batch.warp, batch.warp_valid, batch.image1, batch.warped),
        (batch.unwarp, batch.unwarp_valid, batch.warped, batch.image1),
    ):
        back, there = warp(end, flow)
        both = seen(flow, valid) & there
        assert both.float().mean() > 0.1
        assert (back - start).abs().mean(1)[both].median() < 0.1


def test_the_warped_picture_may_be_in_another_light(material):
    plain = TINY.source_from(material).batch(2, (32, 48), 5)
    lit = replace(TINY, warp_lighting=1.0).source_from(material).batch(2, (32, 48), 5)
    torch.testing.assert_close(lit.warp, plain.warp)
    torch.testing.assert_close(lit.image1, plain.image1)
    assert (lit.warped - plain.warped).abs().mean() > 0.02


def test_warps_from_faint_to_full(material):
    def lengths(least):
        source = replace(TINY, warp_least=least).source_from(material)
        batches = [source.batch(2, (32, 48), seed) for seed in range(12)]
        return torch.tensor([batch.unwarp.square().sum(1).sqrt()[batch.unwarp_valid].mean() for batch in batches])

    full, mixed = lengths(1.0), lengths(0.1)
    assert (mixed <= full * 1.5).all()  # another share of the same map, not another map
    assert (mixed / full).min() < 0.3 and (mixed / full).max() > 0.6


def test_photographs_take_their_share_of_the_batches(material):
    engine = TINY.source_from(material).rendered
    source = Triplets(engine, Grey(), replace(TINY, photographs=0.3))
    grey = [bool((source.batch(1, (32, 48), seed).image0 == 0.5).all()) for seed in range(60)]
    assert 8 < sum(grey) < 30
    assert grey == [bool((source.batch(1, (32, 48), seed).image0 == 0.5).all()) for seed in range(60)]
    alone = Triplets(None, Grey(), replace(TINY, photographs=1.0)).batch(2, (32, 48), 0)
    assert not alone.valid.any() and alone.warped.shape == alone.image0.shape


def test_without_photographs_that_are_asked_for():
    with pytest.raises(UsageError, match="--data colmap=DIR"):
        replace(TINY, photographs=1.0).source_from(Material())


class Recorder:
    """A network that gives the truth of the direction it is asked for, by recognising the pictures."""

    def __init__(self, batch):
        pictures = {"A": batch.image0, "B": batch.image1, "W": batch.warped}
        self.flows = {"AB": batch.flow, "BA": batch.backward, "BW": batch.warp, "WB": batch.unwarp}
        self.pictures = pictures

    def __call__(self, image0, image1, **_):
        count = len(self.pictures["A"])
        flows = []
        for one, other in zip(image0.split(count), image1.split(count), strict=True):
            first, second = (
                next(name for name, known in self.pictures.items() if torch.equal(known, image))
                for image in (one, other)
            )
            flows.append(self.flows[first + second])
        flow = torch.cat(flows)
        return FlowPrediction(flow, [flow], [1])


@pytest.mark.parametrize("row", ["T", "BiT", "SED", "SED+FC", "SED+AC", "SED+BiT+AC"])
def test_the_truth_of_every_direction_costs_next_to_nothing(material, row):
    recipe = replace(TINY, terms=row)
    batch = recipe.source_from(material).batch(2, (32, 48), 5)
    truth = Recorder(batch)
    prediction = recipe.predict(truth, *recipe.views(batch))
    assert prediction.flow.shape[0] == 2 * len(recipe.losses.directions)
    cost = recipe.loss(prediction, batch)["loss"]
    # what is hidden misses the way back
    assert cost < (1.0 if "FC" in row else 0.3)
    swapped = recipe.predict(truth, *reversed(recipe.views(batch)))
    assert recipe.loss(swapped, batch)["loss"] > cost + 1


def test_a_run_learns(material, tmp_path):
    recipe = replace(TINY, learning_rate=3e-3, warp=replace(TINY.warp, translation=0.1, rotation=0.1, knots=0.1))
    told = []
    outcome = train(recipe, material, Plan(tmp_path, Budget(20)), lambda *line: told.append(line))
    assert outcome.step == 20 and not outcome.interrupted
    losses = [figures["loss"] for kind, _, _, figures in told if kind == "train"]
    assert {"sed", "cycle", "bit"} <= told[0][3].keys()
    assert sum(losses[-3:]) < sum(losses[:3])
    assert "held-out/epe" in outcome.scores


def test_recipes_of_the_paper():
    life, small = recipe_of("life"), recipe_of("life-small")
    assert (life.gamma, life.iterations, life.batch * life.accumulate) == (0.8, 10, 12)
    assert (life.learning_rate, life.weight_decay, life.size) == (1e-4, 5e-5, (480, 640))
    assert life.terms == small.terms == "SED+BiT+AC"
    with pytest.raises(UsageError, match="SED\\+BiT\\+AC"):
        replace(life, terms="sed")
