"""`flowkit match --reconstruct` and `--localize`: files, exit codes and refusals."""

import json

import cv2
import h5py
import numpy as np
import pytest

from flowkit.cli.main import run
from flowkit.io.hloc import read_hloc
from flowkit.io.images import write_image


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three crops of one texture, each (6, 4) pixels further than the one before, in folders; and one of noise."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.uniform(0, 255, (200, 240)).astype(np.float32), (0, 0), 1.5)
    texture = np.clip((texture - texture.mean()) / texture.std() * 50 + 128, 0, 255).astype(np.uint8)
    for i, name in enumerate(("db/0.png", "db/1.png", "query/2.png")):
        write_image(root / name, texture[4 * i : 4 * i + 128, 6 * i : 6 * i + 160])
    write_image(root / "noise.png", rng.integers(0, 256, (64, 64), np.uint8))
    return root


def localize(photos, folder, lines, *more):
    folder.parent.mkdir(parents=True, exist_ok=True)
    pairs = folder.parent / "list.txt"
    pairs.write_text("".join(f"{line}\n" for line in lines))
    given = ["--localize", folder, "--pairs", pairs, "--image-root", photos, "--features", "sift", "-q", *more]
    return run(["match", *map(str, given)])


def test_localize_writes_hlocs_files_and_goes_on(photos, tmp_path):
    lines = ["db/0.png db/1.png", "query/2.png db/0.png", "query/2.png db/1.png"]
    assert localize(photos, tmp_path / "out", lines[:2]) == 0
    before = read_hloc(tmp_path / "out/features.h5", tmp_path / "out/matches.h5", "query/2.png", "db/0.png")
    assert localize(photos, tmp_path / "out", lines) == 0
    manifest = json.loads((tmp_path / "out/failures.json").read_text())
    assert (manifest["computed"], manifest["skipped"], manifest["failed"]) == (1, 2, 0)
    with h5py.File(tmp_path / "out/matches.h5") as store:
        assert {f"{a}/{b}" for a in store for b in store[a]} == {
            "db-0.png/db-1.png", "query-2.png/db-0.png", "query-2.png/db-1.png"
        }  # fmt: skip
    after = read_hloc(tmp_path / "out/features.h5", tmp_path / "out/matches.h5", "query/2.png", "db/0.png")
    np.testing.assert_array_equal(before.keypoints0, after.keypoints0)
    np.testing.assert_allclose(np.median(after.points1 - after.points0, axis=0), [12, 8], atol=0.1)
    assert (tmp_path / "out/pairs.txt").read_text().splitlines() == lines


def test_localize_leaves_out_what_it_cannot_read(photos, tmp_path):
    assert localize(photos, tmp_path / "out", ["db/0.png ghost.png", "db/0.png db/1.png"]) == 6
    manifest = json.loads((tmp_path / "out/failures.json").read_text())
    assert [failure["image1"] for failure in manifest["failures"]] == ["ghost.png"]
    assert (tmp_path / "out/pairs.txt").read_text() == "db/0.png db/1.png\n"


def test_localize_by_a_dense_flow(photos, tmp_path, capsys):
    lines = ["db/0.png db/1.png", "query/2.png db/0.png"]
    dense = ["--model", "dis", "--max-keypoints", "200"]
    assert localize(photos, tmp_path / "out", lines, *dense) == 0
    files = tmp_path / "out/features.h5", tmp_path / "out/matches.h5"
    first, second = (read_hloc(*files, *line.split()) for line in lines)
    np.testing.assert_array_equal(first.keypoints0, second.keypoints1)
    for found, moved in ((first, (-6, -4)), (second, (12, 8))):
        assert len(found) > 50
        vectors = found.points1 - found.points0
        np.testing.assert_allclose(np.median(vectors, axis=0), moved, atol=0.1)
        assert np.linalg.norm(vectors - moved, axis=1).max() < 6  # whatever their descriptors say
    assert localize(photos, tmp_path / "out", lines, *dense, "--model", "raft-xfeat") == 2
    assert "model: dis, now raft-xfeat" in capsys.readouterr().err
    assert localize(photos, tmp_path / "other", lines, *dense, "--guide", "dis") == 2
    assert "--guide" in capsys.readouterr().err
    assert localize(photos, tmp_path / "other", lines, *dense, "--features", "xfeat*") == 2
    assert "xfeat*" in capsys.readouterr().err
    assert run(["match", "--reconstruct", str(tmp_path / "r"), "--sequence", str(photos), "--model", "dis"]) == 2
    assert "--reconstruct" in capsys.readouterr().err


def test_localize_refuses(photos, tmp_path, capsys):
    line = ["db/0.png db/1.png"]
    assert localize(photos, tmp_path / "out", line) == 0
    for more, words in (
        (["--max-keypoints", "7"], "max_keypoints"),
        (["--shard", "1/2"], "--shard"),
        (["--every", "2"], "--reconstruct"),
        (["--output", str(tmp_path)], "--output"),
    ):
        assert localize(photos, tmp_path / "out", line, *more) == 2
        assert words in capsys.readouterr().err
    assert localize(photos, tmp_path / "star", line, "--features", "xfeat*") == 2
    assert "xfeat*" in capsys.readouterr().err
    assert run(["match", "--localize", str(tmp_path / "none")]) == 2
    assert "--pairs" in capsys.readouterr().err


def test_localize_writes_a_database(photos, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    assert localize(photos, tmp_path / "out", ["db/0.png db/1.png"], "--colmap", tmp_path / "x.db") == 0
    database = pycolmap.Database.open(tmp_path / "x.db")
    try:
        assert database.num_matched_image_pairs() == 1 and database.exists_image("db/0.png")
    finally:
        database.close()
    assert localize(photos, tmp_path / "out", ["db/0.png db/1.png"], "--colmap", tmp_path / "x.db") == 2


def test_reconstruct_says_that_there_is_no_model(photos, tmp_path, capsys):
    pytest.importorskip("pycolmap")
    for i in range(3):
        write_image(tmp_path / "grey" / f"{i}.png", np.full((64, 64), 100, np.uint8))
    code = run(["match", "--reconstruct", str(tmp_path / "out"), "--sequence", str(tmp_path / "grey"), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert code == 5 and record["status"] == "too_few_matches" and record["missing"] == ["0.jpg", "1.jpg", "2.jpg"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["reconstruction.json"]


def test_reconstruct_refuses(photos, tmp_path, capsys, monkeypatch):
    folder = ["--reconstruct", str(tmp_path / "out")]
    for arguments, words in (
        (folder, "--sequence"),
        ([*folder, "--sequence", str(photos / "db"), "--distortion", "0.1,0"], "--K"),
        ([*folder, "--sequence", str(photos / "db"), "--neighbours", "0"], "--neighbours"),
        ([*folder, "--sequence", str(photos / "db"), "a.png", "b.png"], "leave A, B"),
        (["--one-camera", "a.png", "b.png"], "--reconstruct"),
    ):
        assert run(["match", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert run(["match", *folder, "--sequence", str(photos / "noise.png")]) == 3
    monkeypatch.setitem(__import__("sys").modules, "pycolmap", None)
    assert run(["match", *folder, "--sequence", str(photos / "db")]) == 2
    assert "flowkit-align[colmap]" in capsys.readouterr().err
