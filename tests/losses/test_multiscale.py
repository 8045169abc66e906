"""The multi-scale loss: units, weights, what counts, and its slope."""

import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.losses.multiscale import multiscale_loss


def batch(flow: torch.Tensor, valid: torch.Tensor | None = None) -> PairBatch:
    image = torch.zeros(len(flow), 3, *flow.shape[-2:])
    valid = torch.ones(len(flow), *flow.shape[-2:], dtype=torch.bool) if valid is None else valid
    return PairBatch(image, image, flow, valid)


def test_errors_are_lengths_in_units_of_20_pixels_summed_over_cells() -> None:
    truth = torch.zeros(2, 2, 8, 8)
    truth[:, 0], truth[:, 1] = 12.0, -16.0  # 20 pixels long
    zero = torch.zeros(2, 2, 4, 4)
    found = multiscale_loss([zero], [2], batch(truth), weights={2: 0.5}, epsilon=0.0)
    assert found == pytest.approx(0.5 * 16 * 1.0)  # 16 cells of each pair
    robust = multiscale_loss([zero], [2], batch(truth), weights={2: 1.0}, penalty="charbonnier", epsilon=0.01, q=0.4)
    assert robust == pytest.approx(16 * 1.01**0.4)


def test_epsilon_rounds_the_bottom() -> None:
    truth = torch.zeros(1, 2, 4, 4)
    assert multiscale_loss([truth], [1], batch(truth), weights={1: 1.0}) == pytest.approx(16 * 0.1)


def test_every_flow_has_its_levels_weight() -> None:
    truth = torch.full((1, 2, 8, 8), 20.0)
    flows = [torch.zeros(1, 2, 8 // s, 8 // s) for s in (4, 4, 2, 1)]
    found = multiscale_loss(flows, [4, 4, 2, 1], batch(truth), weights={4: 0.32, 2: 0.08}, epsilon=0.0)
    assert found == pytest.approx(2**0.5 * (2 * 0.32 * 4 + 0.08 * 16))  # the full-size flow has no weight


def test_a_cells_truth_is_the_mean_of_what_is_known_in_it() -> None:
    truth = torch.zeros(1, 2, 2, 2)
    truth[0, 0] = torch.tensor([[20.0, 40.0], [torch.nan, 1000.0]])
    valid = torch.tensor([[[True, True], [False, True]]])
    cell = torch.zeros(1, 2, 1, 1)
    cell[:, 0] = 30.0  # the mean of the two that are known and not too long
    assert multiscale_loss([cell], [2], batch(truth, valid), weights={2: 1.0}, epsilon=0.0) == pytest.approx(
        0, abs=1e-6
    )
    shifted = multiscale_loss([cell + 20], [2], batch(truth, valid), weights={2: 1.0}, epsilon=0.0)
    assert shifted == pytest.approx(0.5 * 2**0.5)  # half the cell counts


@pytest.mark.parametrize("penalty", ["l2", "charbonnier"])
def test_gradients(penalty: str) -> None:
    torch.manual_seed(0)
    truth = 5 * torch.randn(1, 2, 4, 4, dtype=torch.float64)
    flows = [
        torch.randn(1, 2, 2, 2, dtype=torch.float64).requires_grad_(),
        torch.randn(1, 2, 4, 4, dtype=torch.float64).requires_grad_(),
    ]
    weights = {2: 0.3, 1: 0.7}
    assert torch.autograd.gradcheck(
        lambda *f: multiscale_loss(f, [2, 1], batch(truth), weights=weights, penalty=penalty), flows
    )


def test_nothing_to_train_on_is_refused() -> None:
    truth = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="nothing to train on"):
        multiscale_loss([truth], [1], batch(truth), weights={8: 1.0})
    with pytest.raises(ValueError, match="does not fit"):
        multiscale_loss([truth], [2], batch(truth), weights={2: 1.0})
