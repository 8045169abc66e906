"""`flowkit pose --dense`, `--ply` and the masks, as users call them, on two pictures of a room whose depths are known."""

import json
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from flowkit.cli.main import run
from flowkit.io.matches import read_matches
from flowkit.io.results import is_complete

sys.path.append(str(Path(__file__).parents[1] / "pipelines"))
import textured_room as room

CAMERA = ("--K", ",".join(map(str, (room.K[0, 0], room.K[1, 1], room.K[0, 2], room.K[1, 2]))))


@pytest.fixture
def views(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, pose in zip(("a.png", "b.png"), room.poses()[[1, 3]], strict=True):
        cv2.imwrite(name, room.view(pose))
    return "a.png", "b.png"


@pytest.fixture
def pose(capsys):
    """Run the command; its record, summary and code."""

    def call(*arguments, code=0):
        assert run(["pose", *map(str, arguments), "--features", "sift", "--output", "o", "--overwrite"]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(Path("o/pose.json").read_text()), out

    return call


def vertices(path):
    """The points and colours of a PLY, read as its header says."""
    header, _, body = Path(path).read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    assert properties == [*(["float", n] for n in "xyz"), *(["uchar", n] for n in ("red", "green", "blue"))]
    (count,) = [int(line.split()[2]) for line in lines if line.startswith("element vertex")]
    rows = list(struct.iter_unpack("<fffBBB", body))
    assert len(rows) == count
    return np.array([row[:3] for row in rows]), np.array([row[3:] for row in rows]), lines


def room_pose():
    first, second = (np.vstack([pose, [0, 0, 0, 1]]) for pose in room.poses()[[1, 3]])
    return second @ np.linalg.inv(first)


def test_dense_pose_and_its_point_cloud(views, pose):
    record, out = pose(*views, *CAMERA, "--dense", "--ply", "--model", "dis", "--stride", "2")
    T = room_pose()
    assert np.abs(np.array(record["R"]) - T[:3, :3]).max() < 0.01
    assert np.array(record["t"]) @ T[:3, 3] / np.linalg.norm(T[:3, 3]) > 0.999
    assert record["files"] == ["pose.png", "two_view.ply"] and is_complete("o/pose.json")
    options = record["provenance"]["options"]
    assert options["dense"] is True and options["model"] == "dis" and options["confidence"] == 0.95
    assert options["cloud"]["stride"] == 2 and options["cloud"]["min_parallax"] == 1

    points, colours, header = vertices("o/two_view.ply")
    assert record["point_cloud"]["points"] == len(points) > 1000 and record["point_cloud"]["reason"] is None
    assert f"{len(points)} points" in out and "o/two_view.ply" in out
    assert any("A = a.png, B = b.png" in line for line in header if line.startswith("comment"))
    first = room.poses()[1]
    world = (np.linalg.norm(T[:3, 3]) * points - first[:, 3]) @ first[:, :3]
    off = np.min([np.abs(world @ np.array(normal) - d) for normal, d in room.PLANES], axis=0)
    assert np.median(off) < 0.03
    # every point has the colour of the pixel that it projects to
    x, y = np.rint(points @ room.K.T / points[:, 2:]).astype(int)[:, :2].T
    shown = cv2.imread("a.png")[..., ::-1]
    near = [
        np.abs(shown[(y + dy).clip(0, 179), (x + dx).clip(0, 239)].astype(int) - colours).max(1)
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert np.mean(np.min(near, axis=0) == 0) > 0.95


def test_a_cloud_may_hang_on_a_sparse_pose(views, pose):
    record, _ = pose(*views, *CAMERA, "--ply", "--confidence", "0.8", "--min-parallax", "3", "--no-pictures")
    assert "dense" not in record["provenance"]["options"] and record["matches"] < 2000
    assert record["provenance"]["options"]["cloud"]["confidence"] == 0.8
    points, _, _ = vertices("o/two_view.ply")
    to_b = points + np.array(record["R"]).T @ np.array(record["t"])
    cosine = (points * to_b).sum(1) / np.linalg.norm(points, axis=1) / np.linalg.norm(to_b, axis=1)
    assert np.degrees(np.arccos(cosine)).min() > 2.99
    record, out = pose(*views, *CAMERA, "--no-pictures")
    assert record["point_cloud"] is None and not Path("o/two_view.ply").exists() and "points" not in out


def test_without_a_translation_there_is_no_file_and_a_line_that_says_why(views, pose, tmp_path):
    a = cv2.imread("a.png")
    turned = np.array([[1, 0.01, 3], [-0.01, 1, 2], [0, 0, 1]])
    cv2.imwrite("b.png", cv2.warpPerspective(a, turned, a.shape[1::-1], borderMode=cv2.BORDER_REFLECT))
    record, out = pose("a.png", "b.png", *CAMERA, "--dense", "--ply", code=5)
    assert record["status"] == "degenerate" and record["degeneracy"] == "pure_rotation"
    assert record["point_cloud"]["points"] == 0 and "only turned" in record["point_cloud"]["reason"]
    assert "no two_view.ply: the camera only turned" in out
    assert [file.name for file in Path("o").iterdir()] == ["pose.json"]


def test_masks(views, pose, capsys):
    left = np.zeros(room.SIZE, np.uint8)
    left[:, :150] = 255
    cv2.imwrite("left.png", left)
    for dense in ((), ("--dense", "--ply")):
        record, _ = pose(*views, *CAMERA, "--mask0", "left.png", "--mask1", "auto", *dense)
        said = record["provenance"]["options"]
        assert said["mask0"] == {"from": "left.png", "used": 0.625} and said["mask1"]["from"] == "auto"
    points, _, _ = vertices("o/two_view.ply")
    assert (points @ room.K.T / points[:, 2:])[:, 0].max() < 151
    assert run(["match", *views, "--features", "sift", "--mask1", "left.png", "--output", "m", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    found = read_matches("m/matches.npz")
    assert len(found) == record["matches"] > 20 and found.points1[:, 0].max() < 150
    assert record["provenance"]["options"]["mask1"]["used"] == 0.625


def test_a_list_that_turns_pictures_turns_their_masks_along(views, pose):
    cv2.imwrite("t.png", np.rot90(cv2.imread("a.png"), -1))
    mask = np.zeros(room.SIZE, np.uint8)
    mask[:, :150] = 255
    cv2.imwrite("m.png", np.rot90(mask, -1))
    fx, fy, cx, cy = room.K[0, 0], room.K[1, 1], room.K[0, 2], room.K[1, 2]
    stored = f"{fy} 0 {room.SIZE[0] - 1 - cy} 0 {fx} {cx} 0 0 1"
    Path("list.txt").write_text(f"t.png b.png 1 0 {stored} {fx} 0 {cx} 0 {fy} {cy} 0 0 1\n")
    arguments = ["pose", "--pairs", "list.txt", "--mask0", "m.png", "--features", "sift", "--output", "o", "-q"]
    assert run(arguments) == 0
    record = json.loads(Path("o/t_b/pose.json").read_text())
    assert record["status"] == "ok" and record["provenance"]["options"]["mask0"]["used"] == 0.625
    cv2.imwrite("m.png", mask)
    upright, _ = pose(*views, *CAMERA, "--mask0", "m.png")
    assert (record["R"], record["t"]) == (upright["R"], upright["t"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "dis"), 2, "--model dis: only together with --dense or --ply"),
        (("--iters", "3"), 2, "--iters 3: only together with --dense or --ply"),
        (("--confidence", "0.9"), 2, "--confidence 0.9: only together with --dense or --ply"),
        (("--dense", "--stride", "2"), 2, "--stride 2: only together with --ply"),
        (("--min-parallax", "2"), 2, "--min-parallax 2"),
        (("--dense", "--guide", "life"), 2, "--guide"),
        (("--dense", "--model", "nope"), 2, "nope"),
        (("--mask0", "small.png"), 3, "small.png: is 20x30 pixels, the picture it masks 240x180"),
        (("--dense", "--mask1", "none.png"), 3, "none.png"),
    ],
)
def test_what_makes_no_sense_is_one_line(views, capsys, arguments, code, words):
    cv2.imwrite("small.png", np.zeros((30, 20), np.uint8))
    assert run(["pose", *views, *CAMERA, *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err and not Path("a_b").exists()
