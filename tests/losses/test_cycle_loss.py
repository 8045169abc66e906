"""Cycle consistency against a scalar reference, and its derivative against differences."""

import numpy as np
import pytest
import torch

from flowkit.losses.cycle import cycle_distances, cycle_loss


def flows(stride=1, size=(8, 12), seed=0, scale=1.5):
    make = torch.Generator().manual_seed(seed)
    shape = (2, 2, size[0] // stride, size[1] // stride)
    return [scale * torch.randn(shape, generator=make, dtype=torch.float64) for _ in range(2)]


def looked_up(grid, x, y):
    """Bilinear value of (2, h, w) at a point of its own pixels, the border repeated."""
    height, width = grid.shape[1:]
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = min(int(x), width - 2), min(int(y), height - 2)
    a, b = x - x0, y - y0
    top = (1 - a) * grid[:, y0, x0] + a * grid[:, y0, x0 + 1]
    bottom = (1 - a) * grid[:, y0 + 1, x0] + a * grid[:, y0 + 1, x0 + 1]
    return (1 - b) * top + b * bottom


def reference(flow, backward, stride, alpha, beta, adaptive):
    kept = []
    for b, y, x in np.ndindex(flow.shape[0], flow.shape[2], flow.shape[3]):
        vector = flow[b, :, y, x].numpy()
        # the target, in pixels of the input, then in cells
        target = (np.array([x, y]) + 0.5) * stride - 0.5 + vector
        cx, cy = (target + 0.5) / stride - 0.5
        if not (-0.5 <= cx <= flow.shape[3] - 0.5 and -0.5 <= cy <= flow.shape[2] - 0.5):
            continue
        distance = np.hypot(*(vector + looked_up(backward[b].numpy(), cx, cy)))
        if not adaptive or distance <= max(alpha, beta * np.hypot(*vector)):
            kept.append(distance)
    return float(np.mean(kept)), len(kept)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("stride", "alpha", "beta"), [(1, 2.0, 0.05), (1, 0.1, 1.2), (4, 2.0, 0.05)])
def test_equals_the_definition(stride, alpha, beta, adaptive):
    flow, backward = flows(stride)
    expected, count = reference(flow, backward, stride, alpha, beta, adaptive)
    assert count > 5 if stride == 4 else count > 20
    loss = cycle_loss(flow, backward, stride=stride, alpha=alpha, beta=beta, adaptive=adaptive)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_there_and_back_costs_nothing_and_the_backward_flow_is_looked_up_at_the_target():
    flow = torch.zeros(1, 2, 6, 10, dtype=torch.float64)
    flow[:, 0, :, :5] = 3.0  # the left half moves right by 3; where it came to the way back is -3
    backward = torch.zeros_like(flow)
    backward[:, 0, :, 3:8] = -3.0
    distance, inside = cycle_distances(flow, backward)
    assert inside.all()
    assert distance[0, :, :5].max() < 1e-3  # looked up where the flow started, columns 0 to 2 would miss by 3
    assert (distance[0, :, 5:8] > 2.9).all()  # hidden: what is there came from elsewhere
    assert cycle_loss(flow, backward, alpha=1.0).item() < 1e-3
    assert cycle_loss(flow, backward, alpha=1.0, adaptive=False).item() > 0.5


def test_without_any_pixel_kept_it_is_zero():
    flow = torch.full((1, 2, 4, 4), 100.0, requires_grad=True)
    loss = cycle_loss(flow, -flow)
    loss.backward()
    assert loss.item() == 0 and flow.grad.abs().max() == 0


def test_gradient_of_both_flows():
    flow, backward = (f.requires_grad_() for f in flows(scale=0.7, size=(5, 6)))
    assert torch.autograd.gradcheck(lambda f, b: cycle_loss(f, b, alpha=50.0), (flow, backward))
