"""Two-view geometry of YFCC100M's protocol: the measure by hand, the turns, and the command on a room seen twice."""

import json
import pickle
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from flowkit.datasets.samples import Group, PoseSample
from flowkit.evaluation import metrics, two_view
from flowkit.evaluation.cache import Cache
from flowkit.evaluation.methods import Method, build_methods
from flowkit.evaluation.protocols import run, summarise
from flowkit.io.images import write_image
from flowkit.pipelines import dense_matches, homography, pose  # noqa: F401  # before one of them meets a `match` that is made up
from flowkit.types import Flow, Image, Matches

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))
import textured_room as room


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


@pytest.fixture
def picture(tmp_path):
    write_image(tmp_path / "a.png", np.full((48, 64, 3), 90, np.uint8))
    return tmp_path / "a.png"


# --- the measure -----------------------------------------------------------------------------------------------------


def test_mean_accuracies_are_those_of_oanets_histogram():
    errors = [0.0, 4.999, 5.0, 7, 12, 19.9, 20, 180, np.inf, np.nan]
    found = metrics.mean_accuracies(errors)
    bins, _ = np.histogram([min(np.nan_to_num(e, nan=180), 180) for e in errors], np.arange(0, 185, 5))
    curve = np.cumsum(bins) / len(errors)
    assert [found[f"map_{t}"] for t in (5, 10, 20)] == pytest.approx([curve[0], curve[:2].mean(), curve[:4].mean()])
    assert [found[f"acc_{t}"] for t in (5, 10, 15, 20)] == [0.2, 0.4, 0.5, 0.6]


def test_scenes_count_alike_and_a_direction_has_a_sign(picture):
    """Of two scenes, one pair and three: rotations off by some degrees, or t the other way, or no answer."""
    off = {"a/0": (3, 1), "b/0": (7, 1), "b/1": (0, -1), "b/2": None}
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn(20), [2, 0, 0]
    samples = [
        PoseSample("x", name, picture, picture, np.eye(3), np.eye(3), T, signed=True, group=Group(name[0], equal=True))
        for name in off
    ]

    def call(image0, image1, sample, *, device, seed):
        if off[sample.name] is None:
            return {"R": np.full((3, 3), np.nan), "t": np.full(3, np.nan)}, "degenerate"
        degrees, sign = off[sample.name]
        return {"R": turn(20 + degrees), "t": np.array([sign, 0, 0])}, "ok"

    rows = {
        row.group: row.values
        for row in summarise("pose", list(run("pose", samples, [Method("m", call)], cache=Cache(None))))
    }
    assert [rows["a"][f"map_{t}"] for t in (5, 10, 20)] == [1, 1, 1]
    assert [rows["b"][f"map_{t}"] for t in (5, 10, 20)] == pytest.approx([0, 1 / 6, 1 / 4])
    assert [rows[""][f"map_{t}"] for t in (5, 10, 20)] == pytest.approx([1 / 2, 7 / 12, 5 / 8])  # not over four pairs
    assert rows[""]["acc_10"] == pytest.approx(2 / 3) and rows[""]["failed"] == 1
    # The usual measure, in which t and -t are the same, is there as well, over all pairs.
    assert rows["b"]["auc_20"] == pytest.approx(metrics.auc([7, 0, np.inf], 20))


def test_other_data_sets_have_no_such_columns(picture):
    sample = PoseSample("x", "a", picture, picture, np.eye(3), np.eye(3), np.eye(4), rotation_only=True)
    call = lambda *_, **__: ({"R": np.eye(3), "t": np.zeros(3)}, "ok")  # noqa: E731
    (row,) = summarise("pose", list(run("pose", [sample], [Method("m", call)], cache=Cache(None))))
    assert not any(key.startswith(("map_", "acc_")) for key in row.values)


# --- the method ------------------------------------------------------------------------------------------------------

K0 = np.array([[500.0, 0, 330], [0, 510, 250], [0, 0, 1]])
K1 = np.array([[450.0, 0, 300], [0, 440, 260], [0, 0, 1]])
SIZE = (480, 640)


def correspondences(count=80):
    """Points of a cloud in two views, pixels (N, 2) each, and the pose between these."""
    rng = np.random.default_rng(0)
    X0 = np.column_stack([rng.uniform(-2, 2, (count, 2)), rng.uniform(4, 9, count)])
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = turn(12), [-1, 0.2, 0.3]
    X1 = X0 @ T[:3, :3].T + T[:3, 3]
    points = [((X / X[:, 2:]) @ K.T)[:, :2] for X, K in ((X0, K0), (X1, K1))]
    return *points, T


def sample_of(picture, T):
    return PoseSample("x", "a", picture, picture, K0, K1, T, signed=True)


def image(value):
    return Image(np.full((*SIZE, 3), value, np.uint8), f"{value}.png")


@pytest.fixture
def on_its_side(monkeypatch):
    """`match` finds things only once the picture of brightness 2 has been turned three times."""
    points0, points1, T = correspondences()
    asked = []

    def match(image0, image1, **options):
        asked.append((image1.size, options))
        found = len([each for each in asked if each[1] == options])  # the turns come one after the other
        keep = np.arange(len(points0)) if found == 4 else np.arange(6)
        moved = points1 @ np.array([[0, 1], [-1, 0]]) + (SIZE[0] - 1, 0)  # (x, y) -> (479 - y, x): three turns
        there = moved if found == 4 else np.random.default_rng(found).uniform(0, 400, points1.shape)
        return Matches(points0, there, np.stack([keep, keep], 1), np.ones(len(keep)), image0.size, image1.size)

    monkeypatch.setattr("flowkit.pipelines.match.match", match)
    return asked, points0, points1, T


@pytest.mark.parametrize("opencv", [True, False])
def test_the_best_of_four_turns_is_turned_back(on_its_side, picture, opencv):
    asked, _, points1, T = on_its_side
    turns, matches = two_view.best_turn(image(1), image(2), features="sift")
    assert turns == 3 and [size for size, _ in asked] == [SIZE, SIZE[::-1], SIZE, SIZE[::-1]]
    np.testing.assert_allclose(matches.points1, points1, atol=1e-9)
    assert matches.size1 == SIZE and asked[0][1]["features"] == "sift"
    asked.clear()
    (R, t), status = two_view.two_view(image(1), image(2), sample_of(picture, T), opencv=opencv)
    assert status == "ok" and metrics.rotation_error(R, T[:3, :3]) < 0.05
    assert metrics.translation_error(t, T[:3, 3], sign_fold=False) < 0.5


def test_three_turns_are_what_the_fixture_takes_them_for():
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[100, 30] = 255
    y, x = np.argwhere(two_view.turned(Image(pixels), 3).pixels[..., 0])[0]
    assert (x, y) == (479 - 100, 30)
    for turns in range(4):
        y, x = np.argwhere(two_view.turned(Image(pixels), turns).pixels[..., 0])[0]
        np.testing.assert_allclose(two_view.turned_back(np.array([[x, y]], float), Image(pixels), turns), [[30, 100]])


@pytest.mark.parametrize("opencv", [True, False])
def test_dense_matches_are_those_of_the_turned_target(on_its_side, picture, monkeypatch, opencv):
    """The flow lives on the target as turned, and only what is confident enough counts."""
    _, points0, points1, T = on_its_side
    turned = points1 @ np.array([[0, 1], [-1, 0]]) + (SIZE[0] - 1, 0)
    inside = ((turned > 1) & (turned < (478, 638))).all(axis=1)
    x, y = np.round(turned[inside]).astype(int).T
    given = {}

    def made_up(source, target, **options):
        given.update(options, source=source, target=target)
        uv = np.zeros((2, *target.size), np.float32)  # wrong
        confidence = np.full(target.size, 0.9, np.float32)  # and not sure
        uv[:, y, x] = (points0[inside] - [*zip(x, y, strict=True)]).T + 0
        confidence[y, x] = 0.96
        found = type("Alignment", (), {})()
        found.flow = Flow(uv, source.size, confidence)
        return found

    monkeypatch.setattr("flowkit.pipelines.dense_matches.align", made_up)
    (R, t), status = two_view.two_view(
        image(1), image(2), sample_of(picture, T), dense=True, opencv=opencv, model="dis", features="sift"
    )
    assert given["target"].size == (640, 480) and given["source"].size == SIZE
    assert given["model"] == "dis" and given["features"] == "sift" and given["multi_h"]
    assert status == "ok" and metrics.rotation_error(R, T[:3, :3]) < 1  # points were rounded to pixels
    assert metrics.translation_error(t, T[:3, 3], sign_fold=False) < 3


def test_too_few_matches(picture, monkeypatch):
    def match(image0, image1, **options):
        points = np.arange(8.0).reshape(4, 2)
        return Matches(points, points, np.stack([np.arange(4)] * 2, 1), np.ones(4), image0.size, image1.size)

    monkeypatch.setattr("flowkit.pipelines.match.match", match)
    for name in ("two-view", "two-view-opencv"):
        (result,) = run("pose", [sample_of(picture, np.eye(4))], build_methods("pose", [name]), cache=Cache(None))
        assert result.status == "too_few_matches" and result.scores["pose_error_signed"] == np.inf


# --- the command -----------------------------------------------------------------------------------------------------


def test_a_room_seen_twice_once_on_its_side(tmp_path, flowkit_cli):
    """In RANSAC-Flow's tree; the second camera is rolled by a quarter turn."""
    base = tmp_path / "images" / "reichstag" / "test"
    roll = np.array([[0, 1.0, 0], [-1, 0, 0], [0, 0, 1]])  # np.rot90: (x, y) -> (y, 239 - x)
    views = []
    for seen_from in room.poses(5)[1:4:2]:
        views.append((room.view(seen_from), room.K, seen_from))
    pixels, K, seen_from = views[1]
    K = np.array([[K[1, 1], 0, K[1, 2]], [0, K[0, 0], 239 - K[0, 2]], [0, 0, 1]])
    views[1] = np.rot90(pixels).copy(), K, roll @ seen_from
    for i, (pixels, K, T) in enumerate(views):
        write_image(base / f"images/{i}.png", pixels)
        height, width = pixels.shape[:2]
        K = K - np.array([[0, 0, (width - 1) / 2], [0, 0, (height - 1) / 2], [0, 0, 0]])
        (base / "calibration").mkdir(exist_ok=True)
        with h5py.File(base / f"calibration/{i}.h5", "w") as file:
            file["K"], file["R"], file["T"], file["imsize"] = K, T[:, :3], T[:, 3][None], [[width, height]]
    (base / "images.txt").write_text("images/0.png\nimages/1.png\n")
    (base / "calibration.txt").write_text("calibration/0.h5\ncalibration/1.h5\n")
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "reichstag-te-1000-pairs.pkl").write_bytes(pickle.dumps([(0, 1)]))
    methods = "two-view,two-view-opencv,two-view-dense-opencv"
    arguments = ["bench", "pose", "--dataset", "yfcc100m", "--root", tmp_path, "--method", methods]
    code, out, _ = flowkit_cli(*arguments, "--features", "sift", "--no-cache", "--json", "-q")
    record = json.loads(out)
    assert code == 0
    assert [row["method"] for row in record["rows"]] == [f"{name} sift" for name in methods.split(",")]
    assert all(row["map_5"] == 1 for row in record["rows"]), [pair["scores"] for pair in record["pairs"]]
