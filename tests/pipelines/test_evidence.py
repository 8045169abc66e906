"""Matches as witnesses of a dense flow: what they go along with counts, what they contradict does not."""

from __future__ import annotations

import numpy as np
import pytest

from flowkit.pipelines.evidence import Evidence, believable, one_plane
from flowkit.pipelines.fine import Motion
from flowkit.pipelines.fine_stage import FineStage
from flowkit.types import Image, Matches

SIZE = (100, 160)
FLOW = np.broadcast_to(np.float32([6, -2]), (*SIZE, 2)).copy()
PLAIN = np.full((*SIZE, 3), 128, np.uint8)
LEFT, RIGHT = np.s_[46:55, 11:20], np.s_[46:55, 141:150]


def spots(column: float) -> np.ndarray:
    """(40, 2): places around row 50 of a column."""
    return np.random.default_rng(0).normal((column, 50), 4, (40, 2))


def told(share: float, **options: bool) -> Evidence:
    """Matches on the left, which moved a share of `FLOW`."""
    return Evidence(spots(15), np.float32(share * np.tile([6, -2], (40, 1))), **options)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_as_much_of_the_flow_counts_as_the_matches_have_moved(share: float) -> None:
    weight = told(share).weight(FLOW, PLAIN)
    assert weight.shape == SIZE
    assert weight[LEFT] == pytest.approx(share, abs=0.05)
    assert weight[RIGHT] == pytest.approx(share, abs=0.05)  # where nobody speaks, what they say on the whole


def test_motion_the_other_way_counts_as_none() -> None:
    assert told(-1.0).weight(FLOW, PLAIN)[LEFT].max() == 0


def test_on_a_plane_the_homography_is_believed_where_no_match_speaks() -> None:
    weight = told(1.0, plane=True).weight(FLOW, PLAIN)
    assert weight[LEFT].min() > 0.9
    assert weight[RIGHT].max() < 0.01


def test_each_place_hears_its_own_matches() -> None:
    still = np.zeros((40, 2), np.float32)
    both = Evidence(np.concatenate([spots(15), spots(145)]), np.concatenate([told(1.0).residual, still]))
    weight = both.weight(FLOW, PLAIN)
    assert weight[LEFT].min() > 0.9
    assert weight[RIGHT].max() < 0.1


def test_matches_are_hardly_heard_across_an_edge_of_the_picture() -> None:
    edged = PLAIN.copy()
    edged[:, 24:] = 30
    alone = told(1.0, plane=True)
    beyond = np.s_[46:55, 25:29]
    assert alone.weight(FLOW, PLAIN)[beyond].min() > 0.3
    assert alone.weight(FLOW, edged)[beyond].max() < 0.1
    assert alone.weight(FLOW, edged)[LEFT].min() > 0.9


def test_other_surfaces_and_places_out_of_the_picture_are_not_heard() -> None:
    elsewhere = Evidence(spots(15), np.float32(np.tile([-40.0, 30.0], (40, 1))), plane=True)
    outside = Evidence(spots(15) - 200, told(1.0).residual, plane=True)
    assert elsewhere.weight(FLOW, PLAIN).max() == 0
    assert outside.weight(FLOW, PLAIN).max() == 0
    assert Evidence(np.zeros((0, 2)), np.zeros((0, 2), np.float32)).weight(FLOW, PLAIN).max() == 0


def test_what_was_done_before_is_done() -> None:
    """Half of the motion is known: of the same flow again only what is left may count."""
    assert told(1.0).after(FLOW / 2).weight(FLOW, PLAIN)[LEFT] == pytest.approx(0.5, abs=0.05)


def test_points_go_along_when_the_picture_begins_further_out() -> None:
    weight = told(1.0, plane=True).moved(30).weight(FLOW, PLAIN)
    assert weight[76:85, 41:50].min() > 0.9
    assert weight[LEFT].max() < 0.01


def matches(left: np.ndarray, seed: int = 1) -> Matches:
    """400 matches on a lattice that the identity misses by `left` (400, 2) pixels."""
    x, y = np.meshgrid(np.arange(20) * 10.0, np.arange(20) * 10.0)
    points = np.column_stack([x.ravel(), y.ravel()])
    return Matches(
        points, points + left, np.tile(np.arange(400)[:, None], 2), np.ones(400, np.float32), (200, 200), (200, 200)
    )


def test_noise_on_a_homography_is_a_plane_and_common_motion_is_not() -> None:
    noise = np.random.default_rng(2).normal(0, 0.8, (400, 2))
    waves = 2 * np.sin(matches(noise).keypoints0 / 30) + noise / 4
    assert one_plane(matches(noise), np.eye(3), 3.0)
    assert not one_plane(matches(waves), np.eye(3), 3.0)


def test_a_second_surface_is_seen_and_believed_and_chance_is_not() -> None:
    rng = np.random.default_rng(3)
    left = rng.normal(0, 0.5, (400, 2))
    left[:160] += 12  # the upper two fifths move together
    assert not one_plane(matches(left), np.eye(3), 3.0)
    assert len(believable(matches(left), np.eye(3), 3.0)) > 380
    left[:160] = rng.uniform(-90, 90, (160, 2))
    assert one_plane(matches(left), np.eye(3), 3.0)
    kept = believable(matches(left), np.eye(3), 3.0)
    assert 240 <= len(kept) < 260
    assert not one_plane(matches(np.full((400, 2), 50.0)), np.eye(3), 3.0)


class Says:
    """A network that finds the same flow everywhere, in working pixels, and the same way back."""

    scales = (1.0,)

    def __init__(self, x: float, y: float) -> None:
        self.flow = np.float32([x, y])

    def __call__(self, frame: np.ndarray, warped: np.ndarray, valid: np.ndarray) -> Motion:
        flow = np.broadcast_to(self.flow, (*frame.shape[:2], 2)).copy()
        return Motion(flow, -flow)


@pytest.mark.parametrize("around", [None, "matches"])
@pytest.mark.parametrize(("said", "believed"), [((3.0, -1.0), 1.0), ((-3.0, 1.0), 0.0), ((6.0, -2.0), 0.5)])
def test_witnesses_of_an_alignment_speak_in_its_working_pixels(said, believed, around) -> None:
    """A target of 200x240 worked on at 100x120: everything lies (6, -2) original pixels from where the homography has it."""
    picture = Image(np.random.default_rng(4).integers(0, 255, (200, 240, 3), np.uint8))
    homography = np.array([[1.0, 0, 10], [0, 1, 4], [0, 0, 1]])
    x, y = np.meshgrid(np.arange(60, 180, 6.0), np.arange(50, 150, 6.0))
    here = np.column_stack([x.ravel(), y.ravel()])
    pairs = np.tile(np.arange(len(here))[:, None], 2)
    stage = FineStage(picture, picture, (100, 120), Says(*said))
    stage.witnesses = Matches(
        here, here + np.array([16.0, 2.0]), pairs, np.ones(len(here), np.float32), picture.size, picture.size
    )
    layer = stage.layer(homography, around=None if around is None else here)
    assert layer.residual[35:65, 40:80] == pytest.approx(
        np.broadcast_to(believed * np.array(said), (30, 40, 2)), abs=0.15
    )
