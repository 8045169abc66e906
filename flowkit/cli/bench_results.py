"""What `flowkit bench` does with what it measured: files in the output folder, a table or JSON on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.cli import report
from flowkit.cli.bench_options import Running
from flowkit.cli.screen import console
from flowkit.errors import OutputError

if TYPE_CHECKING:
    from flowkit.evaluation.protocols import PairResult, Row


def check_output(running: Running) -> None:
    """OutputError when the folder holds results already that are not to be replaced."""
    if running.output is not None and (running.output / "bench.json").exists() and not running.overwrite:
        raise OutputError(f"{running.output / 'bench.json'}: exists already; give --overwrite or another --output")


def finish(
    rows: Sequence[Row], results: Sequence[PairResult], arguments: Mapping[str, object], running: Running
) -> None:
    """Write and show what was measured."""
    from flowkit.evaluation.tables import json_record

    record = json_record(rows, results, arguments)
    if running.output is not None:
        _write(running.output, rows, results, record)
    if running.json:
        report.print_json(record)
    elif not running.quiet:
        _show(rows)


def _write(directory: Path, rows: Sequence[Row], results: Sequence[PairResult], record: Mapping[str, object]) -> None:
    import json

    from flowkit.evaluation.accuracy_curves import curve_rows, curves_csv, curves_picture
    from flowkit.evaluation.tables import pairs_csv, rows_csv, rows_markdown
    from flowkit.io.atomic import write_text
    from flowkit.io.images import write_image

    write_text(directory / "rows.csv", rows_csv(rows))
    write_text(directory / "rows.md", rows_markdown(rows))
    write_text(directory / "pairs.csv", pairs_csv(results))
    if curve_rows(rows):
        write_text(directory / "mma.csv", curves_csv(rows))
        write_image(directory / "mma.png", curves_picture(rows))
    write_text(directory / "bench.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _show(rows: Sequence[Row]) -> None:
    from flowkit.evaluation.tables import screen_table

    screen = console()
    for task in dict.fromkeys(row.task for row in rows):
        screen.print(screen_table([row for row in rows if row.task == task]))
