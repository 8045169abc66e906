"""`flowkit bench odometry`: trajectories of whole sequences against the true poses."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from flowkit.cli import options, report
from flowkit.cli.bench_options import LIST, Output, Running, names_of
from flowkit.cli.bench_results import check_output, finish
from flowkit.cli.options import METHOD
from flowkit.cli.screen import bar

if TYPE_CHECKING:
    from flowkit.evaluation.protocols import PairResult, Row


class Scale(StrEnum):
    """What the lengths of the steps are taken from."""

    TRUTH = "truth"
    CHAINED = "chained"


def odometry(
    root: Annotated[
        Path, Argument(metavar="ROOT", help="KITTI odometry's folder (sequences, poses), or one of TUM RGB-D's.")
    ],
    method: Annotated[
        str, Option(metavar="NAMES", help=f"Features and dense models. {LIST}", rich_help_panel=METHOD)
    ] = "sift,dis",
    estimator: Annotated[
        str | None,
        Option(
            metavar="NAMES",
            help=f"essential (the default of dense models), poselib (of features). {LIST}",
            rich_help_panel=METHOD,
        ),
    ] = None,
    scale: Annotated[
        Scale,
        Option(help="truth: each step as long as the true one; chained: relative.", rich_help_panel=METHOD),
    ] = Scale.TRUTH,
    sequence: Annotated[str | None, Option(metavar="NAMES", help="Only these sequences.")] = None,
    K: Annotated[
        str | None, Option("--K", metavar="fx,fy,cx,cy|FILE", help="TUM: in place of the folder's intrinsics.")
    ] = None,
    limit: Annotated[int | None, Option(min=1, metavar="N", help="Only the first N pairs of each sequence.")] = None,
    device: options.Device = "auto",
    seed: options.Seed = 0,
    *,
    output: Output = None,
    overwrite: options.Overwrite = False,
    json: options.AsJson = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Frame-to-frame odometry: KITTI's t_err and r_err, relative pose error (RPE), absolute trajectory error (ATE).

    A pair without a motion is failed, its pose held. With --scale chained the trajectory gets the one scale that fits best.
    """
    from flowkit.datasets.catalogue import find_sequences
    from flowkit.errors import UsageError
    from flowkit.evaluation.odometry_runs import measure, odometry_methods
    from flowkit.io.cameras import parse_intrinsics

    report.start(verbose, quiet)
    running = Running(limit=limit, device=device, seed=seed, output=output, overwrite=overwrite, json=json, quiet=quiet)
    check_output(running)
    methods = odometry_methods(names_of(method), names_of(estimator))
    sequences = find_sequences(root, None if K is None else parse_intrinsics(K))
    if unknown := {*names_of(sequence)} - {each.name for each in sequences}:
        raise UsageError(f"--sequence {min(unknown)}: {root} has {', '.join(each.name for each in sequences)}")
    chosen = [each for each in sequences if sequence is None or each.name in names_of(sequence)]
    rows: list[Row] = []
    results: list[PairResult] = []
    total = len(methods) * sum(min(len(each.frames) - 1, limit or len(each.frames)) for each in chosen)
    with bar("odometry", total, quiet) as shown:
        for each in chosen:
            for one in methods:
                found = measure(
                    each,
                    one,
                    scale=scale.value,
                    device=device,
                    seed=seed,
                    limit=limit,
                    advance=lambda: shown.advance(shown.task_ids[0]),
                )
                rows.append(found.row)
                results += found.results
    arguments = {
        "root": str(root),
        "scale": scale.value,
        "sequences": [each.name for each in chosen],
        "device": device,
        "seed": seed,
        "limit": limit,
    }
    finish(rows, results, arguments, running)
