"""`flowkit train`: train a network of ours, from a folder of photographs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from flowkit.cli import options, report
from flowkit.errors import OutputError, UsageError

if TYPE_CHECKING:
    from flowkit.training.loop import Outcome, Plan
    from flowkit.training.material import Material
    from flowkit.training.recipe import Recipe

RUN, DATA = "The run", "What it learns from"

_UNITS = {"": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def train(
    name: Annotated[str, Argument(metavar="RECIPE", help="raft, raft-small, raft-xfeat.", show_default=False)],
    photos: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Photographs; its subfolders train/, val/ and cutouts/ are used as such.",
            rich_help_panel=DATA,
        ),
    ] = None,
    pairs_folder: Annotated[
        Path | None,
        Option(metavar="DIR", help="Real pairs to validate on, laid out as for `bench pairs`.", rich_help_panel=DATA),
    ] = None,
    output: Annotated[
        Path | None,
        Option("--output", "-o", metavar="DIR", help="Folder of the run.", rich_help_panel=options.RESULTS),
    ] = None,
    overwrite: options.Overwrite = False,
    init: Annotated[
        Path | None,
        Option(metavar="W", help="Weights to begin with: a .safetensors file or a run's folder.", rich_help_panel=RUN),
    ] = None,
    resume: Annotated[
        bool, Option("--resume", help="Go on from the last checkpoint in --output.", rich_help_panel=RUN)
    ] = False,
    minutes: Annotated[
        float | None, Option(metavar="M", help="End after so many minutes; the schedule fits.", rich_help_panel=RUN)
    ] = None,
    steps: Annotated[
        int | None, Option(metavar="N", help="End after so many steps; the recipe's by default.", rich_help_panel=RUN)
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option("--set", metavar="FIELD=VALUE", help="Change a field of the recipe; repeatable.", rich_help_panel=RUN),
    ] = None,
    print_config: Annotated[
        bool, Option("--print-config", help="Print the recipe as TOML and leave.", rich_help_panel=RUN)
    ] = False,
    shard_size: Annotated[
        str,
        Option("--checkpoint-shard-size", metavar="SIZE", help="Largest file of a checkpoint.", rich_help_panel=RUN),
    ] = "15MiB",
    device: options.Device = "auto",
    verbose: options.Verbose = 0,
    quiet: options.Quiet = False,
) -> None:
    """Train a network from photographs, whose pairs the data engine makes, with exact flow.

    Writes the checkpoints last/ and best/, weights.safetensors (averaged, of the last checkpoint) and best.safetensors (of
    the best one on held-out scenes), log.jsonl and tensorboard/. Ctrl-C ends with a checkpoint; go on with --resume. Several
    GPUs: torchrun --nproc-per-node N -m flowkit train ... Exit code 6: the loss was not finite; the last checkpoint is kept.
    """
    report.start(verbose, quiet)
    from flowkit.training.recipes import recipe as recipe_of
    from flowkit.training.settings import as_toml, with_settings

    recipe = with_settings(recipe_of(name), settings or [])
    if print_config:
        print(as_toml(recipe), end="")
        return
    if output is None:
        raise UsageError("give --output DIR, the folder of the run")
    if resume and init is not None:
        raise UsageError("--init with --resume: a resumed run has its weights; leave one of them out")
    shard = parse_bytes(shard_size)
    recipe, plan = _plan(name, recipe, settings or [], output, resume, overwrite, minutes, steps, device)
    from dataclasses import replace

    plan = replace(plan, init=init, pairs=pairs_folder, shard_size=shard)
    outcome = _run(recipe, _material(photos), plan, quiet)
    if not quiet:
        _summarise(outcome, plan)
    if outcome.interrupted:
        raise KeyboardInterrupt


def _plan(
    name: str,
    recipe: Recipe,
    settings: list[str],
    output: Path,
    resume: bool,
    overwrite: bool,
    minutes: float | None,
    steps: int | None,
    device: str,
) -> tuple[Recipe, Plan]:
    """The recipe and the plan; those of the checkpoint, as far as nothing else is said, where a run is resumed."""
    from flowkit.pipelines.prepare import resolve_device
    from flowkit.training.checkpoints import INDEX, read_index
    from flowkit.training.loop import LAST, Plan
    from flowkit.training.schedule import Budget
    from flowkit.training.settings import recipe_from, with_settings
    from flowkit.training.state import require_model

    if resume:
        facts = read_index(output / LAST)
        require_model(facts, recipe.model, output / LAST)
        recipe = with_settings(recipe_from(recipe, facts["recipe"]), settings)
        budget = Budget(steps, minutes) if steps or minutes else Budget(**facts["budget"])
    else:
        if (output / LAST / INDEX).exists() and not overwrite:
            raise OutputError(f"{output}: there is a run in it; go on with --resume, or start anew with --overwrite")
        budget = Budget(steps, minutes) if steps is not None or minutes is not None else Budget(recipe.steps)
    plan = Plan(output, budget, name=name, resume=resume, device=resolve_device(device))
    return recipe, plan


def _material(photos: Path | None) -> Material:
    from flowkit.training.material import read_photos

    if photos is None:
        raise UsageError("give --photos DIR, a folder of photographs")
    return read_photos(photos)


def _run(recipe: Recipe, material: Material, plan: Plan, quiet: bool) -> Outcome:
    from flowkit.training.loop import train as run

    return run(recipe, material, plan)


def _summarise(outcome: Outcome, plan: Plan) -> None:
    print(f"{outcome.step} steps in {outcome.minutes:.1f} minutes")
    print(f"  {plan.output}")


def parse_bytes(text: str) -> int:
    """ "15MiB" -> 15728640; UsageError for what is no size, or less than 64 KiB."""
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([KMG]i?B)?", text.strip(), re.IGNORECASE)
    size = int(float(match[1]) * _UNITS[(match[2] or "").upper()]) if match else 0
    if size < 2**16:
        raise UsageError(f"--checkpoint-shard-size {text}: give a size of at least 64KiB, such as 15MiB")
    return size
