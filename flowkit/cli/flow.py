"""`flowkit flow`: the dense flow from one image to another, or through a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from flowkit.cli import options, pairwise, report
from flowkit.cli.options import METHOD, grouped
from flowkit.errors import UsageError

if TYPE_CHECKING:
    from flowkit.io.sequences import Sequence
    from flowkit.pipelines.outputs import Outcome


class Preset(StrEnum):
    """Speed against accuracy."""

    FAST = "fast"
    FINE = "fine"


class Init(StrEnum):
    """What the dense method starts from."""

    NONE = "none"
    MATCHES = "matches"


@grouped
def flow(
    image0: options.Image0 = None,
    image1: options.Image1 = None,
    preset: Annotated[Preset, Option(help="Speed against accuracy.", rich_help_panel=METHOD)] = Preset.FINE,
    init: Annotated[
        Init, Option(help="matches: start from sparse matches, for motion that is large.", rich_help_panel=METHOD)
    ] = Init.NONE,
    features: options.Features = None,
    bidirectional: Annotated[
        bool, Option("--bidirectional", help="Also B -> A; gives confidence and occlusion.", rich_help_panel=METHOD)
    ] = False,
    sequence: Annotated[
        Path | None, Option(metavar="FOLDER|VIDEO", help="Flow between consecutive frames, one folder each.")
    ] = None,
    max_flow: options.MaxFlow = None,
    legend: options.Legend = False,
    *,
    dense: options.Dense,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Dense flow A -> B: for every pixel p of A, p + flow(p) is the same point in B.

    Writes flow.flo, flow.png and flow.json; with --bidirectional also backward.flo, confidence.png and occlusion.png. To bring
    B onto A: `flowkit warp B --flow flow.flo`.
    """
    report.start(output.verbose, output.quiet)
    if features is not None and init is Init.NONE:
        raise UsageError("--features: only together with --init matches")
    method = {
        **dense.arguments(),
        **compute.arguments(),
        "preset": preset.value,
        "init": init.value,
        "features": features,
        "bidirectional": bidirectional,
    }
    writing = {"pictures": output.pictures, "max_flow": max_flow, "legend": legend}
    job = pairwise.job("flow", method, writing)
    if sequence is None:
        pairwise.run(job, image0, image1, output, batch)
    elif image0 is not None or batch.pairs is not None:
        raise UsageError("give two images, --pairs FILE or --sequence, only one of them")
    else:
        batch.refuse_alone()
        _run_sequence(job, sequence, output)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair. Where an image is blank a dense method answers, too, but with nothing to go by: that is no flow (exit 5)."""
    from dataclasses import replace

    import numpy as np

    from flowkit.pipelines import flow, outputs
    from flowkit.pipelines.prepare import is_blank
    from flowkit.types import Status

    result, status = flow.flow(inputs.image0, inputs.image1, **job.method), Status.OK
    if is_blank(inputs.image0) or is_blank(inputs.image1):
        unknown = np.full_like(result.uv, np.nan)
        result, status = (
            replace(result, uv=unknown, confidence=None, occlusion=None, backward=None),
            Status.TOO_FEW_MATCHES,
        )
    return outputs.write_flow_results(
        directory, result, inputs.image0, inputs.image1, status=status, command=job.arguments, **job.writing
    )


def _run_sequence(job: pairwise.Job, path: Path, output: options.Output) -> None:
    """Consecutive frames as a batch of one worker: two frames are held at a time."""
    from dataclasses import replace

    from flowkit.cli import batch
    from flowkit.io.sequences import open_sequence

    job = replace(job, plain={**job.plain, "sequence": path.name})  # its folders have only numbers to tell them by
    frames = open_sequence(path)
    directory = output.output or Path(f"{path.resolve().stem}_flow")
    ledger = batch.Ledger("flow", total=None if frames.length is None else frames.length - 1)
    tasks = _tasks(frames, directory)
    batch.run(job, tasks, ledger, directory, overwrite=output.overwrite, quiet=output.quiet)
    pairwise.finish_batch(ledger, directory, output)


def _tasks(frames: Sequence, output: Path) -> Iterator[pairwise.Task]:
    """One task for every two consecutive frames, its folder numbered like its first frame: 000000, 000001, ..."""
    for index, ((name0, image0), (name1, image1)) in enumerate(frames.pairs()):
        yield pairwise.Task(image0, image1, output / f"{index:06d}", name0, name1)
