"""`flowkit bench speed`: what the networks cost on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Exit, Option

from flowkit.cli import options, report
from flowkit.cli.bench_options import LIST, names_of
from flowkit.cli.options import METHOD, RESULTS
from flowkit.cli.screen import bar, console
from flowkit.errors import EXIT_PARTIAL_BATCH, OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowkit.evaluation.speed import Measured, Settings

FILE = "speed.json"


def speed(
    model: Annotated[
        str | None, Option(metavar="NAMES", help=f"Networks; all by default. {LIST}", rich_help_panel=METHOD)
    ] = None,
    size: Annotated[
        str, Option(metavar="HxW", help="Height x width, rounded up to what a network takes.", rich_help_panel=METHOD)
    ] = "436x1024",
    device: Annotated[str, Option(metavar="DEV", help="auto, cpu, cuda or cuda:N.", rich_help_panel=METHOD)] = "auto",
    repeats: Annotated[int, Option(min=1, metavar="N", help="Turns of each network.", rich_help_panel=METHOD)] = 5,
    threads: Annotated[
        int | None, Option(min=1, metavar="N", help="CPU threads; as many as torch takes.", rich_help_panel=METHOD)
    ] = None,
    precision: Annotated[
        options.Precision, Option(help="What networks compute in.", rich_help_panel=METHOD)
    ] = options.Precision.FP32,
    ptlflow_python: Annotated[
        str | None,
        Option(metavar="PATH", help="Python with ptlflow, to compare with it; else flowkit's.", rich_help_panel=METHOD),
    ] = None,
    *,
    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="DIR",
            help=f"Folder for {FILE}, rows.csv (networks), blocks.csv.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    overwrite: options.Overwrite = False,
    json: options.AsJson = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Networks on this machine: learnable layers, parameters, FLOPs, ms, peak memory; whole and by block, beside ptlflow's.

    No data set is needed; a network without weights of its own is measured with random ones.
    """
    from flowkit.evaluation import speed as bench

    report.start(verbose, quiet)
    if output is not None and (output / FILE).exists() and not overwrite:
        raise OutputError(f"{output / FILE}: exists already; give --overwrite or another --output")
    models = bench.networks(names_of(model))
    settings = bench.settings(size, device=device, precision=precision.value, repeats=repeats, threads=threads)
    ptlflow = bench.find_ptlflow(ptlflow_python)
    with bar("speed", bench.steps(models, settings, ptlflow), quiet) as shown:
        found = bench.measure(models, settings, ptlflow, step=lambda: shown.advance(shown.task_ids[0]))
    _finish(found, settings, output, as_json=json, quiet=quiet)
    if any(one.error for one in found):
        raise Exit(EXIT_PARTIAL_BATCH)


def _finish(found: Sequence[Measured], settings: Settings, output: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Write and show what was measured."""
    import json

    from flowkit.evaluation.speed_tables import blocks_csv, json_record, networks_csv
    from flowkit.io.atomic import write_text

    record = json_record(found, settings)
    if output is not None:
        write_text(output / "rows.csv", networks_csv(found))
        write_text(output / "blocks.csv", blocks_csv(found))
        write_text(output / FILE, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    if as_json:
        report.print_json(record)
    elif not quiet:
        _show(found, settings)


def _show(found: Sequence[Measured], settings: Settings) -> None:
    from flowkit.evaluation.speed_tables import block_table, network_table

    screen = console()
    screen.print(network_table(found, settings))
    for one in found:
        if one.blocks:
            screen.print(block_table(one))
