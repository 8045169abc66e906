"""`flowkit pose`: how the camera moved between two images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from flowkit.cli import cameras, options, pairwise, pose_sequence, report
from flowkit.cli.masks import Masks, turned
from flowkit.cli.options import METHOD, RESULTS, grouped
from flowkit.cli.pose_sequence import Odometry
from flowkit.errors import UsageError

if TYPE_CHECKING:
    from flowkit.pipelines.outputs import Outcome

_DENSE = "Dense flow"


@grouped
def pose(
    image0: options.Image0 = None,
    image1: options.Image1 = None,
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
        float | None,
        Option(min=0, max=1, help="Least confidence of a pixel; 0.95, in a sequence 0.5.", rich_help_panel=_DENSE),
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
    intrinsics: cameras.Cameras,
    odometry: Odometry,
    masks: Masks,
    matching: options.Matching,
    compute: options.Compute,
    output: options.Output,
    batch: options.Batch,
) -> None:
    """Camera motion A -> B: X_B = R X_A + t with |t| = 1 (no scale is known), x right, y down, z forward.

    Intrinsics come from --K, --K0 and --K1, else from the list of pairs, --fov, or EXIF. Writes pose.json and pose.png, with
    --ply also two_view.ply.

    With --sequence the motions between consecutive frames are chained to a trajectory: from features, or with --model from a
    dense flow. Writes trajectory.kitti.txt, trajectory.tum.txt, trajectory.png, odometry.json.
    """
    report.start(output.verbose, output.quiet)
    given = intrinsics.arguments()
    flow = {"model": model, "weights": weights, "iterations": iterations, "confidence": confidence}
    cloud = {"stride": stride, "min_parallax": min_parallax}
    odometry.refuse_alone()
    if odometry.sequence is not None:
        if image0 is not None or batch.pairs is not None:
            raise UsageError("give two images, --pairs FILE or --sequence, only one of them")
        batch.refuse_alone()
        alone = {"--K0": intrinsics.K0, "--K1": intrinsics.K1, "--dense": dense or None, "--ply": ply or None}
        for_pairs = {**alone, **{f"--{name}": value for name, value in masks.arguments().items()}}
        for name, value in for_pairs.items():
            if value is not None:
                raise UsageError(
                    f"{name}: not with --sequence; its frames have one --K, and --model chooses a dense flow"
                )
        _given(cloud, "--ply", False)
        linking = {**_linking(features, flow, matching.arguments()), **compute.arguments()}
        pose_sequence.run(odometry, intrinsics, threshold, linking, output)
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
    writing = {"pictures": output.pictures, "ply": ply, **given}
    pairwise.run(pairwise.job("pose", method, writing), image0, image1, output, batch)


def solve(inputs: pairwise.Inputs, directory: Path, job: pairwise.Job) -> Outcome:
    """One pair."""
    from flowkit.pipelines import outputs, point_cloud, pose

    writing, method = dict(job.writing), turned(inputs, job.method)
    K0, K1 = cameras.both(inputs, writing.pop("K0"), writing.pop("K1"), writing.pop("fov"))
    pair = inputs.image0, inputs.image1
    if writing.pop("ply"):
        result, writing["cloud"] = point_cloud.pose_with_cloud(*pair, K0, K1, **method)
    else:
        result = pose.pose(*pair, K0, K1, **method)
    return outputs.write_pose_results(directory, result, *pair, command=job.arguments, **writing)


def _linking(features: str | None, flow: Mapping[str, Any], matching: Mapping[str, Any]) -> dict[str, Any]:
    """What ties the frames of a sequence together: a dense flow where a model is named, else features."""
    dense = _given(flow, "--model", flow["model"] is not None)
    if dense:
        named = options.Dense(dense["model"], dense.get("weights"), iterations=dense.get("iterations"))
        dense = {**dense, **named.arguments()}
    led = [name for name, value in {"features": features, **matching}.items() if value is not None]
    if dense and led:
        raise UsageError(f"--{led[0].replace('_', '-')}: of features; leave it or --model out")
    return dense or {"features": features, **matching}


def _given(values: Mapping[str, Any], option: str, asked: bool) -> dict[str, Any]:
    """Those that were given; UsageError if they need an `option` that was not asked for."""
    given = {name: value for name, value in values.items() if value is not None}
    if given and not asked:
        name, value = next(iter(given.items()))
        name = "iters" if name == "iterations" else name.replace("_", "-")
        raise UsageError(f"--{name} {value}: only together with {option}")
    return given
