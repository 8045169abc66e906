import math

import cv2
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from flowkit.geometry.flow import (
    compose,
    confidence_from_error,
    endpoint_error,
    flow_from_homography,
    flow_from_map,
    forward_backward,
    invert,
)
from flowkit.geometry.grids import flow_targets, inside, pixel_grid
from flowkit.geometry.homography import transform_points
from flowkit.geometry.sampling import warp

SIZE = (48, 64)


def similarity(scale, degrees, dx=0.0, dy=0.0, size=SIZE):
    """Scales and turns about the middle of the picture, then moves."""
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    return torch.tensor(
        [[c, -s, x - c * x + s * y + dx], [s, c, y - s * x - c * y + dy], [0, 0, 1]], dtype=torch.float64
    )


def wavy(amplitude=2.0, size=SIZE):
    x, y = pixel_grid(*size, dtype=torch.float64)
    return torch.stack([amplitude * torch.sin(y / 9 + 0.3) + 1.4, amplitude * torch.cos(x / 11) - 0.6])


def occluding_square():
    """A 12x12 square moves 8 to the right over a background at rest: both flows and where image0's background is covered."""
    forward, backward = torch.zeros(2, *SIZE), torch.zeros(2, *SIZE)
    forward[0, 10:22, 20:32] = 8
    backward[0, 10:22, 28:40] = -8
    covered = torch.zeros(SIZE, dtype=torch.bool)
    covered[10:22, 32:40] = True
    uncovered = torch.zeros(SIZE, dtype=torch.bool)
    uncovered[10:22, 20:28] = True
    return forward, backward, covered, uncovered


def test_flow_from_map_is_relative():
    grid = pixel_grid(3, 4)
    assert flow_from_map(grid).abs().max() == 0
    assert flow_from_map(grid + torch.tensor([1.0, -2.0])[:, None, None])[:, 2, 3].tolist() == [1, -2]


def test_flow_from_homography_points_from_image0_into_image1():
    """cv2.warpPerspective(image0, H) is image1; warping image1 back by the flow must show image0 again."""
    H = np.array([[1.05, 0.04, 3], [-0.03, 0.98, 2], [4e-4, -2e-4, 1]])
    image0 = cv2.GaussianBlur(np.random.default_rng(0).random(SIZE), (0, 0), 2.5)
    image1 = cv2.warpPerspective(image0, H, (80, 60), flags=cv2.INTER_CUBIC)
    flow = flow_from_homography(torch.from_numpy(H), SIZE)
    back, valid = warp(torch.from_numpy(image1)[None], flow)
    assert valid[3:-3, 3:-3].all()

    def rms(seen):
        return (seen[0] - torch.from_numpy(image0))[3:-3, 3:-3].square().mean().sqrt() / image0.std()

    half_a_pixel_off, _ = warp(torch.from_numpy(image1)[None], flow + 0.5)
    assert rms(back) < 0.04 < 0.1 < rms(half_a_pixel_off)


def test_flow_from_homography_knows_nothing_beyond_the_horizon():
    H = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.1, -1]], dtype=torch.float64)  # infinity at y = 10
    H = H * torch.linalg.det(H).sign()
    flow = flow_from_homography(H / H[2, 2], (20, 6))
    known = torch.isfinite(flow).all(0)
    assert known[:, 0].tolist() in ([False] * 11 + [True] * 9, [True] * 10 + [False] * 10)
    w = H[2, 1] * torch.arange(20) + H[2, 2]
    assert torch.equal(known[:, 0], w > 0)


def test_compose_is_one_after_the_other():
    first, second = similarity(1.1, 10, 2, -1), similarity(0.9, -25, -3, 2)
    composed = compose(flow_from_homography(first, SIZE), flow_from_homography(second, SIZE))
    expected = flow_from_homography(second @ first, SIZE)
    known = torch.isfinite(composed).all(0)
    at = flow_targets(flow_from_homography(first, SIZE))
    assert torch.equal(known, inside(at, SIZE))
    inner = inside(at * 1.0, (SIZE[0], SIZE[1])) & (at > 0).all(-1) & (at < torch.tensor([63, 47])).all(-1)
    torch.testing.assert_close(composed[:, inner], expected[:, inner])


def test_compose_carries_the_unknown():
    first, second = torch.ones(2, 4, 6), torch.zeros(2, 4, 6)
    first[:, 0, 0] = torch.nan
    second[1, 2, 2] = torch.nan
    unknown = compose(first, second).isnan().any(0)
    expected = torch.zeros(4, 6, dtype=torch.bool)
    expected[0, 0] = expected[1, 1] = expected[3] = expected[:, 5] = True
    assert torch.equal(unknown, expected)


@pytest.mark.parametrize(
    ("scale", "degrees"), [(1, 0), (1, 90), (1, 180), (1, 33), (0.5, 20), (0.25, 0), (1.7, -50), (2.5, 8)]
)
def test_inverse_of_a_similarity(scale, degrees):
    H = similarity(scale, degrees, 1.3, -2.2)
    inverse, unknown = invert(flow_from_homography(H, SIZE))
    expected = flow_from_homography(torch.linalg.inv(H), SIZE)
    at = flow_targets(expected)
    border = torch.minimum(at, torch.tensor([63, 47]) - at).amin(
        -1
    )  # pixels from image0's outermost centres, < 0 outside
    assert not unknown[border > 0.1].any()
    assert unknown[border < -1].all()
    assert torch.equal(inverse.isnan().any(0), unknown)
    assert endpoint_error(inverse, expected)[border > 0.1].max() < 1e-6


def test_inverse_of_a_smooth_flow_undoes_it():
    flow = wavy()
    inverse, unknown = invert(flow)
    assert unknown.float().mean() < 0.15
    around = compose(flow, inverse)
    inner = torch.isfinite(around).all(0)
    assert inner.float().mean() > 0.85
    assert around[:, inner].norm(dim=0).max() < 0.1
    assert around[:, inner].norm(dim=0).median() < 0.01
    assert endpoint_error(inverse, flow)[~unknown].median() > 1  # the flow itself, or its like, would not do


def test_inverse_lives_on_the_grid_of_image1():
    flow = torch.zeros(1, 2, 10, 12)
    flow[:, 0], flow[:, 1] = 3, 1
    inverse, unknown = invert(flow, (14, 20))
    assert inverse.shape == (1, 2, 14, 20)
    assert not unknown[0, 1:11, 3:15].any()
    assert unknown.sum() == 14 * 20 - 10 * 12
    expected = torch.tensor([-3.0, -1]).expand(120, 2)
    torch.testing.assert_close(inverse[0][:, ~unknown[0]].T, expected, atol=1e-5, rtol=0)


def test_inverse_of_an_occluding_square():
    forward, backward, _, uncovered = occluding_square()
    importance = torch.zeros(SIZE)
    importance[10:22, 20:32] = 100  # the square is in front
    inverse, unknown = invert(forward, importance=importance)
    rim = torch.nn.functional.max_pool2d(uncovered[None].float(), 3, 1, 1)[0] > 0
    assert unknown[uncovered].float().mean() > 0.7
    assert not unknown[~rim].any()
    assert endpoint_error(inverse, backward)[~unknown & ~rim].max() < 1e-4


def test_forward_backward_finds_the_occlusion():
    forward, backward, covered, uncovered = occluding_square()
    error, occluded = forward_backward(forward, backward)
    assert torch.equal(occluded, covered)
    torch.testing.assert_close(error, 8 * covered.float(), atol=1e-4, rtol=0)
    assert torch.equal(forward_backward(backward, forward)[1], uncovered)
    torch.testing.assert_close(confidence_from_error(error)[~covered], torch.ones(int((~covered).sum())))


def test_leaving_the_picture_is_occlusion():
    flow = torch.zeros(2, 6, 8)
    flow[0] = 3
    error, occluded = forward_backward(flow, -flow)
    assert occluded[:, 5:].all()
    assert not occluded[:, :5].any()
    assert error[:, 5:].isnan().all()
    assert (confidence_from_error(error)[:, 5:] == 0).all()


def test_unflow_bound():
    flow = torch.zeros(2, 5, 5, dtype=torch.float64)
    back = flow.clone()
    back[0] = 0.70  # 0.49 <= 0.01 * 0.49 + 0.5
    assert not forward_backward(flow, back)[1].any()
    back[0] = 0.72
    assert forward_backward(flow, back)[1].any()


def test_endpoint_error_is_euclidean_and_nan_for_unknown():
    truth = torch.zeros(2, 2, 2)
    flow = torch.tensor([3.0, 4.0])[:, None, None].repeat(1, 2, 2)
    truth[0, 0, 0] = torch.nan
    error = endpoint_error(flow, truth)
    assert error[0, 0].isnan()
    assert (error.flatten()[1:] == 5).all()
    with pytest.raises(ValueError, match="same shape"):
        endpoint_error(flow, truth[:, :1])


def test_gradients():
    generator = torch.Generator().manual_seed(0)
    first = (torch.rand(2, 4, 5, dtype=torch.float64, generator=generator) * 0.8 + 0.1).requires_grad_()
    second = torch.rand(2, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    assert gradcheck(compose, (first, second))
    H = torch.tensor([[1.05, 0.04, 3], [-0.03, 0.98, 2], [4e-3, -2e-3, 1]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda H: flow_from_homography(H, (3, 4)), (H,))


def test_flow_from_homography_is_transform_points_on_the_grid_in_batches():
    H = torch.stack([similarity(1.1, 10), torch.tensor([[1.1, 0.1, 5], [-0.05, 0.9, 3], [1e-3, -5e-4, 1]]).double()])
    points = pixel_grid(5, 7, dtype=torch.float64).flatten(1).T
    targets = flow_targets(flow_from_homography(H, (5, 7)))
    torch.testing.assert_close(targets.flatten(1, 2), transform_points(H, points))
