"""`flowkit warp`: an image resampled by a flow or a homography."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from flowkit.cli import options, pairwise, report
from flowkit.cli.options import METHOD, RESULTS, grouped
from flowkit.errors import InputError, UsageError

if TYPE_CHECKING:
    import numpy as np


@grouped
def warp(
    image: Annotated[Path, Argument(metavar="IMAGE", help="The image to resample.", show_default=False)],
    flow: Annotated[Path | None, Option(metavar="FLOW", help="Flow file (.flo .pfm .png .flo5 .npy .npz).")] = None,
    homography: Annotated[
        Path | None,
        Option(metavar="H", help="homography.json of `flowkit homography`, or a text file with 3x3 numbers."),
    ] = None,
    backward_flow: Annotated[
        Path | None,
        Option(
            metavar="FLOW",
            help="The flow the other way: leaves hidden pixels empty instead of doubling what hides them.",
            rich_help_panel=METHOD,
        ),
    ] = None,
    splat: Annotated[
        bool, Option("--splat", help="The flow lives on IMAGE's grid: push its pixels forward.", rich_help_panel=METHOD)
    ] = False,
    size: Annotated[
        str | None,
        Option(metavar="WxH", help="Size of the result, for --homography and --splat.", rich_help_panel=RESULTS),
    ] = None,
    *,
    output: options.Output,
) -> None:
    """Resample IMAGE by a flow or a homography.

    --flow lives on the RESULT's grid and points into IMAGE: result(p) = IMAGE(p + flow(p)); so `flowkit flow A B` gives the
    flow that brings B onto A. With --splat it lives on IMAGE's grid and IMAGE's pixels are pushed along it. --homography maps
    IMAGE to the result: x_result ~ H x_IMAGE; the result has --size, else what homography.json says, else IMAGE's.
    Writes warped.png, occlusion.png (white: nothing known there) and warp.json.
    """
    report.start(output.verbose, output.quiet)
    by = flow or homography
    if by is None or (flow and homography):
        raise UsageError("give either --flow or --homography")
    if homography is not None and (splat or backward_flow is not None):
        raise UsageError("--splat and --backward-flow: only together with --flow")
    if backward_flow is not None and splat:
        raise UsageError("--backward-flow: not together with --splat")
    directory = output.output or Path(f"{image.stem}_by_{by.stem}")

    from flowkit.io.flow_files import read_flow
    from flowkit.io.images import read_image
    from flowkit.pipelines import outputs
    from flowkit.pipelines import warp as pipeline

    if not output.overwrite:
        outputs.refuse_existing(directory, "warp")
    picture = read_image(image)
    uv = None if flow is None else read_flow(flow)
    matrix = None if homography is None else read_homography(homography)
    occlusion = None if uv is None or backward_flow is None else _hidden(uv, read_flow(backward_flow), picture.size)
    out_size = parse_size(size) or (None if homography is None else recorded_size(homography))
    with outputs.result_folder(directory, "warp"):
        result = pipeline.warp(picture, flow=uv, homography=matrix, size=out_size, splat=splat, occlusion=occlusion)
        outcome = outputs.write_warp_results(
            directory, result, picture, flow=flow, homography=homography, splat=splat, command=pairwise.command_line()
        )
    pairwise.finish(outcome, output)


def read_homography(path: Path) -> np.ndarray:
    """A 3x3 matrix from our JSON, or from a text file of nine numbers; InputError when there is none in it."""
    import json

    import numpy as np

    from flowkit.io.inputs import check_input

    text = check_input(path, "a homography").read_text("utf-8", errors="replace")
    if path.suffix.lower() == ".json":
        try:
            record = json.loads(text)
            matrix = record if isinstance(record, list) else record["matrix"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}: is not a homography.json; make it with `flowkit homography`") from None
        if matrix is None:
            raise InputError(f"{path}: holds no homography, its status is {record.get('status')!r}")
    else:
        matrix = [number for number in re.split(r"[\s,;\[\]]+", text) if number]
    try:
        numbers = np.array(matrix, np.float64).reshape(3, 3)
    except (ValueError, TypeError):
        raise InputError(f"{path}: does not hold 3x3 numbers") from None
    if not np.isfinite(numbers).all():
        raise InputError(f"{path}: holds numbers that are not finite")
    return numbers


def recorded_size(path: Path) -> tuple[int, int] | None:
    """Size of the image that a homography.json of ours maps into, None for files that do not say."""
    import json

    if path.suffix.lower() != ".json":
        return None
    record = json.loads(path.read_text("utf-8", errors="replace"))
    size = record.get("image1", {}).get("size") if isinstance(record, dict) else None
    return None if size is None else (int(size[0]), int(size[1]))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """ "640x480" -> (480, 640), (height, width)."""
    size = options.parse_resize(text, "--size")
    if isinstance(size, int):
        raise UsageError(f"--size {text}: give width x height in pixels, for example 640x480")
    return size


def _hidden(flow: np.ndarray, backward: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Where going there and back does not come home: what lies there is hidden in the image."""
    import torch

    from flowkit.geometry.flow import forward_backward

    if backward.shape[1:] != tuple(size):
        raise InputError(f"--backward-flow: is {backward.shape[2]}x{backward.shape[1]}, the image {size[1]}x{size[0]}")
    _, occluded = forward_backward(torch.from_numpy(flow), torch.from_numpy(backward))
    return occluded.numpy()
