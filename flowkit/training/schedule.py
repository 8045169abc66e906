"""How far a run is, and the learning rate there: both are functions of the fraction of the budget that is used up."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from flowkit.errors import UsageError


@dataclass(frozen=True)
class Budget:
    """When a run ends: after `steps`, after `minutes`, or after whichever comes first."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise UsageError("a run needs an end; give --steps N or --minutes M")
        for option, value in (("--steps", self.steps), ("--minutes", self.minutes)):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{option} {value}: give a positive number")

    def fraction(self, step: int, elapsed: float) -> float:
        """The part of the budget that is used after `step` steps and `elapsed` seconds; 1 or more is the end."""
        by_steps = 0.0 if self.steps is None else step / self.steps
        by_time = 0.0 if self.minutes is None else elapsed / (60 * self.minutes)
        return max(by_steps, by_time)


def one_cycle(fraction: float, warmup: float = 0.05, start: float = 1 / 25, end: float = 1 / 250_000) -> float:
    """The factor on the learning rate: a line from `start` up to 1 at `warmup`, then a line down to `end` at 1.

    Smith and Topin, "Super-Convergence" (2018), in the linear form of torch's OneCycleLR, whose start and end these are.
    """
    fraction = min(max(fraction, 0.0), 1.0)
    if fraction < warmup:
        return start + (1 - start) * fraction / warmup
    return 1 + (end - 1) * (fraction - warmup) / (1 - warmup)


def multistep(fraction: float, milestones: Sequence[float], factor: float = 0.5) -> float:
    """The factor on the learning rate: multiplied by `factor` at every milestone, which are fractions of the run."""
    return factor ** bisect.bisect_right(sorted(milestones), fraction)
