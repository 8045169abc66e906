"""What the user is told: the result on stdout, one line for an error on stderr, the log on stderr."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowkit.errors import EXIT_INPUT, EXIT_INTERRUPTED, FlowkitError, is_out_of_memory

if TYPE_CHECKING:
    from flowkit.pipelines.outputs import Outcome

EXIT_INTERNAL = 1
EXIT_BROKEN_PIPE = 141
"""What a shell reports of a program that SIGPIPE ended: the reader of stdout has gone."""

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE}

_levels = 0, False


@dataclass(frozen=True)
class Fault:
    """An exception in words: `kind` is its class, `message` one line, `exit_code` what the command line returns."""

    kind: str
    message: str
    exit_code: int


class BatchStopped(FlowkitError):  # noqa: N818
    """A fault that would strike every other pair of the batch, too; it keeps its exit code."""

    def __init__(self, fault: Fault) -> None:
        """Say what struck."""
        super().__init__(f"{fault.message} (batch stopped; what is finished stays)")
        self.exit_code = fault.exit_code


def levels() -> tuple[int, bool]:
    """What `start` was called with, for worker processes to do the same."""
    return _levels


def start(verbose: int = 0, quiet: bool = False) -> None:
    """Set up logging on stderr; call before anything heavy is imported."""
    global _levels
    _levels = verbose, quiet
    level = logging.ERROR if quiet else (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("flowkit: %(message)s"))
    logger = logging.getLogger("flowkit")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(level)
    if verbose < 2:  # what libraries have to say is for those who debug them
        os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
        warnings.simplefilter("ignore")


def show(outcome: Outcome, *, as_json: bool = False, quiet: bool = False) -> None:
    """Print the result: the record alone with `as_json`, else the summary and the paths; nothing when `quiet`."""
    if as_json:
        print_json(outcome.record)
    elif not quiet:
        print(*outcome.summary, sep="\n")
        for file in outcome.files:
            print(f"  {file}")
    sys.stdout.flush()


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON document on stdout."""
    json.dump(record, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def explain(error: BaseException) -> Fault:
    """Put any exception into one line and an exit code."""
    kind = type(error).__name__
    if isinstance(error, FlowkitError):
        return Fault(kind, _one_line(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return Fault(kind, "interrupted", EXIT_INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Fault(kind, "", EXIT_BROKEN_PIPE)
    if is_out_of_memory(error):
        return Fault(
            "MemoryError",
            "not enough memory for images of this size; give a smaller --resize, for a network --tile, or free some",
            EXIT_INPUT,
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        where = f" ({os.fsdecode(error.filename)})" if error.filename else ""
        return Fault(kind, f"{os.strerror(error.errno)}{where}; choose another --output or make room", EXIT_INPUT)
    return Fault(kind, f"internal error: {kind}: {_one_line(error)} (run with -vv for the traceback)", EXIT_INTERNAL)


def fail(error: BaseException) -> int:
    """Print the error's line on stderr, with -vv its traceback, and return its exit code."""
    fault = explain(error)
    if fault.exit_code == EXIT_BROKEN_PIPE:
        _give_up_stdout()
        return fault.exit_code
    if _levels[0] >= 2:
        traceback.print_exception(error, file=sys.stderr)
    prefix = "flowkit: " if fault.exit_code in (EXIT_INTERNAL, EXIT_INTERRUPTED) else "flowkit: error: "
    print(f"{prefix}{fault.message}", file=sys.stderr)
    return fault.exit_code


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 1000 else text[:997] + "..."


def _give_up_stdout() -> None:
    """Point stdout at nowhere, so that the interpreter does not complain when it flushes at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
