"""`flowkit show A B --correspondence`: numbers, the picture, and what is refused."""

import json

import numpy as np
import pytest
import torch
from small_pictures import texture, write

from flowkit.cli.main import run
from flowkit.io.images import read_image
from flowkit.io.weights import sha256, write_weights
from flowkit.models.registry import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("correspondence")
    torch.manual_seed(0)
    write_weights(folder / "w.safetensors", build("basenet-gocor").state_dict(), {"model": "basenet-gocor"})
    a = texture(height=160, width=240)  # cells of 15x10 pixels
    write(folder / "a.png", a)
    write(folder / "b.png", np.roll(a, (-20, 45), (0, 1)))
    np.save(folder / "f.npy", np.zeros((2, 20, 30), np.float32))
    return folder


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


PAIR = ("show", "a.png", "b.png", "--correspondence")
SHOW = (*PAIR, "--at", "120,80", "--model", "basenet-gocor", "--weights", "w.safetensors")


def test_numbers_and_a_picture(folder, capsys):
    assert run([*SHOW, "--iters", "2", "--save", "one.png", "--save", "new/two.png", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["at"] == [120, 80] and record["image1"] == {"name": "b.png", "size": [160, 240]}
    assert [state["step"] for state in record["states"]] == [None, 0, 1, 2]
    assert record["cell"] == [127, 84.5]
    assert record["states"][0]["query"]["peak"] == pytest.approx([172, 64.5], abs=1e-3)
    assert record["states"][0]["reference"]["peak"] == pytest.approx([127, 84.5], abs=1e-3)
    assert record["saved"] == ["one.png", "new/two.png"]
    made = record["provenance"]
    assert made["method"] == "basenet-gocor" and made["options"]["iterations"] == 2
    assert made["weights"] == {"w.safetensors": sha256(folder / "w.safetensors")}
    assert read_image("one.png").size == read_image("new/two.png").size


def test_it_goes_without_a_picture(capsys):
    assert run(list(SHOW)) == 0
    out = capsys.readouterr().out
    assert "a.png at 120,80 -> b.png by basenet-gocor, global: 16x16 cells" in out and "step 3" in out
    assert run([*SHOW, "-q"]) == 0
    assert capsys.readouterr().out == ""


def test_files_are_kept_without_overwrite(folder, capsys):
    (folder / "kept.png").write_bytes(b"mine")
    assert run([*SHOW, "--save", "kept.png"]) == 2
    assert "kept.png: is there already" in capsys.readouterr().err
    assert (folder / "kept.png").read_bytes() == b"mine"
    assert run([*SHOW, "--save", "kept.png", "--overwrite", "-q"]) == 0
    assert read_image("kept.png").size[1] > 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*PAIR,), "needs --at x,y"),
        (("show", "a.png", "--correspondence", "--at", "1,1"), "two images are needed"),
        ((*PAIR, "--at", "1"), "--at 1: give x,y"),
        ((*PAIR, "--at", "1,nan"), "--at 1,nan"),
        ((*PAIR, "--at", "240,80"), "--at 240,80: is not in a.png"),
        ((*PAIR, "--at", "120,160"), "--at 120,160: is not in a.png, whose pixels go from 0,0 to 239,159"),
        ((*PAIR, "--at", "1,1", "--save", "f.flo"), "--save f.flo"),
        ((*PAIR, "--at", "1,1", "--kitti"), "--kitti: not together with --correspondence"),
        ((*PAIR, "--at", "1,1", "--legend"), "--legend: not together with --correspondence"),
        ((*PAIR, "--at", "1,1", "--max-flow", "3"), "--max-flow 3.0: not together with --correspondence"),
        ((*PAIR, "--at", "1,1", "--model", "raft"), "no correspondence volume"),
        ((*PAIR, "--at", "1,1", "--model", "basenet", "--iters", "2"), "--iters 2: 'basenet' has no iterations"),
        (("show", "f.npy", "--at", "1,1"), "--at 1,1: only together with --correspondence"),
        (("show", "f.npy", "--iters", "2"), "--iters 2: only together with --correspondence"),
        (("show", "f.npy", "--model", "basenet"), "--model basenet: only together with --correspondence"),
        (("show", "a.png", "b.png"), "two images need --correspondence"),
    ],
)
def test_refusals_are_one_line(arguments, words, capsys):
    assert run(list(arguments)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err
