"""What the accuracy scripts of this folder share: lists of models, a table on the screen, one JSON file and one CSV file."""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch

import flowkit
from flowkit.errors import FlowkitError
from flowkit.io.atomic import atomic_path, write_text

Row = Mapping[str, Any]
T = TypeVar("T")


def models(text: str) -> dict[str, dict[str, Any]]:
    """ "dis,raft-xfeat,raft-xfeat=run/best.safetensors" -> by label, the options of `flowkit.flow`."""
    found: dict[str, dict[str, Any]] = {}
    for item in names(text):
        model, _, weights = item.partition("=")
        found[item] = {"model": model, "weights": Path(weights) if weights else None}
    return found


def names(text: str) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(text: str) -> list[float]:
    """ "1,0.5" -> [1.0, 0.5]."""
    return [float(name) for name in names(text)]


def first_of_each(items: Iterable[T], group: Callable[[T], str], limit: int | None) -> Iterator[T]:
    """At most `limit` of each group, all where it is None."""
    taken: Counter[str] = Counter()
    for item in items:
        taken[group(item)] += 1
        if limit is None or taken[group(item)] <= limit:
            yield item


def mean(values: Sequence[float]) -> float:
    """The mean; NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def show(title: str, rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> None:
    """A table of `columns`, key -> (title, format); a value that is missing or NaN is left blank."""
    cells = [[heading for heading, _ in columns.values()]]
    cells += [[_cell(row.get(key), form) for key, (_, form) in columns.items()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    left = [all(isinstance(row.get(key, ""), str) for row in rows) for key in columns]
    print(f"\n{title}")
    for line in cells:
        padded = (c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(line, widths, left, strict=True))
        print("  " + "  ".join(padded).rstrip(), flush=True)


def write(output: Path | None, arguments: argparse.Namespace, tables: Mapping[str, Sequence[Row]]) -> None:
    """OUTPUT.json with every table and how it was made, and beside it, as CSV, the last (the longest) table."""
    if output is None:
        return
    record = {
        "command": sys.argv,
        "arguments": {name: str(value) for name, value in vars(arguments).items()},
        "machine": platform.processor() or platform.machine(),
        "versions": {
            "flowkit": flowkit.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "opencv": cv2.__version__,
        },
        **{name: [_finite(row) for row in rows] for name, rows in tables.items()},
    }
    write_text(output.with_suffix(".json"), json.dumps(record, indent=1, allow_nan=False) + "\n")
    longest = list(tables.values())[-1]
    keys = list(dict.fromkeys(key for row in longest for key in row))
    with atomic_path(output.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(longest)


def say(text: str) -> None:
    """How far it is, on stderr."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Errors of flowkit as one line."""
    try:
        main()
    except FlowkitError as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None


def _cell(value: Any, form: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return format(value, form)


def _finite(row: Row) -> dict[str, Any]:
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()}
