"""What every reader asks of a path first, so that a missing, empty or forbidden file always reads the same."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowkit.errors import FlowkitError, InputError


def check_input(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` if it is a readable, non-empty regular file; `what` ("an image") completes the messages."""
    file = Path(path)
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path}: is a folder; give the path of {what}")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: is not a regular file; save it to disk and give the path of {what}")
        if status.st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); copy or download it again")
        file.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; give the path of {what}") from None
    except PermissionError:
        raise InputError(f"{path}: permission denied; make the file readable for you") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise InputError(f"{path!s}: cannot be opened ({one_line(error)}); give the path of {what}") from None
    return file


def one_line(error: BaseException) -> str:
    """The text of an exception, on one line and short enough to stand inside a message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


@contextmanager
def decoding(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever a decoder raises on a broken file into an InputError that names the file.

    Decoders fed with garbage raise nearly anything (struct.error, SyntaxError, OverflowError, ...), hence the wide net.
    """
    try:
        yield
    except FlowkitError:
        raise
    except MemoryError:
        raise InputError(f"{path}: not enough memory to decode it; make it smaller or free some memory") from None
    except Exception as error:
        raise InputError(
            f"{path}: cannot be decoded as {what} ({one_line(error)}); the file is damaged or of another kind, save it again"
        ) from error


_quiet_lock = threading.Lock()
_quiet_depth = 0
_real_stderr = -1


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Send file descriptor 2 to nowhere: libpng and libtiff print there by themselves what the exception will say anyway.

    The descriptor belongs to the whole process, so keep the block to one call of a decoder. Threads may nest.
    """
    global _quiet_depth, _real_stderr
    with _quiet_lock:
        _quiet_depth += 1
        if _quiet_depth == 1:
            _real_stderr = _redirect_stderr()
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0 and _real_stderr >= 0:
                os.dup2(_real_stderr, 2)
                os.close(_real_stderr)


def _redirect_stderr() -> int:
    """Point descriptor 2 at the null device and return a copy of what it was, -1 if the process has none."""
    try:
        saved = os.dup(2)
    except OSError:
        return -1
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    os.close(null)
    return saved
