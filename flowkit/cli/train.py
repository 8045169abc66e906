"""`flowkit train`: train a network of ours, from a folder of photographs."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from typer import Argument, Option

from flowkit.cli import options, report
from flowkit.cli.options import RESULTS, grouped
from flowkit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from flowkit.training.loop import Outcome, Plan
    from flowkit.training.material import Material
    from flowkit.training.recipe import Recipe

RUN, DATA = "The run", "What it learns from"

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_LINE_EVERY = 10.0
"""Seconds between the lines of a log file."""


@dataclass(frozen=True)
class Data:
    """What the network sees."""

    photos: Annotated[
        Path | None,
        Option(metavar="DIR", help="Photographs; it may have folders train, val, cutouts.", rich_help_panel=DATA),
    ] = None
    data: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=DIR",
            help="A public data set (flyingchairs, sintel, ...) or, for life, posed photographs (colmap, megadepth-caps), "
            "for ransac-flow pictures that overlap (aligned), for egoflow a video; repeatable.",
            rich_help_panel=DATA,
        ),
    ] = None
    finetune: Annotated[
        Path | None,
        Option(
            metavar="PAIRS",
            help="ransac-flow: learn on from its own weights on your pictures, without labels: a folder of pictures that "
            "overlap, a video, a list of pairs.",
            rich_help_panel=DATA,
        ),
    ] = None
    video: Annotated[
        Path | None,
        Option(
            metavar="PATH",
            help="egoflow: learn from the frames of a video or a folder, or of scenes that `match --reconstruct` made, "
            "without labels; --photos is not needed then.",
            rich_help_panel=DATA,
        ),
    ] = None
    K: Annotated[
        str | None,
        Option(
            "--K",
            metavar="fx,fy,cx,cy|FILE",
            help="Intrinsics of --video, in pixels of its frames; scenes that were reconstructed have theirs.",
            rich_help_panel=DATA,
        ),
    ] = None
    pairs_folder: Annotated[
        Path | None,
        Option(metavar="DIR", help="Real pairs to validate on, laid out as for `bench pairs`.", rich_help_panel=DATA),
    ] = None
    preview: Annotated[
        int | None,
        Option(min=1, metavar="N", help="Write contact sheets of N pairs to --output, and stop.", rich_help_panel=DATA),
    ] = None


@dataclass(frozen=True)
class Course:
    """Where the run begins and ends."""

    minutes: Annotated[
        float | None, Option(metavar="M", help="End after M minutes; the schedule fits them.", rich_help_panel=RUN)
    ] = None
    steps: Annotated[
        int | None, Option(metavar="N", help="End after N steps; by default the recipe's.", rich_help_panel=RUN)
    ] = None
    init: Annotated[
        Path | None,
        Option(
            metavar="W",
            help="Weights to begin with: a .safetensors file, a run's folder, or one of `flowkit weights list`.",
            rich_help_panel=RUN,
        ),
    ] = None
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last checkpoint in --output.", rich_help_panel=RUN)
    ] = False
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe; repeatable.", rich_help_panel=RUN),
    ] = None
    print_config: Annotated[
        bool, Option("--print-config", help="Print the recipe's fields as TOML, and stop.", rich_help_panel=RUN)
    ] = False
    device: Annotated[str, Option(metavar="DEV", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=RUN)] = "auto"


@dataclass(frozen=True)
class Output:
    """Where the run goes and what is said meanwhile."""

    output: Annotated[
        Path | None, Option("--output", "-o", metavar="DIR", help="Folder of the run.", rich_help_panel=RESULTS)
    ] = None
    overwrite: Annotated[
        bool, Option("--overwrite", help="Start anew where a run is already.", rich_help_panel=RESULTS)
    ] = False
    checkpoint_shard_size: Annotated[
        str, Option(metavar="SIZE", help="Largest file of a checkpoint.", rich_help_panel=RESULTS)
    ] = "15MiB"
    verbose: options.Verbose = 0
    quiet: options.Quiet = False


@grouped
def train(
    name: Annotated[
        str,
        Argument(
            metavar="RECIPE",
            help="raft, raft-small, raft-xfeat, life, life-small, raft-chairs, ...",
            show_default=False,
        ),
    ],
    *,
    course: Course,
    data: Data,
    output: Output,
) -> None:
    """Train a network from photographs, out of which the data engine makes pairs with exact flow (life: poses).

    Writes into --output: the checkpoints last/ and best/ (by the error on held-out scenes), weights.safetensors and
    best.safetensors with their averaged weights, log.jsonl and tensorboard/. Ctrl-C ends with a checkpoint, --resume goes on.

    Several GPUs: torchrun --nproc-per-node N -m flowkit train ... If the loss is no longer finite the run stops with exit code
    6 and keeps its last checkpoint.
    """
    quiet = output.quiet or os.environ.get("RANK", "0") != "0"
    report.start(output.verbose, quiet)
    from flowkit.training.recipes import recipe as recipe_of
    from flowkit.training.settings import as_toml, with_settings

    if data.finetune is not None:
        name, course, data = _finetuning(name, course, data)
    data, recipe = _filming(data, with_settings(recipe_of(name), course.settings or []))
    if course.print_config:
        print(as_toml(recipe), end="")
        return
    if output.output is None:
        raise UsageError("give --output DIR, the folder of the run")
    if data.preview is not None:
        _preview(recipe, _material(recipe, data), data.preview, output.output, quiet)
        return
    recipe, plan = _planned(name, recipe, course, data, output)
    data, recipe = _filming(data, recipe)  # K may be given anew to a run that is resumed
    material = _material(recipe, data)
    outcome = _run(recipe, material, plan, quiet)
    if not quiet:
        _summarise(outcome, material, output.output)
    if outcome.interrupted:
        raise KeyboardInterrupt


def _finetuning(name: str, course: Course, data: Data) -> tuple[str, Course, Data]:
    """What --finetune stands for: a recipe of its own, the pictures to align, and the network's weights to begin with."""
    if name != "ransac-flow":
        raise UsageError(f"--finetune: only ransac-flow learns from pictures alone, {name} does not; leave it out")
    data = replace(data, data=[*(data.data or []), f"aligned={data.finetune}"])
    if course.init is None and not course.resume:
        course = replace(course, init=Path(name))
    return f"{name}-finetune", course, data


def _filming(data: Data, recipe: Recipe) -> tuple[Data, Recipe]:
    """What --video and --K stand for: a collection, and fields of the recipe; without photos there is nothing but the video."""
    from flowkit.training.egoflow import EgoflowRecipe
    from flowkit.training.video_pairs import COLLECTION

    if data.video is None and data.K is None:
        return data, recipe
    if not isinstance(recipe, EgoflowRecipe):
        raise UsageError("--video, --K: only egoflow learns from videos; leave them out")
    collections = [*(data.data or [])]
    if data.video is not None:
        entry = f"{COLLECTION}={data.video}"
        collections += [entry] if entry not in collections else []
    if not any(entry.startswith(f"{COLLECTION}=") for entry in collections):
        raise UsageError("--K is that of a video; give it together with --video PATH")
    if data.K is not None:
        recipe = replace(recipe, K=str(Path(data.K).resolve()) if Path(data.K).is_file() else data.K)
    if data.photos is None:
        recipe = replace(recipe, real=1.0)
    return replace(data, data=collections), recipe


def _planned(name: str, recipe: Recipe, course: Course, data: Data, output: Output) -> tuple[Recipe, Plan]:
    """The recipe and the plan; those of the checkpoint, as far as nothing else is said, where a run is resumed."""
    from flowkit.pipelines.prepare import resolve_device
    from flowkit.training.checkpoints import INDEX, read_index
    from flowkit.training.loop import LAST, Plan
    from flowkit.training.schedule import Budget
    from flowkit.training.settings import recipe_from, with_settings
    from flowkit.training.state import require_model

    assert output.output is not None
    last, given = output.output / LAST, course.steps is not None or course.minutes is not None
    if course.resume:
        if course.init is not None:
            raise UsageError("--init with --resume: a run that is resumed has its weights; leave one of them out")
        facts = read_index(last)
        require_model(facts, recipe.model, last)
        recipe = with_settings(recipe_from(recipe, facts["recipe"]), course.settings or [])
        budget = Budget(course.steps, course.minutes) if given else Budget(**facts["budget"])
    else:
        if (last / INDEX).exists() and not output.overwrite:
            raise OutputError(f"{output.output}: has a run already; go on with --resume, start anew with --overwrite")
        budget = Budget(course.steps, course.minutes) if given else Budget(recipe.steps)
    plan = Plan(
        output.output,
        budget,
        name=name,
        init=course.init,
        resume=course.resume,
        device=resolve_device(course.device),
        pairs=data.pairs_folder,
        shard_size=parse_bytes(output.checkpoint_shard_size),
    )
    return recipe, plan


def _material(recipe: Recipe, data: Data) -> Material:
    from flowkit.training.material import Material, read_photos

    folders = {}
    for text in data.data or ():
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise UsageError(f"--data {text}: give NAME=DIR, such as flyingchairs=FlyingChairs_release")
        folders[name] = Path(folder)
    if data.photos is None:
        if recipe.renders:
            raise UsageError("give --photos DIR, a folder of photographs to make pairs from")
        return Material(data=folders)
    return replace(read_photos(data.photos), data=folders)


def _preview(recipe: Recipe, material: Material, count: int, folder: Path, quiet: bool) -> None:
    from flowkit.training.preview import write_preview

    for file in write_preview(recipe, material, count, folder):
        if not quiet:
            print(f"  {file}")


def _run(recipe: Recipe, material: Material, plan: Plan, quiet: bool) -> Outcome:
    from flowkit.training.loop import train as run

    with TrainingProgress(quiet) as progress:
        return run(recipe, material, plan, progress.update)


def _summarise(outcome: Outcome, material: Material, folder: Path) -> None:
    from flowkit.training.validation import line

    if outcome.steps_taken == 0:
        print(f"nothing to do: the run ended after {outcome.step} steps; --minutes or --steps can prolong it")
    else:
        print(f"{outcome.step} steps in {outcome.minutes:.1f} minutes; {line(outcome.scores) or 'not validated'}")
    if material.skipped:
        pictures = "1 picture" if material.skipped == 1 else f"{material.skipped} pictures"
        print(f"skipped {pictures} that could not be read")
    print(f"  {folder}")


class TrainingProgress:
    """Follows a run on stderr: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, quiet: bool = False) -> None:
        """Show nothing yet."""
        self._quiet = quiet
        self._started = time.monotonic()
        self._last_line = -_LINE_EVERY
        self._first: float | None = None
        self._judged = ""
        self._bar: Bars | None = None
        self._task: TaskID

    def __enter__(self) -> Self:
        """Show the bar where there is a terminal."""
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TaskProgressColumn, TextColumn
            from rich.progress import Progress as Bars

            columns = TextColumn("train"), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}")
            self._bar = Bars(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("first steps", total=1.0)
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bar off."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, kind: str, step: int, fraction: float, figures: Mapping[str, float]) -> None:
        """Show the figures of one line of the run's log."""
        if self._quiet:
            return
        if self._first is None:
            self._first, self._started = fraction, time.monotonic()
        if kind == "validation":
            from flowkit.training.validation import line

            self._judged = line(figures)
            self._say(f"flowkit: step {step}: {self._judged}")
            return
        text = f"step {step}, {describe(figures)}{self._left(fraction)}"
        if self._bar is not None:
            shown = f"{text} ({self._judged})" if self._judged else text
            self._bar.update(self._task, completed=min(fraction, 1.0), description=shown)
        elif time.monotonic() - self._last_line >= _LINE_EVERY:
            self._last_line = time.monotonic()
            self._say(f"flowkit: {100 * fraction:.1f} %, {text}")

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def _left(self, fraction: float) -> str:
        assert self._first is not None
        if fraction <= self._first:
            return ""
        left = round((time.monotonic() - self._started) * (1 - fraction) / (fraction - self._first))
        return f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"


def describe(figures: Mapping[str, float]) -> str:
    """ "loss 3.21, epe 1.84, lr 0.0004, 1.3 steps/s" """
    rate = figures["steps_per_second"]
    speed = f"{rate:.1f} steps/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/step"
    error = f", epe {figures['epe']:.2f}" if "epe" in figures else ""
    return f"loss {figures['loss']:.3f}{error}, lr {figures['lr']:.2g}, {speed}"


def parse_bytes(text: str) -> int:
    """ "15MiB" -> 15728640; UsageError for what is no size, or less than 64 KiB."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([KMG]i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match else 0
    if size < 2**16:
        raise UsageError(f"--checkpoint-shard-size {text}: give a size of at least 64KiB, such as 15MiB")
    return size
