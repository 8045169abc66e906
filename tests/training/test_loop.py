"""The loop: it learns, it resumes exactly, it stops where it should."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_training import TINY, TinyRecipe

from flowkit.batch import concatenate
from flowkit.errors import UsageError, WeightsError
from flowkit.io.weights import load_checkpoint
from flowkit.models.registry import build as network_of
from flowkit.training import loop
from flowkit.training.checkpoints import read_checkpoint, read_index
from flowkit.training.feeding import Maker, WorkerLost
from flowkit.training.loop import Diverged, Plan, TooLarge, train
from flowkit.training.recipe import Stage
from flowkit.training.schedule import Budget
from flowkit.training.state import initialise


def weights(folder):
    network = TINY.network()
    initialise(network, folder, "tiny")
    return network.state_dict()


def lines(folder, kind):
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["kind"] == kind]


def test_a_run_leaves_everything(recipe, material, tmp_path):
    told = []
    outcome = train(recipe, material, Plan(tmp_path, Budget(6)), lambda *line: told.append(line))
    assert outcome.step == 6 and not outcome.interrupted
    assert {path.name for path in tmp_path.iterdir()} == {
        *("last", "best", "weights.safetensors", "best.safetensors", "log.jsonl", "tensorboard")
    }
    assert [entry["step"] for entry in lines(tmp_path, "train")] == [2, 4, 6]
    assert [entry["step"] for entry in lines(tmp_path, "validation")] == [3, 6]
    assert {"loss", "epe", "1px", "3px", "lr", "gradient", "steps_per_second"} <= lines(tmp_path, "train")[0].keys()
    assert [line[:2] for line in told] == [
        *(("train", 2), ("validation", 3), ("train", 4), ("train", 6), ("validation", 6))
    ]
    from_checkpoint, from_file = weights(tmp_path / "last"), weights(tmp_path / "weights.safetensors")
    for name, value in from_checkpoint.items():
        torch.testing.assert_close(value, from_file[name], rtol=0, atol=0)


def environment(rank=None, port=0):
    """For a process that finds tiny_training; one of two ranks where a rank is given."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ranks = {} if rank is None else {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    ranks |= {} if rank is None else {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return {**os.environ, "PYTHONPATH": path, **{name: str(value) for name, value in ranks.items()}}


def same(one, other):
    """Two runs have ended in the same state, bit for bit."""
    first, second = (read_checkpoint(place / "last") for place in (one, other))
    assert first.facts["step"] == second.facts["step"] == 6
    assert first.tensors.keys() == second.tensors.keys()
    for name, value in first.tensors.items():
        assert torch.equal(value, second.tensors[name]), name


def killed(folder):
    """A process that dies at once (kill -9) in its fifth step, with a checkpoint of the third."""
    program = """
import os, signal, sys
from pathlib import Path
from tiny_training import TINY, tiny_photos
from flowkit.training.checkpoints import read_checkpoint, read_index
from flowkit.training.loop import Plan, train
from flowkit.training.material import parted
from flowkit.training.schedule import Budget
def listener(kind, step, *_):
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
train(TINY, parted(tiny_photos()), Plan(Path(sys.argv[1]), Budget(6)), listener)
"""
    path = [str(Path(__file__).parent), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL


def test_a_killed_run_resumes_exactly(recipe, material, tmp_path):
    train(recipe, material, Plan(tmp_path / "whole", Budget(6)))
    killed(tmp_path / "parts")
    assert read_index(tmp_path / "parts" / "last")["step"] == 3
    torch.manual_seed(1234)
    train(recipe, material, Plan(tmp_path / "parts", Budget(6), resume=True))
    same(tmp_path / "whole", tmp_path / "parts")
    steps = [entry["step"] for entry in lines(tmp_path / "parts", "train")]
    assert steps == [2, 4, 6], "what was logged beyond the checkpoint is dropped"


def test_it_learns(material, tmp_path):
    class Same(TinyRecipe):
        def batches(self, source, index):
            return super().batches(source, 0)

    settings = {"plain": True, "learning_rate": 0.02, "validate_every": 0, "log_every": 10, "checkpoint_every": 60}
    train(Same(**{**vars(TINY), **settings}), material, Plan(tmp_path, Budget(60)))
    losses = [entry["loss"] for entry in lines(tmp_path, "train")]
    assert losses[-1] < 0.5 * losses[0], losses


def first_gradient(recipe, material, folder):
    """By the first moments after one step, which are (1 - beta1) times the gradient."""
    train(replace(recipe, clip=0), material, Plan(folder, Budget(1)))
    moments = read_checkpoint(folder / "last").group("optimiser/exp_avg")
    return {name: moment / (1 - recipe.betas[0]) for name, moment in moments.items()}


def joined_gradient(recipe, material, batches):
    """Of all batches at once, without any of the loop."""
    torch.manual_seed(recipe.seed)
    network = recipe.network().train()
    joined = concatenate([Maker(recipe, material).batch((number, 0)) for number in range(batches)])
    recipe.loss(recipe.predict(network, joined.image0, joined.image1), joined)["loss"].backward()
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_accumulated_gradients_are_those_of_the_joined_batch(plain, material, tmp_path):
    found = first_gradient(replace(plain, accumulate=3), material, tmp_path)
    close(found, joined_gradient(plain, material, 3))


def test_two_ranks_have_the_gradients_of_one(plain, material, tmp_path):
    """Two processes with the environment that torchrun gives them, talking by gloo."""
    program = """
import sys
from pathlib import Path
from tiny_training import PLAIN, tiny_photos
from flowkit.training.loop import Plan, train
from flowkit.training.material import parted
from flowkit.training.schedule import Budget
from dataclasses import replace
recipe = replace(PLAIN, clip=0, accumulate=2, log_every=1)
train(recipe, parted(tiny_photos()), Plan(Path(sys.argv[1]), Budget(1)))
"""
    folder = tmp_path / "ranks"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment(rank=rank, port=port))
        for rank in (0, 1)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    moments = read_checkpoint(folder / "last").group("optimiser/exp_avg")
    close(
        {name: moment / (1 - plain.betas[0]) for name, moment in moments.items()}, joined_gradient(plain, material, 4)
    )
    train(replace(plain, clip=0, accumulate=4, log_every=1), material, Plan(tmp_path / "one", Budget(1)))
    for key in ("loss", "epe", "gradient"):
        one, two = (lines(place, "train")[0][key] for place in (tmp_path / "one", folder))
        assert two == pytest.approx(one, rel=1e-4), key


def test_long_gradients_are_clipped(plain, material, tmp_path):
    train(replace(plain, clip=1e-3, log_every=1), material, Plan(tmp_path, Budget(1)))
    moments = read_checkpoint(tmp_path / "last").group("optimiser/exp_avg").values()
    norm = sum(float(m.square().sum()) for m in moments) ** 0.5 / (1 - plain.betas[0])
    assert norm == pytest.approx(1e-3, rel=1e-3)
    assert lines(tmp_path, "train")[0]["gradient"] > 0.01, "the log has the norm before clipping"


def test_each_gradient_is_clipped_by_itself(plain, material, tmp_path):
    steep = replace(plain, clip=1e-3, clip_each=True, betas=(0.0, 0.0), steps=1)
    torch.manual_seed(steep.seed)
    network = steep.network()
    batch = steep.batches(steep.source_from(material), 0)
    steep.loss(steep.predict(network.train(), batch.image0, batch.image1), batch)["loss"].backward()
    wanted = {name: p.grad.norm() for name, p in network.named_parameters()}
    seen = {}

    class Watched(loop._Run):
        def _clipped(self, model, optimiser):
            norm = super()._clipped(model, optimiser)
            seen.update({name: p.grad.norm() for name, p in self.state.network.named_parameters()}, norm=norm)
            return norm

    run = Watched(steep, material, Plan(tmp_path, Budget(1)), None)
    run.go()
    assert seen["norm"] == pytest.approx(float(torch.stack(list(wanted.values())).norm()), rel=1e-4)
    for name, norm in wanted.items():
        assert float(seen[name]) == pytest.approx(min(float(norm), 1e-3), rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run(recipe, material, tmp_path):
    broken = replace(recipe, broken_from=4)
    with pytest.raises(Diverged) as told:
        train(broken, material, Plan(tmp_path, Budget(9)))
    assert "at step 4 " in str(told.value) and f"seed {recipe.batch_seed(4)}" in str(told.value)
    assert f"{tmp_path / 'last'} (step 3)" in str(told.value) and told.value.exit_code == 6
    checkpoint = read_checkpoint(tmp_path / "last")
    assert checkpoint.facts["step"] == 3
    assert all(value.isfinite().all() for value in checkpoint.tensors.values())


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")]
)
def test_a_batch_that_is_too_large_is_told_in_a_line(recipe, material, tmp_path, monkeypatch, error):
    step = loop._Run._step

    def starved(run, *arguments):
        if run.progress.step == 4:
            raise error
        step(run, *arguments)

    monkeypatch.setattr(loop._Run, "_step", starved)
    with pytest.raises(TooLarge) as told:
        train(recipe, material, Plan(tmp_path, Budget(9)))
    assert "at step 4 " in str(told.value) and "--set batch=" in str(told.value) and "(step 3)" in str(told.value)
    assert told.value.exit_code == 3 and read_checkpoint(tmp_path / "last").facts["step"] == 3


def test_signals_end_with_a_checkpoint(recipe, material, tmp_path):
    train(recipe, material, Plan(tmp_path / "whole", Budget(6)))

    def interrupt(kind, step, *_):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    outcome = train(recipe, material, Plan(tmp_path / "parts", Budget(6)), interrupt)
    assert outcome.interrupted and outcome.step == 4
    assert signal.getsignal(signal.SIGINT) is handler
    assert not train(recipe, material, Plan(tmp_path / "parts", Budget(6), resume=True)).interrupted
    same(tmp_path / "whole", tmp_path / "parts")


def test_a_budget_of_minutes(recipe, material, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(loop, "time", clock)
    recipe = replace(recipe, log_every=1, warmup=0.2, checkpoint_every=10_000, validate_every=0)
    plan = Plan(tmp_path / "whole", Budget(minutes=0.5))

    def tick(kind, step, fraction, figures):
        clock.now += 1
        assert fraction == pytest.approx((step - 1) / 30)
        if plan.output.name == "parts" and step == 15:
            os.kill(os.getpid(), signal.SIGTERM)

    outcome = train(recipe, material, plan, tick)
    assert outcome.step == 30 and outcome.minutes == pytest.approx(0.5)
    rates = [entry["lr"] for entry in lines(plan.output, "train")]
    assert rates[:7] == sorted(rates[:7]) and rates[6:] == sorted(rates[6:], reverse=True)
    assert rates[-1] < 0.05 * rates[6] == pytest.approx(0.05 * recipe.learning_rate)

    plan = replace(plan, output=tmp_path / "parts")
    first = train(recipe, material, plan, tick)
    assert first.interrupted and first.minutes == pytest.approx(0.25)
    clock.now += 9999
    plan = replace(plan, resume=True)
    rest = train(recipe, material, plan, tick)
    assert rest.step == 30 and rest.steps_taken == 15, "it goes on with the time that is left"
    assert train(recipe, material, plan, tick).steps_taken == 0


def test_crops_grow(recipe, material, tmp_path):
    seen = []

    class Watched(type(recipe)):
        def loss(self, prediction, batch):
            seen.append((batch.size, len(batch), len(prediction.iterates)))
            return super().loss(prediction, batch)

    stages = (Stage(share=2, iterations=3), Stage(share=1, size=(32, 40), batch=1, max_displacement=9))
    train(Watched(**{**vars(recipe), "stages": stages}), material, Plan(tmp_path, Budget(6)))
    assert seen == [((24, 32), 2, 4)] * 4 + [((32, 40), 1, 3)] * 2


def test_parts_can_be_frozen_or_slow(recipe, material, tmp_path):
    torch.manual_seed(recipe.seed)
    before = recipe.network().state_dict()
    frozen = replace(recipe, frozen=("encode",), freeze_batchnorm=True, ema=0, weight_decay=0)
    train(frozen, material, Plan(tmp_path / "frozen", Budget(3)))
    after = weights(tmp_path / "frozen" / "last")
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    slow = replace(recipe, fine_tuned=("encode",), fine_tuning=0.01, ema=0, weight_decay=0)
    train(slow, material, Plan(tmp_path / "slow", Budget(3)))
    after = weights(tmp_path / "slow" / "last")
    assert {"norm.running_mean", "encode.weight"} <= {n for n, v in before.items() if not torch.equal(v, after[n])}
    moved = {name: (after[name] - before[name]).abs().max().item() for name in ("encode.weight", "head.weight")}
    assert moved["encode.weight"] == pytest.approx(0.01 * moved["head.weight"], rel=0.5)


def test_the_average_lags_behind(recipe, material, tmp_path):
    train(replace(recipe, learning_rate=0.05), material, Plan(tmp_path, Budget(6)))
    checkpoint = read_checkpoint(tmp_path / "last")
    torch.manual_seed(recipe.seed)
    start = recipe.network().state_dict()
    name = "head.weight"
    present, average = checkpoint.group("model")[name], checkpoint.group("ema")[name]
    assert 0.01 < (average - present).norm() / (present - start[name]).norm() < 0.9


def test_weights_to_begin_with(recipe, material, tmp_path):
    train(recipe, material, Plan(tmp_path / "one", Budget(3)))
    still = replace(recipe, learning_rate=0, weight_decay=0, freeze_batchnorm=True)
    for number, path in enumerate(("one", "one/last", "one/weights.safetensors")):
        train(still, material, Plan(tmp_path / str(number), Budget(1), init=tmp_path / path))
        for name, value in weights(tmp_path / str(number)).items():
            assert torch.equal(value, weights(tmp_path / "one" / "last")[name]), (path, name)


def test_weights_in_the_box_are_begun_with_by_name():
    network = network_of("liteflownetx")
    initialise(network, Path("liteflownetx"), "liteflownetx")
    shipped = load_checkpoint("liteflownetx")
    assert all(torch.equal(tensor, shipped[name].float()) for name, tensor in network.state_dict().items())
    with pytest.raises(WeightsError, match="another architecture"):
        initialise(network_of("raft-small"), Path("liteflownetx"), "raft-small")


@pytest.mark.parametrize(
    "path", ["run", "run/last", "run/weights.safetensors", "run/log.jsonl", "run/tensorboard", "nothing"]
)
def test_weights_of_something_else(recipe, material, tmp_path, path):
    train(recipe, material, Plan(tmp_path / "run", Budget(1)))
    other = replace(recipe, model="other") if path in ("run", "run/last", "run/weights.safetensors") else recipe
    with pytest.raises(WeightsError) as told:
        train(other, material, Plan(tmp_path / "new", Budget(1), init=tmp_path / path))
    assert str(tmp_path / path) in str(told.value) and "\n" not in str(told.value)


def test_best_is_what_validated_best(recipe, material, tmp_path):
    train(replace(recipe, learning_rate=0.5, ema=0), material, Plan(tmp_path, Budget(12)))
    errors = {entry["step"]: entry["held-out/epe"] for entry in lines(tmp_path, "validation")}
    assert list(errors) == [3, 6, 9, 12]
    index = read_index(tmp_path / "best")
    assert index["step"] == min(errors, key=errors.get)
    assert index["best"] == pytest.approx(min(errors.values()), rel=1e-4)


def test_crops_that_the_network_does_not_take_are_refused(recipe, material, tmp_path):
    with pytest.raises(UsageError, match=r"size=24,30: tiny takes crops whose sides are divisible by 4"):
        train(replace(recipe, size=(24, 30)), material, Plan(tmp_path, Budget(1)))


def test_a_worker_that_is_killed_anywhere_is_told_in_a_line(recipe, material, tmp_path):
    class Fragile(type(recipe)):
        def loss(self, prediction, batch):  # torch raises it from a signal handler, wherever the run is
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    with pytest.raises(WorkerLost, match="go on with --resume"):
        train(Fragile(**vars(recipe)), material, Plan(tmp_path, Budget(2)))
