"""The terminal of the benches: where their tables are printed, and the bar while they measure."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def console() -> Console:
    """stdout; a file has no width, so its lines are not wrapped."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def bar(name: str, total: int, quiet: bool) -> Progress:
    """A bar on stderr, only on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    shown = Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
    shown.add_task(name, total=total)
    return shown
