"""What the readers of text files share: lines of UTF-8 and finite numbers, or an InputError that names file and line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from flowkit.errors import InputError
from flowkit.io.inputs import check_input

MAX_BYTES = 1 << 30
"""A longer "text" file is something else."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf(inity)?)", re.ASCII | re.IGNORECASE)


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """The text of a UTF-8 file (with or without a byte order mark); `what` ("a pair list") completes the messages."""
    file = check_input(path, what)
    if file.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: is larger than 1 GiB; give the path of {what}")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start}); give {what}, saved as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{path}: is a binary file; give {what}")
    return text


def read_lines(path: str | os.PathLike[str], what: str) -> Iterator[tuple[str, str]]:
    """(where, line) of every line that is neither blank nor a # comment; `where` is "FILE:NUMBER" for messages."""
    # Not splitlines(): that would also break at characters that may stand in a file name.
    for number, line in enumerate(re.split(r"\r\n|\r|\n", read_text(path, what)), 1):
        line = line.strip(" \t")
        if line and not line.startswith("#"):
            yield f"{Path(path)}:{number}", line


def parse_number(word: str, where: str) -> float:
    """One finite number; Python's own additions (1_000, other scripts' digits) are not numbers in a file."""
    if not _NUMBER.fullmatch(word):
        shown = word if len(word) <= 40 else word[:37] + "..."
        raise InputError(f"{where}: {shown!r} is not a number; correct that field")
    value = float(word)
    if not np.isfinite(value):
        raise InputError(f"{where}: {word} is not finite; correct that field or leave the line out")
    return value


def parse_numbers(words: Sequence[str], where: str) -> np.ndarray:
    """(N,) float64 of finite numbers."""
    return np.array([parse_number(word, where) for word in words], np.float64)


def format_numbers(values: np.ndarray) -> str:
    """Numbers joined by blanks, each with as many digits as it takes to read back the very same float64."""
    return " ".join(repr(value) for value in np.asarray(values, np.float64).ravel().tolist())
