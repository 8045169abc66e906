"""Warping by flow, homography and splatting: directions, borders, depths, masks."""

import numpy as np
import pytest

from flowkit.errors import InputError, UsageError
from flowkit.pipelines import warp as module
from flowkit.pipelines.warp import warp

RNG = np.random.default_rng(0)


def picture(height=40, width=60, dtype=np.uint8):
    top = np.iinfo(dtype).max if dtype != np.float32 else 1
    return (RNG.random((height, width, 3)) * top).astype(dtype)


def constant_flow(height, width, dx, dy):
    return np.stack([np.full((height, width), dx), np.full((height, width), dy)]).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_flow_lives_on_the_output_and_points_into_the_image(dtype):
    image = picture(dtype=dtype)
    warped = warp(image, flow=constant_flow(40, 60, 3, -2))
    assert warped.pixels.dtype == dtype
    np.testing.assert_array_equal(warped.pixels[2:, :57], image[:-2, 3:])
    assert warped.valid[2:, :57].all() and not warped.valid[:2].any() and not warped.valid[:, 57:].any()
    assert not warped.pixels[:2].any()


def test_a_homography_maps_the_image_to_the_output_as_the_flow_does():
    image = picture()
    shift = np.array([[1.0, 0, 3], [0, 1, -2], [0, 0, 1]])
    by_matrix = warp(image, homography=-2 * shift)  # scale and sign do not matter
    by_flow = warp(image, flow=constant_flow(40, 60, -3, 2))
    np.testing.assert_array_equal(by_matrix.pixels, by_flow.pixels)
    np.testing.assert_array_equal(by_matrix.valid, by_flow.valid)


def test_splatting_by_a_flow_undoes_warping_by_it():
    image = picture()
    flow = constant_flow(40, 60, 3, -2)
    pushed = warp(image, flow=flow, splat=True)
    np.testing.assert_array_equal(pushed.pixels[:-2, 3:], image[2:, :-3])
    assert pushed.valid[:-2, 3:].all() and not pushed.valid[-2:].any() and not pushed.valid[:, :3].any()


def test_strips_leave_no_seam(monkeypatch):
    image = picture(50, 30)
    flow = (RNG.random((2, 50, 30)) * 8 - 4).astype(np.float32)
    flow[:, 10, 5] = np.nan
    matrix = np.array([[1.1, 0.1, -3], [-0.05, 0.9, 2], [1e-3, -5e-4, 1]])
    calls = ({"flow": flow}, {"homography": matrix}, {"flow": flow, "splat": True})
    whole = [warp(image, **call) for call in calls]
    monkeypatch.setattr(module, "_STRIP", 7 * 30)
    for call, before in zip(calls, whole, strict=True):
        after = warp(image, **call)
        np.testing.assert_array_equal(after.valid, before.valid)
        assert np.abs(after.pixels.astype(int) - before.pixels).max() <= 1


def test_the_horizon_is_not_crossed():
    """Half of the output lies behind this homography's horizon; nothing may be mirrored into it."""
    matrix = np.array([[1.0, 0, 0], [0, 1, 0], [0.05, 0, 1]])
    warped = warp(picture(), homography=matrix, size=(40, 200))
    y, x = np.nonzero(warped.valid)
    back = np.linalg.inv(matrix) @ np.stack([x, y, np.ones_like(x)])
    assert len(x) and (back[2] > 0).all()


def test_the_rim_of_half_a_pixel_is_valid_and_holds_the_border():
    warped = warp(picture(), flow=constant_flow(40, 60, -0.5, 0.5))
    assert warped.valid.all()
    assert not warp(picture(), flow=constant_flow(40, 60, -0.6, 0)).valid[:, 0].any()


def test_unknown_flow_and_occlusion_stay_empty():
    flow = constant_flow(40, 60, 0, 0)
    flow[:, 5, 6] = np.nan
    hidden = np.zeros((40, 60), bool)
    hidden[7, 8] = True
    warped = warp(picture(), flow=flow, occlusion=hidden)
    assert not warped.valid[5, 6] and not warped.valid[7, 8] and warped.valid.sum() == 40 * 60 - 2
    assert not warped.pixels[5, 6].any() and not warped.pixels[7, 8].any()


def test_the_output_may_be_of_another_size():
    assert warp(picture(), flow=constant_flow(20, 30, 0, 0)).pixels.shape == (20, 30, 3)
    assert warp(picture(), homography=np.eye(3), size=(70, 80)).valid.sum() == 40 * 60
    assert warp(picture(), flow=constant_flow(40, 60, 0, 0), splat=True, size=(50, 70)).valid.sum() == 40 * 60


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (UsageError, {}),
        (UsageError, {"flow": constant_flow(4, 4, 0, 0), "homography": np.eye(3)}),
        (UsageError, {"homography": np.eye(3), "splat": True}),
        (InputError, {"homography": np.diag([1.0, 1, 0])}),
        (InputError, {"homography": np.full((3, 3), np.nan)}),
        (InputError, {"flow": constant_flow(4, 4, 0, 0), "splat": True}),
        (InputError, {"flow": constant_flow(40, 60, 0, 0), "size": (4, 4)}),
        (InputError, {"flow": constant_flow(40, 60, 0, 0), "occlusion": np.zeros((3, 3), bool)}),
    ],
)
def test_what_cannot_be(error, arguments):
    with pytest.raises(error):
        warp(picture(), **arguments)
