"""The bi-level recipe: terms by stage, E's figures, a teacher that survives resuming, and that it learns."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from tiny_training import TINY, TinyFlow

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.geometry.essential_layer import EssentialSettings
from flowkit.geometry.pose import so3_exp
from flowkit.losses.bilevel import Scales, UpperLevel
from flowkit.models.prediction import FlowPrediction
from flowkit.training.checkpoints import read_checkpoint
from flowkit.training.egoflow import EGOFLOW, EGOFLOW_CPU, STAGES, EgoflowRecipe
from flowkit.training.loop import Plan, train
from flowkit.training.material import Material
from flowkit.training.recipe import Stage
from flowkit.training.schedule import Budget
from flowkit.training.superpixel_noise import SuperpixelNoise

SIZE = (48, 64)


def scene(count=2, seed=0, size=SIZE):
    """Pictures of bumpy ground under a camera that turns and moves, with the exact flow of both directions."""
    make = torch.Generator().manual_seed(seed)
    height, width = size
    K = torch.tensor([[60.0, 0, width / 2 - 0.5], [0, 60, height / 2 - 0.5], [0, 0, 1]], dtype=torch.float64)
    R = so3_exp(torch.tensor([0.01, -0.02, 0.015], dtype=torch.float64))
    t = torch.nn.functional.normalize(torch.tensor([0.9, 0.3, 0.2], dtype=torch.float64), dim=0)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    depth = 12 + 4 * torch.rand(count, *size, 1, generator=make, dtype=torch.float64)
    seen = ((pixels @ torch.linalg.inv(K).T) * depth @ R.T + t) @ K.T
    flow = (seen[..., :2] / seen[..., 2:] - pixels[..., :2]).movedim(-1, 1).float()
    pictures = torch.rand(2, count, 3, *size, generator=make)
    cameras = {"K0": K, "K1": K, "R": R, "t": t}
    return PairBatch(
        *pictures,
        flow,
        torch.ones(count, *size, dtype=torch.bool),
        **{name: value.float().expand(count, *value.shape) for name, value in cameras.items()},
    )


class Scenes:
    def batch(self, count, size, seed):
        return scene(count, seed, size)


@dataclass(frozen=True)
class TinyEgoflow(EgoflowRecipe):
    def network(self):
        return TinyFlow(plain=True)

    def source_from(self, material):
        return Scenes()

    def divisor(self):
        return 4


LOWER = EssentialSettings(hypotheses=64, drawn=600, held_out=100, iterations=20)
SMALL = TinyEgoflow(
    **{
        **{name: value for name, value in vars(TINY).items() if name not in ("plain", "broken_from")},
        "size": SIZE,
        "crop": (32, 40),
        "validate_every": 0,
        "lower": LOWER,
        "scales": Scales((1.0, 0.5), (2, 1)),
        "superpixels": SuperpixelNoise(segments=40, replaced=(2, 4)),
        "log_every": 1,
        "checkpoint_every": 1,
        "stages": tuple(Stage(until=until) for until in STAGES),
    }
)


def answered(batch, error=0.0, backward=None):
    """A prediction of both directions; backwards what leads forwards, turned round, unless given."""
    flow = batch.flow + error
    both = torch.cat([flow, -flow if backward is None else backward])
    return FlowPrediction(both, [both], [1])


def test_the_paper_s_numbers():
    assert EGOFLOW.baseline == UpperLevel(1, 0.1, 0.1, 0, 0)
    assert EGOFLOW.teacher == UpperLevel(1, 0.1, 0.1, 1000, 0)
    assert EGOFLOW.student == UpperLevel(1, 0, 0, 1000, 1)
    assert EGOFLOW.scales.weights == (1, 0.34, 0.31, 0.27, 0.08) and set(EGOFLOW.scales.radii) == {3}
    assert EGOFLOW.lower == EssentialSettings(1e-3, 10_000, 10_000, 2_000, 200)
    assert [stage.until for stage in EGOFLOW.stages] == ["baseline", "epipolar", "student"]
    assert EGOFLOW.model == "pwcnet" and EGOFLOW.batch == 4 and EGOFLOW.learning_rate == 1e-4
    assert EGOFLOW_CPU.base == "liteflownetx" and EGOFLOW_CPU.engine.cameras.moving == 0


@pytest.mark.parametrize(
    ("until", "terms"),
    [
        ("baseline", {"photometric", "consistency", "smoothness"}),
        ("epipolar", {"photometric", "consistency", "smoothness", "epipolar"}),
        ("student", {"photometric", "epipolar", "occlusion"}),
    ],
)
def test_each_stage_has_its_terms(until, terms):
    recipe = SMALL.at_stage(STAGES.index(until))
    batch = scene()
    if recipe.taught:
        torch.manual_seed(0)
        batch = recipe.lesson(recipe.network().eval(), batch)
    with torch.no_grad():
        found = recipe.loss(recipe.predict(recipe.network().train(), *recipe.views(batch)), batch)
    figures = {"epe", "1px", "3px"} | (
        {"inliers", "found", "rotation", "translation"} if "epipolar" in terms else set()
    )
    assert set(found) == terms | figures | {"loss"}
    assert float(found["loss"]) == pytest.approx(sum(float(found[term]) for term in terms), rel=1e-5)
    assert recipe.taught == (until == "student")


def test_true_flow_gives_the_true_camera_and_pays_for_leaving_it():
    recipe, batch = replace(SMALL, stages=(), until="epipolar"), scene()
    torch.manual_seed(1)
    exact = recipe.loss(answered(batch), batch)
    assert float(exact["rotation"]) < 0.1 and float(exact["translation"]) < 2
    assert float(exact["inliers"]) > 0.95 and float(exact["found"]) == 1 and float(exact["epe"]) == 0
    noise = torch.randn(batch.flow.shape, generator=torch.Generator().manual_seed(2))
    wrong = recipe.loss(answered(batch, noise), batch)
    assert float(wrong["epipolar"]) > 100 * float(exact["epipolar"])
    assert float(wrong["rotation"]) > float(exact["rotation"])


@pytest.mark.parametrize("form", ["square", "distance", "angle"])
def test_the_epipolar_term_draws_the_flow_towards_the_lines(form):
    """A step against its gradient lowers the term when E is found anew: the derivative through E is in it."""
    only = UpperLevel(0, 0, 0, 1000, 0)
    recipe, batch = replace(SMALL, stages=(), until="epipolar", teacher=only, epipolar_form=form), scene(1)
    noise = 0.1 * torch.randn(batch.flow.shape, generator=torch.Generator().manual_seed(2))
    flow = (batch.flow + noise).requires_grad_()

    def term(flow):
        torch.manual_seed(3)
        both = torch.cat([flow, -flow])
        return recipe.loss(FlowPrediction(both, [both], [1]), batch)["loss"]

    before = term(flow)
    before.backward()
    before = before.detach()
    step = 0.3 * float(before) / float(flow.grad.square().sum())
    assert float(term(flow.detach() - step * flow.grad)) < 0.85 * float(before)


def test_a_pair_whose_ways_there_and_back_disagree_has_no_epipolar_term(monkeypatch):
    from flowkit.training import egoflow

    only = UpperLevel(0, 0, 0, 1000, 0)
    recipe, batch = replace(SMALL, stages=(), until="epipolar", teacher=only, agreement=10.0), scene(2)
    noise = 0.02 * torch.randn(batch.flow.shape, generator=torch.Generator().manual_seed(4))
    poses = egoflow._poses

    def term(turned, agreement):
        """What is asked of both pairs where a camera goes back as it came, but for the turned ones."""

        def found(*given):
            R, t = poses(*given)
            about_z = so3_exp(torch.tensor([0, 0, 20 * torch.pi / 180], dtype=t.dtype))
            t[[len(batch) + pair for pair in turned]] @= about_z.mT
            return R, t

        monkeypatch.setattr(egoflow, "_poses", found)
        torch.manual_seed(5)
        asked = replace(recipe, agreement=agreement)
        return float(asked.loss(answered(batch, noise, -batch.flow - noise), batch)["epipolar"])

    both = term([], 180)
    assert both > 0 and term([], 10) == both
    assert term([0, 1], 30) == both and term([0, 1], 10) == 0
    assert 0 < term([0], 10) != both  # the mean is that of the pair that is left


@pytest.mark.parametrize("form", ["square", "distance", "angle"])
def test_all_is_made_on_the_device_of_the_flow(form):
    """What forgets to say where would be made on `meta` here, which mixes with nothing; with a GPU, on the CPU."""
    recipe, batch = replace(SMALL, stages=(), until="epipolar", epipolar_form=form, agreement=90.0), scene()
    noise = 0.02 * torch.randn(batch.flow.shape, generator=torch.Generator().manual_seed(6))
    found = []
    for elsewhere in (torch.device("cpu"), torch.device("meta")):
        prediction = answered(batch, noise)
        prediction.flow.requires_grad_()
        torch.manual_seed(7)
        with elsewhere:
            loss = recipe.loss(prediction, batch)["loss"]
            loss.backward()
        found.append((loss.detach(), prediction.flow.grad))
    assert found[0][0] > 0
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_finds_the_same_loss():
    recipe, batch = replace(SMALL, stages=(), until="epipolar", epipolar_form="angle"), scene()
    found = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(8)
        there = batch.to(device)
        found.append(float(recipe.loss(answered(there, 0.01), there)["loss"]))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def test_nothing_visible_means_no_matrix_and_a_finite_loss():
    recipe, batch = replace(SMALL, stages=(), until="epipolar"), scene()
    lost = recipe.loss(answered(batch, backward=batch.flow + 9), batch)
    assert float(lost["found"]) == float(lost["epipolar"]) == 0
    assert float(lost["rotation"]) == float(lost["translation"]) == 180
    assert all(torch.isfinite(value) for value in lost.values())


def test_without_the_weight_no_matrix_is_sought(monkeypatch):
    from flowkit.training import egoflow

    def refuse(*_):
        raise AssertionError("asked for E")

    monkeypatch.setattr(egoflow, "essential_of_flow", refuse)
    recipe = replace(SMALL, stages=(), until="student", student=replace(SMALL.student, epipolar=0.0))
    torch.manual_seed(0)
    batch = recipe.lesson(recipe.network().eval(), replace(scene(), K0=None, K1=None))
    found = recipe.loss(recipe.predict(recipe.network().train(), *recipe.views(batch)), batch)
    assert "epipolar" not in found and torch.isfinite(found["loss"])


def test_what_a_recipe_refuses():
    with pytest.raises(UsageError, match="until=teacher: known: baseline, epipolar, student"):
        replace(SMALL, stages=(), until="teacher")
    with pytest.raises(UsageError, match="crop=64,64: the student's crop must fit"):
        replace(SMALL, crop=(64, 64))
    with pytest.raises(UsageError, match=r"crop=30,40: .* divisible by 4"):
        replace(SMALL, crop=(30, 40))
    with pytest.raises(UsageError, match="real=2"):
        replace(SMALL, real=2.0)
    with pytest.raises(UsageError, match="needs the cameras' K"):
        recipe = replace(SMALL, stages=(), until="epipolar")
        recipe.loss(answered(scene()), replace(scene(), K0=None))
    with pytest.raises(UsageError, match="give --video FILE --K"):
        replace(EGOFLOW_CPU, real=1.0).source_from(Material())


def test_a_run_resumes_exactly_in_every_stage_and_keeps_its_teacher(tmp_path):
    run = replace(SMALL, learning_rate=1e-2)
    train(run, Material(), Plan(tmp_path / "whole", Budget(6)))
    whole = read_checkpoint(tmp_path / "whole" / "last")
    assert whole.facts["stage"] == 2 and whole.group("teacher").keys() == whole.group("model").keys()
    parts = tmp_path / "parts"
    teachers = []
    for step in (3, 5, 6):
        listener = stopping(step) if step < 6 else None
        train(run, Material(), Plan(parts, Budget(6), resume=step > 3), listener)
        here = read_checkpoint(parts / "last")
        assert here.facts["step"] == step
        teachers.append(here.group("teacher"))
    assert [bool(teacher) for teacher in teachers] == [False, True, True]
    for name, value in whole.tensors.items():
        assert torch.equal(value, here.tensors[name]), name
    assert all(torch.equal(value, teachers[1][name]) for name, value in teachers[2].items())
    assert any(not torch.equal(value, whole.group("model")[name]) for name, value in teachers[2].items())


def stopping(step):
    """A listener that ends the run after that step, as Ctrl-C does."""
    import os
    import signal

    def listener(kind, at, *_):
        if kind == "train" and at == step:
            os.kill(os.getpid(), signal.SIGINT)

    return listener


def test_a_student_begins_with_its_teacher_the_average_so_far(tmp_path):
    run = replace(SMALL, learning_rate=1e-2)
    train(run, Material(), Plan(tmp_path, Budget(6)), stopping(4))
    average = read_checkpoint(tmp_path / "last").group("ema")
    train(replace(run, learning_rate=0.0), Material(), Plan(tmp_path, Budget(6), resume=True))
    found = read_checkpoint(tmp_path / "last")
    for name, value in average.items():
        assert torch.equal(found.group("teacher")[name], value), name
        assert torch.equal(found.group("model")[name], value), name


class Field(torch.nn.Module):
    """A network that knows one pair: the flow of both directions itself, on a coarse grid."""

    def __init__(self):
        super().__init__()
        self.flow = torch.nn.Parameter(torch.zeros(2, 2, SIZE[0] // 8, SIZE[1] // 8))

    def forward(self, image0, image1):
        flow = torch.nn.functional.interpolate(self.flow, scale_factor=8.0, mode="bilinear", align_corners=False)
        return FlowPrediction(flow, [torch.nn.functional.avg_pool2d(flow, 8), flow], [8, 1])


def test_it_learns_a_pair_without_labels(tmp_path):
    """A shift of 2 pixels between two pictures of one texture: the loss falls, and so does the error that nobody told it of."""
    coarse = torch.rand(1, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    texture = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="bicubic", align_corners=False).clamp(0, 1)
    flow = torch.zeros(1, 2, *SIZE)
    flow[:, 0] = -2
    valid = torch.ones(1, *SIZE, dtype=torch.bool)
    valid[..., :2] = False  # moves out of the picture
    pair = PairBatch(texture[..., :48, 8:72], texture[..., :48, 10:74], flow, valid)

    class Same(TinyEgoflow):
        def batches(self, source, index):
            return pair

        def network(self):
            return Field()

    settings = {**vars(SMALL), "stages": (), "until": "baseline", "learning_rate": 0.1}
    settings |= {"checkpoint_every": 100, "log_every": 30}
    train(Same(**settings), Material(), Plan(tmp_path, Budget(61)))
    entries = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    losses, errors = (
        [entry[name] for entry in entries] for name in ("loss", "epe")
    )  # means of 30 steps, 30 steps, 1 step
    assert losses[-1] < 0.5 * losses[0] and errors[0] > 1 and errors[-1] < 0.3, entries
