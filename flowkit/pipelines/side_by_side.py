"""Work for two cores: one half of a calculation beside the other, and imports beside whatever comes first."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from threading import Lock, Thread
from typing import TypeVar

T = TypeVar("T")

_BEGUN: set[str] = set()
"""Modules whose import was asked for ..."""
_IN_TURN = Lock()
"""... one after the other: two at a time only hold each other up."""


def both(first: Callable[[], T], second: Callable[[], T]) -> tuple[T, T]:
    """What both give, called on two threads: for work that leaves Python's lock alone, as most of OpenCV's and NumPy's does."""
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(second)
        return first(), later.result()


def import_ahead(*modules: str) -> None:
    """Begins to import what is not there yet and returns; who needs a module then waits for it, or hears why it fails."""
    missing = [module for module in modules if module not in sys.modules and module not in _BEGUN]
    _BEGUN.update(missing)
    if missing:
        Thread(target=_import, args=(missing,), name="imports", daemon=True).start()


def _import(modules: list[str]) -> None:
    for module in modules:
        with _IN_TURN, suppress(ImportError):
            collects = gc.isenabled()
            gc.disable()  # what modules make stays: to look through it for garbage again and again takes a tenth of the time
            try:
                import_module(module)
            finally:
                if collects:
                    gc.enable()
