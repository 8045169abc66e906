"""The transformation loss against a scalar reference and real warps."""

import numpy as np
import pytest
import torch

from flowkit.losses.transformation import seen, transformation_loss
from flowkit.synth.geometric import LIFE, GeometricSettings
from flowkit.synth.geometric_render import transformed


def warped(seed=0, size=(16, 24), settings=LIFE):
    make = torch.Generator().manual_seed(seed)
    images = torch.rand(6, 3, *size, generator=make)
    return transformed(images, settings, make)


def reference(flow, truth, valid):
    total, count = 0.0, 0
    for b, y, x in np.ndindex(*valid.shape):
        u, v = truth[b, :, y, x].tolist()
        there = -0.5 <= x + u <= valid.shape[2] - 0.5 and -0.5 <= y + v <= valid.shape[1] - 0.5
        if valid[b, y, x] and there:
            total += abs(flow[b, 0, y, x].item() - u) + abs(flow[b, 1, y, x].item() - v)
            count += 1
    return total / count


@pytest.mark.parametrize("kind", ["affine", "homography", "thin_plate"])
def test_equals_the_definition_for_every_kind_of_warp(kind):
    shares = dict.fromkeys(("affine", "homography", "thin_plate", "affine_thin_plate"), 0.0) | {kind: 1.0}
    pairs = warped(settings=GeometricSettings(**shares, shown=1.0))
    flow = torch.randn(pairs.flow.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for truth, valid in ((pairs.flow, pairs.valid), (pairs.backward, pairs.backward_valid)):
        loss = transformation_loss(flow, truth.double(), valid)
        assert loss.item() == pytest.approx(reference(flow, truth.double(), valid), rel=1e-6)


def test_the_right_flow_costs_nothing_the_other_direction_does():
    pairs = warped()
    assert transformation_loss(pairs.flow, pairs.flow, pairs.valid).item() == 0
    assert transformation_loss(pairs.backward, pairs.flow, pairs.valid).item() > 1


def test_the_warped_picture_is_where_the_flow_says():
    """What the loss takes for truth really brings B onto B' and back: grey values agree where both see them."""
    from flowkit.geometry.sampling import warp

    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    smooth = torch.stack([torch.sin(x / 9 + k) + torch.cos(y / 7 - k) for k in range(3)])[None] / 4 + 0.5
    pairs = transformed(smooth, LIFE, torch.Generator().manual_seed(3))
    back, there = warp(pairs.image1, pairs.flow)  # B' brought onto B
    both = seen(pairs.flow, pairs.valid) & there
    inner = both & (pairs.flow.abs().amax(1) < 40)
    assert inner.float().mean() > 0.2
    error = (back - smooth).abs().amax(1)[inner]
    assert error.median() < 0.02


def test_pixels_that_leave_the_picture_do_not_count():
    truth = torch.zeros(1, 2, 4, 8)
    truth[:, 0, :, 6:] = 5.0
    valid = torch.ones(1, 4, 8, dtype=torch.bool)
    assert not seen(truth, valid)[..., 6:].any() and seen(truth, valid)[..., :6].all()
    assert transformation_loss(torch.zeros_like(truth), truth, valid).item() == 0
    nothing = transformation_loss(torch.ones_like(truth), truth, torch.zeros_like(valid))
    assert nothing.item() == 0


def test_a_coarse_cell_counts_by_its_valid_pixels():
    truth = torch.zeros(1, 2, 4, 8)
    truth[:, 0, :, :4] = 1.0
    valid = torch.ones(1, 4, 8, dtype=torch.bool)
    valid[:, :, 4:] = False
    valid[:, 0, 4] = True  # one of sixteen
    loss = transformation_loss(torch.tensor([[[[3.0, 5.0]], [[0.0, 0.0]]]]), truth, valid, stride=4)
    assert loss.item() == pytest.approx((2.0 * 16 + 5.0 * 1) / 17)


def test_gradient():
    pairs = warped(size=(8, 12))
    flow = torch.randn(6, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: transformation_loss(f, pairs.flow.double(), pairs.valid, stride=4), flow)
