"""`flowkit pose --sequence` and `flowkit bench odometry` as users call them, on rendered frames with known cameras."""

import json
import sys
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from flowkit.cli.main import run
from flowkit.evaluation.metrics import rotation_error, translation_error
from flowkit.io import results
from flowkit.io.trajectories import read_kitti, read_tum, write_kitti, write_tum
from flowkit.pipelines import odometry as pipeline
from flowkit.pipelines.outputs import FILES

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))
import textured_room as room

CAMERA = ",".join(map(str, (room.K[0, 0], room.K[1, 1], room.K[0, 2], room.K[1, 2])))
COUNT = 5


def to_world(pose):
    T = np.eye(4)
    T[:3] = pose
    return np.linalg.inv(T)


TRUTH = np.array([to_world(pose) for pose in room.poses(11)[:COUNT]])


@pytest.fixture(scope="module")
def pictures():
    return [room.view(pose) for pose in room.poses(11)[:COUNT]]


@pytest.fixture
def sequence(tmp_path, monkeypatch, pictures):
    monkeypatch.chdir(tmp_path)
    Path("walk").mkdir()
    for i, picture in enumerate(pictures):
        cv2.imwrite(f"walk/{i:06d}.png", picture)
    write_kitti("truth.txt", TRUTH)
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run the command; its record, and what it said on stderr."""

    def run_it(*arguments, code=0):
        assert run(["pose", "--sequence", "walk", "--K", CAMERA, "--json", *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        return (json.loads(out) if out else None), err

    return run_it


def errors(record):
    """Largest error of rotation and of direction over the steps, in degrees."""
    found = []
    for i, step in enumerate(record["steps"]):
        T = np.linalg.inv(TRUTH[i + 1]) @ TRUTH[i]
        found.append((rotation_error(np.array(step["R"]), T[:3, :3]), translation_error(step["t"], T[:3, 3], False)))
    return np.max(found, axis=0)


@pytest.mark.parametrize(
    ("options", "estimator"),
    [((), "poselib"), (("--model", "dis"), "essential"), (("--model", "dis", "--estimator", "poselib"), "poselib")],
)
def test_a_walk_is_found_again_with_the_true_scale(sequence, call, options, estimator):
    features = () if options else ("--features", "sift")
    record, _ = call(*options, *features, "--ground-truth", "truth.txt")
    assert sorted(file.name for file in Path("walk_odometry").iterdir()) == sorted(FILES["odometry"])
    assert record == json.loads(Path("walk_odometry/odometry.json").read_text())
    jsonschema.Draft202012Validator(results.schemas()["odometry"]).validate(record)
    assert (record["scale"], record["estimator"], record["frames"]) == ("ground truth", estimator, COUNT)
    assert record["status"] == "ok" and record["failed"] == [] and (errors(record) < (0.5, 6)).all()
    poses = read_kitti("walk_odometry/trajectory.kitti.txt")
    expected = np.linalg.inv(TRUTH[0]) @ TRUTH
    assert np.abs(poses[:, :3, 3] - expected[:, :3, 3]).max() < 0.06
    times, tum = read_tum("walk_odometry/trajectory.tum.txt")
    assert times.tolist() == [0, 1, 2, 3, 4] and record["times"] == "place"
    np.testing.assert_allclose(tum, poses, atol=1e-12)
    assert results.is_complete("walk_odometry/odometry.json")


def test_without_truth_the_lengths_are_chained_and_it_says_so(sequence, call):
    record, _ = call("--features", "sift", "-o", "o")
    assert record["scale"] == "relative (chained)" and record["kept_lengths"] == 0
    lengths = np.array([step["length"] for step in record["steps"]])
    true = np.linalg.norm(np.diff(TRUTH[:, :3, 3], axis=0), axis=1)
    np.testing.assert_allclose(lengths, true / true[0], rtol=0.1)


def test_some_of_the_frames_and_times_from_their_names(sequence, call):
    for i in range(COUNT):
        Path(f"walk/{i:06d}.png").rename(f"walk/17.{i}00000.png")
    write_tum("truth.tum", 17 + np.arange(COUNT) / 10, TRUTH)
    record, _ = call("--features", "sift", "--ground-truth", "truth.tum", "--every", "2", "--frames", "1:5")
    assert [step["frame0"]["name"] for step in record["steps"]] == ["17.100000.png"]
    assert record["steps"][0]["frame1"] == {"name": "17.300000.png", "place": 3, "time": 17.3}
    assert record["times"] == "file names" and read_tum("walk_odometry/trajectory.tum.txt")[0].tolist() == [17.1, 17.3]
    T = np.linalg.inv(TRUTH[3]) @ TRUTH[1]
    assert record["steps"][0]["length"] == pytest.approx(np.linalg.norm(T[:3, 3]))


def test_a_gap_is_listed_and_the_pose_held(sequence, call):
    cv2.imwrite("walk/000004.png", np.full((*room.SIZE, 3), 128, np.uint8))
    record, _ = call("--features", "sift", "-o", "o")
    assert record["status"] == "ok" and record["failed"] == ["000004.png"]
    assert record["steps"][3]["R"] is None and record["steps"][3]["length"] == 0
    poses = read_kitti("o/trajectory.kitti.txt")
    np.testing.assert_array_equal(poses[4], poses[3])


def test_nothing_found_is_exit_5_and_no_trajectory(sequence, call):
    for i in range(COUNT):
        cv2.imwrite(f"walk/{i:06d}.png", np.full((*room.SIZE, 3), 128, np.uint8))
    record, _ = call("--features", "sift", "-o", "o", code=5)
    assert record["status"] == "too_few_matches" and len(record["failed"]) == 4 and record["files"] == []
    assert [file.name for file in Path("o").iterdir()] == ["odometry.json"]


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_run_keeps_what_it_has(sequence, call, monkeypatch, after):
    follow = pipeline.follow

    def interrupted(*arguments, **options):
        for i, step in enumerate(follow(*arguments, **options)):
            if i == after:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(pipeline, "follow", interrupted)
    record, err = call("--features", "sift", "-o", "o", code=130)
    assert record["stopped"] == "interrupted" and record["frames"] == after + 1 and "interrupted" in err
    assert len(read_kitti("o/trajectory.kitti.txt")) == after + 1
    assert not [file for file in Path("o").iterdir() if file.name.startswith(".")]


def test_a_frame_that_cannot_be_read_keeps_what_came_before(sequence, call):
    Path("walk/000003.png").write_bytes(b"\x89PNG not really")
    record, err = call("--features", "sift", "-o", "o", code=3)
    assert record["frames"] == 3 and "000003.png" in record["stopped"] and "000003.png" in err
    Path("walk/000001.png").write_bytes(b"\x89PNG not really")
    record, err = call("--features", "sift", "-o", "p", code=3)
    assert record is None and "000001.png" in err and not Path("p").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--dense",), 2, "--dense: not with --sequence"),
        (("--ply",), 2, "--ply: not with --sequence"),
        (("--K0", CAMERA), 2, "--K0: not with --sequence"),
        (("--mask0", "auto"), 2, "--mask0: not with --sequence"),
        (("--jobs", "2"), 2, "--jobs 2: only together with --pairs"),
        (("--confidence", "0.5"), 2, "only together with --model"),
        (("--model", "dis", "--features", "sift"), 2, "--features: of features"),
        (("--frames", "3"), 2, "--frames 3: give A:B"),
        (("--frames", "3:4"), 2, "two frames are needed"),
        (("--frames", "9:"), 3, "has no frame 9"),
        (("--distortion", "1,2,3"), 2, "--distortion 1,2,3: give 2, 4 or 5 numbers"),
        (("--estimator", "magic"), 2, "magic"),
        (("--ground-truth", "other.txt"), 3, "has poses of 0 of the frames"),
        (("--model", "nonsense"), 2, "nonsense"),
    ],
)
def test_wrong_options_are_one_clear_line(sequence, call, options, code, words):
    write_tum("other.txt", np.array([100.0, 101]), TRUTH[:2])
    record, err = call(*options, "-o", "o", code=code)
    assert record is None and words in err and err.count("\n") == 1, err
    assert not Path("o").exists()


def test_options_of_sequences_need_one(sequence, capsys):
    assert run(["pose", "walk/000000.png", "walk/000001.png", "--K", CAMERA, "--every", "2"]) == 2
    assert "--every 2: only together with --sequence" in capsys.readouterr().err
    assert run(["pose", "walk/000000.png", "walk/000001.png", "--sequence", "walk"]) == 2
    assert "only one of them" in capsys.readouterr().err


def test_results_are_not_replaced_unasked(sequence, call):
    call("--features", "sift", "-o", "o", "--frames", ":2")
    _, err = call("--features", "sift", "-o", "o", code=2)
    assert "is there already" in err
    record, _ = call("--features", "sift", "-o", "o", "--overwrite", "--no-pictures", "--frames", ":3")
    assert record["frames"] == 3 and not Path("o/trajectory.png").exists()


def test_bench_of_a_sequence_in_kittis_layout(sequence, capsys):
    folder = Path("kitti/sequences/07/image_0")
    folder.parent.mkdir(parents=True)
    Path("walk").rename(folder)
    P = np.column_stack([room.K, np.zeros(3)])
    Path("kitti/sequences/07/calib.txt").write_text("P0: " + " ".join(map(str, P.ravel())) + "\n")
    Path("kitti/poses").mkdir()
    write_kitti("kitti/poses/07.txt", TRUTH)
    command = ["bench", "odometry", "kitti", "--method", "sift,dis", "--estimator", "poselib"]
    assert run([*command, "--output", "b", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(row["method"], row["group"], row["failed"]) for row in record["rows"]] == [
        ("sift poselib", "07", 0),
        ("dis poselib", "07", 0),
    ]
    for row in record["rows"]:
        assert row["t_err"] is None and row["rotation_error_mean"] < 0.4 and row["translation_error_mean"] < 5
        assert row["rpe_translation"] < 0.02 and row["ate_scaled"] <= row["ate"] < 0.03
    assert len(record["pairs"]) == 8 and record["pairs"][0]["sample"] == "07/000000.png-000001.png"
    table = Path("b/rows.md").read_text().splitlines()
    assert table[0].startswith("| odometry | method | pairs | failed | t_err % |") and "| n/a |" in table[2]
    assert sorted(file.name for file in Path("b").iterdir()) == ["bench.json", "pairs.csv", "rows.csv", "rows.md"]
    chained = [*command[:3], "--method", "sift", "--scale", "chained", "--limit", "3", "--json"]
    assert run(chained) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["pairs"] == 3 and row["ate"] == pytest.approx(row["ate_scaled"], rel=0.5) and row["ate"] < 0.03
    assert run(["bench", "odometry", "kitti", "--sequence", "09"]) == 2
    assert "--sequence 09: kitti has 07" in capsys.readouterr().err
