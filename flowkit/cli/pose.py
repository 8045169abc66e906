"""`flowkit pose`: how the camera moved between two images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from flowkit.cli import options, pairwise, report
from flowkit.cli.masks import Masks, turned
from flowkit.cli.options import METHOD, RESULTS, grouped
from flowkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from flowkit.pipelines.outputs import Outcome
    from flowkit.types import Image

_CAMERA, _DENSE = "Cameras", "Dense flow"
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
    dense: Annotated[
        bool,
        Option("--dense", help="From confident matches of a dense flow, not from features.", rich_help_panel=METHOD),
    ] = False,
    ply: Annotated[
        bool,
        Option(
            "--ply",
            help="Also two_view.ply: a dense point cloud, colours of A, unit: baseline.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    model: Annotated[
        str | None, Option(help="Dense method, in the fine stage of an alignment.", rich_help_panel=_DENSE)
    ] = None,
    weights: Annotated[
        Path | None, Option(metavar="FILE", help="Weights file for the model.", rich_help_panel=_DENSE)
    ] = None,
    iterations: Annotated[
        int | None, Option("--iters", min=1, max=1000, help="Iterations of the model.", rich_help_panel=_DENSE)
    ] = None,
    confidence: Annotated[
        float | None, Option(min=0, max=1, help="Least confidence of a pixel; 0.95.", rich_help_panel=_DENSE)
    ] = None,
    stride: Annotated[
        int | None, Option(min=1, help="With --ply: every N-th pixel each way; 1.", rich_help_panel=_DENSE)
    ] = None,
    min_parallax: Annotated[
        float | None,
        Option(
            min=0, max=180, help="With --ply: least angle between a point's rays, degrees; 1.", rich_help_panel=_DENSE
        ),
    ] = None,
    *,
    masks: Masks,
    matching: options.Matching,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Camera motion A -> B: X_B = R X_A + t with |t| = 1 (no scale is known), x right, y down, z forward.

    Intrinsics come from --K, --K0 and --K1, else from the list of pairs, --fov, or EXIF. Writes pose.json and pose.png, with
    --ply also two_view.ply.
    """
    report.start(output.verbose, output.quiet)
    if fov is not None and not 0 < fov < 180:
        raise UsageError(f"--fov {fov:g}: between 0 and 180 degrees")
    flow = {"model": model, "weights": weights, "iterations": iterations, "confidence": confidence}
    cloud = {"stride": stride, "min_parallax": min_parallax}
    of_dense = {**_given(flow, "--dense or --ply", dense or ply), **_given(cloud, "--ply", ply)}
    if dense and (leading := matching.arguments()):
        raise UsageError(
            f"--{next(iter(leading)).replace('_', '-')}: leads matches of features; leave it or --dense out"
        )
    method = {
        "features": features,
        "threshold": threshold,
        "dense": dense,
        **of_dense,
        **masks.arguments(),
        **matching.arguments(),
        **compute.arguments(),
    }
    writing = {"pictures": output.pictures, "ply": ply, "K0": K0 or K, "K1": K1 or K, "fov": fov}
    pairwise.run(pairwise.job("pose", method, writing), image0, image1, output, batch)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair."""
    from flowkit.pipelines import outputs, point_cloud, pose

    writing, method = dict(job.writing), turned(inputs, job.method)
    texts, fov = (writing.pop("K0"), writing.pop("K1")), writing.pop("fov")
    K0 = intrinsics(inputs.image0, texts[0], inputs.rotation0, inputs.K0, fov)
    K1 = intrinsics(inputs.image1, texts[1], inputs.rotation1, inputs.K1, fov)
    pair = inputs.image0, inputs.image1
    if writing.pop("ply"):
        result, writing["cloud"] = point_cloud.pose_with_cloud(*pair, K0, K1, **method)
    else:
        result = pose.pose(*pair, K0, K1, **method)
    return outputs.write_pose_results(directory, result, *pair, command=job.arguments, **writing)


def _given(values: Mapping[str, Any], option: str, asked: bool) -> dict[str, Any]:
    """Those that were given; UsageError if they need an `option` that was not asked for."""
    given = {name: value for name, value in values.items() if value is not None}
    if given and not asked:
        name, value = next(iter(given.items()))
        name = "iters" if name == "iterations" else name.replace("_", "-")
        raise UsageError(f"--{name} {value}: only together with {option}")
    return given


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
