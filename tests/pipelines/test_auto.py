"""`flow` without a model: what a few matches say of rendered pairs, which method that leads to, and what it answers."""

from dataclasses import replace

import numpy as np
import pytest

import flowkit
from flowkit.errors import UsageError
from flowkit.pipelines import auto
from flowkit.pipelines.auto import ALIGN, ALIGN_AUTO, ALIGN_RANSAC_FLOW, FALLBACK, KEYPOINTS, Regime, choose, judge
from flowkit.types import Image

cv2 = pytest.importorskip("cv2")

NEAR = Regime(
    matches=800,
    agreeing=700,
    displacement_px=12,
    displacement_share=0.02,
    rotation_deg=1,
    scale=1.02,
    stretch=1.03,
    planarity=0.5,
    light=0.97,
)


def warped(photo, matrix):
    """image1 with image1(H p) = image0(p)."""
    return cv2.warpPerspective(photo, matrix, photo.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def turn(degrees, scale, photo):
    """About the middle of the picture, clockwise as seen."""
    height, width = photo.shape[:2]
    return np.vstack([cv2.getRotationMatrix2D((width / 2, height / 2), -degrees, scale), [0, 0, 1]])


def error(uv, matrix, border=60):
    """Median distance to the flow of a homography, away from the border."""
    height, width = uv.shape[1:]
    y, x = np.mgrid[:height, :width].astype(float)
    mapped = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    truth = (mapped[..., :2] / mapped[..., 2:] - np.stack([x, y], -1)).transpose(2, 0, 1)
    return np.median(np.linalg.norm(uv - truth, axis=0)[border:-border, border:-border])


# --- the regime --------------------------------------------------------------------------------------------------------


def test_a_shift_is_judged_in_original_pixels(photo):
    moved = warped(photo, shift(30, -16))
    regime = judge(Image(photo), Image(moved), device="cpu")
    assert 100 < regime.agreeing <= regime.matches <= KEYPOINTS
    assert regime.displacement_px == pytest.approx(34, abs=3)  # XFeat's points are good to a pixel or two
    assert regime.displacement_share == pytest.approx(34 / 384, abs=0.008)
    assert abs(regime.rotation_deg) < 0.5 and regime.scale == pytest.approx(1, abs=0.01) and regime.stretch < 1.02
    assert regime.planarity > 0.9 and regime.light > 0.95
    twice = [Image(cv2.resize(each, (1536, 1280), interpolation=cv2.INTER_CUBIC)) for each in (photo, moved)]
    large = judge(*twice, device="cpu")
    assert large.displacement_px == pytest.approx(4 * 34, abs=8)
    assert large.displacement_share == pytest.approx(regime.displacement_share, abs=0.01)


def test_a_turn_and_a_zoom_are_told(photo):
    regime = judge(Image(photo), Image(warped(photo, turn(15, 1.2, photo))), device="cpu")
    assert regime.rotation_deg == pytest.approx(15, abs=1) and regime.scale == pytest.approx(1.2, abs=0.03)
    assert regime.planarity > 0.8
    squeezed = warped(photo, np.array([[0.7, 0, 50.0], [0, 1, 0], [0, 0, 1]]))
    assert judge(Image(photo), Image(squeezed), device="cpu").stretch == pytest.approx(1 / 0.7, abs=0.05)


def test_another_light_is_told_and_a_mere_gain_is_none(photo):
    darker = (photo * 0.6).astype(np.uint8)
    assert judge(Image(photo), Image(darker), device="cpu").light > 0.99
    lamp = np.abs(np.linspace(-1, 1, photo.shape[1]))[None, :, None] ** 0.5
    relit = np.clip(0.35 * photo + 230 * lamp * (photo / 255.0) ** 0.3, 0, 255).astype(np.uint8)
    assert judge(Image(photo), Image(relit), device="cpu").light < 0.8


def test_nothing_is_made_up_where_nothing_agrees(photo, unrelated):
    blank = np.full_like(photo, 128)
    for other in (unrelated, blank):
        regime = judge(Image(photo), Image(other), device="cpu")
        assert not regime.known and np.isnan(regime.displacement_px) and np.isnan(regime.light)


# --- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("dis --init matches", {}),
        ("dis --init matches", {"planarity": 0.9}),
        (ALIGN_AUTO, {"agreeing": 3}),
        (ALIGN_RANSAC_FLOW, {"rotation_deg": -30}),
        (ALIGN_RANSAC_FLOW, {"scale": 0.6}),
        (ALIGN_RANSAC_FLOW, {"scale": 1.6}),
        (ALIGN_RANSAC_FLOW, {"stretch": 1.8}),
        (ALIGN_RANSAC_FLOW, {"displacement_share": 0.4}),
        (ALIGN_RANSAC_FLOW, {"displacement_share": 0.1, "planarity": 0.9}),
        ("life-small", {"light": 0.6}),
        (ALIGN, {"displacement_share": 0.1}),
        (ALIGN, {"displacement_share": 0.4, "light": 0.6}),
    ],
)
def test_each_regime_has_its_method(method, changes):
    choice = choose(replace(NEAR, **changes))
    assert choice.method == method
    assert "{" not in choice.reason and "nan" not in choice.reason


def test_every_method_of_the_table_can_be_run():
    methods = {rule.method for rule in auto.RULES} | {FALLBACK}
    assert methods <= set(auto.DENSE) | set(auto.ALIGNMENTS)


# --- the flow ----------------------------------------------------------------------------------------------------------


def test_a_small_shift_is_found_and_explained(photo):
    matrix = shift(5, -3)
    found = flowkit.flow(photo, warped(photo, matrix), features="sift", device="cpu")
    assert found.run.method == "dis --init matches" and error(found.uv, matrix) < 0.1
    said = found.run.options["auto"]
    assert said["method"] == found.run.method and "in the same light" in said["reason"]
    assert said["regime"]["displacement_px"] == pytest.approx(5.8, abs=3)
    assert found.run.options["features"] == "sift" and found.run.options["model"] == "dis"
    assert "xfeat" in found.run.weights and 0 < found.run.seconds["judge"] < found.run.seconds["total"]


def test_a_turned_and_smaller_picture_is_aligned_both_ways(photo):
    matrix = turn(40, 0.7, photo)
    found = flowkit.flow(photo, warped(photo, matrix), bidirectional=True, features="sift", device="cpu", seed=3)
    assert found.run.method == ALIGN_RANSAC_FLOW and error(found.uv, matrix) < 0.5
    assert error(found.backward.uv, np.linalg.inv(matrix), 120) < 0.5
    assert found.run.seed == 3 and found.backward.run.options["auto"] == found.run.options["auto"]


def test_where_nothing_aligns_a_dense_method_answers_and_says_so(photo, unrelated):
    found = flowkit.flow(photo, unrelated, features="sift", resize=128, device="cpu")
    assert found.run.method == FALLBACK and found.valid.all()
    reason = found.run.options["auto"]["reason"]
    assert "matches agree" in reason and f"{ALIGN_AUTO} found no reliable homography" in reason


def test_a_network_does_not_take_on_any_size(photo, monkeypatch):
    monkeypatch.setattr(auto, "RULES", (auto.Rule("life-small", lambda regime: True, "for a test"),))
    monkeypatch.setattr(auto, "NETWORK_PIXELS", 80 * 96)
    small = flowkit.flow(photo, photo, device="cpu")
    assert small.run.method == "life-small" and small.run.working_size0 == (80, 96) and small.size == (320, 384)
    asked = flowkit.flow(photo, photo, resize=144, device="cpu")
    assert asked.run.working_size0 == (120, 144)


def test_a_way_back_that_is_missing_is_no_alignment(photo, monkeypatch):
    """Only one direction has a homography: then the fallback gives both."""
    from flowkit.pipelines import flow as flows

    aligned = flows.by_alignment

    def one_way(*arguments, **options):
        found = aligned(*arguments, **options)
        return replace(found, backward=replace(found.backward, uv=np.full_like(found.backward.uv, np.nan)))

    monkeypatch.setattr(flows, "by_alignment", one_way)
    moved = warped(photo, turn(40, 0.7, photo))
    found = flowkit.flow(photo, moved, bidirectional=True, features="sift", device="cpu")
    assert found.run.method == FALLBACK and found.backward.valid.all()


@pytest.mark.parametrize(
    "given",
    [
        {"preset": "fast"},
        {"init": "matches"},
        {"weights": "w.safetensors"},
        {"iterations": 3},
        {"precision": "bf16"},
        {"tile": True},
        {"flip_test": True},
        {"initial": np.zeros((2, 16, 16))},
    ],
)
def test_what_only_some_methods_take_needs_a_model(given):
    picture = np.zeros((16, 16, 3), np.uint8)
    with pytest.raises(UsageError, match="name another --model"):
        flowkit.flow(picture, picture, **given)


@pytest.mark.parametrize("size", [(16, 16), (40, 17)])
def test_the_smallest_pictures_have_a_flow(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = flowkit.flow(picture, picture, device="cpu")
    assert found.uv.shape == (2, *size) and found.valid.any()
