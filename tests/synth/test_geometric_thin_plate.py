import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator

from flowkit.synth.thin_plate import fit_thin_plate, solve_thin_plate, start_thin_plate

RANDOM = torch.Generator().manual_seed(0)
LINE = torch.tensor([-1.0, 0, 1], dtype=torch.float64)
KNOTS = torch.cartesian_prod(LINE, LINE).expand(3, 9, 2)


def uniform(*shape):
    return 2 * torch.rand(shape, generator=RANDOM, dtype=torch.float64) - 1


@pytest.mark.parametrize("count", [3, 4, 9, 20])
def test_it_is_scipys_thin_plate_spline(count):
    controls, values, points = uniform(2, count, 2), uniform(2, count, 2), 2 * uniform(2, 2, 50)
    plate = fit_thin_plate(controls, values)
    for k in range(2):
        expected = RBFInterpolator(controls[k].numpy(), values[k].numpy(), kernel="thin_plate_spline")(points[k].T)
        np.testing.assert_allclose(plate(points)[k].T, expected, atol=1e-8)


def test_it_goes_through_its_control_points_and_single_precision_is_near():
    values = KNOTS + 0.4 * uniform(3, 9, 2)
    plate = fit_thin_plate(KNOTS, values)
    torch.testing.assert_close(plate(KNOTS.mT).mT, values, atol=1e-9, rtol=0)
    points = uniform(3, 2, 100)
    torch.testing.assert_close(plate(points.float()), plate(points).float(), atol=3e-6, rtol=0)


def test_slopes_are_the_derivatives():
    plate = fit_thin_plate(KNOTS, KNOTS + 0.4 * uniform(3, 9, 2))
    points = uniform(3, 2, 40)
    moved, slope = plate.with_slope(points)
    torch.testing.assert_close(moved, plate(points))
    for j in range(2):
        step = torch.zeros(2, 1, dtype=torch.float64)
        step[j] = 1e-6
        difference = (plate(points + step) - plate(points - step)) / 2e-6
        torch.testing.assert_close(slope[:, :, j], difference, atol=1e-6, rtol=0)


def test_newton_finds_the_way_back_and_says_when_not():
    plate = fit_thin_plate(KNOTS, KNOTS + 0.25 * uniform(3, 9, 2))
    points = uniform(3, 2, 60)
    targets = plate(points)
    found = start_thin_plate(plate, targets)
    torch.testing.assert_close(found, points, atol=1e-6, rtol=0)
    polished, step, area = solve_thin_plate(plate, targets, points + 0.01 * uniform(3, 2, 60))
    torch.testing.assert_close(polished, points, atol=1e-6, rtol=0)
    assert (step < 1e-2).all() and (area > 0).all()
    # Far from the truth one step is not enough, and the length of the step tells.
    _, step, _ = solve_thin_plate(plate, targets, points + 0.5, steps=1)
    assert (step > 0.05).all()
