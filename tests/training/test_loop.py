"""The loop: it learns, it resumes exactly, it stops where it should."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from tiny_training import TINY

from flowkit.training.checkpoints import read_checkpoint, read_index
from flowkit.training.loop import Plan, train
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
    whole, parts = (read_checkpoint(tmp_path / name / "last") for name in ("whole", "parts"))
    assert whole.facts["step"] == parts.facts["step"] == 6
    assert whole.tensors.keys() == parts.tensors.keys()
    for name, value in whole.tensors.items():
        assert torch.equal(value, parts.tensors[name]), name
    steps = [entry["step"] for entry in lines(tmp_path / "parts", "train")]
    assert steps == [2, 4, 6], "what was logged beyond the checkpoint is dropped"
