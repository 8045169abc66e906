import numpy as np
import pytest

from flowkit.viz.flow_colors import (
    colour_legend,
    colour_wheel,
    flow_to_rgb,
    max_radius,
    sequence_max_flow,
    with_legend,
)


def constant(u, v, size=(2, 3)):
    return np.stack([np.full(size, u, np.float32), np.full(size, v, np.float32)])


def test_wheel_has_the_middlebury_stations():
    wheel = np.floor(colour_wheel() * 255 + 1e-3).astype(int)
    assert wheel.shape == (55, 3)
    corners = {
        0: (255, 0, 0),
        15: (255, 255, 0),
        21: (0, 255, 0),
        25: (0, 255, 255),
        36: (0, 0, 255),
        49: (255, 0, 255),
    }
    assert all(tuple(wheel[place]) == colour for place, colour in corners.items())
    assert wheel[5].tolist() == [255, 85, 0]


def test_no_motion_is_white_and_unknown_is_black():
    uv = constant(0, 0)
    uv[0, 0, 0], uv[1, 0, 1], uv[0, 1, 2] = np.nan, np.inf, 1e10
    rgb = flow_to_rgb(uv)
    known = np.isfinite(uv).all(0) & (uv[0] < 1e9)
    assert (rgb[known] == 255).all() and (rgb[~known] == 0).all()


@pytest.mark.parametrize(
    ("direction", "expected"),
    [((1, 0), (255, 0, 0)), ((-1, 0), (0, 210, 255)), ((0, 1), (255, 229, 0)), ((0, -1), (85, 0, 255))],
)
def test_directions_have_their_hues(direction, expected):
    rgb = flow_to_rgb(constant(*direction), 1.0)[0, 0].astype(int)
    assert np.abs(rgb - expected).max() < 24


def test_fixed_scale_pales_short_and_darkens_long_vectors():
    full = flow_to_rgb(constant(8, 0), 8)[0, 0].astype(float)
    half = flow_to_rgb(constant(4, 0), 8)[0, 0].astype(float)
    beyond = flow_to_rgb(constant(9, 0), 8)[0, 0].astype(float)
    np.testing.assert_allclose(half, 255 - (255 - full) / 2, atol=1)
    np.testing.assert_allclose(beyond, 0.75 * full, atol=1)
    np.testing.assert_array_equal(flow_to_rgb(constant(8, 0)), flow_to_rgb(constant(8, 0), 8))


def test_strips_do_not_show(monkeypatch):
    uv = np.random.default_rng(0).normal(size=(2, 31, 17)).astype(np.float32)
    whole = flow_to_rgb(uv)
    monkeypatch.setattr("flowkit.viz.flow_colors._STRIP", 40)
    np.testing.assert_array_equal(flow_to_rgb(uv), whole)


def test_radius_of_known_flow_only():
    uv = constant(3, 4)
    uv[:, 0, 0] = np.nan
    uv[0, 0, 1] = 1e10
    assert max_radius(uv) == pytest.approx(5)
    assert max_radius(constant(np.nan, 0)) == 0
    assert flow_to_rgb(constant(np.nan, 0)).max() == 0


def test_sequence_scale_takes_the_largest_frame_lazily():
    frames = (constant(u, 0) for u in (1, 7, 3))
    assert sequence_max_flow(frames) == pytest.approx(7)
    spike = constant(1, 0, (50, 50))
    spike[0, 0, 0] = 100
    assert sequence_max_flow([spike]) == pytest.approx(1)
    assert sequence_max_flow([spike], 100) == pytest.approx(100)
    assert sequence_max_flow([]) == 0


def test_legend_goes_into_the_corner():
    legend = colour_legend(64, 12.3)
    assert legend.shape[1] == 64 and legend.shape[0] > 64
    assert (legend[0, 0] == 255).all() and legend[64:].min() < 120
    picture = np.zeros((200, 300, 3), np.uint8)
    result = with_legend(picture, 5)
    assert picture.max() == 0 and result[:100].max() == 0 and result[150:, 250:].max() == 255
    tiny = np.zeros((20, 300, 3), np.uint8)
    np.testing.assert_array_equal(with_legend(tiny, 5), tiny)
