"""How far a batch has come: a bar with rate and time left on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from flowkit.cli.batch import Ledger

_LINE_EVERY = 10.0
"""Seconds between the lines of a log file."""


class Progress:
    """Follows a ledger on stderr; `update` after every entry."""

    def __init__(self, ledger: Ledger, quiet: bool = False) -> None:
        """Show nothing yet."""
        self._ledger, self._quiet = ledger, quiet
        self._started = self._last_line = time.monotonic()
        self._bar: Bars | None = None
        self._task: TaskID

    def __enter__(self) -> Self:
        """Show the bar where there is a terminal."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn(self._ledger.verb),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Bars(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("", total=self._ledger.total)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar off, or write the last line."""
        if self._bar is not None:
            self._bar.stop()
        elif not self._quiet:
            self._print_line()

    def update(self) -> None:
        """Show what the ledger holds now."""
        if self._bar is not None:
            done = self._ledger.computed + self._ledger.skipped
            self._bar.update(self._task, completed=done, description=self._facts())
        elif not self._quiet and time.monotonic() - self._last_line >= _LINE_EVERY:
            self._print_line()

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        done, total = self._ledger.computed + self._ledger.skipped, self._ledger.total
        print(
            f"flowkit: {self._ledger.verb} {done}/{'?' if total is None else total}, {self._facts()}", file=sys.stderr
        )

    def _facts(self) -> str:
        """ "3 failed, 2.1 pairs/s, 0:04:10 left"; pairs that were already there say nothing about the rate."""
        ledger = self._ledger
        facts = [f"{ledger.skipped} already there"] if ledger.skipped else []
        facts += [f"{len(ledger.failures)} failed"] if ledger.failures else []
        rate = ledger.computed / max(time.monotonic() - self._started, 1e-9)
        if ledger.computed:
            facts.append(f"{rate:.1f} pairs/s" if rate >= 1 else f"{1 / rate:.1f} s/pair")
            if ledger.total is not None:
                left = round((ledger.total - ledger.computed - ledger.skipped) / rate)
                facts.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return ", ".join(facts) or "nothing to do"
