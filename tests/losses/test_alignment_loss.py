"""RANSAC-Flow's losses: by their definitions, with the right derivatives, and lowest where the pictures fit."""

import numpy as np
import pytest
import torch

from flowkit.losses.alignment import (
    around,
    central,
    cycle_loss,
    matchability_loss,
    reconstruction_loss,
    smoothness_loss,
)
from flowkit.ops.ssim import ssim

SIZE = (24, 28)


def smooth(seed, channels=3):
    """A picture with structure at the scale of a few pixels."""
    make = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, channels, 9, 11, generator=make, dtype=torch.float64)
    return torch.nn.functional.interpolate(coarse, size=(SIZE[0] + 8, SIZE[1] + 8), mode="bicubic").clamp(0, 1)


def constant(dx, dy):
    return torch.tensor([dx, dy], dtype=torch.float64)[None, :, None, None].expand(1, 2, *SIZE).clone()


def test_reconstruction_is_least_at_the_true_flow():
    world = smooth(0)
    image0, image1 = world[..., 4:28, 4:32], world[..., 3:27, 2:30]  # image0(p) = image1(p + (2, 1))
    weight = central(image0, 8)  # whose windows nothing from beyond the border reaches
    losses = {
        motion: reconstruction_loss(image0, image1, constant(*motion), weight).item()
        for motion in [(2, 1), (1, 1), (2, 2), (-2, -1), (0, 0)]
    }
    assert min(losses, key=losses.get) == (2, 1) and losses[2, 1] < 1e-6


def test_reconstruction_is_the_weighted_mean_of_what_differs():
    image0, image1 = smooth(1)[..., :24, :28], smooth(2)[..., :24, :28]
    weight = torch.rand(1, 1, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unlike = (1 - ssim(image0, image1)).sum(1, keepdim=True)
    expected = (unlike * weight).sum() / (weight.sum() + 1e-3) / 3
    assert reconstruction_loss(image0, image1, constant(0, 0), weight).item() == pytest.approx(expected.item())
    halves = [torch.nn.functional.avg_pool2d(maps, 2) for maps in (image0, image1, weight)]
    second = reconstruction_loss(*halves[:2], constant(0, 0)[..., :12, :14], halves[2])
    both = reconstruction_loss(image0, image1, constant(0, 0), weight, scales=2)
    assert both.item() == pytest.approx((expected.item() + second.item()) / 2)


def test_the_hard_weight_is_that_of_most_of_the_window():
    weight = torch.zeros(1, 1, 30, 30, requires_grad=True)
    with torch.no_grad():
        weight[..., :15] = 1.0
    hard = around(weight)
    assert not hard.requires_grad
    row = hard[0, 0, 15] > 0.5
    assert row[:15].all() and not row[15:].any()  # 6 of 11 columns count at column 14, 5 at column 15


def test_cycle_is_the_mean_of_both_axes_in_half_pictures():
    flow, back = constant(3, -2), constant(-2, 2)
    weight = central(torch.zeros(1, 3, *SIZE, dtype=torch.float64), 6)
    expected = (1 * 2 / SIZE[1] + 0) / 2
    assert cycle_loss(flow, back, weight).item() == pytest.approx(expected, rel=1e-4)
    assert cycle_loss(flow, -flow, weight).item() == 0


def test_matchability_is_what_is_missing():
    agreed = torch.full((1, 1, *SIZE), 0.75, dtype=torch.float64)
    assert matchability_loss(agreed, central(agreed, 4)).item() == pytest.approx(0.25, rel=1e-4)


def test_smoothness_looks_along_the_diagonal():
    x = torch.arange(SIZE[1], dtype=torch.float64).expand(*SIZE)
    flow = torch.stack([0.5 * x, torch.zeros_like(x)])[None]
    weight = torch.ones(1, 1, *SIZE, dtype=torch.float64)
    assert smoothness_loss(flow, weight).item() == pytest.approx(0.5 * 2 / SIZE[1], rel=1e-4)


def test_derivatives():
    make = torch.Generator().manual_seed(5)
    image0, image1 = smooth(6)[..., :24, :28], smooth(7)[..., :24, :28]
    flow, back = (
        (1.5 * torch.randn(1, 2, *SIZE, generator=make, dtype=torch.float64)).requires_grad_() for _ in range(2)
    )
    agreed = torch.rand(1, 1, *SIZE, generator=make, dtype=torch.float64).requires_grad_()

    def total(flow, back, agreed):
        return (
            reconstruction_loss(image0, image1, flow, agreed, scales=2)
            + cycle_loss(flow, back, agreed)
            + matchability_loss(agreed, torch.ones_like(agreed))
            + smoothness_loss(flow, 1 - agreed)
        )

    inputs = (flow, back, agreed)
    gradients = torch.autograd.grad(total(*inputs), inputs)
    rng = np.random.default_rng(0)
    for number, (tensor, gradient) in enumerate(zip(inputs, gradients, strict=True)):
        for _ in range(6):
            place = tuple(int(rng.integers(n)) for n in tensor.shape)
            sides = []
            for step in (1e-6, -1e-6):
                moved = [t.detach().clone() for t in inputs]
                moved[number][place] += step
                sides.append(total(*moved).item())
            assert gradient[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-9)
