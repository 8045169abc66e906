"""The lower level: charts, its optimum, and the implicit derivative against finite differences of what is solved anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from two_views import distance, two_views

from flowkit.geometry.epipolar import epipolar_rows
from flowkit.geometry.essential_layer import EssentialSettings, essential_of_flow, essential_of_matches, refined
from flowkit.geometry.homography import transform_points
from flowkit.geometry.homography_layer import homography_layer, homography_rows
from flowkit.geometry.implicit import argmin, symmetric_solve
from flowkit.geometry.irls import derivatives, irls, objective
from flowkit.geometry.matrix_manifolds import ESSENTIAL, UNIT, Manifold
from flowkit.geometry.pose import recover_pose, rotation_angle, translation_angle

SETTINGS = EssentialSettings(hypotheses=500)


def noisy(points: int, seed: int, outliers: float, noise: float = 2e-4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E (3, 3), matches (N, 2), and which of them (N,) are wrong."""
    generator = torch.Generator().manual_seed(seed)
    _, _, E, x0, x1 = two_views(1, points, seed, turn=0.2)
    x1 = x1[0] + noise * torch.randn(points, 2, dtype=torch.float64, generator=generator)
    wrong = torch.rand(points, generator=generator) < outliers
    x1[wrong] += 0.1 + 0.2 * torch.rand(int(wrong.sum()), 2, dtype=torch.float64, generator=generator)
    return E[0], x0[0], x1, wrong


@pytest.mark.parametrize("manifold", [ESSENTIAL, UNIT])
def test_charts_agree_with_their_derivatives(manifold: Manifold) -> None:
    _, _, E, _, _ = two_views(4, 5, seed=0)
    member = E / (2**0.5 if manifold is UNIT else 1)
    n = manifold.dimension
    zero = torch.zeros(4, n, dtype=torch.float64)
    assert torch.allclose(manifold.moved(member, zero), member)
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(4, n, dtype=torch.float64, generator=generator)
    weights = torch.randn(4, 3, 3, dtype=torch.float64, generator=generator)
    h = 1e-4
    ahead, behind = manifold.moved(member, h * theta), manifold.moved(member, -h * theta)
    first = (ahead - behind) / (2 * h)
    second = ((ahead - 2 * member + behind) * weights).sum((-2, -1)) / h**2
    assert torch.allclose((manifold.tangent(member) @ theta[..., None])[..., 0], first.flatten(-2), atol=1e-7)
    curved = (theta[:, None] @ manifold.curvature(member, weights) @ theta[..., None])[:, 0, 0]
    assert torch.allclose(curved, second, rtol=1e-5, atol=1e-5)
    far = torch.linalg.svdvals(manifold.moved(member, theta))
    if manifold is ESSENTIAL:
        expected = torch.tensor([1.0, 1, 0], dtype=torch.float64)
        assert torch.allclose(far, expected.expand(4, 3), atol=1e-12)
    else:
        assert torch.allclose(far.norm(dim=-1), torch.ones(4, dtype=torch.float64))


def test_irls_ends_at_a_minimum_without_outliers() -> None:
    E, x0, x1, wrong = noisy(300, 1, outliers=0.3)
    rows = epipolar_rows(x0, x1)[None]
    start = ESSENTIAL.moved(E[None], torch.full((1, 5), 1e-3, dtype=torch.float64))
    minimum = irls(rows, start, ESSENTIAL, 2e-3)
    assert minimum.converged.all()
    assert not minimum.inliers[0, wrong].any() or minimum.inliers[0, wrong].double().mean() < 0.05
    gradient, hessian, _ = derivatives(rows, minimum.inliers, minimum.matrix, ESSENTIAL)
    assert gradient.abs().max() < 1e-13
    assert (torch.linalg.eigvalsh(hessian) > 0).all()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        step = 1e-3 * torch.randn(1, 5, dtype=torch.float64, generator=generator)
        assert objective(rows, ESSENTIAL.moved(minimum.matrix, step), 2e-3)[0] > minimum.objective
    assert distance(minimum.matrix[0], E) < 5e-3


def test_irls_solves_each_of_a_batch_as_alone() -> None:
    problems = [noisy(200, seed, outliers) for seed, outliers in ((2, 0.0), (3, 0.4))]
    rows = torch.stack([epipolar_rows(x0, x1) for _, x0, x1, _ in problems])
    start = torch.stack([E for E, *_ in problems])
    both = irls(rows, start, ESSENTIAL, 1e-3)
    for k in range(2):
        alone = irls(rows[k : k + 1], start[k : k + 1], ESSENTIAL, 1e-3)
        assert distance(both.matrix[k], alone.matrix[0]) < 1e-12


def test_exact_matches_stop_by_the_objective() -> None:
    _, _, E, x0, x1 = two_views(1, 50, seed=4)
    minimum = irls(epipolar_rows(x0, x1), E, ESSENTIAL, 1e-3)
    assert minimum.objective[0] < 1e-20 and minimum.converged.all()


@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_gradient_is_that_of_the_optimum_found_anew(outliers: float) -> None:
    E, x0, x1, wrong = noisy(120, 7, outliers)
    x0, x1 = x0.requires_grad_(), x1.requires_grad_()
    weights = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    solution, share = refined(x0, x1, E, SETTINGS)
    assert (share > 0.9) == (outliers == 0)
    (solution * weights).sum().backward()
    assert x0.grad is not None and x1.grad is not None
    assert (x1.grad[wrong] == 0).all() and (x1.grad[~wrong] != 0).any()

    def value(points0: Tensor, points1: Tensor) -> Tensor:
        return (refined(points0, points1, solution.detach(), SETTINGS)[0] * weights).sum()

    with torch.no_grad():
        for points, gradient, other in ((x1, x1.grad, x0), (x0, x0.grad, x1)):
            solved = (lambda p: value(other, p)) if points is x1 else (lambda p: value(p, other))  # noqa: B023
            differences = central_differences(solved, points, range(0, 120, 9))
            assert (differences - gradient[::9]).abs().max() < 1e-5 * gradient.abs().max()


def central_differences(value: Callable[[Tensor], Tensor], points: Tensor, picked: range, h: float = 1e-7) -> Tensor:
    """(len(picked), 2): the derivatives of `value` by some of the points (N, 2)."""
    result = []
    for row in picked:
        for column in range(2):
            ends = []
            for sign in (1, -1):
                moved = points.detach().clone()
                moved[row, column] += sign * h
                ends.append(value(moved))
            result.append((ends[0] - ends[1]) / (2 * h))
    return torch.stack(result).view(-1, 2)


def test_the_solver_does_not_matter() -> None:
    """The derivative is that of the optimum: of RANSAC and IRLS, and of a start that somebody else has found."""
    E, x0, x1, _ = noisy(150, 8, outliers=0.2)
    gradients = []
    for start in (E, ESSENTIAL.moved(E[None], torch.full((1, 5), 2e-4, dtype=torch.float64))[0], -E):
        points = x1.clone().requires_grad_()
        solution, _ = refined(x0, points, start, SETTINGS)
        (solution * solution.detach().sign()).sum().backward()  # does not depend on the sign of E
        gradients.append(points.grad)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-9)
    assert torch.allclose(gradients[0], gradients[2], atol=1e-9)


def test_homography_layer_is_the_same_machinery() -> None:
    generator = torch.Generator().manual_seed(0)
    H = torch.eye(3, dtype=torch.float64) + 0.1 * torch.randn(3, 3, dtype=torch.float64, generator=generator)
    x0 = 2 * torch.rand(60, 2, dtype=torch.float64, generator=generator) - 1
    x1 = transform_points(H, x0) + 1e-3 * torch.randn(60, 2, dtype=torch.float64, generator=generator)
    x1[:10] += 0.4
    x1.requires_grad_()
    weights = torch.randn(3, 3, dtype=torch.float64, generator=generator)
    solution = homography_layer(x0[None], x1[None], H[None], 0.02)
    assert torch.allclose(solution[0] / solution[0, 2, 2], H / H[2, 2], atol=5e-3)
    (solution[0] * weights).sum().backward()
    assert x1.grad is not None and (x1.grad[:10] == 0).all()

    def value(points: Tensor) -> Tensor:
        return (homography_layer(x0[None], points[None], solution.detach(), 0.02)[0] * weights).sum()

    with torch.no_grad():
        differences = central_differences(value, x1, range(5, 60, 7))
    assert (differences - x1.grad[5::7]).abs().max() < 1e-5 * x1.grad.abs().max()
    rows = homography_rows(x0, transform_points(H, x0))
    assert (rows @ H.flatten()).abs().max() < 1e-12


def test_a_singular_problem_has_the_derivative_of_least_norm() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1e-30, -4.0], dtype=torch.float64))[None]
    vector = torch.tensor([[1.0, 1.0, 1.0]], dtype=torch.float64)
    assert torch.allclose(symmetric_solve(matrix, vector), torch.tensor([[0.5, 0.0, -0.25]], dtype=torch.float64))
    rows = torch.zeros(1, 6, 9, dtype=torch.float64, requires_grad=True)  # residuals that determine nothing
    _, _, E, _, _ = two_views(1, 5, seed=0)
    argmin(rows, torch.ones(1, 6), E, ESSENTIAL).sum().backward()
    assert rows.grad is not None and torch.isfinite(rows.grad).all()


def camera(size: tuple[int, int], focal: float) -> Tensor:
    height, width = size
    return torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], dtype=torch.float64)[
        None
    ]


def rigid_flow(size: tuple[int, int], K: Tensor, R: Tensor, t: Tensor, seed: int) -> Tensor:
    """(1, 2, H, W) float64: the flow of random depths 3 to 6 under X1 = R X0 + t."""
    height, width = size
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3)
    depth = 3 + 3 * torch.rand(len(pixels), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    seen = (pixels @ torch.linalg.inv(K[0]).T * depth @ R.T + t) @ K[0].T
    return (seen[:, :2] / seen[:, 2:] - pixels[:, :2]).T.reshape(1, 2, height, width)


def test_a_dense_flow_gives_its_cameras_motion_in_the_right_direction() -> None:
    size, focal = (48, 64), 60.0
    K = camera(size, focal)
    R, t, _, _, _ = (part[0] for part in two_views(1, 5, seed=11, turn=0.15))
    flow = rigid_flow(size, K, R, t, seed=0)
    flow[:, :, :12] += 9.0  # a quarter moves on its own
    fit = essential_of_flow(flow.float(), K, K, settings=SETTINGS)
    assert fit.E.dtype == torch.float32 and bool(fit.found)
    assert fit.inlier_share.item() == pytest.approx(0.75, abs=0.03)
    height, width = size
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")).double().flatten(1).T
    x0 = (grid - K[0, :2, 2]) / focal
    x1 = (grid + flow[0].flatten(1).T - K[0, :2, 2]) / focal
    found_R, found_t, _ = recover_pose(fit.E[0].double(), x0[800:], x1[800:])
    assert rotation_angle(found_R.T @ R) < 0.01
    assert translation_angle(found_t, t) < 0.1  # the sign, too


def test_pixels_that_are_not_usable_do_not_count() -> None:
    size = (40, 56)
    K = camera(size, 50.0)
    R, t, E, _, _ = (part[0] for part in two_views(1, 5, seed=12, turn=0.1))
    flow = rigid_flow(size, K, R, t, seed=1).float()
    usable = torch.ones(1, *size, dtype=torch.bool)
    usable[:, :30] = False
    flow[:, :, :30] = 5.0
    flow[:, :, 39] = torch.nan
    flow.requires_grad_()
    fit = essential_of_flow(flow, K, K, usable, SETTINGS)
    assert fit.inlier_share.item() > 0.99 and distance(fit.E[0].double(), E) < 1e-3
    (fit.E * torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert flow.grad is not None and torch.isfinite(flow.grad).all()
    assert (flow.grad[:, :, :30] == 0).all() and (flow.grad[:, :, 30:39] != 0).any()


def test_too_few_pixels_are_not_found() -> None:
    flow = torch.full((1, 2, 8, 8), torch.nan, requires_grad=True)
    K = camera((8, 8), 8.0)
    fit = essential_of_flow(flow, K, K, settings=SETTINGS)
    assert not fit.found.item() and fit.inlier_share.item() == 0 and torch.isfinite(fit.E).all()
    x = torch.rand(11, 2)
    assert not essential_of_matches(x, x, SETTINGS).found.item()


def test_gradcheck_of_the_layer() -> None:
    E, x0, x1, _ = noisy(20, 13, outliers=0.0, noise=1e-5)

    def layer(points: Tensor) -> Tensor:
        return refined(x0, points, E, EssentialSettings(delta=1.0))[0]

    assert torch.autograd.gradcheck(layer, (x1.requires_grad_(),), eps=1e-6, atol=1e-6, rtol=1e-5)
