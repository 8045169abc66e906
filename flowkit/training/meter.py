"""Means of what the steps report, gathered where they are computed, so that a GPU is not waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Meter:
    """Means of what the steps report, gathered on the device, and the first step that had something not finite."""

    def __init__(self, device: torch.device) -> None:
        """Begin to count, and the clock."""
        self._bad = torch.full((), -1, dtype=torch.int64, device=device)
        self._begin()

    def add(self, terms: Mapping[str, Tensor], step: int) -> None:
        """Take the scalars of one batch."""
        for name, value in terms.items():
            value = value.detach().float()
            total, count = self._sums.get(name, (torch.zeros_like(value), 0))
            self._sums[name] = total + value, count + 1
            bad = ~torch.isfinite(value) & (self._bad < 0)
            self._bad = torch.where(bad, step, self._bad)
        self._steps.add(step)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for the next batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    def first_bad(self) -> int | None:
        """The first step with a value that is not finite; None while all are."""
        step = int(self._bad)
        return None if step < 0 else step

    def take(self) -> dict[str, float]:
        """The means since the last time, `steps_per_second` and `waiting`, the share of the time spent on that; begins anew."""
        seconds = max(time.monotonic() - self._clock - self._paused, 1e-9)
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        means["steps_per_second"] = len(self._steps) / seconds
        means["waiting"] = self._waited / seconds
        self._begin()
        return means

    def pause(self, seconds: float) -> None:
        """So much of the time was no training."""
        self._paused += seconds

    def _begin(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}
        self._steps: set[int] = set()
        self._clock, self._paused, self._waited = time.monotonic(), 0.0, 0.0
