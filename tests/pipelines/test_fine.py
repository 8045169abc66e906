"""Joining the layers of an alignment: what is hidden is gone on with from its own side of an edge, and never believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowkit.pipelines.fine import Layer, join

SIZE = (120, 160)
WALL, POSTER = 0, 1


def layer(motion: tuple[float, float], seen: np.ndarray, cost: float = 0.1) -> Layer:
    """Constant motion, both directions of which agree where `seen`."""
    residual = np.broadcast_to(np.float32(motion), (*SIZE, 2)).copy()
    error = np.where(seen, 0.1, np.inf).astype(np.float32)
    return Layer(residual, error, np.where(seen, cost, 0.9).astype(np.float32))


@pytest.fixture
def scene() -> dict[str, np.ndarray]:
    """A poster (columns 40-79), beside it a strip of wall that the source hides (80-109), wall all around."""
    poster, hidden = (np.zeros(SIZE, bool) for _ in range(2))
    poster[20:100, 40:80] = True
    hidden[20:100, 80:110] = True
    picture = np.full((*SIZE, 3), 90, np.uint8)
    picture[poster] = 220
    return {"poster": poster, "hidden": hidden, "guide": picture}


def test_hidden_wall_goes_on_from_the_wall_and_is_not_believed(scene: dict[str, np.ndarray]) -> None:
    layers = [
        layer((1.0, 2.0), ~scene["poster"] & ~scene["hidden"]),
        layer((-5.0, 0.0), scene["poster"]),
    ]
    joined = join(layers, scene["guide"])
    deep = np.zeros(SIZE, bool)
    deep[30:90, 85:105] = True
    assert (joined.choice[deep] == WALL).all()
    np.testing.assert_allclose(joined.residual[deep], np.broadcast_to([1.0, 2.0], (deep.sum(), 2)), atol=0.05)
    assert (joined.confidence[scene["hidden"]] == 0).all()
    inner = np.zeros(SIZE, bool)
    inner[30:90, 50:70] = True
    assert (joined.choice[inner] == POSTER).all() and (joined.confidence[inner] > 0.9).all()
    np.testing.assert_allclose(joined.residual[inner], np.broadcast_to([-5.0, 0.0], (inner.sum(), 2)))


@pytest.mark.parametrize(("cost", "believed"), [(0.15, True), (0.5, False)])
def test_an_island_in_what_is_hidden_must_match_as_well_as_the_rest(
    scene: dict[str, np.ndarray], cost: float, believed: bool
) -> None:
    island = np.zeros(SIZE, bool)
    island[50:60, 90:100] = True
    first = layer((1.0, 2.0), ~scene["hidden"] | island)
    first.residual[island] = 30.0
    first.cost[island] = cost
    joined = join([first], scene["guide"])
    middle = 55, 95
    assert (joined.confidence[middle] > 0.9) == believed
    np.testing.assert_allclose(joined.residual[middle], [30.0, 30.0] if believed else [1.0, 2.0], atol=0.05)


def test_a_layer_takes_over_only_where_it_fits_clearly_better() -> None:
    everywhere = np.ones(SIZE, bool)
    guide = np.full((*SIZE, 3), 90, np.uint8)
    same, better = layer((3.0, 0.0), everywhere, cost=0.09), layer((3.0, 0.0), everywhere, cost=0.05)
    assert (join([layer((1.0, 0.0), everywhere), same], guide).choice == 0).all()
    assert (join([layer((1.0, 0.0), everywhere), better], guide).choice == 1).all()


def test_a_networks_layer_must_fit_better_still() -> None:
    everywhere = np.ones(SIZE, bool)
    guide = np.full((*SIZE, 3), 90, np.uint8)
    first, better, best = (
        replace(layer((3.0, 0.0), everywhere, cost=cost), matchability=np.ones(SIZE, np.float32))
        for cost in (0.2, 0.15, 0.05)
    )
    assert (join([first, better], guide).choice == 0).all()
    assert (join([first, best], guide).choice == 1).all()


def test_nothing_known_is_left_as_it_is() -> None:
    nowhere = layer((1.0, 2.0), np.zeros(SIZE, bool))
    joined = join([nowhere], np.zeros((*SIZE, 3), np.uint8))
    np.testing.assert_array_equal(joined.residual, nowhere.residual)
    assert (joined.confidence == 0).all()


def test_on_one_plane_what_is_hidden_goes_with_the_homography(scene: dict[str, np.ndarray]) -> None:
    moving = layer((5, 0), ~scene["hidden"])
    joined = join([moving], scene["guide"], plane=True)
    assert np.abs(joined.residual[scene["hidden"]]).max() == 0
    assert joined.residual[5, 5] == pytest.approx([5, 0])
    assert joined.confidence[scene["hidden"]].max() == 0
