"""benchmarks/egomotion_real.py: poses of a video whose poses are known, failures counted, a table that people can read."""

import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from flowkit.datasets.samples import PoseSample

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scripts():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield loaded("egomotion_real"), loaded("engine_video")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def root(scripts, tmp_path_factory):
    """Three frames of an engine's scene where KITTI's are looked for."""
    photos, root = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("root")
    rng = np.random.default_rng(0)
    for name in "ab":
        noise = cv2.resize(rng.uniform(0, 255, (60, 90, 3)).astype(np.uint8), (300, 200))
        cv2.imwrite(str(photos / f"{name}.png"), noise)
    with pytest.MonkeyPatch.context() as patch:
        options = ["--scenes", "1", "--frames", "3", "--size", "96x128", "--seed", "3"]
        patch.setattr(sys, "argv", ["engine_video.py", str(photos), str(root / "pose_kitti_odometry"), *options])
        scripts[1].main()
    return root


def test_poses_of_a_known_video(scripts, root, tmp_path, monkeypatch, capsys):
    out = tmp_path / "found.json"
    options = ["--models", "dis", "--features", "", "--fits", "essential,poselib", "--datasets", "kitti-odometry"]
    options += ["--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["egomotion_real.py", str(root), *options])
    scripts[0].main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("| data") and len(lines) == 2 + 2
    rows = json.loads(out.read_text())["summary"]
    assert [(row["matches"], row["fit"]) for row in rows] == [("dis", "essential"), ("dis", "poselib")]
    for row in rows:
        assert row["pairs"] == 2 and row["failed"] == 0
        assert row["rotation_mean"] < 0.1 and row["translation_mean"] <= row["signed_mean"] < 5


def test_what_is_not_found_counts_as_the_worst(scripts):
    path = Path("none.png")
    T = np.eye(4)
    T[0, 3] = 1
    sample = PoseSample("kitti-odometry", "a", path, path, np.eye(3), np.eye(3), T)
    failed = scripts[0].errors(sample, None, None)
    assert failed == {"rotation": 180.0, "translation": 90.0, "signed": 180.0}
    turned_round = scripts[0].errors(sample, np.eye(3), np.array([-1.0, 0, 0]))
    assert turned_round == pytest.approx({"rotation": 0.0, "translation": 0.0, "signed": 180.0})
    common = {"dataset": "kitti-odometry", "matches": "dis", "fit": "pose", "count": 5, "fit_s": 1.0}
    rows = [{**common, "failed": bool(e["rotation"]), **e} for e in (failed, turned_round)]
    (line,) = scripts[0].summary(rows)
    assert line["failed"] == 1 and line["rotation_mean"] == 90 and line["signed_median"] == 180


def test_the_real_pairs(scripts, shared):
    module, data = scripts[0], shared / "data"
    counts = {name: len(module.samples_of(data, name)[0]) for name in module.DATASETS.split(",")}
    assert counts == {"kitti-odometry": 14, "fountain-p11": 10, "tum-fr2-desk": 6}
    assert any(module.samples_of(data, "tum-fr2-desk")[1])
