"""`flowkit train` as a user meets it: a run, its end, and one line for whatever is wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_pictures import texture, write

from flowkit.cli.main import run
from flowkit.cli.train import TrainingProgress, describe, parse_bytes
from flowkit.errors import UsageError
from flowkit.training import loop, recipes
from flowkit.training.checkpoints import read_index

sys.path.append(str(Path(__file__).parents[1] / "training"))
from tiny_training import TINY

TRAINING = str(Path(__file__).parents[1] / "training")


@pytest.fixture
def photos(tmp_path):
    for seed in range(3):
        write(tmp_path / "photos" / f"{seed}.png", texture(seed))
    return tmp_path / "photos"


@pytest.fixture
def tiny(monkeypatch):
    """The recipes `tiny`, `other` (of another architecture) and `broken` (NaN from the fifth batch on)."""
    table = {"tiny": TINY, "other": replace(TINY, model="other", plain=True), "broken": replace(TINY, broken_from=4)}
    monkeypatch.setattr(recipes, "RECIPES", table)


@pytest.fixture
def train(capsys):
    """Run `flowkit train ...`; gives (exit code, stdout, stderr)."""

    def answer(*arguments):
        code = run(["train", *map(str, arguments)])
        return code, *capsys.readouterr()

    return answer


@pytest.fixture
def refused(train):
    """A command that must end with this code and one line that has these words."""

    def check(code, words, *arguments):
        found, out, err = train(*arguments)
        assert found == code, err
        assert out == "" and err.startswith("flowkit: error: ") and err.count("\n") == 1, err
        for word in (words,) if isinstance(words, str) else words:
            assert word in err

    return check


def test_a_run_and_what_it_says(train, tiny, photos, tmp_path):
    (photos / "broken.jpg").write_bytes(b"no picture")
    code, out, err = train("tiny", "--photos", photos, "--output", tmp_path / "run", "--steps", 6)
    assert code == 0
    assert out.startswith("6 steps in 0.") and "held-out" in out and str(tmp_path / "run") in out
    assert "skipped 1 picture that could not be read" in out
    assert "step 3: held-out" in err and "step 2, loss" in err and "lr " in err
    assert read_index(tmp_path / "run" / "last")["step"] == 6
    code, out, err = train("tiny", "--photos", photos, "--output", tmp_path / "run", "--resume")
    assert code == 0 and out.startswith("nothing to do: the run ended after 6 steps")
    code, out, err = train("tiny", "--photos", photos, "--output", tmp_path / "run", "--resume", "--steps", 8, "-q")
    assert (code, out) == (0, "") and err == ""
    assert read_index(tmp_path / "run" / "last")["step"] == 8


def test_a_resumed_run_keeps_its_recipe(train, tiny, photos, tmp_path):
    arguments = ("--photos", photos, "--output", tmp_path / "run")
    assert train("tiny", *arguments, "--steps", 3, "--set", "learning_rate=0.01", "--set", "seed=7")[0] == 0
    assert train("tiny", *arguments, "--steps", 6, "--resume", "--set", "gamma=0.5")[0] == 0
    index = read_index(tmp_path / "run" / "last")
    kept = {name: index["recipe"][name] for name in ("learning_rate", "seed", "gamma")}
    assert kept == {"learning_rate": 0.01, "seed": 7, "gamma": 0.5} and index["budget"] == {"steps": 6, "minutes": None}


def test_a_real_network(train, photos, tmp_path):
    """Two steps of raft-small, whose weights the next run begins with."""
    small = ["size=64,96", "batch=1", "iterations=2", "stages=[]", "workers=0", "validation_size=64,96"]
    small += ["validation_pairs=1", "validation_iterations=2", "log_every=1"]
    settings = [word for setting in small for word in ("--set", setting)]
    first, second = tmp_path / "first", tmp_path / "second"
    code, _, err = train("raft-small", "--photos", photos, "--output", first, "--steps", 2, *settings)
    assert code == 0, err
    assert all(file.stat().st_size <= 15 * 2**20 for file in (first / "last").iterdir())
    one_step = ("--steps", 1, *settings, "--init", first / "weights.safetensors", "--checkpoint-shard-size", "1MiB")
    code, _, err = train("raft-small", "--photos", photos, "--output", second, *one_step)
    assert code == 0, err
    pieces = list((second / "last").glob("*.safetensors"))
    assert len(pieces) >= 15 and all(piece.stat().st_size <= 2**20 for piece in pieces)


def test_the_recipe_can_be_read(train):
    code, out, _ = train("raft-small", "--print-config", "--set", "engine.max_displacement=64", "--set", "batch=3")
    assert code == 0
    read = tomllib.loads(out)
    assert read["model"] == "raft-small" and read["batch"] == 3 and read["engine"]["max_displacement"] == 64


def test_preview(train, tiny, photos, tmp_path):
    code, out, _ = train("tiny", "--photos", photos, "--output", tmp_path / "look", "--preview", 8)
    assert code == 0
    files = sorted((tmp_path / "look").iterdir())
    assert [file.name for file in files] == ["preview-00.png", "preview-01.png"]
    assert all(str(file) in out for file in files)


def test_wrong_options(refused, tiny, photos, tmp_path):
    given = ("--photos", photos, "--output", tmp_path / "run")
    refused(2, "known: tiny, other, broken", "tinny", *given)
    refused(2, "no field 'foo'; known: model, ", "tiny", *given, "--set", "foo=1")
    refused(2, "--set batch=many", "tiny", *given, "--set", "batch=many")
    refused(2, "--output", "tiny", "--photos", photos)
    refused(2, "--photos", "tiny", "--output", tmp_path / "run")
    refused(2, "--minutes -1", "tiny", *given, "--minutes=-1")
    refused(2, "--steps 0", "tiny", *given, "--steps", "0")
    refused(2, "--checkpoint-shard-size 3", "tiny", *given, "--checkpoint-shard-size", "3")
    refused(2, "--data sintel", "tiny", *given, "--data", "sintel")
    refused(2, "flyingchairs", "tiny", *given, "--set", "source=chairs")
    refused(2, "unknown source of pairs 'chair'", "tiny", *given, "--set", "source=chair")
    refused(2, "--init with --resume", "tiny", *given, "--resume", "--init", "w.safetensors")
    refused(4, "no checkpoint there", "tiny", *given, "--resume")
    assert not (tmp_path / "run").exists()


def test_photos_that_are_none(refused, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "broken" / "a.png", texture())
    (tmp_path / "broken" / "a.png").write_bytes(b"")
    refused(3, ("empty", "no picture in it"), "tiny", "-q", "--photos", tmp_path / "empty", "-o", tmp_path / "run")
    refused(3, ("missing", "no such folder"), "tiny", "-q", "--photos", tmp_path / "missing", "-o", tmp_path / "run")
    refused(3, ("broken", "can be read"), "tiny", "-q", "--photos", tmp_path / "broken", "-o", tmp_path / "run")


def test_a_collection_without_pairs(refused, tiny, photos, tmp_path):
    given = ("tiny", "-q", "--photos", photos, "-o", tmp_path / "run")
    refused(3, ("photos", "none of the folders"), *given, "--pairs-folder", photos)


def test_a_run_is_not_overwritten_by_chance(train, refused, tiny, photos, tmp_path):
    given = ("tiny", "-q", "--photos", photos, "--output", tmp_path / "run", "--steps", 1)
    assert train(*given)[0] == 0
    refused(3, ("--resume", "--overwrite"), *given)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert train(*given, "--overwrite", "--set", "validate_every=0")[0] == 0
    left = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file() and "events" not in path.name}
    assert left == {"notes.txt", "log.jsonl", "weights.safetensors", "index.json", "00000001-000.safetensors"}


def test_a_loss_that_is_not_finite(train, tiny, photos, tmp_path):
    code, out, err = train("broken", "--photos", photos, "--output", tmp_path / "run", "--steps", 9)
    assert code == 6 and out == ""
    told = err.splitlines()[-1]
    assert told.startswith("flowkit: error: loss or gradient is not finite at step 4 (batch seed ")
    assert f"{tmp_path / 'run' / 'last'} (step 3)" in told
    assert read_index(tmp_path / "run" / "last")["step"] == 3


def test_weights_of_another_architecture(train, refused, tiny, photos, tmp_path):
    run_folder = tmp_path / "run"
    assert train("tiny", "-q", "--photos", photos, "--output", run_folder, "--steps", 1)[0] == 0
    given = ("other", "-q", "--photos", photos, "--steps", 1)
    for weights in (run_folder, run_folder / "last", run_folder / "weights.safetensors"):
        refused(4, (str(weights), "'tiny'", "'other'"), *given, "--output", tmp_path / "new", "--init", weights)
    refused(4, ("'tiny'", "'other'"), *given, "--output", run_folder, "--resume")
    bare = tmp_path / "bare.safetensors"
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(2, 2)}, bare)
    refused(4, (str(bare), "another architecture"), *given, "--output", tmp_path / "new", "--init", bare)
    refused(4, "missing", *given, "--output", tmp_path / "new", "--init", tmp_path / "missing.safetensors")


def test_a_damaged_checkpoint(train, refused, tiny, photos, tmp_path):
    given = ("tiny", "-q", "--photos", photos, "--output", tmp_path / "run", "--steps")
    assert train(*given, 1)[0] == 0
    piece = next((tmp_path / "run" / "last").glob("*.safetensors"))
    piece.write_bytes(piece.read_bytes()[:-7])
    refused(4, (piece.name, "corrupt"), *given, 2, "--resume")


def test_a_full_disk(train, refused, tiny, photos, tmp_path, monkeypatch):
    given = ("tiny", "-q", "--photos", photos, "--output", tmp_path / "run")
    assert train(*given, "--steps", 3)[0] == 0
    write_bytes = Path.write_bytes

    def full(path, data):
        if "last" in path.parts:
            write_bytes(path, data[:50])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    refused(3, ("last", "no space left on device"), *given, "--steps", 6, "--resume")
    monkeypatch.undo()
    assert read_index(tmp_path / "run" / "last")["step"] == 3
    monkeypatch.setattr(recipes, "RECIPES", {"tiny": TINY})
    assert train(*given, "--steps", 6, "--resume")[0] == 0


def test_ctrl_c(photos, tmp_path):
    """A real process, a real SIGINT: a checkpoint and 130. The process that makes pairs does not mind."""
    program = """
import sys
from dataclasses import replace
from tiny_training import TINY
from flowkit.training import recipes
recipes.RECIPES = {"tiny": replace(TINY, workers=1, validate_every=0, log_every=1)}
from flowkit.cli.main import main
main()
"""
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            program,
            "train",
            "tiny",
            "--photos",
            str(photos),
            "-o",
            str(tmp_path / "run"),
            "--steps",
            "999999",
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([TRAINING, *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    log = tmp_path / "run" / "log.jsonl"
    while process.poll() is None and not (log.is_file() and log.stat().st_size):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.endswith("flowkit: interrupted\n") and "Traceback" not in err
    step = read_index(tmp_path / "run" / "last")["step"]
    assert out.startswith(f"{step} steps") and json.loads(log.read_text().splitlines()[-1])["step"] == step


def test_several_processes_speak_with_one_voice(train, tiny, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, out, err = train("tiny", "--photos", photos, "--output", tmp_path / "run", "--steps", 2)
    assert (code, out, err) == (0, "", "")


def test_progress_lines(capsys, monkeypatch):
    progress = TrainingProgress()
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr("flowkit.cli.train.time.monotonic", lambda: float(next(clock)))
    figures = {"loss": 3.14159, "epe": 1.5, "lr": 4e-4, "steps_per_second": 0.5}
    with progress:
        for step in (1, 2):
            progress.update("train", step, 0.1 * step, figures)
        progress.update("validation", 2, 0.2, {"held-out/epe": 2.5, "held-out/1px": 0.4})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "flowkit: 10.0 %, step 1, loss 3.142, epe 1.50, lr 0.0004, 2.0 s/step"
    assert lines[1].startswith("flowkit: 20.0 %, step 2, ") and lines[1].endswith(" left")
    assert lines[2] == "flowkit: step 2: held-out 2.500"
    assert describe({**figures, "steps_per_second": 3.0}).endswith("3.0 steps/s")


def test_sizes():
    assert parse_bytes("15MiB") == loop.SHARD_SIZE == 15 * 2**20
    assert parse_bytes("1.5 mb") == 1_500_000 and parse_bytes("70000") == 70_000
    for wrong in ("", "15", "MiB", "-1MiB", "1TiB", "15 apples"):
        with pytest.raises(UsageError, match="--checkpoint-shard-size"):
            parse_bytes(wrong)
