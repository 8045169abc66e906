"""Every exception becomes one line and a documented exit code."""

import errno
import os
import subprocess
import sys

import pytest

from flowkit.cli import main, report
from flowkit.errors import InputError, OutputError, UsageError, WeightsError


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("a\nb"), 2, "a b"),
        (InputError("x.png: bad"), 3, "x.png: bad"),
        (OutputError("x"), 3, "x"),
        (WeightsError("w"), 4, "w"),
        (MemoryError(), 3, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 3, "not enough memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 3, "/x/y"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "run with -vv"),
    ],
)
def test_explain(error, code, words, capsys):
    assert report.fail(error) == code
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err


def test_the_traceback_shows_with_vv(capsys):
    report.start(verbose=2)
    try:
        raise ZeroDivisionError("division by zero")
    except ZeroDivisionError as error:
        assert report.fail(error) == 1
    assert "Traceback" in capsys.readouterr().err
    report.start()


def test_ctrl_c_is_130(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupted)
    assert main.run(["flow"]) == 130
    assert capsys.readouterr().err == "flowkit: interrupted\n"


def test_a_closed_pipe_is_quiet():
    command = [sys.executable, "-m", "flowkit", "--help"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (report.EXIT_BROKEN_PIPE, "")
