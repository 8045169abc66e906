"""Guided matching against plain loops in float64: which way flows lead, where pixels are, which stage takes what."""

import numpy as np
import pytest

from flowkit.features import guided
from flowkit.features.base import nothing
from flowkit.features.guided import match_guided
from flowkit.features.matching import match_descriptors
from flowkit.types import Features

SIZE0, SIZE1 = (60, 90), (70, 80)


def features(keypoints, descriptors, size=SIZE0) -> Features:
    descriptors = np.asarray(descriptors, np.float64)
    descriptors = (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)
    return Features(np.asarray(keypoints, np.float32), descriptors, np.ones(len(descriptors), np.float32), size, "test")


def constant(size, dx, dy) -> np.ndarray:
    return np.stack([np.full(size, dx), np.full(size, dy)]).astype(np.float32)


def scene(seed: int, count: int = 150, noise: float = 0.9):
    """Keypoints and their counterparts under a smooth motion, both flows with holes, descriptors that often mislead."""
    rng = np.random.default_rng(seed)

    def motion(p):
        return p + np.stack([4 + 3 * np.sin(p[:, 1] / 20), -3 + 0.05 * p[:, 0]], axis=1)

    points0 = rng.uniform(-0.4, np.array(SIZE0[::-1]) - 0.6, (count, 2))
    points1 = np.concatenate(
        [motion(points0[: count // 2]), rng.uniform(0, np.array(SIZE1[::-1]) - 1, (count // 3, 2))]
    )
    points1 += rng.normal(0, 1, points1.shape)
    points1 = points1[((points1 > -0.4) & (points1 < np.array(SIZE1[::-1]) - 0.6)).all(axis=1)]
    points1 = rng.permutation(points1)
    words = rng.normal(size=(25, 8))  # few words: descriptors alone are ambiguous
    described = [
        words[rng.integers(25, size=len(p))] + noise * rng.normal(size=(len(p), 8)) for p in (points0, points1)
    ]
    y, x = np.mgrid[: SIZE0[0], : SIZE0[1]]
    grid = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    flow01 = (motion(grid) - grid).T.reshape(2, *SIZE0).astype(np.float32)
    y, x = np.mgrid[: SIZE1[0], : SIZE1[1]]
    flow10 = np.stack([-4 - 3 * np.sin(y / 20), 3 - 0.05 * x]).astype(np.float32)
    flow01[:, 20:30, 40:60], flow10[:, :8] = np.nan, np.nan
    return features(points0, described[0], SIZE0), features(points1, described[1], SIZE1), flow01, flow10


def reference(features0, features1, flow01, flow10, radius, ratio, separation=10.0):
    """The same by the words of the paper: [(a, b, stage)]."""
    keypoints = [f.keypoints.astype(np.float64) for f in (features0, features1)]
    similarity = features0.descriptors.astype(np.float64) @ features1.descriptors.astype(np.float64).T

    def prediction(point, flow, size):
        height, width = flow.shape[1:]
        x, y = np.clip(point, 0, [width - 1, height - 1])  # in the rim of half a pixel the border holds
        left, top = min(int(x), width - 2), min(int(y), height - 2)
        u, v = x - left, y - top
        shares = {(0, 0): (1 - u) * (1 - v), (0, 1): u * (1 - v), (1, 0): (1 - u) * v, (1, 1): u * v}
        value = sum(w * flow[:, top + i, left + j].astype(np.float64) for (i, j), w in shares.items() if w > 0)
        target = point + value
        inside = (target >= -0.5).all() and target[0] <= size[1] - 0.5 and target[1] <= size[0] - 0.5
        return target if inside else None

    def around(mine, others, flow, size, scores):
        found = []
        for k, point in enumerate(mine):
            target = prediction(point, flow, size)
            near = [] if target is None else np.flatnonzero(np.linalg.norm(others - target, axis=1) <= radius)
            found.append(max(near, key=lambda j: scores[k, j]) if len(near) else -1)
        return found

    there = around(keypoints[0], keypoints[1], flow01, SIZE1, similarity)
    back = around(keypoints[1], keypoints[0], flow10, SIZE0, similarity.T)
    matches = [(a, b, 1) for a, b in enumerate(there) if b >= 0 and back[b] == a]
    taken0, taken1 = {a for a, _, _ in matches}, {b for _, b, _ in matches}
    for a in range(len(keypoints[0])):
        b = int(similarity[a].argmax())
        if a in taken0 or b in taken1 or similarity[:, b].argmax() != a:
            continue
        if ratio is not None:
            far = np.linalg.norm(keypoints[1] - keypoints[1][b], axis=1) > separation
            second = similarity[a][far].max() if far.any() else -1.0
            if np.sqrt(2 - 2 * similarity[a, b]) >= ratio * np.sqrt(2 - 2 * second):
                continue
        matches.append((a, b, 2))
    return matches


@pytest.mark.parametrize("ratio", [None, 0.9])
@pytest.mark.parametrize("block", [guided.BLOCK, 7])
def test_as_plain_loops(monkeypatch, ratio, block):
    monkeypatch.setattr(guided, "BLOCK", block)
    for seed in range(3):
        pair = scene(seed)
        expected = reference(*pair, 5.0, ratio)
        found = match_guided(*pair, ratio=ratio)
        assert [(*p, stage) for p, stage in zip(found.pairs.tolist(), found.stage.tolist(), strict=True)] == expected
        assert {1, 2} == set(found.stage) and (found.origin == 0).all() and found.origins == ("test",)
        dots = (pair[0].descriptors[found.pairs[:, 0]] * pair[1].descriptors[found.pairs[:, 1]]).sum(axis=1)
        np.testing.assert_allclose(found.scores, dots.clip(0, 1), atol=1e-6)
        for side in (0, 1):
            assert len(np.unique(found.pairs[:, side])) == len(found)


def test_a_flow_that_leads_the_wrong_way_gives_no_first_stage():
    """A counterpart 20 px to the right, among equals: only the right directions, in the right order, find it."""
    left, right = features([[30, 30]], [[1, 0]]), features([[10, 34], [50, 34]], [[1, 0], [1, 0.1]], SIZE1)
    there, back = constant(SIZE0, 20, 4), constant(SIZE1, -20, -4)
    found = match_guided(left, right, there, back)
    assert found.pairs.tolist() == [[0, 1]] and found.stage.tolist() == [1]
    for flows in ((-there, -back), (there, -back), (-there, back)):
        found = match_guided(left, right, *flows)
        assert found.pairs.tolist() == [[0, 0]] and found.stage.tolist() == [2]
    swapped = match_guided(right, left, back, there)
    assert swapped.pairs.tolist() == [[1, 0]] and swapped.stage.tolist() == [1]


@pytest.mark.parametrize(("offset", "stage"), [(4.9, 1), (5.1, 2)])
def test_the_radius_is_around_the_prediction_of_the_keypoint_itself(offset, stage):
    """Between the pixels of a flow that grows by one pixel a pixel; half a pixel off would change the answer."""
    flow01 = np.zeros((2, *SIZE0), np.float32)
    flow01[0] = np.arange(SIZE0[1])
    left = features([[20.5, 10.25]], [[1, 0]])  # the flow there is 20.5, so it leads to x = 41
    right = features([[41 + offset, 10.25]], [[1, 0]], SIZE1)
    back = constant(SIZE1, -20.5 - offset, 0)
    assert match_guided(left, right, flow01, back).stage.tolist() == [stage]
    assert match_guided(left, right, flow01, back, radius=offset + 0.02).stage.tolist() == [1]
    assert match_guided(left, right, flow01, back, radius=offset - 0.02).stage.tolist() == [2]


def test_unknown_flow_and_targets_outside_have_no_candidates():
    left, right = features([[85, 30]], [[1, 0]]), features([[79, 30]], [[1, 0]], SIZE1)
    back = constant(SIZE1, 6, 0)
    assert match_guided(left, right, constant(SIZE0, -6, 0), back).stage.tolist() == [1]
    assert match_guided(left, right, constant(SIZE0, -5.5, 0), back).stage.tolist() == [1]  # in the rim
    assert match_guided(left, right, constant(SIZE0, -5.4, 0), back).stage.tolist() == [2]  # outside by a tenth
    hole = constant(SIZE0, -6, 0)
    hole[:, 30, 84] = np.nan  # a neighbour of the keypoint's pixel, without a share in it
    assert match_guided(left, right, hole, back).stage.tolist() == [1]
    hole[:, 30, 85] = np.nan
    assert match_guided(left, right, hole, back).stage.tolist() == [2]


def test_who_wants_a_taken_point_goes_without():
    """Keypoint 1 of image0 likes keypoint 0 of image1 best, and the other way round, but stage 1 has given that away."""
    left = features([[10, 10], [60, 40]], [[0.8, 0.6, 0], [1, 0, 0]])
    right = features([[10, 10], [20, 50]], [[1, 0, 0.1], [0, 1, 1]], SIZE1)
    still = constant(SIZE0, 0, 0), constant(SIZE1, 0, 0)
    assert match_descriptors(left, right).pairs[0].tolist() == [1, 0]
    found = match_guided(left, right, *still)
    assert found.pairs.tolist() == [[0, 0]] and found.stage.tolist() == [1]


def test_without_any_known_flow_it_is_plain_matching():
    left, right, flow01, flow10 = scene(5)
    found = match_guided(left, right, flow01 * np.nan, flow10 * np.nan, ratio=0.9, min_score=0.5)
    plain = match_descriptors(left, right, ratio=0.9, min_score=0.5)
    assert len(plain) and (found.stage == 2).all()
    np.testing.assert_array_equal(found.pairs, plain.pairs)
    np.testing.assert_array_equal(found.scores, plain.scores)
    near = match_guided(left, right, flow01, flow10, min_score=0.8)
    assert 0 < (near.stage == 1).sum() < (match_guided(left, right, flow01, flow10).stage == 1).sum()
    assert near.scores.min() >= 0.8


def test_nothing_on_one_side_or_both():
    some, none = features([[3, 4]], [[1, 0]]), nothing(SIZE0, "test", 2)
    still = constant(SIZE0, 0, 0)
    for pair in ((some, none), (none, some), (none, none)):
        found = match_guided(*pair, still, still, ratio=0.9)
        assert len(found) == 0 and found.pairs.shape == (0, 2) and found.stage.shape == (0,)
        assert (len(found.keypoints0), len(found.keypoints1)) == (len(pair[0].keypoints), len(pair[1].keypoints))


def test_a_flow_of_another_size_is_refused():
    left, right, flow01, flow10 = scene(0)
    with pytest.raises(ValueError, match="flow of shape"):
        match_guided(left, right, flow10, flow01)
