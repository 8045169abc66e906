"""The symmetric epipolar distance against a scalar reference, geometry, and differences."""

import math

import numpy as np
import pytest
import torch
from two_cameras import fundamental

from flowkit.losses.epipolar import symmetric_epipolar_distances, symmetric_epipolar_loss


def random_flow(stride=1, seed=1, count=2, size=(8, 12)):
    make = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, 2, size[0] // stride, size[1] // stride, generator=make, dtype=torch.float64)


def reference(flow, F, stride, form, clamp):
    """Pixel by pixel: ED(x, x', F) + ED(x', x, F^T), as in the paper's equation 1."""
    values = []
    for b, y, x in np.ndindex(flow.shape[0], flow.shape[2], flow.shape[3]):
        here = np.array([(x + 0.5) * stride - 0.5, (y + 0.5) * stride - 0.5, 1])
        there = here + np.array([*flow[b, :, y, x].tolist(), 0])
        matrix = F[b].numpy()
        line1, line0 = matrix @ here, matrix.T @ there
        distances = [abs(there @ line1) / math.hypot(*line1[:2]), abs(here @ line0) / math.hypot(*line0[:2])]
        values.append(min(clamp, sum(distances) if form == "sum" else math.hypot(*distances)))
    return float(np.mean(values))


@pytest.mark.parametrize("form", ["sum", "rms"])
@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("clamp", [200.0, 2.5])
def test_equals_the_definition(form, stride, clamp):
    F = torch.stack([fundamental(0)[0], fundamental(3)[0]])
    flow = random_flow(stride)
    loss = symmetric_epipolar_loss(flow, F, stride=stride, form=form, clamp=clamp)
    assert loss.item() == pytest.approx(reference(flow, F, stride, form, clamp), rel=1e-6)


def true_flow(size=(8, 12)):
    """The flow of points at random depths."""
    F, (K0, K1, R, t) = fundamental()
    make = torch.Generator().manual_seed(2)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    points = torch.linalg.inv(K0) @ pixels * (5 + 4 * torch.rand(1, pixels.shape[1], generator=make).double())
    moved = K1 @ (R @ points + t[:, None])
    return F, (moved[:2] / moved[2:] - pixels[:2]).unflatten(1, size)


def test_a_correct_flow_costs_nothing_and_the_way_back_takes_the_transpose():
    F, flow = true_flow()
    assert symmetric_epipolar_distances(flow[None], F[None]).max() < 1e-9
    assert symmetric_epipolar_distances(flow[None], F.mT[None]).max() > 0.5
    # The flow back, from where each pixel came, on a grid of its own: one pixel by one.
    y, x = 3, 5
    there = torch.tensor([x, y]).double() + flow[:, y, x]
    back = (-flow[:, y, x] + (there - there.round())).view(1, 2, 1, 1)
    grid = torch.zeros(1, 2, 8, 12, dtype=torch.float64)
    row, column = int(there[1].round()), int(there[0].round())
    assert 0 <= row < 8 and 0 <= column < 12
    grid[..., row : row + 1, column : column + 1] = back
    # It starts at the pixel's middle, not at `there`: the distance is that of half a pixel at most, with F^T only.
    assert symmetric_epipolar_distances(grid, F.mT[None])[0, row, column] < 2.0


def test_a_shifted_flow_costs_what_geometry_says():
    """A camera that moves sideways: epipolar lines are rows, so dy counts once in each picture and dx not at all."""
    F = torch.tensor([[0.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)[None]
    flow = torch.zeros(1, 2, 6, 9, dtype=torch.float64)
    flow[:, 0], flow[:, 1] = 7.0, 1.5
    for scale in (1.0, 1e-4):
        assert symmetric_epipolar_loss(flow, scale * F).item() == pytest.approx(3.0)
        assert symmetric_epipolar_loss(flow, scale * F, form="rms").item() == pytest.approx(1.5 * 2**0.5)


def test_pixels_without_weight_and_cameras_that_only_turn_do_not_count():
    F, flow = true_flow()
    wrong = flow.clone()
    wrong[:, :4] += 2.0
    still = torch.zeros(1, 8, 12, dtype=torch.float64)
    still[:, 4:] = 1
    assert symmetric_epipolar_loss(wrong[None], F[None], weight=still).item() == pytest.approx(0, abs=1e-9)
    assert symmetric_epipolar_loss(wrong[None], F[None]).item() > 0.1
    turning = flow[None].float().requires_grad_()
    loss = symmetric_epipolar_loss(turning, torch.zeros(1, 3, 3))
    loss.backward()
    assert loss.item() == 0 and turning.grad.isfinite().all()


def test_the_epipole_is_finite():
    F = torch.tensor([[0.0, -1, 3], [1, 0, -5], [-3, 5, 0]])[None]  # straight ahead, the epipole at (5, 3)
    flow = torch.zeros(1, 2, 8, 12, requires_grad=True)
    loss = symmetric_epipolar_loss(flow + 0.0, F)
    loss.backward()
    assert loss.isfinite() and flow.grad.isfinite().all()


@pytest.mark.parametrize("form", ["sum", "rms"])
def test_gradient(form):
    F = torch.stack([fundamental(0)[0], fundamental(3)[0]])
    flow = random_flow(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda f: symmetric_epipolar_loss(f, F, stride=4, form=form, clamp=4.0), flow)


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="F must have shape"):
        symmetric_epipolar_loss(torch.zeros(2, 2, 4, 4), torch.zeros(3, 3, 3))
