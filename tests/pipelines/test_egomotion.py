"""The camera's motion behind a dense flow: its direction, what moves on its own, and what cannot be told."""

from dataclasses import replace

import numpy as np
import pytest

import flowkit
from flowkit.errors import UsageError
from flowkit.pipelines.egomotion import with_egomotion
from flowkit.types import Flow, Status

SIZE = (60, 80)
K = np.array([[70.0, 0, 39.5], [0, 72.0, 29.5], [0, 0, 1]])
T = np.array([0.5, -0.2, 0.3])


def turn(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])


def rigid(R: np.ndarray, t: np.ndarray, plane: bool = False) -> Flow:
    """The flow of a scene 3 to 7 away, or of a slanted plane, in front of a camera that moves so."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    depth = 5 + 2 * np.sin(x / 9) * np.cos(y / 7) if not plane else 4 / (1 - 0.3 * rays[..., 0])
    seen = (rays * depth[..., None]) @ R.T + t
    there = seen @ K.T
    uv = np.stack([there[..., 0] / there[..., 2] - x, there[..., 1] / there[..., 2] - y])
    return Flow(uv.astype(np.float32), SIZE)


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))))


def test_the_motion_is_camera0_to_camera1_and_what_moves_itself_stands_out() -> None:
    R = turn(0.06)
    flow = rigid(R, T)
    flow.uv[:, 20:30, 30:50] += np.array([0.0, 6.0], np.float32)[:, None, None]
    flow.uv[:, :3] = np.nan
    found = with_egomotion(flow, K).egomotion
    assert found is not None and found.pose.status is Status.OK and found.pose.degeneracy == "none"
    assert found.pose.R is not None and found.pose.t is not None and found.pose.E is not None
    assert np.abs(found.pose.R - R).max() < 1e-3
    assert angle(found.pose.t, T) < 0.5  # not t of the way back, nor -t
    assert found.residual.shape == SIZE and found.residual.dtype == np.float32
    assert np.isnan(found.residual[:3]).all()
    inside = np.zeros(SIZE, bool)
    inside[20:30, 30:50] = True
    assert found.residual[inside].min() > 2
    assert found.residual[3:][~inside[3:]].max() < 0.05
    assert found.pose.estimator == "essential-ransac"


def test_a_turning_camera_has_no_translation_and_its_residual_is_of_the_turn() -> None:
    flow = rigid(turn(0.08), np.zeros(3))
    flow.uv[:, :10, :10] += 5
    found = with_egomotion(flow, K).egomotion
    assert found is not None
    assert found.pose.status is Status.DEGENERATE and found.pose.degeneracy == "pure_rotation"
    assert found.pose.t is None and found.pose.E is None
    assert found.residual[:10, :10].min() > 4
    assert np.median(found.residual) < 0.05


def test_a_flow_that_says_nothing_is_a_status() -> None:
    nothing = Flow(np.full((2, *SIZE), np.nan, np.float32), SIZE)
    found = with_egomotion(nothing, K).egomotion
    assert found is not None and found.pose.status is Status.TOO_FEW_MATCHES
    assert found.pose.R is None and np.isnan(found.residual).all()
    rng = np.random.default_rng(0)
    noise = Flow(rng.uniform(-20, 20, (2, *SIZE)).astype(np.float32), SIZE)
    found = with_egomotion(noise, K).egomotion
    assert found is not None and found.pose.status is not Status.OK and np.isnan(found.residual).all()


def test_pixels_that_do_not_come_back_do_not_vote() -> None:
    R = turn(0.03)
    flow = rigid(R, T)
    flow.uv[:, :, :50] = np.array([7.0, 7.0], np.float32)[:, None, None]  # most of it is wrong
    confidence = np.ones(SIZE, np.float32)
    confidence[:, :50] = 0
    both = replace(flow, confidence=confidence, backward=Flow(-flow.uv, SIZE))
    found = with_egomotion(both, K).egomotion
    assert found is not None and found.pose.t is not None
    assert angle(found.pose.t, T) < 2


def test_two_cameras_and_a_wrong_one() -> None:
    flow = rigid(turn(0.02), T)
    assert flowkit.with_egomotion(flow, K, K).egomotion is not None
    with pytest.raises(UsageError, match="K1: K must be a finite"):
        with_egomotion(flow, K, np.zeros((3, 3)))
