import cv2
import pytest
import torch

from flowkit.geometry.epipolar import (
    epipolar_distance,
    epipolar_lines,
    essential_from_fundamental,
    essential_from_pose,
    fundamental_from_essential,
    sampson_error,
    skew,
    symmetric_epipolar_distance,
)
from flowkit.geometry.homography import homogeneous
from flowkit.geometry.pose import so3_exp

K0 = torch.tensor([[500, 0, 320], [0, 510, 240], [0, 0, 1]], dtype=torch.float64)
K1 = torch.tensor([[620, 0, 300], [0, 600, 250], [0, 0, 1]], dtype=torch.float64)
R = so3_exp(torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64))
T = torch.tensor([1.0, 0.2, -0.3], dtype=torch.float64)
X = torch.rand(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4 + torch.tensor([-2, -2, 4])


def project(K, points):
    pixels = points @ K.T
    return pixels[:, :2] / pixels[:, 2:]


P0, P1 = project(K0, X), project(K1, X @ R.T + T)
E = essential_from_pose(R, T)
F = fundamental_from_essential(E, K0, K1)


def test_skew_is_the_cross_product():
    a, b = torch.randn(2, 5, 3)
    torch.testing.assert_close((skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


def test_matches_obey_their_matrices_in_this_direction_only():
    n0, n1 = (homogeneous(P0) @ torch.linalg.inv(K0).T, homogeneous(P1) @ torch.linalg.inv(K1).T)
    assert (n1 * (n0 @ E.T)).sum(-1).abs().max() < 1e-12
    assert (homogeneous(P1) * (homogeneous(P0) @ F.T)).sum(-1).abs().max() < 1e-10
    for error in (sampson_error, symmetric_epipolar_distance, epipolar_distance):
        assert error(F, P0, P1).max() < 1e-8
        assert error(F, P1, P0).median() > 10
        assert error(F.mT, P1, P0).max() < 1e-8
    torch.testing.assert_close(torch.linalg.svdvals(E), torch.tensor([1, 1, 0]).double(), atol=1e-12, rtol=0)


def test_essential_from_fundamental_is_the_way_back():
    back = essential_from_fundamental(-5 * F, K0, K1)
    torch.testing.assert_close(back * (back * E).sum().sign(), E)


def test_lines_and_distances():
    lines = epipolar_lines(F, P0)
    torch.testing.assert_close(lines[:, :2].norm(dim=-1), torch.ones(20).double())
    away = P1 + 3 * lines[:, :2]  # three pixels off the line
    torch.testing.assert_close(epipolar_distance(F, P0, away), torch.full((20,), 3.0).double())
    other = epipolar_distance(F.mT, away, P0)
    torch.testing.assert_close(symmetric_epipolar_distance(F, P0, away), (9 + other**2).sqrt())
    by_cv2 = cv2.computeCorrespondEpilines(P0[:, None].numpy(), 1, F.numpy())[:, 0]
    torch.testing.assert_close(
        (lines * torch.from_numpy(by_cv2)).sum(-1).sign()[:, None] * lines, torch.from_numpy(by_cv2)
    )


def test_sampson_agrees_with_cv2():
    away = P1 + 2 * torch.randn(20, 2, generator=torch.Generator().manual_seed(1)).double()
    ours = sampson_error(F, P0, away)
    for i in range(20):
        squared = cv2.sampsonDistance(homogeneous(P0)[i].numpy(), homogeneous(away)[i].numpy(), F.numpy())
        assert ours[i].item() ** 2 == pytest.approx(squared, rel=1e-9)


def test_batches_and_shapes():
    stacked = torch.stack([F, F.mT])
    errors = sampson_error(stacked, torch.stack([P0, P1]), torch.stack([P1, P0]))
    assert errors.shape == (2, 20)
    assert errors.max() < 1e-8
    with pytest.raises(ValueError, match=r"F must have shape \(\.\.\., 3, 3\)"):
        sampson_error(F[:2], P0, P1)
    with pytest.raises(ValueError, match="same shape"):
        sampson_error(F, P0, P1[:-1])
