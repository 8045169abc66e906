"""Metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from flowkit.evaluation import metrics

NAN, INF = math.nan, math.inf


def uv(*vectors):
    return np.array(vectors, np.float32).T[:, None, :]  # (2, 1, N)


def test_flow_errors_by_hand():
    truth = uv((0, 0), (100, 0), (0, 10), (NAN, NAN), (1, 1))
    flow = uv((3, 4), (104, 0), (0, 10.5), (7, 7), (NAN, NAN))
    scores = metrics.flow_errors(flow, truth)
    assert scores["pixels"] == 4
    assert scores["epe"] == pytest.approx((5 + 4 + 0.5) / 3)
    assert scores["coverage"] == 0.75
    assert scores["fl"] == 0.5  # 5 px of 0 is an outlier, 4 px of 100 is not, the unknown one is
    assert scores["within_1"] == 0.25
    assert scores["within_3"] == 0.25
    assert scores["within_5"] == 0.75  # 5 px counts: at most


def test_flow_errors_on_visible_pixels_only():
    truth, flow = uv((0, 0), (0, 0)), uv((1, 0), (9, 0))
    assert metrics.flow_errors(flow, truth, np.array([[True, False]]))["epe_visible"] == 1


def test_flow_without_any_prediction_is_infinitely_wrong():
    scores = metrics.flow_errors(np.full((2, 2, 2), np.nan), np.zeros((2, 2, 2)))
    assert scores["epe"] == INF and scores["coverage"] == 0 and scores["fl"] == 1 and scores["within_5"] == 0


def test_corner_error_of_a_shift_and_of_a_failure():
    shift = np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1.0]])
    assert metrics.corner_error(shift, np.eye(3), (10, 20)) == pytest.approx(5)
    assert metrics.corner_error(None, np.eye(3), (10, 20)) == INF
    stretch = np.diag([2, 1, 1.0])  # moves the two right corners, x = 19, by 19
    assert metrics.corner_error(stretch, np.eye(3), (10, 20)) == pytest.approx(19 / 2)


def test_auc_by_hand():
    # Recall rises to 1/2 at 1, to 1 at 3: 0.25 + 1.5 up to there, then 2 * 1 up to 5.
    assert metrics.auc([3, 1], 5) == pytest.approx((0.25 + 1.5 + 2) / 5)
    assert metrics.auc([1, INF], 5) == pytest.approx((0.25 + 4 * 0.5) / 5)
    assert metrics.auc([1, NAN], 5) == metrics.auc([1, INF], 5)
    assert metrics.auc([0, 0], 3) == 1
    assert metrics.auc([INF], 3) == 0
    assert metrics.auc([7], 3) == 0
    assert math.isnan(metrics.auc([], 3))


def test_rotation_and_translation_angles():
    angle = math.radians(10)
    R = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    assert metrics.rotation_error(R, np.eye(3)) == pytest.approx(10)
    assert metrics.rotation_error(np.eye(3), np.eye(3)) == 0
    t, other = np.array([1, 0, 0]), np.array([-math.cos(angle), math.sin(angle), 0])
    assert metrics.translation_error(t, 7 * other) == pytest.approx(10)
    assert metrics.translation_error(t, other, sign_fold=False) == pytest.approx(170)
    T = np.eye(4)
    T[:3, 3] = other
    assert metrics.pose_error(np.eye(3), t, T) == pytest.approx(10)
    assert metrics.pose_error(None, None, T) == INF


def test_epipolar_error_of_a_sideways_camera():
    F = np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0.0]])  # pure x translation: lines are rows
    error = metrics.epipolar_errors(F, np.array([[3.0, 5], [0, 0]]), np.array([[9.0, 5], [4, 2]]))
    np.testing.assert_allclose(error, [0, 2])


def test_precision_and_pck():
    errors = np.array([0.5, 1, 4, NAN])
    assert metrics.precision(errors) == {"precision_1": 0.5, "precision_3": 0.5, "precision_5": 0.75}
    assert metrics.precision(np.zeros(0))["precision_5"] == 0
    assert metrics.pck(errors, 0.5) == 0.25


def test_flow_sampled_between_pixels_and_at_the_border():
    flow = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)))
    points = np.array([[1.25, 0.5], [3, 2], [9, -1]])
    np.testing.assert_allclose(metrics.sample_flow_at(flow, points), [[1.25, 0.5], [3, 2], [3, 0]])
    np.testing.assert_allclose(metrics.sample_flow_at(np.ones((2, 1, 1)), points), np.ones((3, 2)))
    flow[:, 0, 1] = np.nan
    assert np.isnan(metrics.sample_flow_at(flow, points)[0]).all()


def test_pooling_weighs_by_the_number_of_pixels():
    scores = [{"fl": 0.5}, {"fl": 0.1}, {"fl": NAN}]
    assert metrics.pooled(scores, "fl", [1, 3, 0]) == pytest.approx(0.2)


def test_sparsification_area():
    error = np.arange(1, 21, dtype=float)
    assert metrics.area_under_sparsification(error, -error) == pytest.approx(0)
    assert metrics.area_under_sparsification(error, error) > 0.5
    assert metrics.area_under_sparsification(np.zeros(4), np.ones(4)) == 0
