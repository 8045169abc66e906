"""Protocols with methods made up here: what is cached, what counts as a failure, what a row says."""

import math

import cv2
import numpy as np
import pytest

from flowkit.datasets.samples import FlowSample, HomographySample, MatchSample, PoseSample
from flowkit.errors import GeometryError, UsageError, WeightsError
from flowkit.evaluation import cache as caching
from flowkit.evaluation import tables
from flowkit.evaluation.cache import Cache
from flowkit.evaluation.methods import METHODS, Method, build_methods
from flowkit.evaluation.protocols import ALL, count, run, summarise

SIZE = (12, 16)


@pytest.fixture
def images(tmp_path):
    paths = []
    for i in range(3):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), np.full((*SIZE, 3), 10 + i, np.uint8))
    return paths


def method(call, dense=False, **options):
    return Method("made up", call, options, dense)


def constant(uv):
    return np.broadcast_to(np.array(uv, np.float32)[:, None, None], (2, *SIZE))


def flow_sample(images, uv=(1, 0), dataset="tiny", i=0):
    return FlowSample(dataset, f"pair{i}", images[i], images[i + 1], lambda: constant(uv))


def predict_flow(image0, image1, sample, *, device, seed, u=1.0):
    return {"uv": constant((u, 0))}, "ok"


def crash(image0, image1, sample, *, device, seed, error=ValueError):
    raise error("on purpose")


def test_predictions_are_made_once_and_judged_anew(images, tmp_path):
    calls = []

    def counting(image0, image1, sample, *, device, seed):
        calls.append(sample.name)
        return predict_flow(image0, image1, sample, device=device, seed=seed)

    samples = [flow_sample(images, i=0), flow_sample(images, i=1)]
    store = Cache(tmp_path / "cache")
    first = list(run("flow", samples, [method(counting)], cache=store))
    again = list(run("flow", [flow_sample(images, uv=(4, 0), i=i) for i in (0, 1)], [method(counting)], cache=store))
    assert calls == ["pair0", "pair1"]
    assert [r.scores["epe"] for r in first] == [0, 0] and [r.scores["epe"] for r in again] == [3, 3]
    assert [r.cached for r in first + again] == [False, False, True, True]
    assert [r.first for r in again] == [True, False]
    assert [r.seconds for r in again] == [r.seconds for r in first]


@pytest.mark.parametrize("change", ["option", "seed", "image", "code", "damage", "no cache"])
def test_whatever_matters_is_predicted_anew(images, tmp_path, change, monkeypatch):
    store, samples = Cache(tmp_path / "cache"), [flow_sample(images)]
    list(run("flow", samples, [method(predict_flow, u=1.0)], cache=store))
    u, seed = 1.0, 0
    if change == "option":
        u = 2.0
    elif change == "seed":
        seed = 1
    elif change == "image":
        caching._file_digest.cache_clear()
        cv2.imwrite(str(images[0]), np.full((*SIZE, 3), 99, np.uint8))
    elif change == "code":
        monkeypatch.setattr(caching, "code_digest", lambda: "edited")
    elif change == "damage":
        (file,) = (tmp_path / "cache").rglob("*.npz")
        file.write_bytes(file.read_bytes()[:100])
    else:
        store = Cache(None)
    (result,) = run("flow", samples, [method(predict_flow, u=u)], cache=store, seed=seed)
    assert not result.cached


def test_a_crash_is_a_failure_and_not_cached(images, tmp_path):
    store, samples = Cache(tmp_path / "cache"), [flow_sample(images, i=i) for i in (0, 1)]
    results = list(run("flow", samples, [method(crash, dense=True)], cache=store))
    assert [r.status for r in results] == ["error", "error"] and results[0].message == "ValueError: on purpose"
    (row,) = summarise("flow", results)
    assert row.values["aepe"] == math.inf and row.values["fl"] == 1 and row.values["failed"] == 2
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_no_geometry_is_a_failure_but_missing_weights_stop_the_run(images):
    homography = HomographySample("tiny", "a", images[0], images[1], np.eye(3))
    (result,) = run("homography", [homography], [method(crash, error=GeometryError)], cache=Cache(None))
    assert result.scores["corner_error"] == math.inf and result.status == "no_geometry"
    with pytest.raises(WeightsError):
        list(run("homography", [homography], [method(crash, error=WeightsError)], cache=Cache(None)))


def test_rows_by_data_set_and_over_all(images):
    shift = np.array([[1, 0, 4], [0, 1, 0], [0, 0, 1.0]])
    samples = [HomographySample(name, "a", images[0], images[1], H) for name, H in (("x", np.eye(3)), ("y", shift))]

    def identity(image0, image1, sample, *, device, seed):
        return {"H": np.eye(3)}, "ok"

    rows = summarise("homography", list(run("homography", samples, [method(identity)], cache=Cache(None))))
    assert [row.dataset for row in rows] == ["x", "y", ALL]
    assert [row.values["below_3"] for row in rows] == [1, 0, 1]
    assert [row.values["below_5"] for row in rows] == [1, 1, 2]
    assert rows[2].values["auc_3"] == pytest.approx(0.5)


def test_homographies_count_as_flow_inside_image1(images):
    shift = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 1.0]])
    sample = HomographySample("tiny", "a", images[0], images[1], shift)
    (result,) = run("flow", [sample], [method(predict_flow, u=1.5)], cache=Cache(None))
    assert result.scores["epe"] == pytest.approx(0.5)
    assert result.scores["pixels"] == SIZE[0] * (SIZE[1] - 1)  # the last column leaves the image


def test_rotation_only_poses_do_not_judge_the_translation(images):
    T = np.eye(4)
    T[:3, 3] = [1, 0, 0]

    def sideways(image0, image1, sample, *, device, seed):
        return {"R": np.eye(3), "t": np.array([0, 1.0, 0])}, "ok"

    for rotation_only, error in ((True, 0), (False, 90)):
        sample = PoseSample("tiny", "a", images[0], images[1], np.eye(3), np.eye(3), T, rotation_only)
        (result,) = run("pose", [sample], [method(sideways)], cache=Cache(None))
        assert result.scores["pose_error"] == pytest.approx(error)


def test_matching_by_labels(images):
    rng = np.random.default_rng(0)
    points0 = rng.uniform(0, 10, (12, 2))
    points1 = np.column_stack([rng.uniform(0, 10, 12), points0[:, 1]])  # rectified: rows correspond
    F = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])

    def match(image0, image1, sample, *, device, seed):
        off = np.array([[0, 0.0], [0, 2], [0, 4], [0, 9]])
        return {"points0": points0[:4], "points1": points1[:4] + off, "F": F}, "ok"

    rigid = MatchSample("tiny", "a", images[0], images[1], points0, points1)
    (result,) = run("matching", [rigid], [method(match)], cache=Cache(None))
    assert result.scores["precision_1"] == 0.25 and result.scores["precision_3"] == 0.5
    assert result.scores["precision_5"] == 0.75 and result.scores["labels_within_5"] == 1
    assert result.scores["epipolar_error"] == pytest.approx(0, abs=1e-9)
    deformed = MatchSample(
        "tiny", "b", images[0], images[1], points0, points0 + np.array([1, 6]), rigid=False, extent=70.0
    )
    (result,) = run("matching", [deformed], [method(predict_flow)], cache=Cache(None))
    assert result.scores == {"pck_5": 0, "pck_10": 1, "pck_0.05": 0, "pck_0.1": 1}
    (result,) = run("matching", [deformed], [method(crash, dense=True)], cache=Cache(None))
    assert result.scores["pck_10"] == 0  # a crash is wrong, not absent


def test_limit_and_wrong_task(images):
    samples = [flow_sample(images, dataset=name, i=i) for name in ("x", "y") for i in (0, 1)]
    assert count(samples, [method(predict_flow)], 1) == 2
    assert [r.dataset for r in run("flow", samples, [method(predict_flow)], cache=Cache(None), limit=1)] == ["x", "y"]
    with pytest.raises(UsageError, match="no ground truth for pose"):
        list(run("pose", samples, [method(predict_flow)], cache=Cache(None)))


def test_method_names_and_their_variants():
    assert [m.label for m in build_methods("flow")] == ["dis"]
    assert [m.label for m in build_methods("flow", ["dis", "align"])] == ["dis", "align"]
    both = build_methods("homography", varied={"features": ["sift", "sift+xfeat"], "effort": ["high"]})
    assert [m.label for m in both] == ["homography sift high", "homography sift+xfeat high"]
    assert both[1].options == {"features": "sift+xfeat", "effort": "high"}
    assert build_methods("flow", varied={"model": ["raft"]})[0].label == "flow raft"
    assert [m.label for m in build_methods("flow", varied={"features": ["sift"]}, strict=False)] == ["dis"]
    assert [m.label for m in build_methods("pose", varied={"effort": ["high"]}, strict=False)] == ["pose"]
    with pytest.raises(UsageError, match="unknown flow method 'nonsense'"):
        build_methods("flow", ["nonsense"])
    with pytest.raises(UsageError, match="--effort means nothing to dis"):
        build_methods("flow", ["dis"], {"effort": ["high"]})
    assert set(METHODS) == {"flow", "homography", "pose", "matching"}


def test_tables_know_every_value(images):
    results = list(run("flow", [flow_sample(images)], [method(crash, dense=True)], cache=Cache(None)))
    rows = summarise("flow", results)
    record = tables.json_record(rows, results, {})
    assert record["rows"][0]["aepe"] is None and record["pairs"][0]["scores"]["epe"] is None
    assert ",inf," in tables.rows_csv(rows) and ",error," in tables.pairs_csv(results)
    for task in METHODS:
        row = summarise(task, [])
        assert row == []
    titles = [column.header for column in tables.screen_table(rows).columns]
    assert "AEPE" in titles and "AUSE" not in titles
    assert set(rows[0].values) <= set(tables.COLUMNS)
