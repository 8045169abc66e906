"""LIFE's protocols with methods made up here, against numbers worked out by hand."""

import cv2
import numpy as np
import pytest

from flowkit.datasets.catalogue import read_dataset
from flowkit.datasets.samples import FlowSample, Group, HomographySample, MatchSample, PoseSample, Preparation
from flowkit.errors import UsageError
from flowkit.evaluation import accuracy_curves, tables
from flowkit.evaluation.cache import Cache, prediction_key
from flowkit.evaluation.methods import METHODS, Method, build_methods
from flowkit.evaluation.protocols import run, summarise
from flowkit.types import Matches

HERE = Cache(None)


def picture(path, size=(12, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))
    return path


@pytest.fixture
def image(tmp_path):
    return picture(tmp_path / "a.png")


def method(call, dense=False, select=None):
    return Method("made up", call, {}, dense, select)


def still(image0, image1, sample, *, device, seed):
    return {"uv": np.zeros((2, *image0.size), np.float32)}, "ok"


def rows_of(task, samples, call, **options):
    rows = summarise(task, list(run(task, samples, [method(call, **options)], cache=HERE)))
    return {row.group or row.dataset: row.values for row in rows}


# --- flow ------------------------------------------------------------------------------------------------------------


def sequence(root, name, shifts, size):
    """Image k is image 1 shifted by shifts[k] to the right."""
    picture(root / name / "1.ppm", size)
    for k, shift in shifts.items():
        picture(root / name / f"{k}.ppm", size)
        np.savetxt(root / name / f"H_1_{k}", [[1, 0, shift], [0, 1, 0], [0, 0, 1]])


def test_hpatches_levels_are_averaged_and_not_pooled(tmp_path):
    sequence(tmp_path, "v_small", {2: 3, 3: 7}, (10, 20))  # the shift leaves 17 and 13 columns with truth
    sequence(tmp_path, "v_wide", {2: 6}, (10, 106))  # and 100
    rows = rows_of("flow", read_dataset("hpatches-flow-v-original", tmp_path), still, dense=True)
    assert list(rows) == ["I", "II", "hpatches-flow-v-original"]
    level1, level2, whole = rows.values()
    assert [level1["aepe"], level2["aepe"]] == [4.5, 7]
    assert whole["aepe"] == (4.5 + 7) / 2  # neither the mean over pairs, 16/3, nor over pixels
    assert whole["epe_pooled"] == pytest.approx((17 * 3 + 13 * 7 + 100 * 6) / 130)
    assert level1["mean_within_5"] == 0.5 and level1["within_5"] == pytest.approx(17 / 117)
    assert whole["mean_within_5"] == 0.25 and whole["within_5"] == pytest.approx(17 / 130)
    assert whole["mean_within_1"] == whole["within_1"] == 0
    assert [each["pairs"] for each in rows.values()] == [2, 1, 3]


def test_hpatches_flow_has_one_right_direction(tmp_path):
    sequence(tmp_path, "v_wall", {2: 4}, (10, 20))

    def leftwards(image0, image1, sample, *, device, seed):
        return {"uv": np.stack([np.full(image0.size, -4.0), np.zeros(image0.size)])}, "ok"

    def rightwards(*args, **options):
        arrays, status = leftwards(*args, **options)
        return {"uv": -arrays["uv"]}, status

    samples = read_dataset("hpatches-flow-v-original", tmp_path)
    assert rows_of("flow", samples, leftwards)["hpatches-flow-v-original"]["aepe"] == 0
    assert rows_of("flow", samples, rightwards)["hpatches-flow-v-original"]["aepe"] == 8


def test_kitti_aepe_is_a_mean_of_means_and_fl_is_pooled(image):
    def truth(errors):
        def read():
            flow = np.full((2, 12, 16), np.nan)
            flow[:, 0, : len(errors)] = [errors, [0] * len(errors)]
            return flow

        return read

    # Nothing moves in the answer, so the errors are the truths: all above 5 % of them, an outlier is one above 3 px.
    samples = [
        FlowSample("kitti2015", name, image, image, truth(errors))
        for name, errors in (("0", [8.0, 8.0]), ("1", [1.0] * 6))
    ]
    values = rows_of("flow", samples, still)["kitti2015"]
    assert values["aepe"] == (8 + 1) / 2 and values["epe_pooled"] == (16 + 6) / 8
    assert values["fl"] == 2 / 8
    assert values["within_1"] == 6 / 8 and values["mean_within_1"] == 0.5


def test_predictions_at_another_size_are_others(image):
    def key(*preparations):
        sample = FlowSample("x", "a", image, image, None, preparation0=preparations[0], preparation1=preparations[1])
        return prediction_key(method(still), sample, device="cpu", seed=0)

    size, turned = Preparation((6, 8)), Preparation((6, 8), warp=np.diag([1.0, 1, 2]))
    keys = [
        (None, None),
        (size, None),
        (None, size),
        (size, size),
        (turned, size),
        (Preparation((6, 8), lanczos=True), size),
    ]
    assert len({key(*each) for each in keys}) == len(keys)


# --- matching --------------------------------------------------------------------------------------------------------


def test_sparse_pck_is_pooled_over_points_and_read_on_the_target(image):
    preparation = Preparation((48, 64), lanczos=True)

    def sample(name, errors):
        points0 = np.column_stack([np.arange(len(errors)), np.full(len(errors), 40.0)])
        points1 = points0 + np.column_stack([2 + np.array(errors), np.full(len(errors), -3.0)])
        thresholds = (1.0, 3.0, 5.0)
        return MatchSample(
            "x",
            name,
            image,
            image,
            points0,
            points1,
            pooled_pck=thresholds,
            preparation0=preparation,
            preparation1=preparation,
        )

    def flow(image0, image1, sample, *, device, seed):
        assert image0.size == (48, 64)
        uv = np.zeros((2, 48, 64), np.float32)
        uv[:, 40] = [[2], [-3]]  # right where the points of image0 are, and only there
        return {"uv": uv}, "ok"

    samples = [sample("a", [0.5]), sample("b", [1.0, 2, 9, 5, 9]), sample("c", [])]
    values = rows_of("matching", samples, flow)["x"]
    assert values["pooled_pck_1"] == 2 / 6  # at most 1 px; the mean of the pairs would be .6
    assert values["pooled_pck_3"] == 3 / 6 and values["pooled_pck_5"] == 4 / 6

    def crash(*args, **options):
        raise ValueError("on purpose")

    failed = rows_of("matching", samples, crash, dense=True)["x"]
    assert failed["pooled_pck_5"] == 0 and failed["failed"] == 3


def mma_samples(image):
    shift = np.array([[1, 0, 3], [0, 1, 0], [0, 0, 1.0]])
    groups = [Group("viewpoint"), Group("viewpoint"), Group("illumination")]
    return [
        HomographySample("hpatches-mma", f"{i}", image, image, shift, group=group) for i, group in enumerate(groups)
    ]


def mma_match(image0, image1, sample, *, device, seed):
    """Errors of 1, 1.5, 9.5 and 20 px for the first pair, none found for the second, one right match for the third."""
    errors = {"0": [1, 1.5, 9.5, 20], "1": [], "2": [0]}[sample.name]
    points0 = np.full((len(errors), 2), 5.0)
    points1 = points0 + np.column_stack([np.full(len(errors), 3.0), errors])
    arrays = {"points0": points0, "points1": points1.reshape(-1, 2), "F": np.full((3, 3), np.nan)}
    return arrays | {"features": np.array([10, 30]), "stage": np.array([1, 2, 2, 1][: len(errors)])}, "ok"


def test_matching_accuracy_is_the_mean_over_pairs_at_1_to_10_px(image):
    results = list(run("matching", mma_samples(image), [method(mma_match)], cache=HERE))
    rows = summarise("matching", results)
    assert [(row.dataset, row.group) for row in rows] == [
        ("hpatches-mma", "viewpoint"),
        ("hpatches-mma", "illumination"),
        ("hpatches-mma", ""),
    ]
    by_threshold = [[row.values[f"precision_{t}"] for t in range(1, 11)] for row in rows]
    assert by_threshold[0] == [0.125, *[0.25] * 8, 0.375]  # a pair without a match counts as 0
    assert by_threshold[1] == [1] * 10
    assert by_threshold[2] == pytest.approx([1.25 / 3, *[1.5 / 3] * 8, 1.75 / 3])
    assert rows[2].values["matches"] == pytest.approx(5 / 3) and rows[2].values["features"] == 20
    lines = accuracy_curves.curves_csv(rows).splitlines()
    assert lines[0].startswith("dataset,group,method,pairs,features,matches,mma_1,") and lines[0].endswith(",mma_10")
    assert lines[1] == "hpatches-mma,viewpoint,made up,2,20,2,0.125,0.25,0.25,0.25,0.25,0.25,0.25,0.25,0.25,0.375"
    shown = [column.header for column in tables.screen_table(rows).columns]
    assert "P@10 %" in shown and "P@7 %" not in shown
    assert ",viewpoint," in tables.rows_csv(rows) and "precision_7" in tables.rows_csv(rows)
    assert tables.json_record(rows, results, {})["rows"][0]["group"] == "viewpoint"


def test_the_first_stage_alone(image, monkeypatch):
    first = METHODS["matching"]["match-stage-1"].select
    (result, *_) = run("matching", mma_samples(image), [method(mma_match, select=first)], cache=HERE)
    assert result.scores["matches"] == 2 and result.scores["precision_1"] == 0.5
    guided = build_methods("matching", ["match", "match-stage-1"], {"guide": ["none", "dis"]})
    assert [each.label for each in guided] == ["match none", "match dis", "match-stage-1 dis"]
    assert guided[1].options == guided[2].options and guided[1].call is guided[2].call  # one kept prediction for both
    with pytest.raises(UsageError, match="match-stage-1: needs --guide"):
        build_methods("matching", ["match-stage-1"])
    assert build_methods("matching", varied={"max_keypoints": [500]})[0].options == {"max_keypoints": 500}


def test_no_guide_and_a_guide_reach_the_pipeline(image, monkeypatch):
    asked = []

    def match(image0, image1, **options):
        asked.append(options.get("guide", "absent"))
        points = np.arange(24.0).reshape(12, 2)
        pairs = np.stack([np.arange(12)] * 2, axis=1)
        return Matches(points, points, pairs, np.ones(12), image0.size, image1.size)

    monkeypatch.setattr("flowkit.pipelines.match.match", match)
    methods = build_methods("matching", ["match"], {"guide": ["none", "dis"]})
    results = list(run("matching", mma_samples(image)[:1], methods, cache=HERE))
    assert asked == ["absent", "dis"] and [result.status for result in results] == ["ok", "ok"]
    assert results[0].scores["features"] == 12


# --- homography and pose ---------------------------------------------------------------------------------------------


def test_share_of_right_corners_by_viewpoint_and_illumination(image):
    found = {"0": 4.9, "1": 5.0, "2": 9.0}  # px that the corners are off: correct is below 5

    def homography(image0, image1, sample, *, device, seed):
        return {"H": np.array([[1, 0, 3 + found[sample.name]], [0, 1, 0], [0, 0, 1.0]])}, "ok"

    rows = rows_of("homography", mma_samples(image), homography)
    assert [values["correct_5"] for values in rows.values()] == pytest.approx([0.5, 0, 1 / 3])
    assert [values["correct_3"] for values in rows.values()] == [0, 0, 0]
    assert [values["correct_10"] for values in rows.values()] == [1, 1, 1]
    assert [values["below_5"] for values in rows.values()] == [1, 0, 1]


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def pose_sample(image, name="a", degrees=20.0, group=None, K=None):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn(degrees), [1, 0.2, 0]
    K = np.array([[100, 0, 7.5], [0, 100, 5.5], [0, 0, 1]]) if K is None else K
    return PoseSample("megadepth-pose", name, image, image, K, K, T, group=group)


def test_shares_of_rotations_and_translations_below_10_degrees(image):
    samples = [
        pose_sample(image, name, group=Group(group)) for name, group in (("0", "easy"), ("1", "easy"), ("2", "hard"))
    ]
    off = {"0": (9.9, -1), "1": (10.1, 1), "2": (0, 1)}  # degrees, and which way t points

    def pose(image0, image1, sample, *, device, seed):
        degrees, sign = off[sample.name]
        t = sign * sample.T_0to1[:3, 3]
        return {"R": turn(20 + degrees), "t": t if sample.name != "2" else np.array([0, 0, 1.0])}, "ok"

    rows = rows_of("pose", samples, pose)
    assert list(rows) == ["easy", "hard", "megadepth-pose"]
    assert [values["rotation_error_below_10"] for values in rows.values()] == pytest.approx([0.5, 1, 2 / 3])
    assert [values["translation_error_below_10"] for values in rows.values()] == pytest.approx([1, 0, 2 / 3])


def test_the_better_of_two_rotations_counts(image):
    def both(image0, image1, sample, *, device, seed):
        return {"R": turn(170), "R_other": turn(23), "t": np.array([1, 0.2, 0])}, "ok"

    (result,) = run("pose", [pose_sample(image)], [method(both)], cache=HERE)
    assert result.scores["rotation_error"] == pytest.approx(3)
    assert result.scores["translation_error"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("count", [60, 3])
def test_essential_matrix_of_the_protocol(image, monkeypatch, count):
    sample = pose_sample(image, degrees=12, K=np.array([[400, 0, 319.5], [0, 400, 239.5], [0, 0, 1]]))
    rng = np.random.default_rng(0)
    X0 = np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(4, 9, count)])
    X1 = X0 @ sample.T_0to1[:3, :3].T + sample.T_0to1[:3, 3]
    points = [(X / X[:, 2:]) @ sample.K0.T for X in (X0, X1)]

    def match(image0, image1, **options):
        pairs = np.stack([np.arange(count)] * 2, axis=1)
        return Matches(points[0][:, :2], points[1][:, :2], pairs, np.ones(count), (480, 640), (480, 640))

    monkeypatch.setattr("flowkit.pipelines.match.match", match)
    (result,) = run("pose", [sample], build_methods("pose", ["pose-opencv"]), cache=HERE)
    if count < 5:
        assert result.status == "too_few_matches" and result.scores["pose_error"] == np.inf
    else:
        assert result.status == "ok" and result.scores["rotation_error"] < 0.1
        assert result.scores["translation_error"] < 0.5
