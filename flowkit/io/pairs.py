r"""Lists of image pairs: a text file with a pair a line, blank lines and # comments apart.

| fields | meaning |
|---|---|
| 2 | name0 name1 (hloc and everyone) |
| 4 | and rotation0 rotation1 (SuperGlue): quarter turns, 0 to 3 |
| 22 | and K0 and K1, 9 numbers each, row by row |
| 38 | and T_0to1, 16 numbers row by row: X1 = T X0, the true pose |

Fields stand between blanks or tabs. A name with blanks in it is put in double quotes, or all fields are separated by tabs.
Files named .csv, and those that begin with a header `image_A,image_B` or `image0,image1`, are comma-separated; with a header
other columns are ignored.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flowkit.errors import InputError, OutputError
from flowkit.io.atomic import write_text
from flowkit.io.cameras import intrinsics_fault
from flowkit.io.text import format_numbers, parse_numbers, read_lines

COUNTS = (2, 4, 22, 38)
_HEADERS = (("image0", "image1"), ("image_a", "image_b"))
_QUOTED_THEN_COMMA = re.compile(r'"(?:[^"]|"")*"[ ]*,')
_NEEDS_QUOTES = re.compile(r'[\s",]|^[#\ufeff]')


@dataclass(frozen=True, eq=False)
class Pair:
    """Two images by name, relative to the image folder, and what the list knows of them.

    `rotation0` and `rotation1` are SuperGlue's: how many quarter turns counter-clockwise (`np.rot90(pixels, rotation)`)
    bring the image upright, that is, how many clockwise it was turned. `K0`, `K1` (3, 3) and `T_0to1` (4, 4, X1 = T X0)
    belong to the images as stored, before that turn.
    """

    name0: str
    name1: str
    rotation0: int = 0
    rotation1: int = 0
    K0: np.ndarray | None = None
    K1: np.ndarray | None = None
    T_0to1: np.ndarray | None = None


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """The pairs of a list, in its order and with its repetitions; InputError names file and line of what is wrong."""
    lines = list(read_lines(path, "a list of image pairs"))
    header = _header(lines[0][1]) if lines else None
    if header is not None:
        pairs = [_pick(_split(line, ",", where), header, where) for where, line in lines[1:]]
    else:
        commas = Path(path).suffix.lower() == ".csv"
        pairs = [_pair(_split(line, ",", where) if commas else _fields(line, where), where) for where, line in lines]
    if not pairs:
        raise InputError(f"{path}: has no pairs; write two image names on each line")
    return pairs


def write_pairs(path: str | os.PathLike[str], pairs: Iterable[Pair]) -> None:
    """Write `pairs` so that `read_pairs` gives them back; a .csv file gets a header and has room for names only."""
    commas = Path(path).suffix.lower() == ".csv"
    lines = ["image0,image1"] if commas else []
    for pair in pairs:
        names = [_quoted(_writable(name, path)) for name in (pair.name0, pair.name1)]
        extras = _optional_fields(pair)
        if commas and extras:
            raise OutputError(f"{path}: a .csv list holds names only; write rotations and cameras to a .txt file")
        lines.append(("," if commas else " ").join([*names, *extras]))
    write_text(path, "".join(f"{line}\n" for line in lines))


# --- reading ---------------------------------------------------------------------------------------------------------


def _header(line: str) -> tuple[int, int] | None:
    """Which columns hold the names, if `line` is a header that says so."""
    titles = [title.strip(' "').lower() for title in line.split(",")]
    for names in _HEADERS:
        if all(name in titles for name in names):
            return titles.index(names[0]), titles.index(names[1])
    return None


def _pick(fields: list[str], columns: tuple[int, int], where: str) -> Pair:
    if len(fields) <= max(columns):
        raise InputError(f"{where}: has {len(fields)} columns, fewer than the header names; add what is missing")
    return _pair([fields[column] for column in columns], where)


def _fields(line: str, where: str) -> list[str]:
    """The fields of a line, whichever way they are separated."""
    if "\t" in line and len(fields := _split(line, "\t", where)) in COUNTS:
        return fields
    if _QUOTED_THEN_COMMA.match(line):
        return _split(line, ",", where)
    # "a.jpg, b.jpg" and "a.jpg,b.jpg": nobody means a name that ends in a comma.
    first = re.split("[ \t]", line, maxsplit=1)[0]
    if "," in line and '"' not in first and (first.endswith(",") or first == line):
        return _split(line, ",", where)
    return _split(line.replace("\t", " "), " ", where)


def _split(line: str, separator: str, where: str) -> list[str]:
    try:
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise InputError(
            f"{where}: its quotes do not match ({error}); a name with blanks goes in double quotes"
        ) from None
    return fields if separator == " " else [field.strip(" ") for field in fields]


def _pair(fields: Sequence[str], where: str) -> Pair:
    count = len(fields)
    if count not in COUNTS:
        hint = (
            "put names that contain blanks in double quotes" if 2 < count < 10 else "check the line for a missing field"
        )
        raise InputError(f"{where}: has {count} fields where {', '.join(map(str, COUNTS[:-1]))} or 38 belong; {hint}")
    name0, name1 = fields[:2]
    if not name0 or not name1:
        raise InputError(f"{where}: an image name is empty; write two image names")
    rotation0, rotation1 = (_rotation(field, where) for field in fields[2:4] or ("0", "0"))
    if count < 22:
        return Pair(name0, name1, rotation0, rotation1)
    numbers = parse_numbers(fields[4:], where)
    K0, K1 = numbers[:9].reshape(3, 3), numbers[9:18].reshape(3, 3)
    for name, K in (("K0", K0), ("K1", K1)):
        if (fault := intrinsics_fault(K)) is not None:
            raise InputError(f"{where}: {name}: {fault}; correct it or leave fields 3 and on out")
    T = numbers[18:].reshape(4, 4) if count == 38 else None
    if T is not None and not np.allclose(T[3], [0, 0, 0, 1]):
        raise InputError(f"{where}: T_0to1 does not end in 0 0 0 1; write it row by row (is it transposed?)")
    return Pair(name0, name1, rotation0, rotation1, K0, K1, T)


def _rotation(field: str, where: str) -> int:
    if field not in ("0", "1", "2", "3"):
        raise InputError(
            f"{where}: the rotation {field[:40]!r} is not 0, 1, 2 or 3 quarter turns; "
            "put names that contain blanks in double quotes"
        )
    return int(field)


# --- writing ---------------------------------------------------------------------------------------------------------


def _optional_fields(pair: Pair) -> list[str]:
    if (pair.K0 is None) != (pair.K1 is None) or (pair.T_0to1 is not None and pair.K0 is None):
        raise ValueError("a line holds K0 and K1 together or not at all, and a pose only with both")
    if pair.K0 is None:
        return [str(pair.rotation0), str(pair.rotation1)] if pair.rotation0 or pair.rotation1 else []
    matrices = [matrix for matrix in (pair.K0, pair.K1, pair.T_0to1) if matrix is not None]
    return [str(pair.rotation0), str(pair.rotation1), *(format_numbers(matrix) for matrix in matrices)]


def _writable(name: str, path: str | os.PathLike[str]) -> str:
    if not name or name != name.strip(" ") or re.search(r"[\0\t\r\n\ud800-\udfff]", name):
        fault = "it is empty, not UTF-8, or has a tab, a line break or outer blanks"
        raise OutputError(f"{path}: the name {name!r} cannot stand in a list ({fault}); rename the image")
    return name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if _NEEDS_QUOTES.search(name) else name
