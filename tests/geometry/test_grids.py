import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.geometry.flow import flow_from_homography
from flowkit.geometry.grids import (
    flip_points,
    flow_targets,
    inside,
    pixel_grid,
    resize_flow,
    resize_homography,
    resize_image,
    resize_intrinsics,
    resize_matrix,
    resize_points,
    rotate90_points,
    rotate90_size,
    rotation90_homography,
)
from flowkit.geometry.homography import transform_points

SIZES = [((30, 40), (60, 80)), ((30, 40), (15, 20)), ((33, 47), (50, 31)), ((9, 7), (9, 21))]


def ramps(size):
    """A picture whose two channels are x and y."""
    return pixel_grid(*size, dtype=torch.float64)


def test_grid_is_x_then_y_from_zero():
    grid = pixel_grid(2, 3)
    assert grid.shape == (2, 2, 3)
    assert grid[0].tolist() == [[0, 1, 2], [0, 1, 2]]
    assert grid[1].tolist() == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_points_follow_the_pixels_of_cv2_and_torch(size, target):
    """Each resized pixel shows the ramp's value, that is, the old coordinates; resize_points must bring them back to it."""
    by_torch = F.interpolate(ramps(size)[None], size=target, mode="bilinear", align_corners=False)[0]
    by_cv2 = cv2.resize(ramps(size).permute(1, 2, 0).numpy(), target[::-1], interpolation=cv2.INTER_LINEAR)
    for seen in (by_torch, torch.from_numpy(by_cv2).permute(2, 0, 1)):
        inner = (slice(None), slice(2, -2), slice(2, -2))
        points = resize_points(seen.movedim(0, -1), size, target).movedim(-1, 0)
        torch.testing.assert_close(points[inner], pixel_grid(*target, dtype=torch.float64)[inner], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_matrix_says_the_same_as_points(size, target):
    points = torch.rand(5, 2, dtype=torch.float64) * 30
    torch.testing.assert_close(
        transform_points(resize_matrix(size, target), points), resize_points(points, size, target)
    )


def test_resized_homography_commutes_with_resized_points():
    H = torch.tensor([[1.1, 0.1, 5], [-0.05, 0.9, 3], [1e-3, -5e-4, 1]], dtype=torch.float64)
    sizes = (30, 40), (45, 100), (60, 50), (20, 70)
    points = torch.rand(8, 2, dtype=torch.float64) * 25
    small = resize_homography(H, *sizes)
    assert small[2, 2] == 1
    torch.testing.assert_close(
        transform_points(small, resize_points(points, *sizes[:2])),
        resize_points(transform_points(H, points), *sizes[2:]),
    )


@pytest.mark.parametrize(("size1", "size1_to"), [((60, 50), (20, 70)), ((30, 40), (45, 100)), ((30, 40), (30, 40))])
def test_resized_flow_is_the_flow_between_the_resized_pictures(size1, size1_to):
    H = torch.tensor([[1.1, 0.1, 5], [-0.05, 0.9, 3], [0, 0, 1]], dtype=torch.float64)
    sizes = (30, 40), (45, 100), size1, size1_to
    resized = resize_flow(flow_from_homography(H, sizes[0]), sizes[1], size1, size1_to)
    expected = flow_from_homography(resize_homography(H, *sizes), sizes[1])
    inner = (..., slice(3, -3), slice(3, -3))  # an affine flow, so bilinear interpolation is exact but in the rim
    torch.testing.assert_close(resized[inner], expected[inner])


def test_identity_flow_stays_identity_when_both_are_resized():
    assert resize_flow(torch.zeros(2, 6, 8), (13, 5)).abs().max() == 0
    moved = resize_flow(torch.zeros(2, 6, 8, dtype=torch.float64), (6, 8), (6, 8), (12, 24))
    points = resize_points(pixel_grid(6, 8, dtype=torch.float64).movedim(0, -1), (6, 8), (12, 24))
    torch.testing.assert_close(flow_targets(moved), points)


def test_unknown_flow_does_not_leak():
    flow = torch.full((2, 8, 8), 4.0)
    flow[0, 2, 3] = torch.nan  # one channel is enough
    up = resize_flow(flow, (16, 16))
    known = torch.isfinite(up).all(0)
    # Pixel 3 is pixels 6 and 7 of the larger picture, and has a share in one more on either side.
    assert [(~known).any(0).nonzero().flatten().tolist(), (~known).any(1).nonzero().flatten().tolist()] == [
        [5, 6, 7, 8],
        [3, 4, 5, 6],
    ]
    assert (up[:, known] == 8).all()
    assert torch.equal(resize_flow(flow, (8, 8)).isnan(), flow.isnan())


def test_flow_keeps_batch_dimensions():
    flow = torch.randn(2, 3, 2, 6, 8)
    torch.testing.assert_close(resize_flow(flow, (9, 9))[1, 2], resize_flow(flow[1, 2], (9, 9)))


def test_intrinsics_project_to_the_resized_pixel():
    K = torch.tensor([[50.0, 0, 19.5], [0, 55, 14.5], [0, 0, 1]], dtype=torch.float64)
    X = torch.tensor([0.2, -0.1, 1], dtype=torch.float64)
    smaller = resize_intrinsics(K, (30, 40), (15, 20)) @ X
    torch.testing.assert_close(smaller[:2], resize_points((K @ X)[:2], (30, 40), (15, 20)))
    # The middle of the picture stays the middle.
    assert resize_intrinsics(K, (30, 40), (15, 20))[:2, 2].tolist() == [9.5, 7]


@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 5])
def test_rotation_is_that_of_numpy(k):
    picture = np.arange(12).reshape(3, 4)
    turned = np.rot90(picture, k)
    assert rotate90_size((3, 4), k) == turned.shape
    points = pixel_grid(3, 4, dtype=torch.float64).flatten(1).T
    there = rotate90_points(points, (3, 4), k)
    x, y = there.long().T.numpy()
    assert (turned[y, x] == picture.ravel()).all()
    torch.testing.assert_close(transform_points(rotation90_homography((3, 4), k), points), there)
    torch.testing.assert_close(rotate90_points(there, rotate90_size((3, 4), k), -k), points)


@pytest.mark.parametrize("horizontal", [True, False])
def test_flip_is_that_of_numpy(horizontal):
    picture = np.arange(12).reshape(3, 4)
    flipped = np.flip(picture, 1 if horizontal else 0)
    points = pixel_grid(3, 4).flatten(1).T
    x, y = flip_points(points, (3, 4), horizontal).long().T.numpy()
    assert (flipped[y, x] == picture.ravel()).all()


def test_picture_resizes_as_torch_and_cv2():
    image = torch.rand(3, 12, 17)
    smaller = resize_image(image, (7, 9), antialias=False)
    expected = cv2.resize(image.permute(1, 2, 0).numpy(), (9, 7), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(smaller.permute(1, 2, 0).numpy(), expected, atol=1e-5)
    assert resize_image(image[None, None], (7, 9)).shape == (1, 1, 3, 7, 9)
    checkerboard = (pixel_grid(32, 32).sum(0) % 2)[None]
    assert resize_image(checkerboard, (8, 8)).std() < 0.05


def test_area_includes_half_a_pixel_of_rim():
    points = torch.tensor([[-0.5, 2.5], [-0.6, 0], [3.5, 0], [0, 2.6], [torch.nan, 0]])
    assert inside(points, (3, 4)).tolist() == [True, False, True, False, False]


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"flow must have shape \(\.\.\., 2, H, W\), got \(3, 4, 5\)"):
        resize_flow(torch.zeros(3, 4, 5), (4, 5))
    with pytest.raises(ValueError, match="points must have shape"):
        resize_points(torch.zeros(4, 3), (4, 5), (8, 10))
    with pytest.raises(ValueError, match="half precision"):
        resize_points(torch.zeros(4, 2, dtype=torch.float16), (4, 5), (8, 10))
    with pytest.raises(ValueError, match="float32 or float64"):
        pixel_grid(4, 5, dtype=torch.float16)
    with pytest.raises(ValueError, match="both size1_from and size1_to"):
        resize_flow(torch.zeros(2, 4, 5), (4, 5), size1_from=(3, 3))
    with pytest.raises(ValueError, match="positive"):
        resize_image(torch.zeros(3, 4, 5), (0, 5))
