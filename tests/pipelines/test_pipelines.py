"""The pipelines on rendered pairs whose exact motion is known: directions, sizes, statuses, failures."""

import numpy as np
import pytest

import flowkit
from flowkit.errors import InputError, UsageError
from flowkit.pipelines.filling import fill
from flowkit.pipelines.pose import from_matches as pose_from_matches
from flowkit.pipelines.seeding import Planes, densify, locally_consistent
from flowkit.types import Fit, Image, Matches, Status

cv2 = pytest.importorskip("cv2")


TRUE_H = np.array([[1.02, 0.08, 12.0], [-0.06, 0.97, 7.0], [5e-5, -4e-5, 1.0]])


def warped(photo, matrix, size=None):
    """image1 with image1(H p) = image0(p)."""
    height, width = size or photo.shape[:2]
    return cv2.warpPerspective(photo, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def flow_of(matrix, size):
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(float)
    mapped = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T
    return (mapped[..., :2] / mapped[..., 2:] - np.stack([x, y], -1)).transpose(2, 0, 1)


def interior_error(uv, truth, border=40):
    error = np.linalg.norm(uv - truth, axis=0)[border:-border, border:-border]
    assert np.isfinite(error).all()
    return float(np.median(error))


def test_flow_goes_from_image0_to_image1(photo):
    moved = warped(photo, np.array([[1, 0, 5.0], [0, 1, -3.0], [0, 0, 1]]))
    found = flowkit.flow(photo, moved, model="dis", bidirectional=True)
    assert found.uv.shape == (2, 320, 384) and found.uv.dtype == np.float32
    middle = found.uv[:, 60:-60, 60:-60]
    assert np.median(middle[0]) == pytest.approx(5, abs=0.1) and np.median(middle[1]) == pytest.approx(-3, abs=0.1)
    back = found.backward.uv[:, 60:-60, 60:-60]
    assert np.median(back[0]) == pytest.approx(-5, abs=0.1) and np.median(back[1]) == pytest.approx(3, abs=0.1)
    assert found.confidence[60:-60, 60:-60].mean() > 0.8 and found.occlusion[60:-60, 60:-60].mean() < 0.1
    # What leaves the picture on the right is occluded.
    assert found.occlusion[100:-100, -4:].mean() > 0.9


def test_flow_between_sizes_is_in_original_pixels(photo):
    half = cv2.resize(photo, (192, 160), interpolation=cv2.INTER_AREA)
    found = flowkit.flow(photo, half, model="dis")
    truth = flow_of(np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]]), (320, 384))
    assert found.size1 == (160, 192) and interior_error(found.uv, truth) < 0.1


def test_resize_does_not_move_the_result(photo):
    moved = warped(photo, np.array([[1, 0, 6.0], [0, 1, 2.0], [0, 0, 1]]))
    found = flowkit.flow(photo, moved, model="dis", resize=192)
    assert found.run.working_size0 == (160, 192)
    assert interior_error(found.uv, flow_of(np.array([[1, 0, 6.0], [0, 1, 2.0], [0, 0, 1]]), (320, 384))) < 0.3


def test_matches_find_what_dis_cannot(photo):
    far = np.array([[1, 0, 90.0], [0, 1, 40.0], [0, 0, 1]])
    moved = warped(photo, far)
    truth = flow_of(far, photo.shape[:2])
    inside = (slice(None), slice(20, 220), slice(20, 260))
    seeded = flowkit.flow(photo, moved, model="dis", init="matches", features="sift")
    assert np.median(np.linalg.norm(seeded.uv - truth, axis=0)[inside[1:]]) < 0.3
    plain = flowkit.flow(photo, moved, model="dis")
    assert np.median(np.linalg.norm(plain.uv - truth, axis=0)[inside[1:]]) > 3


def test_identical_images_have_zero_flow(photo):
    assert np.abs(flowkit.flow(photo, photo, model="dis").uv).max() < 0.05


@pytest.mark.parametrize("wrong", [{"model": "raft9"}, {"preset": "slow"}, {"init": "guess"}])
def test_unknown_options_are_usage_errors(photo, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong.values()))):
        flowkit.flow(photo, photo, **{"model": "dis", **wrong})


def test_too_small_an_image_is_named():
    with pytest.raises(InputError, match="at least 16"):
        flowkit.flow(np.zeros((1, 1, 3), np.uint8), np.zeros((64, 64, 3), np.uint8))


def test_homography_takes_image0_to_image1(photo):
    found = flowkit.homography(photo, warped(photo, TRUE_H), features="sift")
    assert found.status is Status.OK and found.matrix[2, 2] == 1
    assert interior_error(flow_of(found.matrix, (320, 384)), flow_of(TRUE_H, (320, 384)), 1) < 0.5


def test_homography_with_a_resize_and_another_size(photo):
    scale = np.array([[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1.0]]) @ TRUE_H
    found = flowkit.homography(photo, warped(photo, scale, (640, 768)), features="sift", resize=400)
    assert interior_error(flow_of(found.matrix, (320, 384)), flow_of(scale, (320, 384)), 1) < 1.0


def test_unrelated_pictures_have_no_homography(photo, unrelated):
    found = flowkit.homography(photo, unrelated, features="sift")
    assert found.matrix is None and found.status in (Status.NO_OVERLAP, Status.TOO_FEW_MATCHES, Status.DEGENERATE)


def test_black_pictures_have_too_few_matches():
    black = np.zeros((100, 120, 3), np.uint8)
    assert flowkit.homography(black, black).status is Status.TOO_FEW_MATCHES


def test_refinement_mends_what_few_matches_leave_open(photo):
    from flowkit.pipelines.refinement import refine_homography

    rough = TRUE_H + np.array([[0.02, 0, -3], [0.01, 0, 2], [3e-5, 0, 0]])
    refined = refine_homography(photo, warped(photo, TRUE_H), rough)
    truth = flow_of(TRUE_H, (320, 384))
    assert interior_error(flow_of(rough, (320, 384)), truth, 1) > 1.0
    assert interior_error(flow_of(refined, (320, 384)), truth, 1) < 0.3


def test_align_brings_source_onto_target(photo):
    source = warped(photo, TRUE_H)
    found = flowkit.align(source, photo, features="sift")
    truth = flow_of(TRUE_H, (320, 384))
    assert found.status is Status.OK and len(found.homographies) == 1
    inside = found.flow.confidence > 0.5
    assert inside.mean() > 0.7
    assert np.median(np.linalg.norm(found.flow.uv - truth, axis=0)[inside]) < 0.3
    picture = flowkit.warp(source, flow=found.flow.uv)
    difference = np.abs(picture.pixels.astype(int) - photo)[inside]
    assert difference.mean() < 6 < np.abs(source.astype(int) - photo)[inside].mean()


def test_align_finds_two_planes(photo, unrelated):
    background, poster = TRUE_H, np.array([[1.0, 0, 40.0], [0, 1.0, 10.0], [0, 0, 1]])
    target = photo.copy()
    target[100:260, 90:250] = unrelated[60:220, 100:260]
    source = warped(photo, background)
    layer, mask = np.zeros_like(photo), np.zeros(photo.shape[:2], np.uint8)
    layer[100:260, 90:250], mask[100:260, 90:250] = target[100:260, 90:250], 255
    moved = warped(layer, poster), warped(mask, poster) > 127
    source = np.where(moved[1][..., None], moved[0], source)
    found = flowkit.align(source, target, multi_h=True)
    assert len(found.homographies) >= 2
    truth = np.where(mask > 0, flow_of(poster, (320, 384)), flow_of(background, (320, 384)))
    inside = found.flow.confidence > 0.5
    assert np.median(np.linalg.norm(found.flow.uv - truth, axis=0)[inside]) < 0.3
    poster_only = inside & (mask > 0)
    assert poster_only.sum() > 15000
    assert np.median(np.linalg.norm(found.flow.uv - truth, axis=0)[poster_only]) < 0.4


def test_align_turns_the_source_when_it_must(photo):
    turned = np.ascontiguousarray(np.rot90(photo))
    found = flowkit.align(turned, photo, features="xfeat")
    x, y = np.meshgrid(np.arange(384), np.arange(320))
    # np.rot90 (counter-clockwise) takes (x, y) to (y, width - 1 - x).
    truth = np.stack([y - x, 383 - x - y]).astype(float)
    assert found.status is Status.OK
    assert np.median(np.linalg.norm(found.flow.uv - truth, axis=0)) < 0.5


def test_a_failed_alignment_says_so_and_invents_nothing(photo, unrelated):
    found = flowkit.align(unrelated, photo, features="sift")
    assert found.status is not Status.OK
    assert np.isnan(found.flow.uv).all() and not found.flow.confidence.any() and found.homographies == ()


def matches_of(p0, p1):
    pairs = np.column_stack([np.arange(len(p0))] * 2)
    return Matches(p0, p1, pairs, np.ones(len(p0), np.float32), (480, 640), (480, 640))


K = np.array([[500.0, 0, 319.5], [0, 500.0, 239.5], [0, 0, 1]])
TURN = np.array([[np.cos(0.1), 0, np.sin(0.1)], [0, 1, 0], [-np.sin(0.1), 0, np.cos(0.1)]])


def seen(X, R=None, t=None):
    Y = X if R is None else X @ R.T + t
    return (Y @ K.T)[:, :2] / Y[:, 2:]


def test_pose_names_pure_rotation_and_planes():
    rng = np.random.default_rng(0)
    deep = np.column_stack([rng.uniform(-2, 2, (300, 2)), rng.uniform(4, 9, 300)])
    flat = np.column_stack([rng.uniform(-2, 2, (300, 2)), np.full(300, 6.0)])
    flat[:, 2] += 0.3 * flat[:, 0]
    t = np.array([0.8, 0.1, 0.2])
    noise = rng.normal(0, 0.1, (300, 2))
    general = pose_from_matches(matches_of(seen(deep), seen(deep, TURN, t) + noise), K, K, 1.0)
    assert (general.status, general.degeneracy) == (Status.OK, "none") and general.epipolar_error < 0.5
    assert general.t @ t / np.linalg.norm(t) > 0.999
    still = pose_from_matches(matches_of(seen(deep), seen(deep, TURN, np.zeros(3)) + noise), K, K, 1.0)
    assert (still.status, still.degeneracy) == (Status.DEGENERATE, "pure_rotation")
    assert still.t is None and still.E is None and np.abs(still.R - TURN).max() < 1e-3
    plane = pose_from_matches(matches_of(seen(flat), seen(flat, TURN, t) + noise), K, K, 1.0)
    assert (plane.status, plane.degeneracy) == (Status.OK, "planar")
    assert np.isfinite(plane.R).all() and np.linalg.norm(plane.t) == pytest.approx(1)


@pytest.mark.parametrize(("turns", "status"), [((0, 3, -3), Status.OK), ((0, 0, 40), Status.NO_OVERLAP)])
def test_a_pose_on_few_matches_must_be_found_again_by_other_draws(turns, status):
    rng = np.random.default_rng(0)
    points0, points1 = rng.uniform(0, 400, (2, 500, 2))
    few = np.arange(500) < 100

    def estimator(*_, threshold, seed):
        turn = np.eye(3)
        turn[:2, :2] = cv2.getRotationMatrix2D((0, 0), turns[seed - 5], 1)[:, :2]
        return Fit(np.column_stack([turn, [1.0, 0, 0]]), few, Status.OK, np.where(few, 0.1, 50.0), threshold, "drawn")

    found = pose_from_matches(matches_of(points0, points1), K, K, 1.0, seed=5, estimator=estimator)
    assert found.status is status and (found.R is None) == (status is not Status.OK)
    assert found.matches.inliers.sum() == (100 if status is Status.OK else 0)


def test_pose_without_intrinsics_says_what_to_give(photo):
    with pytest.raises(InputError, match="intrinsics"):
        flowkit.pose(photo, photo)


def test_consistent_matches_and_their_planes():
    rng = np.random.default_rng(0)
    p0 = rng.uniform(0, 300, (400, 2)).astype(np.float32)
    p1 = (p0 @ np.array([[1.05, 0.02], [-0.03, 0.98]]).T + [8, -4]).astype(np.float32)
    p1[::10] += rng.uniform(30, 60, p1[::10].shape).astype(np.float32)
    keep = locally_consistent(p0, p1)
    assert not keep[::10].any() and keep.mean() > 0.85
    planes = Planes.fit(p0[keep], p1[keep])
    u, v = planes.flow(np.zeros((1, 1), int), np.full((1, 1), p0[keep][0, 0] + 5), np.full((1, 1), p0[keep][0, 1]))
    expected = (p1 - p0)[keep][0] + [0.05 * 5, -0.03 * 5]
    assert (u[0, 0], v[0, 0]) == pytest.approx(tuple(expected), abs=0.1)


def test_filling_stops_at_edges():
    guide = np.zeros((60, 80, 3), np.uint8)
    guide[:, 40:] = 255
    flow = np.zeros((60, 80, 2), np.float32)
    flow[:, :40, 0], flow[:, 40:, 0] = 1, 9
    keep = np.ones((60, 80), bool)
    keep[20:40, 30:50] = False
    wiped = np.where(keep[..., None], flow, 777)
    filled = fill(wiped, keep, guide, reach=20)
    assert np.abs(filled[20:40, 30:40, 0] - 1).max() < 0.2 and np.abs(filled[20:40, 40:50, 0] - 9).max() < 0.2


def test_densify_works_without_any_match(photo):
    moved = warped(photo, np.array([[1, 0, 3.0], [0, 1, 0], [0, 0, 1]]))
    none = np.zeros((0, 2), np.float32)
    truth = np.zeros((320, 384, 2), np.float32)
    truth[..., 0] = 3
    dense = densify(photo, moved, none, none, [(truth, -truth)])
    assert np.median(np.abs(dense.forward - truth)) < 0.1


def test_only_regions_that_a_match_agrees_with_are_kept():
    from flowkit.pipelines.seeding import supported

    flow = np.zeros((40, 60, 2), np.float32)
    flow[10:30, 35:55] = 20
    points, motion = np.array([[5.0, 5.0], [40.0, 20.0]]), np.array([[0.0, 0.0], [3.0, 3.0]])
    kept = supported(np.ones((40, 60), bool), flow, points, motion)
    assert kept[5, 5] and kept[35, 58] and not kept[12:28, 37:53].any()
    motion[1] = 20
    assert supported(np.ones((40, 60), bool), flow, points, motion)[20, 45]


def test_few_matches_of_a_turned_picture_must_be_borne_out(photo, unrelated, monkeypatch):
    """Sixteen matches that agree by chance on a turn are not enough where looking again finds nothing in common."""
    from flowkit.pipelines import homography as module

    image0, image1 = Image(photo[:300, :300].copy()), Image(unrelated[:300, :300].copy())
    points = np.random.default_rng(0).uniform(20, 280, (16, 2)).astype(np.float32)
    turned = np.column_stack([points[:, 1], 299 - points[:, 0]])
    chance = Matches(
        points, turned, np.repeat(np.arange(16)[:, None], 2, 1), np.ones(16, np.float32), (300, 300), (300, 300)
    )
    assert module.from_matches(chance, 3.0).status is Status.OK
    monkeypatch.setattr(module, "variants", lambda *_, **__: iter([chance]))
    options = {"features": None, "effort": "normal", "threshold": 3.0, "device": "cpu", "seed": 0}
    found = module.find(image0, image1, turn=True, **options)
    assert found.matrix is None and found.status in (Status.NO_OVERLAP, Status.TOO_FEW_MATCHES)
