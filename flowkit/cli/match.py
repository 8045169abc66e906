"""`flowkit match`: sparse matches between two images."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from flowkit.cli import image_sets, options, pairwise, report
from flowkit.cli.masks import Masks, turned
from flowkit.cli.options import METHOD, RESULTS, grouped
from flowkit.errors import UsageError

if TYPE_CHECKING:
    from flowkit.pipelines.outputs import Outcome


class Format(StrEnum):
    """The file that matches are written to."""

    NPZ = "npz"
    JSON = "json"
    H5 = "h5"


@grouped
def match(
    image0: options.Image0 = None,
    image1: options.Image1 = None,
    features: options.Features = None,
    max_keypoints: Annotated[
        int | None, Option(min=1, help="Keypoints per image at most.", rich_help_panel=METHOD)
    ] = None,
    format: Annotated[
        Format,
        Option(
            help="npz: matches.npz; json: points.json; h5: hloc's features.h5 and matches.h5.",
            rich_help_panel=RESULTS,
        ),
    ] = Format.NPZ,
    colmap: Annotated[
        Path | None,
        Option(metavar="DB", help="Also a COLMAP database (of --pairs only with --localize).", rich_help_panel=RESULTS),
    ] = None,
    model: Annotated[
        str | None,
        Option(
            metavar="MODEL",
            help="Dense matches of this flow model, evenly spread, in place of features.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    weights: Annotated[
        Path | None, Option(metavar="FILE", help="With --model: weights in place of its own.", rich_help_panel=METHOD)
    ] = None,
    iterations: options.Iterations = None,
    *,
    masks: Masks,
    matching: options.Matching,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
    sets: image_sets.ImageSets,
) -> None:
    """Sparse matches between A and B: pairs of points in the pixels of both, with a score each.

    Of features, or with --model of a dense flow, where there and back agree; with --localize the flow matches the keypoints
    of --features (xfeat).

    Writes matches.npz, matches.png and matches.json. With --reconstruct or --localize of a set of images instead: a COLMAP
    model, or hloc's files.
    """
    report.start(output.verbose, output.quiet)
    if colmap is not None and colmap.exists() and not output.overwrite:
        raise UsageError(f"{colmap}: is there already; --overwrite replaces it")
    if masks.arguments() and (sets.reconstruct is not None or sets.localize is not None):
        raise UsageError("--mask0 and --mask1: of pairs, not of sets of images")
    method = {
        "features": features,
        "max_keypoints": max_keypoints,
        **masks.arguments(),
        **matching.arguments(),
        **compute.arguments(),
    }
    if model is not None:
        if sets.reconstruct is not None:
            raise UsageError("--model: not with --reconstruct; let it guide features there with --guide MODEL")
        dense = options.Dense(model=model, weights=weights, iterations=iterations).arguments()
        if sets.localize is not None:
            if matching.guide is not None:
                raise UsageError("--guide: leave it out, the flow of --model matches the keypoints of --features alone")
            method |= dense
        elif features is not None or matching.arguments():
            raise UsageError(
                "--model: takes the place of features; leave --features, --guide and --feature-weights out"
            )
        else:
            method = {"max_keypoints": max_keypoints, **dense, **masks.arguments(), **compute.arguments()}
    elif weights is not None or iterations is not None:
        raise UsageError("--weights and --iters: only together with --model, whose they are")
    if sets.reconstruct is not None:
        if image0 is not None or colmap is not None:
            raise UsageError("--reconstruct: takes its images from --sequence; leave A, B and --colmap out")
        image_sets.run_reconstruction(sets, method, output, batch)
    sets.refuse_alone()
    if sets.localize is not None:
        if image0 is not None or output.output is not None:
            raise UsageError(
                "--localize: takes its images from --pairs and writes to its folder; leave A, B and --output out"
            )
        image_sets.run_localization(sets, method, colmap, output, batch)
    if colmap is not None and batch.pairs is not None:
        raise UsageError("--colmap: one pair only; for --pairs write --format h5 and import that")
    writing = {"pictures": output.pictures, "format": format.value, "colmap": colmap}
    pairwise.run(pairwise.job("match", method, writing), image0, image1, output, batch)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair."""
    from flowkit.pipelines import dense_matches, match, outputs

    find = dense_matches.dense_matches if "model" in job.method else match.match
    result = find(inputs.image0, inputs.image1, **turned(inputs, job.method))
    return outputs.write_match_results(
        directory, result, inputs.image0, inputs.image1, command=job.arguments, **job.writing
    )
