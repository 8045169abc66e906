"""Batched RANSAC: its solver against the SVD, its rules on synthetic truth, and what refuses a homography."""

import numpy as np
import pytest
import torch

from flowkit.estimators.ransac import (
    count_inliers,
    determinant,
    draw,
    fit_homography_ransac,
    official_threshold,
    solve_four,
)
from flowkit.types import Status

H = np.array([[1.1, 0.05, 10.0], [-0.04, 0.95, -5.0], [1e-4, 2e-5, 1.0]])
SIZE = (480, 640)
CORNERS = np.array([[0, 0], [639, 0], [639, 479], [0, 479.0]])


def project(matrix, points):
    mapped = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def plane(count=400, outliers=300, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    p0 = rng.uniform(0, [640, 480], (count, 2))
    p1 = project(H, p0) + rng.normal(0, noise, p0.shape)
    p1[count - outliers :] = rng.uniform(0, [640, 480], (outliers, 2))
    return p0, p1


def corner_error(fit):
    return np.linalg.norm(project(fit.model, CORNERS) - project(H, CORNERS), axis=1).max()


def dlt_by_svd(points0, points1):
    """Null vector of the 8 x 9 matrix of the direct linear transform, norm 1, det > 0."""
    rows = []
    for (x, y), (u, v) in zip(points0.tolist(), points1.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, -u], [0, 0, 0, x, y, 1, -v * x, -v * y, -v]]
    matrix = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
    return matrix * np.sign(np.linalg.det(matrix))


def test_the_closed_form_is_the_null_vector_of_the_dlt():
    generator = torch.Generator().manual_seed(0)
    points0, points1 = (torch.rand(200, 4, 2, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2))
    found = solve_four(points0, points1)
    expected = np.stack([dlt_by_svd(*each) for each in zip(points0, points1, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(determinant(found), np.linalg.det(found), atol=1e-12)
    assert (determinant(found) > 0).all()


def test_three_points_on_a_line_have_no_determinant():
    points = torch.tensor([[0, 0], [0.5, 0.5], [1, 1], [1, -0.3]], dtype=torch.float64)
    square = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    for order in ([0, 1, 2, 3], [3, 0, 1, 2], [0, 3, 1, 2]):
        for pair in ((points[order], square), (square, points[order])):
            assert not abs(determinant(solve_four(*pair))) > 1e-9


def test_no_draw_repeats_a_match_and_the_others_stay():
    draws = draw(7, 20_000, seed=0)
    assert (draws.sort(dim=1).values.diff(dim=1) > 0).all() and draws.min() == 0 and draws.max() == 6
    expected = 20_000 * (6 * 5 * 4) / 7**3  # the chance that four draws of seven all differ
    assert abs(len(draws) - expected) < 4 * (expected * (1 - expected / 20_000)) ** 0.5
    assert not torch.equal(draws, draw(7, 20_000, seed=1)[: len(draws)])


@pytest.mark.parametrize(("polish", "bound"), [(True, 0.5), (False, 8.0)])
def test_the_homography_is_found_among_outliers(polish, bound):
    p0, p1 = plane()
    fit = fit_homography_ransac(p0, p1, threshold=2.0, polish=polish, size0=SIZE, size1=SIZE)
    assert fit.status is Status.OK and fit.model[2, 2] == 1 and fit.threshold == 2
    assert corner_error(fit) < bound
    assert fit.inliers[:100].mean() > 0.85 and fit.inliers[100:].mean() < 0.03
    one_sided = np.linalg.norm(project(fit.model, p0) - p1, axis=1)
    np.testing.assert_allclose(fit.residuals, one_sided, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(fit.inliers, one_sided <= 2)


def test_polishing_makes_it_better():
    p0, p1 = plane()
    rough, fine = (fit_homography_ransac(p0, p1, threshold=3.0, polish=polish) for polish in (False, True))
    assert corner_error(fine) < 0.5 * corner_error(rough)


def test_the_official_bound_is_an_ellipse_in_pixels():
    assert official_threshold((480, 640)) == (16.0, 12.0)
    p0, p1 = plane(outliers=0, noise=0)
    p1[0] += (15.5, 0)
    p1[1] += (0, 15.5)  # beyond 12, so that a disc of 16 pixels would take it in
    fit = fit_homography_ransac(p0, p1, threshold=official_threshold(SIZE), polish=False, size0=SIZE, size1=SIZE)
    assert fit.inliers[0] and not fit.inliers[1] and fit.inliers[2:].all()


def test_neither_chunks_nor_repetition_change_anything():
    p0, p1 = plane()
    fits = [fit_homography_ransac(p0, p1, threshold=2.0, seed=3, chunk=chunk) for chunk in (None, None, 100, 7_777)]
    for fit in fits[1:]:
        assert fit.model.tobytes() == fits[0].model.tobytes() and (fit.inliers == fits[0].inliers).all()
    other = fit_homography_ransac(p0, p1, threshold=2.0, seed=4, polish=False)
    assert other.model.tobytes() != fit_homography_ransac(p0, p1, threshold=2.0, seed=3, polish=False).model.tobytes()


def test_a_first_chunk_without_inliers_is_not_the_end():
    """The official code gives up there. A sample has none, not even itself, when it folds or mirrors the plane."""
    p0, p1 = plane(count=300, outliers=240, noise=0)
    scale = np.array([640, 480]) / 2
    unit0, unit1 = (torch.from_numpy(points / scale - 1) for points in (p0, p1))
    seed = next(
        seed
        for seed in range(20)
        if not count_inliers(
            solve_four(unit0[draw(300, 1, seed)], unit1[draw(300, 1, seed)]), unit0, unit1, torch.tensor([0.005, 0.005])
        ).any()
    )
    fit = fit_homography_ransac(p0, p1, threshold=1.0, seed=seed, iterations=5000, chunk=1, size0=SIZE, size1=SIZE)
    assert fit.status is Status.OK and corner_error(fit) < 0.1


LINE = np.linspace(0, 500, 60)
NOISE = np.random.default_rng(1).uniform(0, 600, (2, 60, 2))
BAD = {
    "nothing": (NOISE[0][:0], NOISE[1][:0], {Status.TOO_FEW_MATCHES}),
    "three": (NOISE[0][:3], NOISE[1][:3], {Status.TOO_FEW_MATCHES}),
    "one point many times": (NOISE[0][:1].repeat(60, 0), NOISE[1][:1].repeat(60, 0), {Status.TOO_FEW_MATCHES}),
    "all NaN": (NOISE[0] * np.nan, NOISE[1], {Status.TOO_FEW_MATCHES}),
    "collinear": (np.column_stack([LINE, LINE]), np.column_stack([LINE + 3, LINE]), {Status.DEGENERATE}),
    "collinear in one": (NOISE[0], np.column_stack([LINE + 3, LINE]), {Status.DEGENERATE}),
    "noise": (*NOISE, {Status.NO_OVERLAP}),
    "mirrored": (NOISE[0], NOISE[0] * [-1, 1] + [600, 0], {Status.NO_OVERLAP, Status.DEGENERATE}),
    "all to one spot": (NOISE[0], 300 + NOISE[1] / 300, {Status.NO_OVERLAP}),
}


@pytest.mark.parametrize("polish", [True, False])
@pytest.mark.parametrize("name", BAD)
def test_bad_geometry_is_a_status_and_never_a_model(name, polish):
    p0, p1, statuses = BAD[name]
    fit = fit_homography_ransac(p0, p1, polish=polish, iterations=2000)
    assert fit.status in statuses and fit.model is None
    assert not fit.inliers.any() and len(fit.inliers) == len(p0)


def test_a_spot_that_draws_all_matches_is_no_homography():
    """Half of the source's points lie within the threshold of each other: a collapse onto them has many inliers."""
    rng = np.random.default_rng(0)
    p0, p1 = rng.uniform(0, [640, 480], (2, 200, 2))
    p1[:100] = rng.uniform([295, 195], [305, 205], (100, 2))
    fit = fit_homography_ransac(p0, p1, threshold=official_threshold(SIZE), size0=SIZE, size1=SIZE, polish=False)
    assert fit.status is not Status.OK and fit.model is None


def test_nan_matches_are_ignored_not_fatal():
    p0, p1 = plane()
    p0[5], p1[7] = np.nan, np.inf
    fit = fit_homography_ransac(p0, p1, threshold=2.0)
    assert fit.status is Status.OK and not fit.inliers[5] and not fit.inliers[7] and np.isnan(fit.residuals[5])


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": (3.0, -1.0)}, {"iterations": 0}])
def test_meaningless_options_are_errors(options):
    with pytest.raises(ValueError, match="positive"):
        fit_homography_ransac(*plane(), **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_finds_the_same():
    p0, p1 = plane()
    cpu, gpu = (fit_homography_ransac(p0, p1, threshold=2.0, device=device) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(gpu.model, cpu.model, rtol=1e-6, atol=1e-6)
