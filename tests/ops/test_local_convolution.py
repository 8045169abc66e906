"""The feature-driven local convolution: its definition, its border, its gradients."""

import pytest
import torch

from flowkit.ops.local_convolution import local_convolution, local_convolution_reference


@pytest.mark.parametrize("side", [1, 3, 7])
def test_value_against_float64(side: int) -> None:
    torch.manual_seed(0)
    flow, distance = torch.randn(2, 2, 8, 9), 2 * torch.randn(2, side * side, 8, 9)
    exact = local_convolution_reference(flow.double(), distance.double())
    found = local_convolution(flow, distance.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)


def test_a_cell_is_drawn_towards_what_is_near_in_distance() -> None:
    flow = torch.zeros(1, 2, 5, 5)
    flow[0, :, 1, 3] = torch.tensor([6.0, -2.0])
    distance = torch.full((1, 9, 5, 5), 10.0)
    distance[0, 2, 2, 2] = 0.0  # of the cell in the middle, its neighbour above to the right
    found = local_convolution(flow, distance)
    assert found[0, :, 2, 2].tolist() == pytest.approx([6, -2], abs=1e-5)  # one kernel for both components


def test_constant_flow_stays_away_from_the_border() -> None:
    flow, distance = torch.full((1, 2, 6, 6), 3.0), torch.randn(1, 9, 6, 6)
    found = local_convolution(flow, distance)
    torch.testing.assert_close(found[..., 1:-1, 1:-1], flow[..., 1:-1, 1:-1])
    assert (found[..., 0, :] < 3).all() and (found[..., :, -1] < 3).all()  # 0 lies outside


def test_gradients() -> None:
    torch.manual_seed(0)
    flow = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    distance = torch.randn(1, 9, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(local_convolution, (flow, distance))


def test_windows_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="odd square"):
        local_convolution(torch.zeros(1, 2, 4, 4), torch.zeros(1, 16, 4, 4))
    with pytest.raises(ValueError, match="different grids"):
        local_convolution(torch.zeros(1, 2, 4, 4), torch.zeros(1, 9, 4, 5))
