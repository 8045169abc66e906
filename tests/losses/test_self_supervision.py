"""Visibility, consistency, smoothness and the student's loss: by hand, and against differences."""

import math

import pytest
import torch

from flowkit.losses.self_supervision import consistency_loss, occlusion_loss, robust, smoothness_loss, visible


def constant(x, y, size=(6, 8), dtype=torch.float64):
    return torch.tensor([x, y], dtype=dtype)[None, :, None, None].expand(1, 2, *size).contiguous()


def random_flow(seed, size=(6, 8), scale=1.3):
    return scale * torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_robust_is_the_mean_of_the_penalties_of_both_parts():
    value = robust(torch.tensor([3.0, 0.0], dtype=torch.float64)[None, :, None, None])
    assert float(value) == pytest.approx(((9 + 1e-6) ** 0.45 + 1e-6**0.45) / 2, rel=1e-12)


def test_visible_is_what_comes_back_and_stays_inside():
    flow = constant(3.0, 0.0)
    assert visible(flow, constant(-3.0, 0.0))[0].sum(0).tolist() == [6, 6, 6, 6, 6, 0, 0, 0]
    # bound 0.01 (9 + b^2) + 0.5: missing by 0.8 is tolerated, by 0.9 it is not
    assert visible(flow, constant(-3.8, 0.0))[0, :, :5].all()
    assert not visible(flow, constant(-3.9, 0.0)).any()


def test_visibility_has_no_slope():
    flow, backward = random_flow(0).requires_grad_(), random_flow(1).requires_grad_()
    assert not visible(flow, backward).to(torch.float64).requires_grad


def test_consistency_by_hand_and_only_where_weighed():
    weight = torch.zeros(1, 6, 8, dtype=torch.float64)
    weight[:, :, :3] = 1
    missed = consistency_loss(constant(1.0, 0.0), constant(-3.0, 0.5), weight)
    assert float(missed) == pytest.approx(((4 + 1e-6) ** 0.45 + (0.25 + 1e-6) ** 0.45) / 2, rel=1e-12)
    backward = constant(-1.0, 0.0)
    backward[..., 5:] = 9  # where no weighed pixel leads to
    assert float(consistency_loss(constant(1.0, 0.0), backward, weight)) == pytest.approx(1e-6**0.45)


def test_the_slopes_are_those_of_differences():
    weight = torch.rand(1, 6, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    image = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    flow, backward = random_flow(1).requires_grad_(), random_flow(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: consistency_loss(a, b, weight), (flow, backward))
    assert torch.autograd.gradcheck(lambda a: smoothness_loss(a, image), (flow,))
    assert torch.autograd.gradcheck(lambda a: occlusion_loss(a, backward, weight), (flow,))


def test_smoothness_by_hand_and_edges_of_the_picture_forgive():
    flow = constant(0.0, 0.0)
    flow[:, 0, :, 4:] = 2.0  # one step of 2 in each of 6 rows, 7 differences a row
    flat = torch.full((1, 3, 6, 8), 0.5, dtype=torch.float64)
    assert float(smoothness_loss(flow, flat)) == pytest.approx(0.5 * 2 / 7)
    edged = flat.clone()
    edged[..., 4:] = 0.7
    assert float(smoothness_loss(flow, edged)) == pytest.approx(0.5 * 2 / 7 * math.exp(-10 / 3 * 0.6))
    assert float(smoothness_loss(constant(5.0, -3.0), flat)) == 0


def test_a_student_learns_where_it_is_hidden_and_the_teacher_does_not():
    flow, taught = random_flow(3).requires_grad_(), random_flow(4).requires_grad_()
    hidden = torch.zeros(1, 6, 8, dtype=torch.float64)
    hidden[:, 2:4] = 1
    occlusion_loss(flow, taught, hidden).backward()
    assert taught.grad is None
    assert (flow.grad[:, :, 2:4] != 0).all() and flow.grad[:, :, :2].abs().sum() == flow.grad[:, :, 4:].abs().sum() == 0
    assert float(occlusion_loss(taught.detach(), taught, hidden)) == pytest.approx(1e-6**0.45)
    assert float(occlusion_loss(flow.detach(), taught, 0 * hidden)) == 0
