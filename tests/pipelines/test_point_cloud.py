"""Two views of a scene whose every depth is known: what is triangulated from the exact flow, and what is left out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import flowkit
from flowkit.errors import InputError, UsageError
from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential, sampson_corrected, sampson_error
from flowkit.pipelines.dense_matches import spread_matches, usable
from flowkit.pipelines.masks import Masks
from flowkit.pipelines.point_cloud import point_cloud, triangulated
from flowkit.types import Flow, Matches, RelativePose, Status

SIZE = (96, 128)
K0 = np.array([[110.0, 0, 63.5], [0, 112, 47.5], [0, 0, 1]])
K1 = np.array([[120.0, 0, 60.0], [0, 118, 50.0], [0, 0, 1]])
ANGLE = 0.08
R = np.array([[np.cos(ANGLE), 0, np.sin(ANGLE)], [0, 1, 0], [-np.sin(ANGLE), 0, np.cos(ANGLE)]])
T = np.array([-0.96, 0.0, 0.28])


def scene():
    """Pixels of image0 (H, W, 2), the points behind them (H, W, 3), where they are in image1 (H, W, 2)."""
    x, y = np.meshgrid(np.arange(SIZE[1], dtype=float), np.arange(SIZE[0], dtype=float))
    depth = 4 + np.sin(x / 9) + 0.6 * np.cos(y / 7) + 3 * (x > 64)
    points = depth[..., None] * (np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K0).T)
    seen = (points @ R.T + T) @ K1.T
    return np.stack([x, y], -1), points, seen[..., :2] / seen[..., 2:]


def solved(status=Status.OK, degeneracy="none", R=R, t=T):
    none = np.zeros((0, 2), np.float32)
    matches = Matches(none, none, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), SIZE, SIZE)
    return RelativePose(R, t, None, K0, K1, status, degeneracy, matches, 1.0, "given")


def exact_flow():
    pixels, _, there = scene()
    uv = (there - pixels).transpose(2, 0, 1).astype(np.float32)
    return Flow(uv, SIZE, np.ones(SIZE, np.float32))


def picture():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def test_exact_matches_give_back_the_scene():
    pixels, points, there = (a.reshape(-1, a.shape[-1]) for a in scene())
    found, good = triangulated(solved(), pixels, there, max_error=1e-6, min_parallax=1)
    assert good.all()
    np.testing.assert_allclose(found, points, rtol=1e-9)


def test_matches_off_their_lines_are_moved_onto_them_and_no_further():
    pixels, _, there = (torch.from_numpy(a.reshape(-1, a.shape[-1])) for a in scene())
    F = fundamental_from_essential(
        essential_from_pose(torch.from_numpy(R), torch.from_numpy(T)), *map(torch.from_numpy, (K0, K1))
    )
    noisy = there + 0.5 * torch.from_numpy(np.random.default_rng(0).normal(size=there.shape))
    before = sampson_error(F, pixels, noisy)
    moved = sampson_corrected(F, pixels, noisy)
    way = torch.cat([moved[0] - pixels, moved[1] - noisy], 1).norm(dim=1)
    torch.testing.assert_close(way, before)
    assert sampson_error(F, *moved).max() < 1e-2 * before.max()


def test_a_cloud_has_every_confident_pixel_once_in_its_colour():
    _, points, _ = scene()
    flow, shown = exact_flow(), picture()
    cloud = point_cloud(solved(), flow, shown)
    inside = flow.inside
    assert cloud.reason is None and 0.7 * inside.size < len(cloud) == inside.sum()
    np.testing.assert_allclose(cloud.points, points[inside], rtol=2e-4)
    np.testing.assert_array_equal(cloud.colours, shown[inside])
    np.testing.assert_allclose(R @ cloud.camera1 + T, 0, atol=1e-12)
    third = point_cloud(solved(), flow, shown, stride=3)
    np.testing.assert_array_equal(third.points, points_at(cloud, inside, np.s_[1::3, 1::3]))


def points_at(cloud, inside, where):
    full = np.full((*SIZE, 3), np.nan, np.float32)
    full[inside] = cloud.points
    taken = full[where].reshape(-1, 3)
    return taken[np.isfinite(taken[:, 0])]


def test_what_cannot_be_relied_on_is_left_out():
    flow = exact_flow()
    uv, sure = flow.uv.copy(), flow.confidence.copy()
    wrong = {
        "unsure": np.s_[:8],
        "off its line": np.s_[8:16],
        "behind": np.s_[16:24],
        "far": np.s_[24:32],
        "masked": np.s_[32:40],
        "unknown": np.s_[40:48],
    }
    pixels, points, _ = scene()
    sure[wrong["unsure"]] = 0.9
    uv[1][wrong["off its line"]] += 4
    for name, scale in (("behind", -1.0), ("far", 200.0)):
        seen = (scale * points[wrong[name]] @ R.T + T) @ K1.T
        uv[:, wrong[name]] = (seen[..., :2] / seen[..., 2:] - pixels[wrong[name]]).transpose(2, 0, 1)
    uv[:, wrong["unknown"]] = np.nan
    mask = np.ones(SIZE, bool)
    mask[wrong["masked"]] = False
    cloud = point_cloud(solved(), replace(flow, uv=uv, confidence=sure), picture(), masks=Masks(mask))
    inside = flow.inside.copy()
    inside[:48] = False
    np.testing.assert_allclose(cloud.points, points[inside], rtol=2e-4)


def test_without_a_translation_there_is_no_cloud_and_a_reason():
    flow, shown = exact_flow(), picture()
    turned = point_cloud(solved(Status.DEGENERATE, "pure_rotation", t=None), flow, shown)
    assert not len(turned) and "only turned" in turned.reason
    lost = point_cloud(solved(Status.NO_OVERLAP, R=None, t=None), flow, shown)
    assert not len(lost) and "no_overlap" in lost.reason
    assert "confidence of 2" in point_cloud(solved(), flow, shown, confidence=2).reason
    assert "80 degrees of parallax" in point_cloud(solved(), flow, shown, min_parallax=80).reason
    with pytest.raises(InputError, match="no confidence"):
        point_cloud(solved(), replace(flow, confidence=None), shown)


def test_a_cloud_without_points_is_not_written(tmp_path):
    cloud = point_cloud(solved(Status.NO_OVERLAP, R=None, t=None), exact_flow(), picture())
    with pytest.raises(ValueError, match="no_overlap"):
        cloud.write(tmp_path / "p.ply", "a", "b")
    assert not list(tmp_path.iterdir())


# --- the pose of a dense flow ----------------------------------------------------------------------------------------


def test_pose_of_a_flow():
    shown = picture()
    found = flowkit.pose(shown, shown, K0, K1, dense=exact_flow())
    assert found.status is Status.OK and found.degeneracy == "none"
    np.testing.assert_allclose(found.R, R, atol=1e-4)
    np.testing.assert_allclose(found.t, T, atol=1e-3)
    assert len(found.matches) > 3000 and found.matches.inliers.mean() > 0.99
    assert found.run.options["dense"] is True and found.run.options["confidence"] == 0.95


def test_only_confident_matches_count():
    shown, flow = picture(), exact_flow()
    rng = np.random.default_rng(1)
    uv, sure = flow.uv.copy(), flow.confidence.copy()
    uv[:, :70] += rng.normal(0, 9, uv[:, :70].shape)
    sure[:70] = 0.94
    found = flowkit.pose(shown, shown, K0, K1, dense=Flow(uv, SIZE, sure))
    assert found.status is Status.OK and found.matches.points0[:, 1].min() >= 70
    np.testing.assert_allclose(found.t, T, atol=5e-3)
    masked = flowkit.pose(shown, shown, K0, K1, dense=flow, mask0=np.arange(96)[:, None].repeat(128, 1) >= 70)
    assert masked.matches.points0[:, 1].min() >= 70
    assert masked.run.options["mask0"]["used"] == pytest.approx(26 / 96, abs=1e-4)


def test_too_little_confidence_is_said_and_nothing_is_made_up():
    shown, flow = picture(), exact_flow()
    sure = np.zeros(SIZE, np.float32)
    sure[40:50, 60:70] = 1  # 0.8 % of the picture, though its 100 matches would do for a pose
    found = flowkit.pose(shown, shown, K0, K1, dense=replace(flow, confidence=sure))
    assert found.status is Status.TOO_FEW_MATCHES and found.R is None and not found.matches.inliers.any()
    assert found.run.options["confident"] == pytest.approx(0.0081, abs=1e-4)
    nothing = Flow(np.full_like(flow.uv, np.nan), SIZE, np.zeros(SIZE, np.float32))
    assert flowkit.pose(shown, shown, K0, K1, dense=nothing).status is Status.NO_OVERLAP


def test_options_that_do_not_go_together_are_refused():
    shown = picture()
    with pytest.raises(UsageError, match="--model raft"):
        flowkit.pose(shown, shown, K0, K1, model="raft")
    with pytest.raises(UsageError, match="--guide life"):
        flowkit.pose(shown, shown, K0, K1, dense=exact_flow(), guide="life")


def test_matches_are_spread_over_what_is_usable():
    flow = exact_flow()
    sure = np.where(np.arange(SIZE[1]) < 40, 1, 0.3).astype(np.float32)[None].repeat(SIZE[0], 0)
    keep = usable(replace(flow, confidence=sure), 0.95)
    found = spread_matches(flow, keep, 300, "given")
    assert 250 < len(found) <= 300
    counts, _, _ = np.histogram2d(*found.points0.T, bins=(4, 4), range=((0, 40), (0, 96)))
    reached = keep[:, :40].reshape(4, 24, 4, 10).mean((1, 3)).T > 0.95
    assert counts[reached].min() > 0.6 * counts[reached].max()
