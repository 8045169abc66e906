"""`flowkit flow` without --model: what it says of its choice, and what goes with it."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_pictures import pair, texture, write

from flowkit.cli.main import run
from flowkit.io.flow_files import read_flow
from flowkit.io.results import is_complete


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return pair(tmp_path)


def test_the_choice_is_in_the_json_and_in_the_summary(images, capsys):
    assert run(["flow", "a.png", "b.png", "--features", "sift", "--no-pictures"]) == 0
    out, err = capsys.readouterr()
    provenance = json.loads(Path("a_b/flow.json").read_text())["provenance"]
    said = provenance["options"]["auto"]
    assert said["method"] == provenance["method"] == "dis --init matches" and is_complete("a_b/flow.json")
    assert out.splitlines()[1] == f"  by {said['method']}: {said['reason']}" and err == ""
    regime = said["regime"]
    assert regime["agreeing"] <= regime["matches"] and regime["displacement_px"] == pytest.approx(3.6, abs=3)
    assert np.median(read_flow("a_b/flow.flo")[0]) == pytest.approx(-3, abs=0.1)


def test_naming_auto_is_leaving_the_model_out(images):
    assert run(["flow", "a.png", "b.png", "--features", "sift", "--no-pictures", "-q"]) == 0
    named = ["flow", "a.png", "b.png", "--model", "auto", "--features", "sift", "--no-pictures", "-q"]
    assert run([*named, "--output", "named"]) == 0
    assert Path("named/flow.flo").read_bytes() == Path("a_b/flow.flo").read_bytes()


def test_a_picture_upside_down_is_aligned(images):
    big = texture()
    write(Path("a.png"), big)
    write(Path("b.png"), cv2.rotate(big, cv2.ROTATE_180))
    assert run(["flow", "a.png", "b.png", "--features", "sift", "--bidirectional", "--no-pictures", "-q"]) == 0
    record = json.loads(Path("a_b/flow.json").read_text())
    assert record["provenance"]["options"]["auto"]["method"] == "align --multi-h --model auto"
    assert record["backward"] is not None
    height, width = big.shape[:2]
    y, x = np.mgrid[:height, :width]
    uv = read_flow("a_b/flow.flo")
    wrong = np.hypot(uv[0] - (width - 1 - 2 * x), uv[1] - (height - 1 - 2 * y))
    assert np.nanmedian(wrong) < 0.3


@pytest.mark.parametrize(
    "option",
    [
        ("--preset", "fast"),
        ("--init", "none"),
        ("--weights", "w.safetensors"),
        ("--iters", "3"),
        ("--precision", "fp32"),
        ("--tile",),
        ("--no-tile",),
        ("--flip-test",),
    ],
)
@pytest.mark.parametrize("model", [(), ("--model", "auto")])
def test_what_only_some_methods_take_needs_a_model(images, capsys, option, model):
    assert run(["flow", "a.png", "b.png", *option, *model]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "name another --model" in err and not Path("a_b").exists()


def test_a_warm_start_needs_a_network(images, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    assert run(["flow", "--sequence", "frames", "--warm-start", "--output", "o"]) == 2
    assert "choose a network" in capsys.readouterr().err


def test_every_pair_of_a_sequence_is_judged(images, tmp_path):
    big = texture()
    for i in range(3):
        write(tmp_path / "frames" / f"f{i}.png", big[10:130, 2 * i : 2 * i + 160])
    options = ("--features", "sift", "--no-pictures", "-q")
    assert run(["flow", "--sequence", "frames", "--output", "o", *options]) == 0
    for name in ("000000", "000001"):
        assert "auto" in json.loads(Path("o", name, "flow.json").read_text())["provenance"]["options"]
        assert np.median(read_flow(Path("o", name, "flow.flo"))[0]) == pytest.approx(-2, abs=0.1)
