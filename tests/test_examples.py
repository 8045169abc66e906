"""The pictures in examples/ are what the script renders, and their stated motion brings one onto the other."""

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("render_examples", EXAMPLES / "render_examples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(file) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(file).convert("RGB"))


def pulled(image: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """The image that the flow points into, brought onto the flow's grid."""
    import cv2

    rows, columns = np.indices(uv.shape[1:], np.float32)
    at = np.nan_to_num(np.stack([columns, rows]) + uv, nan=-9)
    return cv2.remap(image, at[0], at[1], cv2.INTER_LINEAR)


def correlation(a: np.ndarray, b: np.ndarray, mask: np.ndarray) -> float:
    return float(np.corrcoef(a[mask].ravel().astype(np.float64), b[mask].ravel().astype(np.float64))[0, 1])


def check_direction(grid_picture, other, uv, visible=True, at_least=0.97):
    mask = np.isfinite(uv).all(axis=0) & visible
    right = correlation(pulled(other, uv), grid_picture, mask)
    wrong = correlation(pulled(other, -uv), grid_picture, mask)
    assert right > at_least
    assert wrong < right - 0.05


def test_pictures_are_what_the_script_renders(script):
    pytest.importorskip("skimage")
    for name, data in script.render_all().items():
        committed, fresh = picture(EXAMPLES / name).astype(int), picture(io.BytesIO(data)).astype(int)
        assert committed.shape == fresh.shape, name
        assert np.abs(committed - fresh).mean() < 1.5, name
        assert (EXAMPLES / name).stat().st_size < 200_000, name


def test_ground_truth_file_is_current(script):
    stated = json.loads((EXAMPLES / "ground_truth.json").read_text(encoding="utf-8"))
    assert stated == json.loads(json.dumps(script.ground_truth()))


def test_two_planes_motion(script):
    source, target = picture(EXAMPLES / "two_planes_source.jpg"), picture(EXAMPLES / "two_planes_target.jpg")
    uv, occluded = script.two_planes_flow()
    scene = script.undo_light(target / 255.0)
    check_direction(scene, source, uv, ~occluded, at_least=0.95)
    assert 0.05 < occluded.mean() < 0.3


def test_two_planes_light_is_undone(script):
    scene = np.random.default_rng(0).uniform(size=(5, 40, 3))
    np.testing.assert_allclose(script.undo_light(script.relight(scene)), scene, atol=1e-12)


def test_coffee_motion(script):
    check_direction(picture(EXAMPLES / "coffee_0.jpg"), picture(EXAMPLES / "coffee_1.jpg"), script.coffee_flow())
    assert script.coffee_homography()[2, 2] == 1


def test_chelsea_motion(script):
    uv = script.chelsea_flow()
    check_direction(picture(EXAMPLES / "chelsea_0.png"), picture(EXAMPLES / "chelsea_1.png"), uv, at_least=0.99)
    assert 5 < np.nanmax(np.hypot(*uv)) < 8


@pytest.mark.parametrize("model", ["liteflownetx", "raft-xfeat"])
def test_shipped_networks_find_the_cats_motion(script, model):
    import flowkit

    truth = script.chelsea_flow()  # 3.6 px long in the mean
    found = flowkit.flow(EXAMPLES / "chelsea_0.png", EXAMPLES / "chelsea_1.png", model=model).uv
    assert np.nanmean(np.hypot(*(found - truth))) < 0.6
