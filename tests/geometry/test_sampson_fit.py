"""The least truncated Sampson distance: its slopes by differences, its minimum by trying, and outliers that do not count."""

from __future__ import annotations

import torch
from two_views import distance, two_views

from flowkit.geometry.epipolar import sampson_error
from flowkit.geometry.matrix_manifolds import ESSENTIAL
from flowkit.geometry.sampson_fit import _normal_equations, fit_sampson, penalty


def noisy(seed: int, outliers: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    _, _, E, x0, x1 = two_views(1, 200, seed, turn=0.2)
    x1 = x1[0] + 3e-4 * torch.randn(200, 2, dtype=torch.float64, generator=generator)
    x1[:outliers] += 0.1
    return E, x0[0], x1


def test_slopes_are_those_of_the_distance() -> None:
    E, x0, x1 = noisy(0)
    E = ESSENTIAL.moved(E, torch.full((1, 5), 0.02, dtype=torch.float64))
    gradient, normal = _normal_equations(E, x0, x1, 10.0)
    h = 1e-6
    differences, columns = [], []
    for axis in range(5):
        step = torch.zeros(1, 5, dtype=torch.float64)
        step[0, axis] = h
        ahead, behind = ESSENTIAL.moved(E, step), ESSENTIAL.moved(E, -step)
        differences.append((penalty(ahead, x0, x1, 10.0) - penalty(behind, x0, x1, 10.0)) / (4 * h))
        columns.append((sampson_error(ahead[0], x0, x1) - sampson_error(behind[0], x0, x1)) / (2 * h))
    assert torch.allclose(gradient[0], torch.cat(differences), rtol=1e-6, atol=1e-9)
    J = torch.stack(columns, -1)
    assert torch.allclose(normal[0], J.T @ J, rtol=1e-5)


def test_it_ends_at_a_minimum_and_each_start_by_itself() -> None:
    E, x0, x1 = noisy(1, outliers=60)
    generator = torch.Generator().manual_seed(0)
    near = 2e-3 * torch.randn(4, 5, dtype=torch.float64, generator=generator)
    starts = ESSENTIAL.moved(E.expand(4, 3, 3), near)
    minima, penalties = fit_sampson(starts, x0, x1, 2e-3)
    assert torch.allclose(penalties, penalty(minima, x0, x1, 2e-3))
    assert (penalties <= penalty(starts, x0, x1, 2e-3)).all()
    assert distance(minima[penalties.argmin()], E[0]) < 2e-3
    alone, _ = fit_sampson(starts[2:3], x0, x1, 2e-3)
    assert torch.allclose(alone[0], minima[2], atol=1e-9)
    best = minima[penalties.argmin()][None]
    for _ in range(20):
        step = 1e-3 * torch.randn(1, 5, dtype=torch.float64, generator=generator)
        assert penalty(ESSENTIAL.moved(best, step), x0, x1, 2e-3) > penalties.min()
    assert torch.allclose(
        torch.linalg.svdvals(minima), torch.tensor([1.0, 1, 0], dtype=torch.float64).expand(4, 3), atol=1e-9
    )


def test_matches_that_are_not_finite_count_as_outliers() -> None:
    E, x0, x1 = noisy(2)
    x1[0] = torch.nan
    minima, penalties = fit_sampson(E, x0, x1, 2e-3)
    assert torch.isfinite(minima).all() and torch.isfinite(penalties).all()
    assert penalties[0] >= 2e-3**2
    assert distance(minima[0], E[0]) < 2e-3
