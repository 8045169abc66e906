"""`flowkit homography`: the homography between two images of a plane, or of a scene seen from one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.cli import options, pairwise, report
from flowkit.cli.options import Effort, grouped

if TYPE_CHECKING:
    from flowkit.pipelines.outputs import Outcome


@grouped
def homography(
    image0: options.Image0 = None,
    image1: options.Image1 = None,
    features: options.Features = None,
    effort: options.EffortOption = Effort.NORMAL,
    threshold: options.Threshold = None,
    *,
    matching: options.Matching,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Homography A -> B: x_B ~ H x_A, 3x3, in the pixels of both images, H[2][2] = 1.

    Writes homography.json and homography.png. To bring A onto B: `flowkit warp A --homography homography.json`.
    """
    report.start(output.verbose, output.quiet)
    method = {
        "features": features,
        "effort": effort.value,
        "threshold": threshold,
        **matching.arguments(),
        **compute.arguments(),
    }
    job = pairwise.job("homography", method, {"pictures": output.pictures})
    pairwise.run(job, image0, image1, output, batch)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair."""
    from flowkit.pipelines import homography, outputs

    result = homography.homography(inputs.image0, inputs.image1, **job.method)
    return outputs.write_homography_results(
        directory, result, inputs.image0, inputs.image1, command=job.arguments, **job.writing
    )
