"""Two halves of a calculation at once, and imports ahead of their use."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from flowkit.pipelines.side_by_side import both


def test_both_run_at_once_and_come_back_in_order() -> None:
    meeting = threading.Barrier(2, timeout=20)  # breaks unless two wait there together
    assert both(lambda: (meeting.wait(), "first")[1], lambda: (meeting.wait(), "second")[1]) == ("first", "second")


def test_what_either_raises_is_raised() -> None:
    def fails() -> int:
        raise ZeroDivisionError

    for pair in ((fails, int), (int, fails)):
        with pytest.raises(ZeroDivisionError):
            both(*pair)


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_modules_are_there_when_they_are_wanted_and_none_has_to_exist() -> None:
    run("""
import sys, threading
from flowkit.pipelines.side_by_side import import_ahead
import_ahead("no_such_module", "colorsys")
for thread in threading.enumerate():
    if thread.name == "imports":
        thread.join()
assert "colorsys" in sys.modules and "no_such_module" not in sys.modules
""")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere torch is asked")
def test_without_a_driver_the_device_is_known_before_torch_is_there() -> None:
    run("""
import ctypes, sys
from flowkit.pipelines import prepare
loading = ctypes.CDLL
def missing(name):
    raise OSError(name)
ctypes.CDLL = missing
prepare.Path.exists = lambda path: False
assert prepare.resolve_device("auto") == "cpu"
assert "torch" not in sys.modules
ctypes.CDLL = loading
import torch
ctypes.CDLL = lambda name: name  # a driver: torch has to say whether it can use it
torch.cuda.is_available = lambda: True
assert prepare.resolve_device("auto") == "cuda"
""")
