"""Spreading matches to a dense flow, on motions that are known exactly."""

from __future__ import annotations

import numpy as np
import pytest

from flowkit.pipelines import flow as flow_pipeline
from flowkit.pipelines.match import match
from flowkit.pipelines.matching_cost import OUTSIDE_COST, MatchingCost, pixel_grid
from flowkit.pipelines.seeding import Planes, spread
from flowkit.types import Image


@pytest.fixture(scope="module")
def texture() -> np.ndarray:
    import cv2

    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.0)


def test_the_right_flow_costs_nothing_and_what_is_not_shown_most(texture):
    moved = np.roll(texture, (3, 5), (0, 1))
    valid = np.ones(moved.shape[:2], bool)
    valid[:, 60:] = False
    cost = MatchingCost(texture, moved, valid)(np.full((90, 120), 5, np.float32), np.full((90, 120), 3, np.float32))
    assert cost[12:-12, 12:40].max() < 0.02
    # Beyond column 55 the second picture shows nothing, beyond row 87 there is none.
    assert cost[12:-12, 65:] == pytest.approx(OUTSIDE_COST, abs=1e-3)


def test_one_plane_is_handed_on_as_it_moves_along(texture):
    import cv2

    matrix = np.array([[1.06, 0.0, 2.0], [0.0, 0.97, 1.0]])
    moved = cv2.warpAffine(texture, matrix, (120, 90), borderMode=cv2.BORDER_REFLECT)
    x, y = pixel_grid(90, 120)
    truth = np.dstack([0.06 * x + 2, -0.03 * y + 1])
    # The plane is offered everywhere beside a wrong flow; both ways to reach a pixel give the plane's own motion there.
    planes = Planes(np.array([[30, 20]], np.float32), np.array([[[0.06, 0], [0, -0.03], [3.8, 0.4]]], np.float32))
    flow, cost = spread(MatchingCost(texture, moved), planes, [np.full((90, 120, 2), 40, np.float32)])
    assert np.abs(flow - truth)[:, :100].max() < 1e-3 and np.median(cost) < 0.15


def test_a_flow_known_in_one_place_reaches_the_others(texture):
    moved = np.roll(texture, 7, 1)
    known = np.full((90, 120, 2), -30, np.float32)
    known[40:60, 40:60] = [7, 0]
    flow, _ = spread(MatchingCost(texture, moved), None, [known])
    assert np.abs(flow - [7, 0])[:, :110].max(2).mean() < 0.1


@pytest.mark.parametrize("size", [(8, 8), (8, 40), (33, 9)])
def test_pictures_smaller_than_the_steps(texture, size):
    small = np.ascontiguousarray(texture[: size[0], : size[1]])
    flow, cost = spread(MatchingCost(small, small), None, [np.zeros((*size, 2), np.float32)])
    assert (flow == 0).all() and cost.max() < 1e-3


@pytest.mark.parametrize(
    ("height", "features", "looks"), [(400, "xfeat+sift", {"sift": None, "xfeat": 800}), (800, "sift", {"sift": None})]
)
def test_small_pictures_are_doubled_but_for_sift_which_does_so_itself(monkeypatch, height, features, looks):
    seen = {}

    def recorded(*pair, **options):
        seen[str(options["features"])] = options.get("resize")
        return match(*pair, **options)

    monkeypatch.setattr(flow_pipeline, "match", recorded)
    picture = (
        np.random.default_rng(0).integers(0, 256, (height // 8, height // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )
    pair = Image(picture), Image(np.roll(picture, 6, axis=1))
    found = flow_pipeline.seed_matches(*pair, features, "cpu")
    assert seen == looks
    assert found.run is not None and found.run.method == features and found.run.options["features"] == features
    assert found.size0 == (height, height) and set(found.origins) == set(looks)
    for kind, name in enumerate(found.origins):
        motion = (
            (found.points1 - found.points0)[found.origin == kind] if len(looks) > 1 else found.points1 - found.points0
        )
        assert np.median(motion, axis=0) == pytest.approx((6, 0), abs=0.3), name
