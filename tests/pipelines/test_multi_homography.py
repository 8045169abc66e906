"""The loop over homographies: which are taken, what they close, which pixels they get."""

import numpy as np
import pytest

from flowkit.pipelines.fine import Layer
from flowkit.pipelines.multi_homography import RULES, Rules, aggregated, homographies_in_turn
from flowkit.types import Fit, Matches, Status

SIZE = (40, 60)
LEFT, RIGHT = np.eye(3), np.array([[1.0, 0, 7], [0, 1, 0], [0, 0, 1]])


def shifted(dx):
    return np.array([[1.0, 0, dx], [0, 1, 0], [0, 0, 1]])


def scene():
    """Matches of two halves, 30 and 20 of them: the left one stays, the right one moves by 7 pixels."""
    rng = np.random.default_rng(0)
    left = rng.uniform((0, 0), (28, 39), (30, 2))
    right = rng.uniform((32, 0), (52, 39), (20, 2))
    points0 = np.concatenate([left, right]).astype(np.float32)
    points1 = np.concatenate([left, right + np.array([7, 0])]).astype(np.float32)
    pairs = np.repeat(np.arange(50)[:, None], 2, 1)
    return Matches(points0, points1, pairs, np.ones(50, np.float32), SIZE, SIZE)


def most_frequent(points0, points1):
    """A "fit" that takes the commonest horizontal shift."""
    shifts = np.rint(points1[:, 0] - points0[:, 0])
    values, counts = np.unique(shifts, return_counts=True)
    near = shifts == values[counts.argmax()]
    return Fit(shifted(values[counts.argmax()]), near, Status.OK, np.zeros(len(points0)), 1.0, "test")


def fine(sure=1.0, seen=None):
    """Layers whose matchability is `sure` on the half where the homography is right."""

    def layer(matrix, scales):
        if seen is not None:
            seen.append((matrix[0, 2], tuple(scales)))
        right = np.zeros(SIZE, bool)
        right[:, 30:] = True
        holds = right if matrix[0, 2] == 7 else ~right if matrix[0, 2] == 0 else np.zeros(SIZE, bool)
        residual = np.full((*SIZE, 2), matrix[0, 2], np.float32)
        return Layer(residual, np.zeros(SIZE), np.zeros(SIZE), np.where(holds, sure, 0.0).astype(np.float32))

    return layer


@pytest.mark.parametrize("name", ["official", "paper"])
def test_the_second_plane_is_found_in_what_the_first_leaves(name):
    models, layers = homographies_in_turn(scene(), LEFT, most_frequent, fine(), RULES[name], 2.0)
    assert [matrix[0, 2] for matrix in models] == [0, 7]
    joined = aggregated(layers, RULES[name])
    assert (joined.choice[:, :30] == 0).all() and (joined.choice[:, 30:] == 1).all()
    assert (joined.residual[:, 30:, 0] == 7).all() and (joined.confidence == 1).all()


def test_the_official_rules_close_only_what_is_saturated_the_paper_s_remove_inliers():
    """With matchability .9 nothing is closed: the official loop would find the first homography again, and ends."""
    official, _ = homographies_in_turn(scene(), LEFT, most_frequent, fine(0.9), RULES["official"], 2.0)
    paper, _ = homographies_in_turn(scene(), LEFT, most_frequent, fine(0.9), RULES["paper"], 2.0)
    assert [matrix[0, 2] for matrix in official] == [0, 0]
    assert [matrix[0, 2] for matrix in paper] == [0, 7]


def test_a_homography_that_matches_too_little_ends_the_loop():
    def nothing_on_the_right(matrix, scales):
        layer = fine()(matrix, scales)
        return (
            layer if matrix[0, 2] == 0 else Layer(layer.residual, layer.error, layer.cost, layer.matchability * 0.001)
        )

    models, _ = homographies_in_turn(scene(), LEFT, most_frequent, nothing_on_the_right, RULES["paper"], 2.0)
    assert len(models) == 1


def test_limit_and_scales_are_those_of_the_rules():
    seen = []
    homographies_in_turn(scene(), LEFT, most_frequent, fine(seen=seen), Rules(limit=1, scales=(0.5, 1.0)), 2.0)
    assert seen == [(0, (0.5, 1.0))]


def test_what_no_homography_gets_goes_with_the_first_or_with_the_nearest():
    first, second = fine()(LEFT, ()), fine()(RIGHT, ())
    first.matchability[:, 20:] = 0
    second.matchability[:, :32] = 0
    kept = aggregated([first, second], Rules(taken=0.95))
    assert (kept.choice[:, :32] == 0).all() and (kept.choice[:, 32:] == 1).all()
    assert (kept.confidence[:, 20:32] == 0).all()
    near = aggregated([first, second], Rules(taken=0.95, nearest=True))
    assert (near.choice[:, :25] == 0).all() and (near.choice[:, 27:] == 1).all()
    assert (near.residual[:, 27:, 0] == 7).all() and (near.confidence[:, 20:32] == 0).all()


def test_specks_do_not_count_where_the_rules_say_so():
    def speckled(matrix, scales):
        layer = fine()(matrix, scales)
        layer.matchability[:3, -3:] = 1.0
        return layer

    _, layers = homographies_in_turn(
        scene(), LEFT, most_frequent, speckled, Rules(limit=1, closed=0.99, speck=0.01), 2.0
    )
    assert layers[0].matchability[1, -2] == 0 and layers[0].matchability[20, 10] == 1
