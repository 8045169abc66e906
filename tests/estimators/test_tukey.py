"""Homographies fitted anew to the matches near them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flowkit.estimators.magsac import fit_homography
from flowkit.estimators.tukey import refit_homography

H = np.array([[1.1, 0.05, 10.0], [-0.04, 0.95, -5.0], [1e-4, 2e-5, 1.0]])
CORNERS = np.array([[0, 0], [599, 0], [599, 599], [0, 599.0]])


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def corner_error(matrix: np.ndarray) -> float:
    return float(np.linalg.norm(project(matrix, CORNERS) - project(H, CORNERS), axis=1).mean())


def refitted(start: np.ndarray, p0: np.ndarray, p1: np.ndarray, bound: object, **options: int) -> np.ndarray | None:
    found = refit_homography(*(torch.from_numpy(each) for each in (start, p0, p1)), bound, **options)  # type: ignore[arg-type]
    return None if found is None else found.numpy()


def test_what_lies_within_the_bound_decides_and_what_lies_beyond_has_no_say() -> None:
    rng = np.random.default_rng(0)
    p0 = rng.uniform(0, 600, (200, 2))
    p1 = project(H, p0)
    p1[150:] += [9.0, -7.0]  # all alike: least squares without weights would go with them
    start = H + np.diag([2e-3, -2e-3, 0])
    assert corner_error(start) > 0.5
    found = refitted(start, p0, p1, 4.0)
    assert found is not None and corner_error(found) < 1e-6 and np.linalg.norm(found) == pytest.approx(1)
    assert refitted(start, p0 + 100, p1, 4.0, least=8) is None


def test_the_bound_may_be_an_ellipse() -> None:
    rng = np.random.default_rng(1)
    p0 = rng.uniform(0, 600, (200, 2))
    p1 = project(H, p0)
    p1[100:] += [0.0, 3.0]  # beyond the one half axis, within the other
    along, across = (refitted(H, p0, p1, torch.tensor(axes, dtype=torch.float64)) for axes in ((8.0, 2.0), (2.0, 8.0)))
    assert along is not None and corner_error(along) < 1e-6
    assert across is not None and corner_error(across) > 0.3


def test_magsac_is_more_exact_with_it_where_matches_are_of_several_kinds() -> None:
    ours, theirs = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        p0 = rng.uniform(0, 600, (700, 2))
        noise = np.concatenate(
            [rng.normal(0, 0.3, (250, 2)), rng.normal(0, 1.2, (250, 2)), rng.uniform(-90, 90, (200, 2))]
        )
        p1 = project(H, p0) + noise
        ours.append(corner_error(fit_homography(p0, p1, threshold=3.0, seed=seed).model))
        theirs.append(corner_error(fit_homography(p0, p1, threshold=3.0, seed=seed, refit=False).model))
    assert np.mean(ours) < 0.6 * np.mean(theirs)
