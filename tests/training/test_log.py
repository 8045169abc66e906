"""The log survives a kill in the middle of a line, and what lies beyond the checkpoint goes."""

import json
import math

import pytest

from flowkit.errors import OutputError
from flowkit.training.log import RunLog


def entries(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_lines(tmp_path):
    log = RunLog(tmp_path)
    log.write("train", 2, 0.51234, {"loss": 1.23456789, "epe": math.nan})
    log.close()
    assert entries(tmp_path) == [{"kind": "train", "step": 2, "minutes": 0.512, "loss": 1.23457, "epe": None}]
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert events.stat().st_size > 0


def test_going_on_after_a_kill(tmp_path):
    log = RunLog(tmp_path)
    for step in (2, 4, 6, 8):
        log.write("train", step, 0.1 * step, {"loss": 1.0})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    RunLog(tmp_path, from_step=5).write("train", 6, 1.0, {"loss": 2.0})
    assert [(entry["step"], entry["loss"]) for entry in entries(tmp_path)] == [(2, 1), (4, 1), (6, 2)]
    RunLog(tmp_path)
    assert entries(tmp_path) == [], "a run that starts anew has a log of its own"


def test_a_log_that_cannot_be_written(tmp_path):
    log = RunLog(tmp_path)
    (tmp_path / "log.jsonl").unlink()
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(OutputError, match=r"log\.jsonl"):
        log.write("train", 1, 0, {"loss": 1.0})
