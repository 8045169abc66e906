"""`flowkit bench`: methods measured against ground truth, on one data set or on a folder of many."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option, Typer

from flowkit.cli import options, report
from flowkit.cli.bench_odometry import odometry
from flowkit.cli.bench_options import (
    LIST,
    Choice,
    Dataset,
    Effort,
    Features,
    FeatureWeights,
    Guide,
    Output,
    Root,
    Running,
    names_of,
)
from flowkit.cli.bench_results import check_output, finish
from flowkit.cli.bench_speed import speed
from flowkit.cli.options import grouped
from flowkit.cli.screen import bar
from flowkit.errors import EXIT_PARTIAL_BATCH, UsageError

if TYPE_CHECKING:
    from flowkit.datasets.samples import Sample
    from flowkit.evaluation.methods import Method
    from flowkit.evaluation.protocols import PairResult, Row

app = Typer(
    help="Measure methods against ground truth: flow, homography, pose, matching, localization, odometry; and their speed.",
    no_args_is_help=True,
)
_log = logging.getLogger(__name__)


@app.command()
@grouped
def flow(
    dataset: Dataset,
    root: Root,
    *,
    choice: Choice,
    running: Running,
) -> None:
    """Dense flow: AEPE, Fl, shares within 1/3/5 px. Homography data sets count where they land inside image1.

    hpatches-flow-v and -i, with -240 or -original at their end, are LIFE's protocol, by level I..V; hpatches-flow-v-ransac-flow
    is RANSAC-Flow's.
    Methods: dis, dis-fast, dis+matches, farneback, align, align-multi-h, or flow with --model.
    """
    _one("flow", dataset, root, choice.method, choice.varied(), running)


@app.command()
@grouped
def homography(
    dataset: Dataset,
    root: Root,
    features: Features = None,
    effort: Effort = None,
    guide: Guide = None,
    feature_weights: FeatureWeights = None,
    *,
    running: Running,
) -> None:
    """Homographies: corner error, its AUC@3/5/10, the share of pairs below 3/5/10 px."""
    varied = Choice(features=features, effort=effort, guide=guide, feature_weights=feature_weights).varied()
    _one("homography", dataset, root, None, varied, running)


@app.command()
@grouped
def pose(
    dataset: Dataset,
    root: Root,
    *,
    choice: Choice,
    running: Running,
) -> None:
    """Relative pose of calibrated views: AUC@5/10/20 degrees of the larger of rotation's and translation's error.

    megadepth-pose is CAPS' protocol: easy, moderate, hard; yfcc100m-ransac-flow RANSAC-Flow's: mAP@5/10/20. Methods: pose,
    pose-dense (of a dense flow), pose-opencv (E as CAPS has it); two-view, two-view-dense, either with -opencv at its end (E
    as RANSAC-Flow has it).
    """
    _one("pose", dataset, root, choice.method, choice.varied(), running)


@app.command()
@grouped
def matching(
    dataset: Dataset,
    root: Root,
    *,
    choice: Choice,
    running: Running,
) -> None:
    """Matches against labels: precision at 1/3/5 px, epipolar error of the labels; PCK for dense methods.

    hpatches-mma is D2-Net's protocol (with --output also as curves), megadepth-sparse and robotcar-sparse RANSAC-Flow's.
    Methods: match, match-stage-1 (with --guide: its first stage alone), and the dense ones of `bench flow`.
    """
    _one("matching", dataset, root, choice.method, choice.varied(), running)


@app.command()
@grouped
def pairs(
    root: Annotated[Path, Argument(metavar="ROOT", help="Folder of data sets, one folder each (docs/bench.md).")],
    task: Annotated[
        str | None, Option(metavar="NAMES", help=f"flow, homography, pose, matching; all by default. {LIST}")
    ] = None,
    dataset: Annotated[str | None, Option(metavar="NAMES", help="Only these data sets.")] = None,
    *,
    choice: Choice,
    running: Running,
) -> None:
    """Everything a folder of data sets has ground truth for, a table for each task.

    --method, --model, --features and the like go to the tasks that know them.
    """
    from flowkit.datasets.catalogue import TASKS, find_samples
    from flowkit.evaluation.methods import METHODS, build_methods

    report.start(running.verbose, running.quiet)
    tasks = names_of(task) or list(TASKS)
    if unknown := [name for name in tasks if name not in TASKS]:
        raise UsageError(f"--task {unknown[0]}: use one of {', '.join(TASKS)}")
    method, varied = names_of(choice.method), choice.varied()
    if unknown := [name for name in method if not any(name in METHODS[each] for each in tasks)]:
        raise UsageError(f"--method {unknown[0]}: no method of {', '.join(tasks)} has this name")
    found = find_samples(root, tasks, names_of(dataset) or None)
    jobs = []
    for name, samples in found.items():
        chosen = [each for each in method if each in METHODS[name]]
        jobs.append((name, samples, build_methods(name, chosen, varied, strict=False)))
    _run([job for job in jobs if job[1]], {"root": str(root)}, running)


@app.command()
@grouped
def localization(
    estimated: Annotated[Path, Argument(metavar="ESTIMATED", help="Poses, NAME qw qx qy qz tx ty tz (hloc's format).")],
    truth: Annotated[Path, Argument(metavar="TRUTH", help="The true poses, in the same format.")],
    *,
    output: Output = None,
    overwrite: options.Overwrite = False,
    json: options.AsJson = False,
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Absolute poses: shares within (.25 m, 2 degrees), (.5 m, 5 degrees), (5 m, 10 degrees) of the true ones.

    Also within (.5 m, 2 degrees), (1 m, 5 degrees), as RANSAC-Flow has them. A pose is world to camera. An image without an
    estimate is wrong.
    """
    from flowkit.evaluation.localization import localization as measure

    report.start(verbose, quiet)
    running = Running(output=output, overwrite=overwrite, json=json, quiet=quiet)
    check_output(running)
    rows, results = measure(estimated, truth)
    finish(rows, results, {"estimated": str(estimated), "truth": str(truth)}, running)


app.command()(grouped(odometry))
app.command()(grouped(speed))


def _one(
    task: str, dataset: str, root: Path, method: str | None, varied: Mapping[str, list[Any]], running: Running
) -> None:
    from flowkit.datasets.catalogue import read_dataset
    from flowkit.evaluation.methods import build_methods

    report.start(running.verbose, running.quiet)
    methods = build_methods(task, names_of(method), varied)
    samples = [sample for name in names_of(dataset) for sample in read_dataset(name, root)]
    _run([(task, samples, methods)], {"dataset": dataset, "root": str(root)}, running)


def _run(
    jobs: Sequence[tuple[str, Sequence[Sample], Sequence[Method]]], arguments: Mapping[str, object], running: Running
) -> None:
    """Measure, write, show; exit code 6 when a method crashed on some pairs."""
    from flowkit.datasets.catalogue import missing_parts
    from flowkit.evaluation.cache import Cache
    from flowkit.evaluation.protocols import ERROR, count, run, summarise

    check_output(running)
    parts = missing_parts([sample for _, samples, _ in jobs for sample in samples])
    for dataset, part in parts.items():
        _log.warning("%s: %s are here", dataset, part)
    cache = Cache(_cache_folder(running.output) if running.cache else None)
    rows: list[Row] = []
    results: list[PairResult] = []
    total = sum(count(samples, methods, running.limit) for _, samples, methods in jobs)
    with bar("bench", total, running.quiet) as shown:
        for task, samples, methods in jobs:
            mine = []
            found = run(
                task, samples, methods, cache=cache, device=running.device, seed=running.seed, limit=running.limit
            )
            for result in found:
                shown.advance(shown.task_ids[0])
                mine.append(result)
            rows += summarise(task, mine)
            results += mine
    settings = {"device": running.device, "seed": running.seed, "limit": running.limit, "parts": parts}
    finish(rows, results, {**arguments, **settings}, running)
    if any(result.status == ERROR for result in results):
        raise Exit(EXIT_PARTIAL_BATCH)


def _cache_folder(output: Path | None) -> Path:
    """`cache/` of the output folder; without one, `bench/` where flowkit keeps its downloads ($FLOWKIT_HOME)."""
    from flowkit.io.weights import cache_folder

    return cache_folder() / "bench" if output is None else output / "cache"
