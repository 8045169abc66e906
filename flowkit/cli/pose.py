"""`flowkit pose`: how the camera moved between two images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from flowkit.cli import options, pairwise, report
from flowkit.cli.options import grouped
from flowkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from flowkit.pipelines.outputs import Outcome
    from flowkit.types import Image

_CAMERA = "Cameras"
_WAYS = "give --K (or --K0 and --K1) as fx,fy,cx,cy or a file with a 3x3 matrix, or --fov in degrees"


class NoIntrinsics(UsageError):  # noqa: N818
    """No source has the intrinsics of an image. In a batch this concerns one pair, unlike other wrong options."""


@grouped
def pose(
    image0: options.Image0 = None,
    image1: options.Image1 = None,
    K: Annotated[
        str | None,
        Option("--K", metavar="fx,fy,cx,cy|FILE", help="Intrinsics of both cameras.", rich_help_panel=_CAMERA),
    ] = None,
    K0: Annotated[
        str | None, Option("--K0", metavar="fx,fy,cx,cy|FILE", help="Of A's alone.", rich_help_panel=_CAMERA)
    ] = None,
    K1: Annotated[
        str | None, Option("--K1", metavar="fx,fy,cx,cy|FILE", help="Of B's alone.", rich_help_panel=_CAMERA)
    ] = None,
    fov: Annotated[
        float | None, Option(help="Field of view of both across the longer side, in degrees.", rich_help_panel=_CAMERA)
    ] = None,
    features: options.Features = None,
    threshold: options.Threshold = None,
    *,
    matching: options.Matching,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Camera motion A -> B: X_B = R X_A + t with |t| = 1 (no scale is known), x right, y down, z forward.

    Intrinsics come from --K, --K0 and --K1, else from the list of pairs, --fov, or EXIF. Writes pose.json and pose.png.
    """
    report.start(output.verbose, output.quiet)
    if fov is not None and not 0 < fov < 180:
        raise UsageError(f"--fov {fov:g}: between 0 and 180 degrees")
    method = {"features": features, "threshold": threshold, **matching.arguments(), **compute.arguments()}
    writing = {"pictures": output.pictures, "K0": K0 or K, "K1": K1 or K, "fov": fov}
    pairwise.run(pairwise.job("pose", method, writing), image0, image1, output, batch)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair."""
    from flowkit.pipelines import outputs, pose

    writing = dict(job.writing)
    texts, fov = (writing.pop("K0"), writing.pop("K1")), writing.pop("fov")
    K0 = intrinsics(inputs.image0, texts[0], inputs.rotation0, inputs.K0, fov)
    K1 = intrinsics(inputs.image1, texts[1], inputs.rotation1, inputs.K1, fov)
    result = pose.pose(inputs.image0, inputs.image1, K0, K1, **job.method)
    return outputs.write_pose_results(directory, result, inputs.image0, inputs.image1, command=job.arguments, **writing)


def intrinsics(image: Image, text: str | None, turns: int, listed: np.ndarray | None, fov: float | None) -> np.ndarray:
    """K of one image, turned as it is, from the first source that has it; NoIntrinsics naming the ways if none has.

    What is given by hand is, like what a list gives, of the image as stored.
    """
    from flowkit.io import cameras

    if text is not None:
        stored = image.size[::-1] if turns % 2 else image.size
        return pairwise.turn_intrinsics(cameras.parse_intrinsics(text, stored), stored, turns)
    if listed is not None:
        return listed
    if fov is not None:
        return cameras.intrinsics_from_fov(fov, image.size)
    K = cameras.intrinsics_from_exif(image)
    if K is None:
        raise NoIntrinsics(f"{image.name}: no intrinsics are known and its EXIF has none; {_WAYS}")
    return K
