"""MegaDepth in CAPS' layout, written by the test from cameras that are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowkit.datasets.megadepth_caps import read_megadepth_caps
from flowkit.errors import InputError
from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential, symmetric_epipolar_distance

SIZES = [(40, 60), (50, 45), (48, 64), (48, 64)]
TURNS = [
    (0.1, -0.2, 0.05),
    (-0.1, 0.3, 0.1),
    (0.05, -0.4, 0.2),
    (0.1, 1.5, 0.05),
]  # the last is 97 degrees from the first


def cameras():
    """K in pixels whose origin is the corner of the top-left one, R and t of world -> camera, by the picture's name."""
    rng = np.random.default_rng(4)
    result = {}
    for number, ((height, width), turn) in enumerate(zip(SIZES, TURNS, strict=True)):
        K = np.array([[50.0 + number, 0, width / 2 + 1.5], [0, 52, height / 2 - 1], [0, 0, 1]])
        t = rng.uniform([-1, -1, 5], [1, 1, 7])
        result[f"p{number}.jpg"] = K, cv2.Rodrigues(np.array(turn))[0], t, (height, width)
    return result


def lay_out(root: Path, pairs, scene="0001", dense="dense0"):
    folder = root / scene / dense / "aligned"
    (folder / "images").mkdir(parents=True)
    lines = ["# name, size, K, R, t"]
    for name, (K, R, t, (height, width)) in cameras().items():
        numbers = [K[0, 0], K[1, 1], K[0, 2], K[1, 2], *R.ravel(), *t]
        lines.append(f"{name} {width} {height} {' '.join(map(repr, map(float, numbers)))}")
        cv2.imwrite(str(folder / "images" / name), np.zeros((height, width, 3), np.uint8))
    (folder / "img_cam.txt").write_text("\n".join(lines) + "\n")
    (folder / "pairs.txt").write_text("".join(f"p{i}.jpg p{j}.jpg\n" for i, j in pairs))
    return folder


def test_pairs_fit_the_cameras_they_come_from(tmp_path):
    lay_out(tmp_path, [(0, 1), (2, 1), (2, 0)])
    pairs = read_megadepth_caps(tmp_path)
    assert [pair.name for pair in pairs] == ["0001/dense0/p0-p1", "0001/dense0/p2-p1", "0001/dense0/p2-p0"]
    world = np.random.default_rng(0).uniform(-1, 1, (30, 3))
    for pair in pairs:
        shown = []
        for path in (pair.image0, pair.image1):
            K, R, t, _ = cameras()[path.name]
            seen = (world @ R.T + t) @ K.T
            shown.append(seen[:, :2] / seen[:, 2:] - 0.5)
        T, K0, K1, *points = map(torch.from_numpy, (pair.T_0to1, pair.K0, pair.K1, *shown))
        F = fundamental_from_essential(essential_from_pose(T[:3, :3], T[:3, 3]), K0, K1)
        assert symmetric_epipolar_distance(F, *points).max() < 1e-6
        assert symmetric_epipolar_distance(F, *(p + 0.5 for p in points)).median() > 1e-3
        assert symmetric_epipolar_distance(F.mT, *points).median() > 0.5
        assert pair.view0.size == cameras()[pair.image0.name][3] == pair.view0.read().shape[:2]


def test_pairs_that_turn_too_far_are_left_out(tmp_path):
    lay_out(tmp_path, [(0, 3), (0, 1)])
    assert [pair.name[-5:] for pair in read_megadepth_caps(tmp_path)] == ["p0-p1"]
    assert len(read_megadepth_caps(tmp_path, max_rotation=180)) == 2
    with pytest.raises(InputError, match="at most 10 degrees"):
        read_megadepth_caps(tmp_path, max_rotation=10)


def test_layouts(tmp_path):
    lay_out(tmp_path / "train", [(0, 1)])
    lay_out(tmp_path / "train", [(0, 1), (1, 2)], "0002", "dense")
    lay_out(tmp_path / "train", [(0, 1)], "0002", "dense1")
    lay_out(tmp_path / "test", [(1, 2)])
    names = [pair.name for pair in read_megadepth_caps(tmp_path)]
    assert names == ["0001/dense0/p0-p1", "0002/dense/p0-p1", "0002/dense/p1-p2", "0002/dense1/p0-p1"]
    assert [pair.name for pair in read_megadepth_caps(tmp_path / "train")] == names
    assert [pair.name for pair in read_megadepth_caps(tmp_path / "train" / "0002")] == names[1:]
    assert [pair.name for pair in read_megadepth_caps(tmp_path, part="test")] == ["0001/dense0/p1-p2"]
    (tmp_path / "train/0001/dense0/aligned/pairs.txt").unlink()  # CAPS has such scenes
    assert [pair.name for pair in read_megadepth_caps(tmp_path)] == names[1:]


def test_subsampling_is_seeded(tmp_path):
    lay_out(tmp_path, [(0, 1), (1, 0), (1, 2), (2, 1), (0, 2), (2, 0)])
    draws = [[pair.name for pair in read_megadepth_caps(tmp_path, max_pairs=3, seed=s)] for s in (0, 0, 1)]
    assert len(draws[0]) == 3 and draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pairs.txt", "p1.jpg", "p9.jpg", r"pairs\.txt:1: p9\.jpg has no camera"),
        ("pairs.txt", "p1.jpg", "", r"pairs\.txt:1: has 1 words"),
        ("img_cam.txt", "p0.jpg 60", "p0.jpg", r"img_cam\.txt:2: has 18 fields where 19"),
        ("img_cam.txt", "p0.jpg 60", "p0.jpg sixty", r"img_cam\.txt:2: 'sixty' is not a number"),
        ("img_cam.txt", "60 40 50.0", "60 40 -50.0", r"img_cam\.txt:2: .*focal"),
        ("img_cam.txt", " 0.97", " 7.97", r"img_cam\.txt:2: .*no rotation"),
    ],
)
def test_broken_lists(tmp_path, file, old, new, message):
    path = lay_out(tmp_path, [(0, 1)]) / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_megadepth_caps(tmp_path)


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(InputError, match=r"has no SCENE/dense\*/aligned/img_cam\.txt"):
        read_megadepth_caps(tmp_path)
    folder = lay_out(tmp_path, [(0, 1)])
    (folder / "images" / "p1.jpg").unlink()
    with pytest.raises(InputError, match=r"p1\.jpg: no such file"):
        read_megadepth_caps(tmp_path)
