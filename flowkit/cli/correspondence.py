"""What `flowkit show --correspondence` takes and does: a network's confidence at a point, step by step of GOCor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from flowkit.cli import options, pairwise
from flowkit.cli.options import METHOD
from flowkit.errors import UsageError

if TYPE_CHECKING:
    from flowkit.pipelines.correspondence import Correspondence

DEFAULT_MODEL = "basenet-gocor"


@dataclass(frozen=True)
class OfPair:
    """What belongs to --correspondence alone."""

    at: Annotated[
        str | None,
        Option(metavar="x,y", help="The point of A, pixels; its top left one is 0,0.", rich_help_panel=METHOD),
    ] = None
    model: Annotated[
        str | None,
        Option(help=f"BaseNet, GLU-Net, PWC-Net, plain or -gocor; {DEFAULT_MODEL} by default.", rich_help_panel=METHOD),
    ] = None
    weights: Annotated[
        Path | None,
        Option(metavar="FILE", help="Weights file for the model in place of its own.", rich_help_panel=METHOD),
    ] = None
    iterations: options.Iterations = None
    resize: Annotated[
        str | None,
        Option(metavar="N|WxH", help="Work at this size: the longer side, or width x height.", rich_help_panel=METHOD),
    ] = None
    device: options.Device = "auto"


def refuse_files(targets: Sequence[Path], overwrite: bool) -> None:
    """UsageError when a file to be written is there."""
    for target in targets:
        if target.exists() and not overwrite:
            raise UsageError(f"{target}: is there already; --overwrite replaces it")


def show_correspondence(
    image0: Path, image1: Path | None, chosen: OfPair, targets: Sequence[Path], overwrite: bool
) -> tuple[dict[str, Any], list[str]]:
    """Compute, draw into every target, and give the record and its summary."""
    if image1 is None:
        raise UsageError("--correspondence: two images are needed, A and B")
    if chosen.at is None:
        raise UsageError("--correspondence: needs --at x,y, the point of A in pixels")
    at, resize = parse_point(chosen.at), options.parse_resize(chosen.resize)
    for target in targets:
        if target.suffix.lower() != ".png":
            raise UsageError(f"--save {target}: with --correspondence a picture is written; give NAME.png")
    refuse_files(targets, overwrite)

    from flowkit.io.images import write_image
    from flowkit.pipelines import correspondence as pipeline
    from flowkit.pipelines.prepare import load_pair

    pair = load_pair(image0, image1)
    found = pipeline.correspondence(
        *pair,
        at,
        model=chosen.model or DEFAULT_MODEL,
        weights=chosen.weights,
        iterations=chosen.iterations,
        resize=resize,
        device=chosen.device,
    )
    if targets:
        picture = pipeline.picture(found, *pair)
        for target in targets:
            write_image(target, picture)
    record = pipeline.record(found, *pair, argv=pairwise.command_line())
    record["saved"] = [str(target) for target in targets]
    return record, _lines(found, record)


def parse_point(text: str) -> tuple[float, float]:
    """ "120,80" -> (120.0, 80.0)."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise UsageError(f"--at {text}: give x,y in pixels, for example 120,80")
    return x, y


def _lines(found: Correspondence, record: dict[str, Any]) -> list[str]:
    from flowkit.pipelines.correspondence import numbers

    height, width = found.grid
    names = record["image0"]["name"], record["image1"]["name"]
    lines = [
        f"correspondence {names[0]} at {found.at[0]:g},{found.at[1]:g} -> {names[1]} by {found.run.method}, "
        f"{found.level}: {width}x{height} cells"
    ]
    for state in found.states:
        peak = "" if state.query.peak is None else "at {:.1f},{:.1f}".format(*state.query.peak)
        lines.append(f"  {state.title:<12} {peak:<16} {numbers(state.query)}; in itself: {numbers(state.reference)}")
    return lines + [f"  {file}" for file in record["saved"]]
