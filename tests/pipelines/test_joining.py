"""Joining the layers of an alignment: what is hidden is gone on with from its own side of an edge, and never believed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowkit.pipelines.fine import Layer
from flowkit.pipelines.joining import Joined, join, landing

SIZE = (120, 160)
WALL, POSTER = 0, 1


def layer(motion: tuple[float, float], seen: np.ndarray, cost: float = 0.1) -> Layer:
    """Constant motion, both directions of which agree where `seen`."""
    residual = np.broadcast_to(np.float32(motion), (*SIZE, 2)).copy()
    error = np.where(seen, 0.1, np.inf).astype(np.float32)
    return Layer(residual, error, np.where(seen, cost, 0.9).astype(np.float32))


def joined(layers: list[Layer], guide: np.ndarray, plane: bool = False) -> Joined:
    """Under the identity for a homography, in a source as large as the target."""
    return join(layers, [np.eye(3)] * len(layers), SIZE, guide, plane)


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
    found = joined(layers, scene["guide"])
    deep = np.zeros(SIZE, bool)
    deep[30:90, 85:105] = True
    assert (found.choice[deep] == WALL).all()
    np.testing.assert_allclose(found.residual[deep], np.broadcast_to([1.0, 2.0], (deep.sum(), 2)), atol=0.05)
    assert (found.confidence[scene["hidden"]] == 0).all()
    inner = np.zeros(SIZE, bool)
    inner[30:90, 50:70] = True
    assert (found.choice[inner] == POSTER).all() and (found.confidence[inner] > 0.9).all()
    np.testing.assert_allclose(found.residual[inner], np.broadcast_to([-5.0, 0.0], (inner.sum(), 2)))


@pytest.mark.parametrize(("cost", "believed"), [(0.15, True), (0.5, False)])
def test_an_island_in_what_is_hidden_must_match_as_well_as_the_rest(
    scene: dict[str, np.ndarray], cost: float, believed: bool
) -> None:
    island = np.zeros(SIZE, bool)
    island[50:60, 90:100] = True
    first = layer((1.0, 2.0), ~scene["hidden"] | island)
    first.residual[island] = 30.0
    first.cost[island] = cost
    found = joined([first], scene["guide"])
    middle = 55, 95
    assert (found.confidence[middle] > 0.9) == believed
    np.testing.assert_allclose(found.residual[middle], [30.0, 30.0] if believed else [1.0, 2.0], atol=0.05)


def test_a_layer_takes_over_only_where_it_fits_clearly_better() -> None:
    everywhere = np.ones(SIZE, bool)
    guide = np.full((*SIZE, 3), 90, np.uint8)
    same, better = layer((3.0, 0.0), everywhere, cost=0.09), layer((3.0, 0.0), everywhere, cost=0.05)
    assert (joined([layer((1.0, 0.0), everywhere), same], guide).choice == 0).all()
    assert (joined([layer((1.0, 0.0), everywhere), better], guide).choice == 1).all()


def test_a_networks_layer_must_fit_better_still() -> None:
    everywhere = np.ones(SIZE, bool)
    guide = np.full((*SIZE, 3), 90, np.uint8)
    first, better, best = (
        replace(layer((3.0, 0.0), everywhere, cost=cost), matchability=np.ones(SIZE, np.float32))
        for cost in (0.2, 0.15, 0.05)
    )
    assert (joined([first, better], guide).choice == 0).all()
    assert (joined([first, best], guide).choice == 1).all()


def test_nothing_known_is_left_as_it_is() -> None:
    nowhere = layer((1.0, 2.0), np.zeros(SIZE, bool))
    found = joined([nowhere], np.zeros((*SIZE, 3), np.uint8))
    np.testing.assert_array_equal(found.residual, nowhere.residual)
    assert (found.confidence == 0).all()


def test_on_one_plane_what_is_hidden_goes_with_the_homography(scene: dict[str, np.ndarray]) -> None:
    moving = layer((5, 0), ~scene["hidden"])
    found = joined([moving], scene["guide"], plane=True)
    assert np.abs(found.residual[scene["hidden"]]).max() == 0
    assert found.residual[5, 5] == pytest.approx([5, 0])
    assert found.confidence[scene["hidden"]].max() == 0


def test_a_layer_takes_nothing_whose_source_others_show(scene: dict[str, np.ndarray]) -> None:
    """Something in the hidden strip looks like the wall 90 columns to the left, but the wall there is in the target, too."""
    wall = layer((0.0, 0.0), ~scene["hidden"])
    elsewhere = layer((-90.0, 0.0), scene["hidden"])
    assert (joined([wall, elsewhere], scene["guide"]).choice == 0).all()
    shown = np.zeros(SIZE, bool)
    shown[:, :20] = True  # what the strip would lead to is now hidden in the target
    found = joined([layer((0.0, 0.0), ~scene["hidden"] & ~shown), elsewhere], scene["guide"])
    assert (found.choice[40:80, 85:105] == 1).all()


def test_landing_counts_the_cells_of_the_source() -> None:
    """Cells of 2x2 pixels along the rows of a source as large as the target; nothing outside of it has one."""
    residual = np.zeros((*SIZE, 2), np.float32)
    residual[10, 20] = [4.0, -6.0]
    residual[30, 40] = [200.0, 0.0]
    shift = np.array([[1, 0, 2], [0, 1, 0], [0, 0, 1]], float)
    cells = landing(residual, shift, SIZE)
    columns = SIZE[1] // 2 + 1
    assert cells[10, 20] == (10 - 6) // 2 * columns + (20 + 4 + 2) // 2
    assert cells[0, 1] == 1
    assert cells[30, 40] == -1
    halved = landing(np.zeros((*SIZE, 2), np.float32), np.diag([0.5, 0.5, 1]), (SIZE[0] // 2, SIZE[1] // 2))
    assert halved[20, 40] == 10 * columns + 20


def test_a_network_whose_directions_differ_by_a_pixel_is_not_believed() -> None:
    seen = np.ones(SIZE, bool)
    seen[40:80, 40:80] = False
    guide = np.full((*SIZE, 3), 90, np.uint8)
    first = layer((3.0, 0.0), np.ones(SIZE, bool))
    first.residual[~seen] = 9.0
    first.error[~seen] = 1.0
    assert joined([first], guide).residual[60, 60] == pytest.approx([9, 9])
    network = replace(first, matchability=np.ones(SIZE, np.float32))
    found = joined([network], guide)
    assert found.residual[60, 60] == pytest.approx([3, 0], abs=0.05)
    assert found.confidence[60, 60] == pytest.approx(0.5)  # filled, not hidden
    first.error[~seen] = 0.6
    assert joined([network], guide).residual[60, 60] == pytest.approx([9, 9])
    assert joined([network], guide, plane=True).residual[60, 60] == pytest.approx([0, 0])
