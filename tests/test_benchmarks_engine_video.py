"""benchmarks/engine_video.py: what it writes is read back as KITTI's odometry, and the flow belongs to poses and pictures."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from flowkit.datasets.kitti_odometry import read_kitti_odometry
from flowkit.io.flow_files import read_flow
from flowkit.io.images import read_image

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("engine_video", BENCHMARKS / "engine_video.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    import cv2

    folder = tmp_path_factory.mktemp("photos")
    for seed in range(2):
        noise = np.random.default_rng(seed).uniform(0, 255, (20, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{seed}.png"), cv2.resize(noise, (300, 200), interpolation=cv2.INTER_CUBIC))
    return folder


def test_videos_are_read_back_as_kitti_odometry(script, photos, tmp_path, monkeypatch):
    out = tmp_path / "videos"
    options = ["--scenes", "2", "--frames", "4", "--size", "48x64", "--plain", "0.3", "--repeating", "0.3", "--flow"]
    monkeypatch.setattr(sys, "argv", ["engine_video.py", str(photos), str(out), *options])
    script.main()
    samples = read_kitti_odometry(out)
    assert [sample.name for sample in samples[:2]] == ["00/000000-000001", "00/000001-000002"] and len(samples) == 6
    for sample in samples:
        one, two = read_image(sample.image0).rgb8.astype(float), read_image(sample.image1).rgb8.astype(float)
        assert one.shape == (48, 64, 3) and 0.1 < np.abs(one - two).mean() < 60
        sequence, frame = sample.image0.parent.parent.name, sample.image0.stem
        uv = read_flow(out / "flow" / sequence / f"{frame}.flo").reshape(2, -1)
        y, x = np.mgrid[:48, :64].reshape(2, -1)
        here = np.stack([x, y, np.ones_like(x)])
        there = np.stack([x + uv[0], y + uv[1], np.ones_like(x)])
        R, t = sample.T_0to1[:3, :3], sample.T_0to1[:3, 3]
        E = np.cross(t / np.linalg.norm(t), R, axisb=0, axisc=0)  # [t]x R
        inverse = np.linalg.inv(sample.K0)
        line = inverse.T @ E @ inverse @ here
        distance = np.abs((there * line).sum(0)) / np.hypot(line[0], line[1])
        assert np.isfinite(distance).mean() > 0.95
        assert np.nanquantile(distance, 0.99) < 0.01
