"""--guide, --guide-radius and --feature-weights on the command line, one pair and batches."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_pictures import pair

from flowkit.cli.main import run
from flowkit.errors import EXIT_USAGE, EXIT_WEIGHTS
from flowkit.io.matches import read_matches

GUIDED = ["--features", "sift", "--guide", "dis"]


@pytest.fixture(autouse=True)
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path / "home"))
    return pair(tmp_path)


def record(file):
    return json.loads(Path(file).read_text("utf-8"))


def test_match_keeps_the_stages(capsys):
    assert run(["match", "a.png", "b.png", *GUIDED, "--guide-radius", "2.5"]) == 0
    assert "stage 1" in capsys.readouterr().out
    matches, written = read_matches("a_b/matches.npz"), record("a_b/matches.json")
    assert written["stages"] == {"1": int((matches.stage == 1).sum()), "2": int((matches.stage == 2).sum())}
    assert written["stages"]["1"] > 20
    moved = (matches.points1 - matches.points0)[matches.stage == 1]
    np.testing.assert_allclose(np.median(moved, axis=0), [-3, -2], atol=0.1)
    assert written["provenance"]["options"]["guide"] == "dis"
    assert written["provenance"]["options"]["guide_radius"] == 2.5


@pytest.mark.parametrize("verb", ["homography", "pose"])
def test_the_other_verbs(verb):
    more = ["--fov", "50"] if verb == "pose" else []
    code = run([verb, "a.png", "b.png", *GUIDED, *more])
    written = record(f"a_b/{verb}.json")
    assert code == (0 if written["status"] == "ok" else 5) and written["stages"]["1"] > 20
    assert written["provenance"]["options"]["guide_radius"] == 5


def test_a_batch_loads_the_guide_once_and_goes_on(tmp_path, monkeypatch):
    pair(tmp_path, 5, -2, seed=1, names=("c.png", "d.png"))
    Path("pairs.txt").write_text("a.png b.png\nc.png d.png\n")
    command = ["match", "--pairs", "pairs.txt", "--output", "out", *GUIDED, "-q", "--no-pictures"]
    assert run(command) == 0
    assert [record(f"out/{name}/matches.json")["stages"]["1"] > 20 for name in ("a_b", "c_d")] == [True, True]
    assert run(command) == 0  # nothing left to do
    assert run([*command, "--guide-radius", "3"]) == EXIT_USAGE  # other options, the same folder


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--guide-radius", "3"], EXIT_USAGE, "--guide-radius 3: only together with --guide"),
        (["--guide", "dis", "--guide-radius", "-1"], EXIT_USAGE, "--guide-radius -1: give more"),
        (["--guide", "lief"], EXIT_USAGE, "no model is called 'lief'"),
        (["--guide", "dis", "--features", "xfeat*"], EXIT_USAGE, "use --features xfeat"),
        (["--feature-weights", "r2d2"], EXIT_USAGE, "--feature-weights r2d2: give NAME=FILE"),
        (
            ["--feature-weights", "disk=x.pt"],
            EXIT_USAGE,
            "only superpoint, r2d2, vgg16, resnet50, moco, conv4 take a file",
        ),
        (["--feature-weights", "r2d2=x.pt"], EXIT_USAGE, "does not use it"),
        (["--features", "r2d2"], EXIT_WEIGHTS, "r2d2_WASF_N16.pt: the weights of 'r2d2' are not here; get it from"),
        (["--features", "r2d2", "--feature-weights", "r2d2=x.pt"], EXIT_WEIGHTS, "x.pt: no such weights file"),
        (["--guide", "raft=none.safetensors"], EXIT_WEIGHTS, "none.safetensors"),
    ],
)
def test_what_is_refused(capsys, arguments, code, words):
    assert run(["match", "a.png", "b.png", *arguments]) == code
    out, err = capsys.readouterr()
    assert words in err and len(err.splitlines()) == 1 and out == "" and not Path("a_b").exists()
