"""`flowkit align`: one image brought onto another, or a whole set onto one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from flowkit.cli import options, pairwise, report
from flowkit.cli.masks import Masks, turned
from flowkit.cli.options import METHOD, Effort, grouped
from flowkit.errors import EXIT_NO_GEOMETRY, EXIT_OK, EXIT_PARTIAL_BATCH, FlowkitError, InputError, UsageError

if TYPE_CHECKING:
    from flowkit.pipelines.outputs import Outcome
    from flowkit.types import Image

log = logging.getLogger(__name__)


@grouped
def align(
    source: Annotated[
        Path | None, Argument(metavar="SOURCE", help="The image that is moved.", show_default=False)
    ] = None,
    target: Annotated[Path | None, Argument(metavar="TARGET", help="The image that stays.", show_default=False)] = None,
    multi_h: Annotated[
        bool, Option("--multi-h", help="Several homographies, for scenes of several planes.", rich_help_panel=METHOD)
    ] = False,
    rules: Annotated[
        str | None,
        Option(
            help="ransac-flow: join homographies as in its code (official), its paper (paper) or for driving (kitti).",
            rich_help_panel=METHOD,
        ),
    ] = None,
    features: options.Features = None,
    effort: options.EffortOption = Effort.NORMAL,
    group: Annotated[
        Path | None, Option(metavar="FOLDER", help="Bring every picture of a folder onto the one given by --to.")
    ] = None,
    to: Annotated[Path | None, Option(metavar="REF", help="With --group: the picture that stays.")] = None,
    transfer: Annotated[
        str | None,
        Option(
            metavar="MASK|x,y,w,h",
            help="Also transfer.png: TARGET with SOURCE's texture in this region (white in a mask file, or a box).",
        ),
    ] = None,
    max_flow: options.MaxFlow = None,
    legend: options.Legend = False,
    *,
    dense: options.DenseAlign,
    masks: Masks,
    feature_files: options.FeatureFiles,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Bring SOURCE onto TARGET. The flow lives on TARGET's grid and points into SOURCE: aligned(p) = SOURCE(p + flow(p)).

    Writes aligned.png, blend.png, blink.gif, flow.flo, flow.png, confidence.png, regions.png (which homography each pixel
    follows) and align.json; its homographies map TARGET to SOURCE. With --group: one aligned picture for each of the folder,
    averages before, by homographies, and after, an animation of them, and group.json.
    """
    report.start(output.verbose, output.quiet)
    method = {
        **dense.arguments(),
        **compute.arguments(),
        **masks.arguments(),
        **feature_files.arguments(),
        "multi_h": multi_h,
        "rules": rules,
        "features": features,
        "effort": effort.value,
    }
    if group is None and to is None:
        writing = {"pictures": output.pictures, "max_flow": max_flow, "legend": legend, "transfer": transfer}
        pairwise.run(pairwise.job("align", method, writing), source, target, output, batch)
    if transfer is not None:
        raise UsageError("--transfer: for one pair of pictures, not with --group")
    if group is None or to is None:
        raise UsageError("--group FOLDER and --to REF: give both")
    if source is not None or batch.pairs is not None:
        raise UsageError("give SOURCE and TARGET, --pairs FILE or --group FOLDER, only one of them")
    batch.refuse_alone()
    _run_group(group, to, method, output)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair."""
    from flowkit.pipelines import align, align_outputs
    from flowkit.pipelines.transfer import read_region

    writing = dict(job.writing)
    choice = writing.pop("transfer")
    region = None if choice is None else read_region(choice, inputs.image1.size)
    result = align.align(inputs.image0, inputs.image1, **turned(inputs, job.method))
    return align_outputs.write_align_results(
        directory, result, inputs.image0, inputs.image1, transfer=region, command=job.arguments, **writing
    )


def _run_group(folder: Path, reference: Path, method: dict[str, Any], output: options.Output) -> None:
    from flowkit.io.images import read_image
    from flowkit.io.sequences import Folder
    from flowkit.pipelines import group, group_outputs, outputs

    directory = output.output or Path(f"{folder.resolve().name}_to_{reference.stem}")
    target = read_image(reference)
    files = [file for file in Folder(folder).files if not file.samefile(reference)]
    if not files:
        raise InputError(f"{folder}: holds no picture besides {reference}")
    if not output.overwrite:
        outputs.refuse_existing(directory, "group")
    refused: list[tuple[Path, str]] = []
    with outputs.result_folder(directory, "group"):
        results = group.align_group(_readable(files, target, refused), target, **method)
        outcome = group_outputs.write_group_results(
            directory,
            results,
            target,
            refused,
            method=method,
            command=pairwise.command_line(),
            pictures=output.pictures,
        )
    report.show(outcome, as_json=output.json, quiet=output.quiet)
    aligned = sum(image["status"] == "ok" for image in outcome.record["images"])
    everything = aligned == len(files)
    raise typer.Exit(EXIT_OK if everything else EXIT_PARTIAL_BATCH if aligned else EXIT_NO_GEOMETRY)


def _readable(files: list[Path], target: Image, refused: list[tuple[Path, str]]) -> Iterator[Image]:
    """The images one after another; those that cannot be used are put into `refused` with the reason."""
    from flowkit.pipelines.prepare import load_pair

    for file in files:
        try:
            image, _ = load_pair(file, target)
        except FlowkitError as error:
            refused.append((file, str(error)))
            log.warning("left out: %s", error)
        else:
            yield image
