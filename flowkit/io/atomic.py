"""Writing files so that a killed run leaves no half file: write beside the target, then rename.

Everything flowkit writes goes through `atomic_path`, which also turns the operating system's refusals into one clear line.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowkit.errors import OutputError

_ELSEWHERE = "choose another --output"
_NO_SPACE = f"free some space or {_ELSEWHERE}"
_REFUSALS = {
    errno.ENOSPC: ("no space left on device", _NO_SPACE),
    errno.EDQUOT: ("disk quota exceeded", _NO_SPACE),
    errno.EFBIG: ("the file would be too large for this file system", _ELSEWHERE),
    errno.EACCES: ("permission denied", f"make the folder writable or {_ELSEWHERE}"),
    errno.EPERM: ("operation not permitted", f"make the folder writable or {_ELSEWHERE}"),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EISDIR: ("a folder of that name is in the way", f"remove it or {_ELSEWHERE}"),
    errno.EEXIST: ("a file is where a folder should be", f"remove it or {_ELSEWHERE}"),
    errno.ENOTDIR: ("a file is where a folder should be", f"remove it or {_ELSEWHERE}"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter --output"),
    errno.ELOOP: ("a symbolic link leads in a circle", _ELSEWHERE),
    errno.EIO: ("the device reports an input/output error", f"check the disk or {_ELSEWHERE}"),
}
_TEMPORARY = re.compile(r"\..*\.(\d+)-[0-9a-f]{8}\.tmp(\.[^.]+)?")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; when the block ends well it becomes `path`, otherwise it is removed.

    The temporary name keeps the suffix, because many writers choose their format by it. Parent folders are made. A
    symbolic link is written through. Errors of the operating system, also those raised inside the block, become an
    OutputError; other exceptions of the block pass unchanged.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(_temporary_name(target))
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory", str(target))
        if target.exists() and not target.is_file():  # renaming onto /dev/null would replace the device itself
            raise OutputError(f"cannot write {path}: it is not a regular file; {_ELSEWHERE}")
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if not temporary.exists():
            raise OutputError(f"cannot write {path}: its writer produced nothing; choose another file format")
        temporary.replace(target)
    except OSError as error:
        refusal = _REFUSALS.get(error.errno or 0)
        if refusal is None or not _concerns(error, temporary, target):
            raise
        fault, remedy = refusal
        raise OutputError(f"cannot write {path}: {fault}; {remedy}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write `data` to `path`, wholly or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path` as UTF-8 with newlines as given (the same bytes on every system), wholly or not at all."""
    write_bytes(path, text.encode("utf-8"))


def remove_stale(directory: str | os.PathLike[str]) -> list[Path]:
    """Remove the temporary files that killed runs left in `directory` and return them.

    A file is stale when the process whose id it carries has ended. (A run on another machine that shares the folder would
    look ended too, so call this only on folders that one machine writes to.)
    """
    removed: list[Path] = []
    with suppress(OSError):
        for file in sorted(Path(directory).iterdir()):
            match = _TEMPORARY.fullmatch(file.name)
            if match and not _is_alive(int(match[1])):
                with suppress(OSError):
                    file.unlink()
                    removed.append(file)
    return removed


def _temporary_name(target: Path) -> str:
    """A hidden name for `target`, shortened so that it is never too long where the target's own name is not."""
    return f".{target.stem[:40]}.{os.getpid()}-{secrets.token_hex(4)}.tmp{target.suffix[:20]}"


def _concerns(error: OSError, temporary: Path, target: Path) -> bool:
    """Whether `error` is about writing `target` rather than about some other file that the block was using."""
    if error.filename is None:  # a failed write(2) names no file
        return True
    return Path(os.fsdecode(error.filename)) in (temporary, target, *target.parents)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill(pid, 0) would end the process; better leave a stale file
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid > 0  # pid 0 would mean our own process group
