"""`warp --homography` of our own JSON gives a picture of the size of the image it maps into."""

import json

import numpy as np

from flowkit.cli.main import run
from flowkit.io.images import read_image, write_image


def test_the_result_has_the_size_of_the_image_that_the_homography_maps_into(tmp_path):
    rng = np.random.default_rng(0)
    write_image(tmp_path / "a.png", rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    record = {"matrix": np.eye(3).tolist(), "image1": {"name": "b.png", "size": [30, 50]}}
    (tmp_path / "homography.json").write_text(json.dumps(record))
    base = ["warp", str(tmp_path / "a.png"), "--homography", str(tmp_path / "homography.json"), "-q"]
    assert run([*base, "--output", str(tmp_path / "w")]) == 0
    assert read_image(tmp_path / "w" / "warped.png").size == (30, 50)
    assert run([*base, "--size", "20x25", "--output", str(tmp_path / "v")]) == 0
    assert read_image(tmp_path / "v" / "warped.png").size == (25, 20)


def test_high_effort_refuses_a_working_size(tmp_path, capsys):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", np.zeros((40, 60, 3), np.uint8))
    line = ["homography", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--effort", "high", "--resize", "32"]
    assert run([*line, "--output", str(tmp_path / "o")]) == 2
    assert "--resize" in capsys.readouterr().err
