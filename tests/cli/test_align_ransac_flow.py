"""`flowkit align` with RANSAC-Flow's network, its rules, masks and texture transfer; `train --finetune`, by the command."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_pictures import HEIGHT, WIDTH, pair, texture, write

from flowkit.cli.main import run
from flowkit.io.flow_files import read_flow
from flowkit.io.images import read_image
from flowkit.io.weights import write_weights
from flowkit.models.finealign import finealign


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A network that has learned nothing, but says so: every displacement is as likely, everything matchable."""
    torch.manual_seed(0)
    network = finealign().eval()
    with torch.no_grad():
        network.flow.conv4.weight.zero_()
    path = tmp_path_factory.mktemp("w") / "fine.safetensors"
    write_weights(path, network.state_dict(), {"model": "ransac-flow"}, half=True)
    return path


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [str(path) for path in pair(tmp_path)]


@pytest.mark.parametrize("rules", [None, "official", "paper", "kitti"])
def test_align_by_the_network(images, weights, rules):
    more = [] if rules is None else ["--rules", rules]
    arguments = ["align", *images, "--model", "ransac-flow", "--weights", str(weights), "--resize", "160", "--multi-h"]
    assert run([*arguments, *more, "--features", "sift", "-o", "o", "-q"]) == 0
    record = json.loads(Path("o/align.json").read_text())
    assert record["provenance"]["options"]["model"] == "ransac-flow"
    assert record["provenance"]["options"]["rules"] == rules
    assert weights.name in record["provenance"]["weights"]
    uv = read_flow("o/flow.flo")[:, 20:-20, 20:-20]
    np.testing.assert_allclose(np.nanmedian(uv, axis=(1, 2)), [3, 2], atol=0.4)  # what the homography says
    assert read_image("o/regions.png").size == (HEIGHT, WIDTH)


def test_flow_by_the_network_is_on_the_first_picture_s_grid(images, weights):
    arguments = [
        "flow",
        *images,
        "--model",
        "ransac-flow",
        "--weights",
        str(weights),
        "--resize",
        "160",
        "-o",
        "o",
        "-q",
    ]
    assert run(arguments) == 0
    uv = read_flow("o/flow.flo")[:, 20:-20, 20:-20]
    np.testing.assert_allclose(np.nanmedian(uv, axis=(1, 2)), [-3, -2], atol=0.4)
    assert run([*arguments, "--init", "matches", "--overwrite"]) == 2


def test_flow_says_why_there_is_none(images, weights, capsys):
    write(Path("b.png"), texture(7)[:HEIGHT, :WIDTH])
    assert run(["flow", *images, "--model", "ransac-flow", "--weights", str(weights), "-o", "o", "--json"]) == 5
    record = json.loads(capsys.readouterr().out)
    assert record["status"] in ("no_overlap", "too_few_matches", "degenerate")


def test_transfer_paints_the_region_alone(images):
    target = read_image(images[1]).pixels
    assert run(["align", *images, "--features", "sift", "--transfer", "40,30,60,50", "-o", "o", "-q"]) == 0
    painted = read_image("o/transfer.png").pixels
    box = np.zeros((HEIGHT, WIDTH), bool)
    box[30:80, 40:100] = True
    np.testing.assert_array_equal(painted[~box], target[~box])
    assert np.abs(painted[box].astype(int) - target[box]).mean() < 3  # the same scene, aligned
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[box] = 255
    cv2.imwrite("mask.png", mask)
    assert run(["align", *images, "--features", "sift", "--transfer", "mask.png", "-o", "o2", "-q"]) == 0
    np.testing.assert_array_equal(read_image("o2/transfer.png").pixels, painted)


def test_masked_places_are_not_used_and_have_no_confidence(images):
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, 100:] = 0
    cv2.imwrite("mask.png", mask)
    assert run(["align", *images, "--features", "sift", "--mask1", "mask.png", "-o", "o", "-q"]) == 0
    confidence = read_image("o/confidence.png").grey8
    assert confidence[30:90, 30:90].mean() > 150 and (confidence[:, 101:] == 0).all()
    options = json.loads(Path("o/align.json").read_text())["provenance"]["options"]
    assert options["mask1"]["from"] == "mask.png" and "mask0" not in options


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rules", "paper"], "only together with --model ransac-flow"),
        (["--transfer", "500,10,20,20"], "holds no pixel"),
        (["--transfer", "nothing.png"], "nothing.png"),
        (["--mask0", "a.txt"], "a.txt"),
        (["--feature-weights", "r2d2"], "give NAME=FILE"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(images, capsys, arguments, said):
    assert run(["align", *images, *arguments, "-o", "o"]) in (2, 3)
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1 and not list(Path("o").glob("*"))


def test_transfer_is_for_a_pair(images, capsys):
    assert run(["align", "--group", ".", "--to", images[1], "--transfer", "1,1,9,9"]) == 2
    assert "not with --group" in capsys.readouterr().err


def test_finetuning_learns_on_from_pictures_alone(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    big = texture(5, 300, 400)
    for number in range(2):
        write(Path(f"set/{number}.png"), big[number : 240 + number, 3 * number : 320 + 3 * number])
    small = ["--set", "margin=8", "--set", "size=[48,48]", "--set", "batch=1", "--set", "workers=0"]
    arguments = [
        "train",
        "ransac-flow",
        "--finetune",
        "set",
        "--init",
        str(weights),
        "--steps",
        "1",
        "-o",
        "run",
        *small,
    ]
    assert run(arguments) == 0
    assert (tmp_path / "run" / "weights.safetensors").exists()
    assert run(["train", "raft", "--finetune", "set", "-o", "other"]) == 2
    assert "only ransac-flow" in capsys.readouterr().err
