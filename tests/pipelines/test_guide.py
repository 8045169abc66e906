"""Guided matching through the pipelines: original pixels, every feature by the same flows, provenance, what is refused."""

from dataclasses import replace
from types import MappingProxyType

import cv2
import numpy as np
import pytest
import skimage.data

import flowkit
from flowkit.errors import UsageError, WeightsError
from flowkit.models.registry import MODELS
from flowkit.pipelines import guide as module
from flowkit.pipelines import match as matching
from flowkit.pipelines.guide import Guide, resolve_guide
from flowkit.types import Image

MOTION = np.array([[0.72, 0.04, 9.0], [-0.03, 0.7, 14.0], [0, 0, 1]])
SIZE0, SIZE1 = (240, 280), (200, 230)


@pytest.fixture(scope="module")
def images():
    """A photo and a smaller picture of it, image1(MOTION p) = image0(p)."""
    photo = cv2.resize(skimage.data.astronaut(), SIZE0[::-1], interpolation=cv2.INTER_AREA)
    return Image(photo), Image(cv2.warpPerspective(photo, MOTION, SIZE1[::-1], flags=cv2.INTER_AREA))


def flow_of(matrix, size):
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    mapped = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    return (mapped[..., :2] / mapped[..., 2:] - np.stack([x, y], -1)).transpose(2, 0, 1).astype(np.float32)


@pytest.fixture
def true_guide(monkeypatch):
    """Guides are the true flows; the names asked for are kept."""
    asked = []

    def flows(image0, image1, name, **options):
        asked.append(name)
        there, back = flow_of(MOTION, image0.size), flow_of(np.linalg.inv(MOTION), image1.size)
        return Guide(name, there, back, {"g.safetensors": "abc"}, 0.5, ("guide: a note",))

    monkeypatch.setattr(matching, "guide_flows", flows)
    return asked


def error_of(matches):
    points = np.c_[matches.points0, np.ones(len(matches))] @ MOTION.T
    return np.linalg.norm(points[:, :2] / points[:, 2:] - matches.points1, axis=1)


@pytest.mark.parametrize("resize", [None, 200, (200, 150)])
def test_stage_1_is_around_the_flow_in_original_pixels(images, true_guide, resize):
    found = flowkit.match(*images, features="sift", guide="some", guide_radius=2, resize=resize, device="cpu")
    first = found.stage == 1
    assert first.sum() > 60 and error_of(found)[first].max() <= 2.01
    assert (found.size0, found.size1) == (SIZE0, SIZE1) and found.keypoints0[:, 0].max() > 240
    plain = flowkit.match(*images, features="sift", resize=resize, device="cpu")
    assert plain.stage is None and (error_of(found) <= 2).sum() > (error_of(plain) <= 2).sum()
    np.testing.assert_allclose(found.keypoints0, plain.keypoints0)
    pairs = {tuple(p) for p in plain.pairs}
    assert {tuple(p) for p in found.pairs[~first]} <= pairs


def test_every_feature_is_led_by_the_same_flows(images, true_guide, monkeypatch):
    monkeypatch.setattr(matching, "kept_matcher", None)  # what would be used without a guide
    both = flowkit.match(*images, features="sift+affine-sift", guide="some", max_keypoints=300, device="cpu")
    assert true_guide == ["some"] and both.origins == ("sift", "affine-sift")
    alone = flowkit.match(*images, features="sift", guide="some", max_keypoints=300, device="cpu")
    of_sift = both.origin == 0
    np.testing.assert_array_equal(both.pairs[of_sift], alone.pairs)
    np.testing.assert_array_equal(both.stage[of_sift], alone.stage)
    assert {1, 2} >= set(both.stage[~of_sift]) and (both.stage[~of_sift] == 1).sum() > 30
    run = both.run
    assert [run.options[name] for name in ("guide", "guide_init", "guide_radius")] == ["some", "matches", 5.0]
    assert run.weights == {"g.safetensors": "abc"} and "guide: a note" in run.notes
    assert run.seconds["guide"] == 0.5 and run.method == "sift+affine-sift"


def test_homography_and_pose_hand_the_guide_on(images, true_guide):
    options = {"features": "sift", "guide": "some", "guide_radius": 3.0, "device": "cpu"}
    found = flowkit.homography(*images, **options)
    assert true_guide == ["some"]
    np.testing.assert_allclose(found.matrix, MOTION, atol=0.5)
    assert found.run.options["guide"] == "some" and found.run.options["guide_radius"] == 3.0
    assert found.run.weights == {"g.safetensors": "abc"} and found.matches.stage is not None
    K = np.array([[300.0, 0, 140], [0, 300, 120], [0, 0, 1]])
    found = flowkit.pose(*images, K, K, **options)
    assert true_guide == ["some", "some"] and found.run.options["guide_radius"] == 3.0
    assert (found.matches.stage == 1).sum() > 60
    assert "guide" not in flowkit.pose(*images, K, K, features="sift", device="cpu").run.options


def test_a_real_flow_leads_there_and_back(images):
    """DIS knows which way is which; the second picture here is the first, moved by whole pixels."""
    big = images[0].pixels
    first, second = Image(big[:200, :240]), Image(big[6:206, 9:249])
    found = flowkit.match(first, second, features="sift", guide="dis", guide_radius=1.0, device="cpu")
    near = found.stage == 1
    assert near.mean() > 0.8
    np.testing.assert_allclose(np.median(found.points1[near] - found.points0[near], axis=0), [-9, -6], atol=0.1)
    assert found.run.options["guide"] == "dis"


def test_a_motion_too_wide_for_the_flow_alone_is_led_from_matches():
    """A turn by 30 degrees: DIS by itself goes astray."""
    photo = Image(cv2.resize(skimage.data.astronaut(), (360, 360), interpolation=cv2.INTER_AREA))
    turn = np.vstack([cv2.getRotationMatrix2D((180, 180), 30, 0.9), [0, 0, 1]])
    turned = Image(cv2.warpPerspective(photo.pixels, turn, (360, 360), flags=cv2.INTER_AREA))
    middle = np.s_[:, 120:240, 120:240]
    truth = flow_of(turn, photo.size)[middle]

    def median_error(flow):
        return np.median(np.linalg.norm(flow[middle] - truth, axis=0))

    guide = module.guide_flows(photo, turned, "dis", device="cpu")
    assert median_error(guide.forward) < 3
    assert median_error(flowkit.flow(photo, turned, model="dis", device="cpu").uv) > 6


def test_large_images_are_led_by_the_flow_of_smaller_ones(images, monkeypatch):
    import flowkit.pipelines.flow as flows

    sizes = []

    def flow(image0, image1, **options):
        sizes.append(options["resize"])
        return real(image0, image1, **options)

    real = flows.flow
    monkeypatch.setattr(flows, "flow", flow)
    monkeypatch.setattr(module, "MAX_SIDE", 120)
    guide = module.guide_flows(*images, "dis", device="cpu")
    assert guide.forward.shape == (2, *SIZE0) and guide.backward.shape == (2, *SIZE1) and sizes == [120]
    assert any("worked at 120x" in note for note in guide.notes)
    truth = flow_of(MOTION, SIZE0)[:, 60:-60, 60:-60]
    assert np.median(np.linalg.norm(guide.forward[:, 60:-60, 60:-60] - truth, axis=0)) < 1.5
    module.guide_flows(*images, "dis", resize=160, device="cpu")
    assert sizes == [120, 160]


def with_models(monkeypatch, *names):
    rows = dict(MODELS) | {name: replace(MODELS["raft-xfeat"], name=name, weights=name) for name in names}
    rows = {name: row for name, row in rows.items() if not name.startswith("life") or name in names}
    monkeypatch.setattr(module, "MODELS", MappingProxyType(rows))
    monkeypatch.setattr("flowkit.models.registry.MODELS", MappingProxyType(rows))


def test_life_is_the_best_there_is(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path))
    with_models(monkeypatch, "life", "life-small")
    monkeypatch.setattr(module, "_has_weights", lambda name: True)
    assert resolve_guide("life") == module.Choice("life")
    monkeypatch.setattr(module, "_has_weights", lambda name: False)
    choice = resolve_guide("life")
    assert choice.model == "life-small" and choice.weights is None and "'life-small' takes its place" in choice.note
    assert resolve_guide("life-small").note is None
    (tmp_path / "life.safetensors").write_bytes(b"")
    assert resolve_guide("life") == module.Choice("life", tmp_path / "life.safetensors")
    assert resolve_guide("raft=own=2.safetensors").weights.name == "own=2.safetensors"
    with_models(monkeypatch)
    with pytest.raises(UsageError, match="use one of dis"):
        resolve_guide("life")


def test_weights_on_this_machine(monkeypatch):
    assert module._has_weights("raft-xfeat") and not module._has_weights("raft")
    assert not module._has_weights("dis") and not module._has_weights("unheard-of")


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"guide": "rafft"}, "no model is called 'rafft'"),
        ({"guide": "dis=file"}, "'dis' is no network"),
        ({"guide": "dis", "guide_radius": 0}, "--guide-radius 0: give more"),
        ({"guide": "dis", "guide_radius": float("nan")}, "--guide-radius nan: give more"),
        ({"guide_radius": 3}, "--guide-radius 3: only together with --guide"),
        ({"guide": "dis", "features": "sift+xfeat*"}, "use --features xfeat"),
        ({"guide": "dis", "features": "surf"}, "no feature is called 'surf'"),
        ({"feature_weights": {"sift": "x"}}, "only superpoint, r2d2, vgg16, resnet50, moco, conv4 take a file"),
        ({"feature_weights": {"r2d2": "x"}}, "sift.xfeat does not use it"),
    ],
)
def test_what_makes_no_sense(images, options, fault):
    for verb in (flowkit.match, flowkit.homography):
        with pytest.raises(UsageError, match=fault):
            verb(*images, device="cpu", **options)


def test_files_of_features_reach_them_wherever_they_are_matched(images, tmp_path):
    """Also the views that a homography is settled in, for which nobody names the file again."""
    torch = pytest.importorskip("torch")
    from flowkit.features.superpoint import Network

    torch.manual_seed(0)
    state = Network().state_dict()
    torch.save(state | {"convPb.weight": 30 * state["convPb.weight"]}, tmp_path / "sp.pth")
    options = {"features": "sift+superpoint", "feature_weights": {"superpoint": tmp_path / "sp.pth"}, "device": "cpu"}
    found = flowkit.homography(*images, **options)
    np.testing.assert_allclose(found.matrix, MOTION, atol=0.5)
    assert found.run.weights.keys() == {"sp.pth"} and found.run.options["features"] == "sift+superpoint"
    assert any("non-commercial" in note for note in found.run.notes)
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file"):
        flowkit.match(*images, **options | {"feature_weights": {"superpoint": tmp_path / "none.pth"}})
