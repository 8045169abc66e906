"""LiteFlowNetX and PWC-Net on the command line, with random weights: what they write, refuse, and start from."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pictures import HEIGHT, WIDTH, pair

from flowkit.cli.main import run
from flowkit.io.flow_files import read_flow
from flowkit.io.weights import write_weights
from flowkit.models.registry import build
from flowkit.pipelines import network


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    write_weights("x.safetensors", build("liteflownetx").state_dict(), {"model": "liteflownetx"})
    return pair(tmp_path)


MODEL = ("--model", "liteflownetx", "--weights", "x.safetensors")


def test_flow_is_written_with_its_provenance(images, capsys) -> None:
    assert run(["flow", *map(str, images), *MODEL, "--bidirectional", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    flow = read_flow("a_b/flow.flo")
    assert flow.shape == (2, HEIGHT, WIDTH) and np.isfinite(flow).all()
    options = record["provenance"]["options"]
    assert options["model"] == "liteflownetx" and "iterations" not in options
    assert all(Path("a_b", name).is_file() for name in ("flow.png", "backward.flo", "confidence.png", "occlusion.png"))


def test_it_starts_from_half_the_size(images, monkeypatch) -> None:
    monkeypatch.setattr(network, "COARSEST", 40)  # pictures are small here
    assert run(["flow", *map(str, images), *MODEL, "--quiet", "--output", "coarse"]) == 0
    assert run(["flow", *map(str, images), *MODEL, "--init", "none", "--quiet", "--output", "plain"]) == 0
    assert np.abs(read_flow("coarse/flow.flo") - read_flow("plain/flow.flo")).max() > 1e-3


def test_converted_weights_start_from_nothing(images, capsys) -> None:
    notes = {"model": "liteflownetx", "converted_from": "theirs.pth"}
    write_weights("theirs.safetensors", build("liteflownetx").state_dict(), notes)
    for file, start in (("x.safetensors", "coarse"), ("theirs.safetensors", "none")):
        model = ("--model", "liteflownetx", "--weights", file)
        assert run(["flow", *map(str, images), *model, "--json", "--overwrite"]) == 0
        assert json.loads(capsys.readouterr().out)["provenance"]["options"].get("init", "none") == start


def test_there_are_no_iterations_and_no_presets(images, capsys) -> None:
    assert run(["flow", *map(str, images), *MODEL, "--iters", "3"]) == 2
    assert "has no iterations" in capsys.readouterr().err
    assert run(["flow", *map(str, images), *MODEL, "--preset", "fine"]) == 2
    assert "has none; leave the option out" in capsys.readouterr().err


def test_weights_of_a_relative_are_refused(images, capsys) -> None:
    assert run(["flow", *map(str, images), "--model", "pwcnet", "--weights", "x.safetensors"]) == 4
    assert "give --model liteflownetx" in capsys.readouterr().err
