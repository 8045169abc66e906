"""`flowkit flow --K` through the installed command: the motion in flow.json, the residual as numbers and as a picture."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

FLOWKIT = Path(sys.executable).with_name("flowkit")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FLOWKIT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two textured planes at different depths, seen by a camera that moves to the right; in front of them something rises."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def texture(height: int, width: int) -> np.ndarray:
        grain = sum(cv2.resize(rng.random((height // s, width // s, 3)), (width, height)) for s in (3, 6, 12))
        return (255 * grain / grain.max()).astype(np.uint8)

    far, near, thing = texture(160, 240), texture(60, 240), texture(36, 36)
    views = []
    for shift in (0, 1):
        view = far[:120, 4 * shift : 160 + 4 * shift].copy()
        view[70:] = near[:50, 12 * shift : 160 + 12 * shift]
        top = 14 - 7 * shift
        view[top : top + 36, 60:96] = thing
        views.append(view)
    files = folder / "a.png", folder / "b.png"
    for file, view in zip(files, views, strict=True):
        cv2.imwrite(str(file), view)
    matrix = folder / "K.txt"
    np.savetxt(matrix, [[150.0, 0, 79.5], [0, 150, 59.5], [0, 0, 1]])
    return *files, matrix


def test_motion_residual_and_summary(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, K = pictures
    done = run("flow", a, b, "--model", "dis", "--bidirectional", "--K", K, "--output", tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "flow.json").read_text())
    motion = record["egomotion"]
    assert {"epipolar.npy", "epipolar.png"} <= set(record["files"])
    residual = np.load(tmp_path / "epipolar.npy")
    assert residual.shape == (120, 160) and residual.dtype == np.float32
    assert motion["K0"] == motion["K1"] and motion["K0"][0][0] == 150
    assert motion["rotation_angle_deg"] < 1
    if motion["t"] is not None:  # a camera that moves right sees the world move left
        assert motion["t"][0] < -0.9
    assert np.median(residual[20:36, 70:86]) > 4 * np.median(residual[90:])
    assert 0.01 < motion["unexplained_share"] < 0.4
    assert "px off it" in done.stdout


def test_without_intrinsics_there_is_none(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, _ = pictures
    done = run("flow", a, b, "--model", "dis", "--output", tmp_path)
    assert done.returncode == 0
    assert json.loads((tmp_path / "flow.json").read_text())["egomotion"] is None
    assert not (tmp_path / "epipolar.npy").exists()


def test_intrinsics_of_a_list_and_a_wrong_matrix(pictures: tuple[Path, Path, Path], tmp_path: Path) -> None:
    a, b, _ = pictures
    (tmp_path / "pairs.txt").write_text(f"{a} {b} 0 0 150 0 79.5 0 150 59.5 0 0 1 150 0 79.5 0 150 59.5 0 0 1\n")
    done = run("flow", "--pairs", tmp_path / "pairs.txt", "--model", "dis", "--output", tmp_path / "out", "-q")
    assert done.returncode == 0, done.stderr
    (record,) = (tmp_path / "out").glob("*/flow.json")
    assert json.loads(record.read_text())["egomotion"]["K1"][1][1] == 150
    wrong = run("flow", a, b, "--model", "dis", "--K", "1,2,3", "--output", tmp_path / "wrong")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr and not (tmp_path / "wrong").exists()
