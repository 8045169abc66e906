from dataclasses import replace

import numpy as np

from flowkit.features.base import nothing
from flowkit.features.matching import deduplicate, match_descriptors, merge, no_matches, select
from flowkit.types import Features, Matches

SIZE = (100, 200)


def features(descriptors, keypoints=None, name="test") -> Features:
    descriptors = np.asarray(descriptors, np.float32)
    descriptors = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    count = len(descriptors)
    keypoints = np.arange(2 * count).reshape(count, 2) * 20 if keypoints is None else keypoints
    return Features(np.asarray(keypoints, np.float32), descriptors, np.ones(count, np.float32), SIZE, name)


def test_mutual_nearest_neighbours_across_chunks():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(5000, 16))
    order = rng.permutation(5000)
    matches = match_descriptors(features(descriptors), features(descriptors[order]))
    assert len(matches) == 5000
    np.testing.assert_array_equal(order[matches.pairs[:, 1]], matches.pairs[:, 0])
    np.testing.assert_allclose(matches.scores, 1, atol=1e-5)


def test_mutual_and_one_way():
    left, right = features([[1, 0], [0.9, 0.1]]), features([[1, 0], [-1, 0]])
    assert match_descriptors(left, right).pairs.tolist() == [[0, 0]]
    assert match_descriptors(left, right, mutual=False).pairs.tolist() == [[0, 0], [1, 0]]


def test_of_equal_descriptors_the_first_is_matched():
    same = features([[1, 0], [0, 1], [1, 0]])
    assert match_descriptors(same, features([[1, 0]])).pairs.tolist() == [[0, 0]]
    assert match_descriptors(features([[1, 0]]), same).pairs.tolist() == [[0, 0]]


def test_only_free_keypoints_match_but_all_compare():
    left, right = features([[1, 0, 0], [0, 1, 0]]), features([[1, 0.1, 0], [0, 1, 0], [1, 0, 0.2]])
    every = np.ones(2, bool), np.ones(3, bool)
    assert match_descriptors(left, right, free=every).pairs.tolist() == [[0, 0], [1, 1]]
    assert match_descriptors(left, right, free=(every[0], np.array([0, 1, 1], bool))).pairs.tolist() == [[1, 1]]
    assert match_descriptors(left, right, free=(np.array([1, 0], bool), every[1])).pairs.tolist() == [[0, 0]]
    assert len(match_descriptors(left, right, ratio=0.9, free=(every[0], np.array([1, 0, 0], bool)))) == 1


def test_ratio_ignores_neighbours_at_the_same_place():
    left = features([[1.0, 0.05, 0]])
    twice = [[1, 0, 0], [1, 0.001, 0], [0, 0, 1]]
    apart = features(twice, [[10, 10], [60, 10], [90, 90]])
    together = features(twice, [[10, 10], [11, 10], [90, 90]])
    assert len(match_descriptors(left, apart, ratio=0.8)) == 0
    assert len(match_descriptors(left, together, ratio=0.8)) == 1


def test_least_score():
    left, right = features([[1, 0], [0, 1]]), features([[1, 0], [1, 2]])
    assert len(match_descriptors(left, right)) == 2
    assert match_descriptors(left, right, min_score=0.95).pairs.tolist() == [[0, 0]]


def test_no_keypoints_give_no_matches():
    empty = nothing(SIZE, "test", 2)
    for pair in ((empty, features([[1, 0]])), (features([[1, 0]]), empty), (empty, empty)):
        matches = match_descriptors(*pair, ratio=0.8)
        assert len(matches) == 0 and matches.points0.shape == (0, 2)
        assert len(deduplicate(matches)) == 0


def test_merge_keeps_points_and_says_whose_they_are():
    first = match_descriptors(features([[1, 0]], [[3, 4]], "a"), features([[1, 0]], [[5, 6]], "a"))
    second = match_descriptors(features([[1, 0]], [[7, 8]], "b"), features([[1, 0]], [[9, 10]], "b"))
    merged = merge([first, no_matches(SIZE, SIZE, "c"), second])
    assert merged.points0.tolist() == [[3, 4], [7, 8]] and merged.points1.tolist() == [[5, 6], [9, 10]]
    assert [merged.origins[i] for i in merged.origin] == ["a", "b"] and merged.origins == ("a", "c", "b")
    assert merge([first]) is first and merged.stage is None
    guided = merge([first, replace(second, stage=np.array([2])), replace(first, stage=np.array([1]))])
    assert guided.stage.tolist() == [0, 2, 1] and select(guided, [2, 1]).stage.tolist() == [1, 2]
    assert deduplicate(guided).stage.tolist() == [0, 2]


def test_duplicates_keep_the_best():
    points0 = np.array([[10, 10], [10.5, 10], [50, 50], [10, 10]], np.float32)
    points1 = np.array([[20, 20], [20, 20.5], [60, 60], [90, 20]], np.float32)
    pairs = np.stack([np.arange(4)] * 2, axis=1)
    scores = np.array([0.5, 0.9, 0.1, 0.2], np.float32)
    kept = deduplicate(Matches(points0, points1, pairs, scores, SIZE, SIZE))
    assert kept.pairs[:, 0].tolist() == [1, 2, 3]
