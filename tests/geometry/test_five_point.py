"""Every true E among the solutions, real roots against numpy's, RANSAC against outliers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from two_views import distance, two_views

from flowkit.geometry.epipolar import epipolar_rows, sampson_error
from flowkit.geometry.essential_ransac import Score, essential_ransac, scored
from flowkit.geometry.five_point import five_point
from flowkit.geometry.matrix_manifolds import ESSENTIAL
from flowkit.geometry.real_roots import real_roots


def condition(E: torch.Tensor, x0: torch.Tensor, x1: torch.Tensor) -> torch.Tensor:
    """(B,) by how much rounding of the five matches is amplified in E: largest over smallest singular value."""
    slope = epipolar_rows(x0, x1) @ ESSENTIAL.tangent(E)
    values = torch.linalg.svdvals(slope)
    return values[:, 0] / values[:, -1]


def test_every_true_essential_matrix_is_found() -> None:
    _, _, E, x0, x1 = two_views(5000, 5, seed=0)
    solutions, found = five_point(x0, x1)
    nearest = torch.where(found, distance(solutions, E[:, None]), torch.inf).amin(1)
    sound = condition(E, x0, x1) < 1e5
    assert sound.double().mean() > 0.99  # the others are at a double root, where E is not determined to 1e-8
    assert nearest[sound].max() < 1e-8
    assert nearest.median() < 1e-12
    assert (nearest < 1e-8).double().mean() > 0.998


def test_solutions_obey_the_constraints_and_their_order() -> None:
    _, _, _, x0, x1 = two_views(300, 5, seed=1)
    E, found = five_point(x0, x1)
    assert E.dtype == torch.float64 and E.shape == (300, 10, 3, 3)
    assert 4 < found.sum(1).double().mean() < 6  # 4.55 on average for random problems, more where points are in front
    assert (found[:, 1:] <= found[:, :-1]).all() and (E[~found] == 0).all()
    residual = torch.einsum("bni,bkij,bnj->bkn", homogeneous(x1), E, homogeneous(x0))[found]
    singular = torch.linalg.svdvals(E[found])
    sharp = (singular[:, 0] - singular[:, 1]).abs() < 1e-9
    assert sharp.double().mean() > 0.995
    assert residual.abs().max() < 1e-9
    assert torch.allclose(E[found].norm(dim=(-2, -1)), torch.full((int(found.sum()),), 2**0.5, dtype=torch.float64))
    assert (singular[sharp, 2] < 1e-7).all()


def homogeneous(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, torch.ones_like(x[..., :1])], -1)


def test_all_that_poselib_finds_is_found() -> None:
    poselib = pytest.importorskip("poselib")
    _, _, _, x0, x1 = two_views(200, 5, seed=2)
    ours, found = five_point(x0, x1)
    rays0, rays1 = (homogeneous(x) / homogeneous(x).norm(dim=-1, keepdim=True) for x in (x0, x1))
    missed = total = 0
    for k in range(len(x0)):
        theirs = torch.from_numpy(np.array(poselib.essential_matrix_5pt(rays0[k].numpy(), rays1[k].numpy())))
        theirs = theirs * (2**0.5 / theirs.norm(dim=(-2, -1), keepdim=True))
        exact = torch.linalg.svdvals(theirs)[:, 2] < 1e-9  # some of theirs are not
        nearest = distance(theirs[exact, None], ours[k][found[k]]).amin(1)
        total += len(nearest)
        missed += int((nearest > 1e-6).sum())
    assert total > 600
    assert missed <= 2  # double roots, that rounding decides about


def test_degenerate_problems_are_no_error() -> None:
    _, _, _, x0, x1 = two_views(3, 5, seed=3)
    x0[0], x1[0] = x0[0, :1], x1[0, :1]  # one match five times
    x1[1] = x0[1]  # nothing moves
    E, found = five_point(x0, x1)
    assert torch.isfinite(E).all()
    assert found[2].any()


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(ValueError, match="normalised0"):
        five_point(torch.zeros(2, 4, 2), torch.zeros(2, 4, 2))


def test_real_roots_are_numpys() -> None:
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(300, 11, dtype=torch.float64, generator=generator)
    values, found = real_roots(coefficients)
    for row, value, there in zip(coefficients.numpy(), values.numpy(), found.numpy(), strict=True):
        roots = np.roots(row[::-1])
        real = np.sort(roots[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))].real)
        np.testing.assert_allclose(np.sort(value[there]), real, rtol=1e-7)


def test_roots_outside_one_and_lower_degrees() -> None:
    def polynomial(*roots: float) -> torch.Tensor:
        return torch.from_numpy(np.poly(roots)[::-1].copy())

    values, found = real_roots(torch.stack([polynomial(-200.0, -1.0, 0.0, 0.3, 40.0), polynomial(2.0, 3, 4, 5, 6)]))
    assert torch.allclose(values[0][found[0]].sort().values, torch.tensor([-200, -1, 0, 0.3, 40], dtype=torch.float64))
    assert torch.allclose(values[1][found[1]].sort().values, torch.tensor([2.0, 3, 4, 5, 6], dtype=torch.float64))
    _, found = real_roots(torch.tensor([[1.0, 0, 1]], dtype=torch.float64))
    assert not found.any()


def test_ransac_among_outliers_is_the_same_each_time() -> None:
    _, _, E, x0, x1 = two_views(1, 600, seed=5)
    x0, x1 = x0[0], x1[0].clone()
    generator = torch.Generator().manual_seed(0)
    x1[::2] += 0.2 * torch.randn(300, 2, dtype=torch.float64, generator=generator)
    order = torch.randperm(600, generator=generator)
    matches = x0[order[:500]], x1[order[:500]], x0[order[500:]], x1[order[500:]]
    found, inliers = essential_ransac(*matches, delta=1e-4, hypotheses=2000, seed=3)
    again, _ = essential_ransac(*matches, delta=1e-4, hypotheses=2000, seed=3)
    assert torch.equal(found, again) and len(found) == 1
    assert distance(found, E[:1]) < 1e-5
    assert 40 <= inliers <= 60
    early, _ = essential_ransac(*matches, delta=1e-4, confidence=0.999, keep=3, seed=3)
    assert len(early) == 3 and distance(early[0], E[0]) < 1e-5
    scores = scored(early, matches[2], matches[3], 1e-4, "inliers")
    assert scores[0] >= scores[1] >= scores[2]
    nothing, inliers = essential_ransac(
        *(torch.full_like(part, torch.nan) for part in matches), delta=1e-4, hypotheses=8
    )
    assert len(nothing) == 0 and inliers == 0


def test_scores_in_chunks_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, E, x0, x1 = two_views(7, 50, seed=6)
    x0, x1 = x0[0], x1[0]
    scores: tuple[Score, ...] = ("inliers", "objective", "sampson")
    whole = [scored(E, x0, x1, 0.05, score) for score in scores]
    monkeypatch.setattr("flowkit.geometry.essential_ransac.ELEMENTS", 100)
    for score, values in zip(scores, whole, strict=True):
        assert torch.allclose(scored(E, x0, x1, 0.05, score), values)
        assert values.argmax() == 0
    assert whole[0][0] == 50 and abs(float(whole[1][0])) < 1e-6 and abs(float(whole[2][0])) < 1e-6
    squared = (epipolar_rows(x0, x1) @ E[3].flatten()).square()
    sampson = sampson_error(E[3], x0, x1).square()
    assert int(whole[0][3]) == int((squared < 0.05**2).sum())
    for values, wanted in ((whole[1], squared), (whole[2], sampson)):
        assert float(values[3]) == pytest.approx(-float(wanted.clamp(max=0.05**2).sum()) / 2, rel=1e-4)
