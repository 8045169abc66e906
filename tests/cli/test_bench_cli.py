"""`flowkit bench` through the command line, with a method made up here."""

import csv
import json

import cv2
import numpy as np
import pytest

from flowkit.cli.bench import app
from flowkit.errors import FlowkitError, InputError, OutputError, UsageError
from flowkit.evaluation import methods
from flowkit.evaluation.methods import Entry


def invoke(*arguments):
    """Exit code, as `flowkit` would see it; errors pass."""
    return app(args=[str(a) for a in arguments], standalone_mode=False) or 0


@pytest.fixture
def collection(tmp_path):
    scene = tmp_path / "data" / "homography_oxford" / "graf"
    scene.mkdir(parents=True)
    for n in (1, 2, 3):
        cv2.imwrite(str(scene / f"img{n}.png"), np.full((20, 30, 3), 40 * n, np.uint8))
        if n > 1:
            (scene / f"H1to{n}p").write_text(f"1 0 {n}\n0 1 0\n0 0 1\n")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def made_up(monkeypatch, tmp_path):
    calls = []

    def answer(image0, image1, sample, *, device, seed, features="none"):
        calls.append(sample.name)
        if features == "crash":
            raise ValueError("on purpose")
        return {"H": np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1.0]])}, "ok"

    monkeypatch.setitem(methods.METHODS, "homography", {"homography": Entry(answer, {}, ("features", "effort"))})
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path / "home"))
    return calls


def test_homography_bench_writes_json_and_csv(collection, tmp_path, capsys, made_up):
    out = tmp_path / "out"
    root = collection / "homography_oxford"
    arguments = ("homography", "--dataset", "oxford", "--root", root, "--features", "a,b", "--output", out)
    assert invoke(*arguments) == 0
    shown = capsys.readouterr().out
    assert "homography a" in shown and "AUC@3" in shown
    record = json.loads((out / "bench.json").read_text("utf-8"))
    assert [row["below_3"] for row in record["rows"]] == [2, 2]
    assert [round(pair["scores"]["corner_error"], 6) for pair in record["pairs"]] == [0, 1, 0, 1]
    rows = list(csv.DictReader((out / "rows.csv").open(encoding="utf-8")))
    assert rows[0]["method"] == "homography a" and float(rows[0]["auc_3"]) == pytest.approx(record["rows"][0]["auc_3"])
    assert len(list(csv.DictReader((out / "pairs.csv").open(encoding="utf-8")))) == 4
    with pytest.raises(OutputError, match="--overwrite"):
        invoke(*arguments)
    assert len(made_up) == 4
    assert invoke(*arguments, "--overwrite", "--json", "--quiet") == 0
    assert len(made_up) == 4  # all from the cache
    assert json.loads(capsys.readouterr().out)["rows"] == record["rows"]
    assert invoke(*arguments, "--overwrite", "--no-cache") == 0
    assert len(made_up) == 8


def test_pairs_takes_every_task_of_a_collection(collection, capsys, made_up, tmp_path):
    assert invoke("pairs", collection, "--json", "--limit", "1", "--features", "a") == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["task"], row["dataset"], row["method"]) for row in record["rows"]] == [
        ("homography", "oxford", "homography a")
    ]
    assert made_up == ["graf/1-2"]
    assert list((tmp_path / "home" / "bench").rglob("*.npz"))  # the cache of runs without --output


def test_a_crash_exits_with_6_and_is_shown(collection, capsys):
    root = collection / "homography_oxford"
    assert invoke("homography", "--dataset", "oxford", "--root", root, "--features", "crash", "--json") == 6
    record = json.loads(capsys.readouterr().out)
    assert record["rows"][0]["failed"] == 2 and record["rows"][0]["below_10"] == 0
    assert record["pairs"][0]["message"] == "ValueError: on purpose"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("homography", "--dataset", "nonsense", "--root", "{root}"), UsageError),
        (("homography", "--dataset", "oxford", "--root", "{root}/missing"), InputError),
        (("homography", "--dataset", "evd", "--root", "{root}"), InputError),
        (("pose", "--dataset", "oxford", "--root", "{root}/homography_oxford"), UsageError),
        (("flow", "--dataset", "oxford", "--root", "{root}/homography_oxford", "--method", "nonsense"), UsageError),
        (("pairs", "{root}", "--task", "nonsense"), UsageError),
        (("pairs", "{root}", "--method", "nonsense"), UsageError),
        (("pairs", "{root}/missing"), InputError),
    ],
)
def test_mistakes_are_one_clear_error(collection, arguments, kind):
    with pytest.raises(FlowkitError) as caught:
        invoke(*(argument.format(root=collection) for argument in arguments))
    assert type(caught.value) is kind and "\n" not in str(caught.value)
