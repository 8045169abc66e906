"""`flowkit bench` through the command line, with a method made up here."""

import csv
import json

import cv2
import numpy as np
import pytest

from flowkit.cli.bench import app
from flowkit.errors import FlowkitError, InputError, OutputError, UsageError, WeightsError
from flowkit.evaluation import methods
from flowkit.evaluation.methods import Entry
from flowkit.types import Homography, Matches, Status


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


def test_matching_accuracy_is_also_drawn(tmp_path, monkeypatch, capsys):
    def match(image0, image1, sample, *, device, seed, features="none"):
        points = np.array([[5.0, 5], [9, 9]])
        return {"points0": points, "points1": points + np.array([[0, 2], [0, 0]]), "F": np.eye(3)}, "ok"

    monkeypatch.setitem(methods.METHODS, "matching", {"match": Entry(match, {}, ("features",))})
    for name in ("v_wall", "i_fog", "i_dc"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in (1, 2):
            cv2.imwrite(str(tmp_path / "data" / name / f"{k}.png"), np.full((20, 30, 3), 40 * k, np.uint8))
        (tmp_path / "data" / name / "H_1_2").write_text("1 0 0\n0 1 0\n0 0 1\n")
    out = tmp_path / "out"
    arguments = ("matching", "--dataset", "hpatches-mma", "--root", tmp_path / "data", "--features", "a,b")
    assert invoke(*arguments, "--output", out) == 0
    assert "hpatches-mma: 2 of 108 sequences are here" in capsys.readouterr().err
    lines = list(csv.DictReader((out / "mma.csv").open(encoding="utf-8")))
    assert [(line["group"], line["method"]) for line in lines][-2:] == [("", "match a"), ("", "match b")]
    assert len(lines) == 6 and lines[0]["mma_1"] == "0.5" and lines[0]["mma_2"] == "1"
    assert cv2.imread(str(out / "mma.png")).shape[1] > 3 * 260  # viewpoint, illumination, both
    record = json.loads((out / "bench.json").read_text("utf-8"))
    assert record["arguments"]["parts"] == {"hpatches-mma": "2 of 108 sequences"}


def test_localization(tmp_path, capsys):
    truth, estimated = tmp_path / "truth.txt", tmp_path / "estimated.txt"
    truth.write_text("a.jpg 1 0 0 0 0 0 0\nb.jpg 1 0 0 0 0 0 0\n")
    estimated.write_text("a.jpg 1 0 0 0 0.3 0 0\n")
    assert invoke("localization", estimated, truth, "--output", tmp_path / "out") == 0
    assert "5 m 10° %" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "bench.json").read_text("utf-8"))["rows"]
    assert [row[f"within_{kind}"] for kind in ("0.25m_2deg", "0.5m_5deg", "5m_10deg")] == [0, 0.5, 0.5]
    assert not (tmp_path / "out" / "mma.csv").exists()
    with pytest.raises(OutputError, match="--overwrite"):
        invoke("localization", estimated, truth, "--output", tmp_path / "out")
    assert invoke("localization", estimated, truth, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [row]


def test_files_of_features_and_guides_are_known_by_their_content(tmp_path, monkeypatch, collection):
    asked = []

    def homography(image0, image1, **options):
        asked.append(options)
        none = np.zeros((0, 2))
        matches = Matches(none, none, none.astype(int), none[:, 0], (20, 30), (20, 30))
        return Homography(np.eye(3), Status.OK, matches, 1, "none")

    monkeypatch.setitem(methods.METHODS, "homography", {"homography": Entry(methods._homography, {}, OPTIONS)})
    monkeypatch.setattr("flowkit.pipelines.homography.homography", homography)
    weights = tmp_path / "own.pt"
    arguments = ("homography", "--dataset", "oxford", "--root", collection / "homography_oxford", "--limit", "1")
    arguments += ("--features", "r2d2", "--feature-weights", f"r2d2={weights}", "--guide", f"none,raft={weights}")
    with pytest.raises(WeightsError, match=r"own\.pt: no such"):
        invoke(*arguments)
    weights.write_bytes(b"first")
    assert invoke(*arguments) == 0 and invoke(*arguments) == 0
    assert [options.get("guide") for options in asked] == [None, f"raft={weights}"]
    assert asked[0]["feature_weights"] == {"r2d2": weights} and asked[0]["features"] == "r2d2"
    weights.write_bytes(b"second")
    assert invoke(*arguments) == 0
    assert len(asked) == 4
    with pytest.raises(UsageError, match="NAME=FILE"):
        invoke(*arguments, "--feature-weights", "r2d2")


OPTIONS = ("features", "feature_weights", "guide")


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
        (("matching", "--dataset", "hpatches-mma", "--root", "{root}", "--max-keypoints", "0"), UsageError),
        (("matching", "--dataset", "hpatches-mma", "--root", "{root}"), InputError),
        (("localization", "{root}/missing", "{root}/missing"), InputError),
        (("pairs", "{root}", "--task", "nonsense"), UsageError),
        (("pairs", "{root}", "--method", "nonsense"), UsageError),
        (("pairs", "{root}/missing"), InputError),
    ],
)
def test_mistakes_are_one_clear_error(collection, arguments, kind):
    with pytest.raises(FlowkitError) as caught:
        invoke(*(argument.format(root=collection) for argument in arguments))
    assert type(caught.value) is kind and "\n" not in str(caught.value)
