import cv2
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from flowkit.geometry.grids import flow_targets, pixel_grid
from flowkit.geometry.sampling import sample, sample_flow, splat, warp

SMOOTH = cv2.GaussianBlur(np.random.default_rng(0).random((24, 31)), (0, 0), 1.5)


def picture(*shape, seed=0):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_points_are_x_then_y_from_the_centre_of_the_top_left_pixel():
    image = picture(3, 5, 7)
    points = torch.tensor([[0, 0], [6, 4], [2, 3], [6, 0]], dtype=torch.float64)
    expected = image[:, [0, 4, 3, 0], [0, 6, 2, 6]]
    for padding in ("zeros", "border", "nan"):
        torch.testing.assert_close(sample(image, points, padding=padding), expected, atol=1e-12, rtol=0)


def test_float32_is_exact_to_rounding_at_pixel_centres_of_a_wide_picture():
    image = torch.rand(1, 3, 4001)
    torch.testing.assert_close(sample(image, pixel_grid(3, 4001).movedim(0, -1)), image, atol=1e-3, rtol=0)


def test_half_way_is_the_mean():
    image = torch.tensor([[[0.0, 10], [20, 50]]])
    assert sample(image, torch.tensor([[0.5, 0.0], [0.0, 0.5], [0.5, 0.5]])).tolist() == [[5, 10, 20]]


def test_padding():
    image = torch.full((1, 4, 5), 8.0)
    points = torch.tensor([[-0.25, 1.0], [4.25, 1.0], [4.75, 1.0], [2.0, -2.0], [torch.nan, 1.0]])
    assert sample(image, points, padding="border").tolist() == [[8, 8, 8, 8, 0]]
    torch.testing.assert_close(sample(image, points, padding="zeros"), torch.tensor([[6.0, 6, 2, 0, 0]]))
    unknown = sample(image, points, padding="nan")
    assert unknown[0, :2].tolist() == [8, 8]
    assert unknown[0, 2:].isnan().all()
    with pytest.raises(ValueError, match="padding"):
        sample(image, points, padding="reflect")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (4, 1)])
def test_pictures_one_pixel_wide(height, width):
    image = picture(2, height, width)
    points = pixel_grid(height, width, dtype=torch.float64).movedim(0, -1)
    torch.testing.assert_close(sample(image, points), image)
    torch.testing.assert_close(sample(image, points + 0.5)[:, -1, -1], image[:, -1, -1] / 4)


def test_batch_dimensions_and_shapes_of_points():
    images = picture(2, 3, 4, 6, 7)
    points = picture(2, 3, 5, 2) * 6
    seen = sample(images, points)
    assert seen.shape == (2, 3, 4, 5)
    torch.testing.assert_close(seen[1, 2], sample(images[1, 2], points[1, 2]))
    assert sample(images[0, 0], points).shape == (4, 2, 3, 5)
    with pytest.raises(ValueError, match="batch dimensions"):
        sample(images, points[:1])


def test_unknown_flow_does_not_leak():
    flow = torch.full((2, 5, 5), 3.0)
    flow[:, 2, 2] = torch.nan
    points = torch.tensor([[1.0, 2], [1.5, 2], [2, 2], [0, 0], [-0.4, 0], [-0.6, 0], [3.0, 3.0]])
    seen = sample_flow(flow, points)
    assert seen[0].isnan().tolist() == [False, True, True, False, False, True, False]
    assert seen[:, [0, 3, 4, 6]].allclose(torch.tensor(3.0))


def test_warp_agrees_with_cv2_remap():
    rng = np.random.default_rng(1)
    flow = np.stack([cv2.GaussianBlur(rng.normal(mean, 20, (20, 26)), (0, 0), 4) for mean in (2, -1.5)])
    warped, valid = warp(torch.from_numpy(SMOOTH)[None], torch.from_numpy(flow))
    x, y = flow_targets(torch.from_numpy(flow)).movedim(-1, 0).numpy().astype(np.float32)
    expected = cv2.remap(SMOOTH.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    assert 0 < valid.sum() < valid.numel()
    # cv2 rounds coordinates to 1/32 of a pixel.
    np.testing.assert_allclose(warped[0][valid].numpy(), expected[valid.numpy()], atol=5e-3)
    assert (warped[0][~valid] == 0).all()


def test_warp_brings_image1_onto_image0():
    image0 = torch.zeros(1, 6, 8, dtype=torch.float64)
    image0[0, 2, 3] = 1
    image1 = torch.zeros(1, 9, 9, dtype=torch.float64)
    image1[0, 6, 5] = 1  # two to the right, four down
    flow = torch.tensor([2.0, 4.0], dtype=torch.float64)[:, None, None].expand(2, 6, 8)
    warped, valid = warp(image1, flow)
    torch.testing.assert_close(warped, image0)
    assert valid[:5, :7].all()
    assert not valid[5:].any()
    assert not valid[:, 7:].any()


def test_warp_of_an_unknown_flow_is_the_fill():
    warped, valid = warp(torch.ones(3, 4, 4), torch.full((2, 5, 6), torch.nan), fill=0.5)
    assert (warped == 0.5).all()
    assert not valid.any()


def test_splat_moves_pixels_along_the_flow():
    image0 = torch.zeros(1, 5, 6)
    image0[0, 1, 2] = 1
    flow = torch.zeros(2, 5, 6)
    flow[0], flow[1] = 1, 2
    moved, coverage = splat(image0, flow, size1=(7, 8))
    assert moved.shape == (1, 7, 8)
    assert moved[0].nonzero().tolist() == [[3, 3]]
    assert torch.equal(coverage > 0, torch.nn.functional.pad(torch.ones(5, 6, dtype=torch.bool), (1, 1, 2, 0)))


def test_splat_then_warp_is_the_identity_for_a_smooth_flow():
    image0 = torch.from_numpy(SMOOTH)[None]
    grid = pixel_grid(24, 31, dtype=torch.float64)
    flow = torch.stack([1.3 + 0.5 * torch.sin(grid[1] / 6), -0.7 + 0.5 * torch.cos(grid[0] / 7)])
    image1, coverage = splat(image0, flow)
    assert (coverage[3:-3, 3:-3] > 0).all()
    back, _ = warp(image1, flow)
    assert (back - image0)[..., 4:-4, 4:-4].abs().max() < 0.05


def test_splat_of_two_on_one_pixel():
    image0 = torch.tensor([[[1.0, 3.0]]])
    flow = torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]])  # both land on the right pixel
    mean, coverage = splat(image0, flow)
    assert mean[0, 0].tolist() == [0, 2]
    assert coverage[0].tolist() == [0, 2]
    assert splat(image0, flow, weight=torch.tensor([[3.0, 1.0]]))[0][0, 0, 1] == 1.5
    for high in (60.0, 5000.0):  # no overflow, no underflow
        assert splat(image0, flow, importance=torch.tensor([[high, 0.0]]))[0][0, 0, 1] == 1
        assert splat(image0, flow, importance=torch.tensor([[-high, 0.0]]))[0][0, 0, 1] == 3


def test_splat_skips_what_is_unknown():
    image0 = torch.ones(1, 3, 3)
    flow = torch.zeros(2, 3, 3)
    flow[0, 1, 1] = torch.nan
    image0[0, 0, 0] = torch.nan
    moved, coverage = splat(image0, flow)
    assert coverage.tolist() == [[0, 1, 1], [1, 0, 1], [1, 1, 1]]
    assert torch.isfinite(moved).all()


def test_splat_batches():
    image0, flow = picture(2, 3, 6, 7), picture(2, 2, 6, 7) * 4 - 2
    moved, coverage = splat(image0, flow, size1=(5, 9))
    one, one_coverage = splat(image0[1], flow[1], size1=(5, 9))
    torch.testing.assert_close(moved[1], one)
    torch.testing.assert_close(coverage[1], one_coverage)
    with pytest.raises(ValueError, match="batch"):
        splat(image0, flow[0])
    with pytest.raises(ValueError, match="weight"):
        splat(image0, flow, weight=torch.ones(6, 7))


def test_gradients():
    image = picture(2, 5, 6).requires_grad_()
    points = (picture(4, 2, seed=1) * 3 + 0.3).requires_grad_()
    flow = (picture(2, 4, 5, seed=2) * 0.8 + 0.1).requires_grad_()
    weight, importance = picture(5, 6).requires_grad_(), picture(5, 6, seed=3).requires_grad_()
    full_flow = (picture(2, 5, 6, seed=4) * 0.8 + 0.1).requires_grad_()
    assert gradcheck(sample, (image, points))
    assert gradcheck(lambda i, f: warp(i, f)[0], (image, flow))
    assert gradcheck(lambda i, f, w, z: splat(i, f, weight=w, importance=z), (image, full_flow, weight, importance))


def test_unknown_points_have_no_nan_gradient():
    image = picture(1, 4, 4).requires_grad_()
    flow = torch.zeros(2, 4, 4, dtype=torch.float64)
    flow[:, 1, 1] = torch.nan
    warp(image, flow)[0].sum().backward()
    assert torch.isfinite(image.grad).all()
