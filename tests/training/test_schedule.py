"""Learning rates and budgets as functions of the fraction of a run."""

import pytest
import torch

from flowkit.errors import UsageError
from flowkit.training.schedule import Budget, multistep, one_cycle


def test_one_cycle_is_torchs():
    steps = 10_000
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=1.0, total_steps=steps, pct_start=0.05, anneal_strategy="linear", cycle_momentum=False
    )
    for step in range(steps - 1):
        if step % 97 == 0:
            assert one_cycle(step / steps) == pytest.approx(optimiser.param_groups[0]["lr"], abs=3e-3)
        optimiser.step()
        schedule.step()
    assert one_cycle(0.05) == 1 and one_cycle(0) == 1 / 25
    assert one_cycle(1) == one_cycle(7) == pytest.approx(1 / 250_000)


def test_multistep():
    assert [multistep(f, (0.75, 0.5), 0.1) for f in (0, 0.49, 0.5, 0.74, 0.76)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_budget_ends_with_what_ends_first():
    assert Budget(steps=100).fraction(25, 1e9) == 0.25
    assert Budget(minutes=2).fraction(10**9, 30) == 0.25
    assert Budget(steps=100, minutes=2).fraction(50, 30) == 0.5
    assert Budget(steps=100, minutes=2).fraction(10, 30) == 0.25


@pytest.mark.parametrize("wrong", [{}, {"steps": 0}, {"minutes": -1}, {"minutes": float("nan")}])
def test_budgets_that_do_not_end_are_refused(wrong):
    with pytest.raises(UsageError):
        Budget(**wrong)
