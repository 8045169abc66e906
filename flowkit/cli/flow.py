"""`flowkit flow`: the dense flow from one image to another, or through a sequence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from flowkit.cli import cameras, options, pairwise, report
from flowkit.cli.options import METHOD, grouped
from flowkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from flowkit.io.sequences import Sequence
    from flowkit.pipelines.outputs import Outcome
    from flowkit.types import Size


class Preset(StrEnum):
    """Speed against accuracy."""

    FAST = "fast"
    FINE = "fine"


class Init(StrEnum):
    """What the dense method starts from."""

    NONE = "none"
    COARSE = "coarse"
    MATCHES = "matches"


@grouped
def flow(
    image0: options.Image0 = None,
    image1: options.Image1 = None,
    preset: Annotated[
        Preset | None, Option(help="dis: speed against accuracy; fine by default.", rich_help_panel=METHOD)
    ] = None,
    init: Annotated[
        Init | None,
        Option(
            help="For large motion: start from matches or, networks only, from smaller sizes.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    features: options.Features = None,
    bidirectional: Annotated[
        bool, Option("--bidirectional", help="Also B -> A; gives confidence and occlusion.", rich_help_panel=METHOD)
    ] = False,
    sequence: Annotated[
        Path | None, Option(metavar="FOLDER|VIDEO", help="Flow between consecutive frames, one folder each.")
    ] = None,
    warm_start: Annotated[
        bool, Option("--warm-start", help="With --sequence: networks start from the flow of the frames before.")
    ] = False,
    max_flow: options.MaxFlow = None,
    legend: options.Legend = False,
    *,
    dense: options.DenseFlow,
    intrinsics: cameras.Cameras,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Dense flow A -> B: for every pixel p of A, p + flow(p) is the same point in B.

    Without --model the method is chosen for each pair; flow.json says which, and why. Writes flow.flo, flow.png, flow.json;
    with --bidirectional also backward.flo, confidence.png, occlusion.png. To bring B onto A: `flowkit warp B --flow flow.flo`.

    With --K (or K in the list of pairs) flow.json has the camera's motion behind the flow, too, and epipolar.npy, epipolar.png
    how many pixels the flow is off it: what moves on its own stands out.
    """
    report.start(output.verbose, output.quiet)
    if features is not None and init is not Init.MATCHES and dense.model != "auto":
        raise UsageError("--features: only together with --init matches, or without --model")
    method = {
        **dense.arguments(),
        **compute.arguments(),
        **_start(dense.model, preset, init),
        "features": features,
        "bidirectional": bidirectional,
    }
    if warm_start:
        _check_warm_start(dense.model, init, sequence)
        method["warm_start"] = True
    writing = {"pictures": output.pictures, "max_flow": max_flow, "legend": legend, **intrinsics.arguments()}
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

    from flowkit.pipelines import egomotion, flow, outputs
    from flowkit.pipelines.prepare import is_blank
    from flowkit.types import Status

    method, writing = dict(job.method), dict(job.writing)
    given = writing.pop("K0"), writing.pop("K1"), writing.pop("fov")
    calibrated = any(value is not None for value in (*given, inputs.K0, inputs.K1))
    matrices = cameras.both(inputs, *given) if calibrated else None
    if method.pop("warm_start", False):
        method["initial"] = _flow_before(directory, inputs.image0.size)
        if method["initial"] is not None:
            method["init"] = "none"
    result = flow.flow(inputs.image0, inputs.image1, **method)
    run = result.run
    assert run is not None
    status = Status(str(run.options.get("status", Status.OK)))
    if is_blank(inputs.image0) or is_blank(inputs.image1):
        unknown = np.full_like(result.uv, np.nan)
        result, status = (
            replace(result, uv=unknown, confidence=None, occlusion=None, backward=None),
            Status.TOO_FEW_MATCHES,
        )
    elif matrices is not None:
        result = egomotion.with_egomotion(result, *matrices, seed=method["seed"])
    outcome = outputs.write_flow_results(
        directory, result, inputs.image0, inputs.image1, status=status, command=job.arguments, **writing
    )
    auto = run.options.get("auto")
    if not isinstance(auto, Mapping) or status is not Status.OK:
        return outcome
    return replace(outcome, summary=(*outcome.summary, f"  by {auto['method']}: {auto['reason']}"))


def _start(model: str, preset: Preset | None, init: Init | None) -> dict[str, str | None]:
    """The preset where the model has them, and the start; UsageError where it has none."""
    if model == "auto":
        from flowkit.pipelines.auto import refuse_options

        refuse_options({"--preset": preset, "--init": init})
        return {}
    from flowkit.models.registry import model_spec

    start = {"init": None if init is None else init.value}
    if not model_spec(model).network:
        return {"preset": (preset or Preset.FINE).value, **start}
    if preset is not None:
        raise UsageError(f"--preset {preset}: {model!r} is a network and has none; leave the option out")
    return start


def _check_warm_start(model: str, init: Init | None, sequence: Path | None) -> None:
    from flowkit.models.registry import model_spec

    if sequence is None:
        raise UsageError("--warm-start: only together with --sequence, whose pairs follow one another")
    if model == "auto" or not model_spec(model).network:
        raise UsageError(f"--warm-start: {model!r} does not start from a flow; choose a network")
    if init not in (None, Init.NONE):
        raise UsageError(f"--warm-start: --init {init} says where to start already; leave one of them out")


def _flow_before(directory: Path, size: Size) -> np.ndarray | None:
    """What the frames before, whose folder has the number before, say of this pair: their flow moved along itself.

    From the file rather than from memory, so that a run taken up again gives what it would have given in one go. None
    for the first pair, after one that failed, and where the frames change their size.
    """
    from flowkit.errors import InputError
    from flowkit.io.flow_files import read_flow
    from flowkit.pipelines.network import carried_on

    before = directory.with_name(f"{int(directory.name) - 1:06d}") / "flow.flo"
    try:
        flow = read_flow(before) if before.is_file() else None
    except InputError:
        return None
    return None if flow is None or flow.shape[1:] != size else carried_on(flow)


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
