import cv2
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from flowkit.geometry.homography import (
    corner_error,
    corners,
    fit_dlt,
    is_plausible,
    jacobian,
    normalise,
    same_side,
    symmetric_transfer_error,
    transform_points,
)

H = torch.tensor([[1.1, 0.1, 5], [-0.05, 0.9, 3], [1e-3, -5e-4, 1]], dtype=torch.float64)
POINTS = torch.rand(12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 60
EYE = torch.eye(3, dtype=torch.float64)


def translation(x, y):
    return torch.tensor([[1, 0, x], [0, 1, y], [0, 0, 1]], dtype=torch.float64)


def test_points_move_as_in_cv2():
    expected = cv2.perspectiveTransform(POINTS[None].numpy(), H.numpy())[0]
    torch.testing.assert_close(transform_points(H, POINTS), torch.from_numpy(expected))
    batched = transform_points(torch.stack([H, EYE]), POINTS)
    torch.testing.assert_close(batched[1], POINTS)


def test_a_dot_of_image0_goes_where_warp_perspective_puts_it():
    image0 = np.zeros((60, 60))
    image0[20, 33] = 1
    image1 = cv2.warpPerspective(cv2.GaussianBlur(image0, (0, 0), 2), H.numpy(), (80, 70))
    y, x = np.indices(image1.shape)
    centroid = torch.tensor([(x * image1).sum(), (y * image1).sum()]) / image1.sum()
    torch.testing.assert_close(
        transform_points(H, torch.tensor([[33.0, 20]], dtype=torch.float64))[0], centroid, atol=0.05, rtol=0
    )


def test_infinity_is_nan_without_spoiling_gradients():
    matrix = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.1, 0, -1]], dtype=torch.float64, requires_grad=True)
    moved = transform_points(matrix, torch.tensor([[10.0, 4], [20, 4]], dtype=torch.float64))
    assert moved[0].isnan().all()
    assert moved[1].tolist() == [20, 4]
    moved[1].sum().backward()
    assert torch.isfinite(matrix.grad).all()


def test_normalise():
    assert normalise(-3 * H)[2, 2] == 1
    torch.testing.assert_close(normalise(-3 * H), H)
    origin_at_infinity = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert normalise(origin_at_infinity).isnan().all()


def test_same_side_is_in_front_whatever_the_sign():
    ground = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.1, -1]], dtype=torch.float64)  # infinity at y = 10
    points = torch.tensor([[0, 5], [0, 10], [0, 15]], dtype=torch.float64)
    for matrix in (ground, -ground, ground / ground[2, 2]):
        det = torch.linalg.det(matrix)
        expected = [bool(det * (matrix[2, 1] * y + matrix[2, 2]) > 0) for y in (5, 10, 15)]
        assert same_side(matrix, points).tolist() == expected
        assert sum(expected) == 1
    mirror = torch.diag(torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    assert same_side(mirror, points).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dlt_recovers_the_homography(dtype):
    fitted = fit_dlt(POINTS.to(dtype), transform_points(H, POINTS).to(dtype))
    assert fitted.dtype == dtype
    assert fitted[2, 2] == 1
    assert corner_error(fitted.double(), H, (60, 60)) < (1e-8 if dtype == torch.float64 else 1e-3)
    exact = fit_dlt(POINTS[:4], transform_points(H, POINTS[:4]))
    assert corner_error(exact, H, (60, 60)) < 1e-6


def test_dlt_minds_weights_and_batches():
    target = transform_points(H, POINTS)
    target[0] += 40
    weights = torch.ones(2, 12, dtype=torch.float64)
    weights[0, 0] = 0
    fitted = fit_dlt(POINTS.expand(2, 12, 2), target.expand(2, 12, 2), weights)
    error = corner_error(fitted, H, (60, 60))
    assert error[0] < 1e-8
    assert error[1] > 1


def test_dlt_does_not_invent():
    line = torch.stack([torch.arange(6.0), 2 * torch.arange(6.0)], -1)
    assert fit_dlt(line, line).isnan().all()
    assert fit_dlt(torch.ones(6, 2), torch.ones(6, 2)).isnan().all()
    assert fit_dlt(torch.full((6, 2), torch.nan), line).isnan().all()
    with pytest.raises(ValueError, match="at least 4"):
        fit_dlt(line[:3], line[:3])
    with pytest.raises(ValueError, match="weights"):
        fit_dlt(line, line, torch.ones(5))


def test_gradient_of_the_dlt():
    target = (transform_points(H, POINTS[:6]) + 0.3 * torch.randn(6, 2).double()).requires_grad_()
    assert gradcheck(lambda p: fit_dlt(POINTS[:6], p), (target,), atol=1e-4)


def test_transfer_error_is_the_larger_of_both_images():
    double = torch.diag(torch.tensor([2.0, 2, 1], dtype=torch.float64))
    p0 = torch.tensor([[1.0, 1]], dtype=torch.float64)
    p1 = torch.tensor([[5.0, 6]], dtype=torch.float64)
    assert symmetric_transfer_error(double, p0, p1).item() == 5  # (3, 4) in image1, half that in image0
    assert symmetric_transfer_error(torch.linalg.inv(double), p1, p0).item() == 5
    assert symmetric_transfer_error(torch.zeros(3, 3).double(), p0, p1).isinf().all()


def test_corner_error():
    assert corners((3, 5)).tolist() == [[0, 0], [4, 0], [4, 2], [0, 2]]
    assert corner_error(translation(3, 4), EYE, (30, 40)) == 5
    stretch = torch.diag(torch.tensor([2.0, 1, 1], dtype=torch.float64))
    assert corner_error(stretch, EYE, (30, 40)) == 39 / 2
    assert corner_error(torch.full((3, 3), torch.nan), torch.eye(3), (30, 40)) == torch.inf


def test_jacobian_is_the_derivative():
    by_autograd = torch.autograd.functional.jacobian(lambda p: transform_points(H, p[None])[0], POINTS[3])
    torch.testing.assert_close(jacobian(H, POINTS)[3], by_autograd)


def test_plausible_or_not():
    size = (480, 640)
    diagonal = [torch.diag(torch.tensor(d, dtype=torch.float64)) for d in ([-1, 1, 1.0], [0.01, 0.01, 1], [1, 1e-3, 1])]
    mirrored_in_place = translation(639, 0) @ diagonal[0]
    horizon = torch.tensor([[1, 0, 0], [0, 1, 0], [0, -0.005, 1]], dtype=torch.float64)  # infinity at y = 200
    cases = {
        "identity": (EYE, True),
        "sign and scale": (-7 * EYE, True),
        "perspective": (torch.tensor([[1.1, 0.1, 5], [-0.05, 0.9, 3], [1e-4, -5e-5, 1]]).double(), True),
        "upside down": (translation(639, 479) @ torch.diag(torch.tensor([-1.0, -1, 1])).double(), True),
        "detail": (translation(-9000, -7000) @ torch.diag(torch.tensor([30.0, 30, 1])).double(), True),
        "mirror": (mirrored_in_place, False),
        "tiny": (diagonal[1], False),
        "collapsed to a line": (diagonal[2], False),
        "singular": (torch.ones(3, 3).double(), False),
        "through infinity": (horizon, False),
        "elsewhere": (translation(900, 0), False),
        "not finite": (EYE * torch.nan, False),
    }
    together = is_plausible(torch.stack([matrix for matrix, _ in cases.values()]), size, size)
    assert dict(zip(cases, together.tolist(), strict=True)) == {name: answer for name, (_, answer) in cases.items()}
