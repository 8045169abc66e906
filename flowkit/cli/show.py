"""`flowkit show`: a flow file as numbers, as a picture, or in another format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from flowkit.cli import options, report
from flowkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np


def show(
    flow: Annotated[Path, Argument(metavar="FLOW", help=".flo .pfm .png (KITTI) .flo5 .npy .npz", show_default=False)],
    save: Annotated[
        list[Path] | None,
        Option(metavar="OUT", help="Write a picture (.png) or convert (.flo .pfm .flo5 .npy .npz); may be repeated."),
    ] = None,
    kitti: Annotated[bool, Option("--kitti", help="A .png is written as a KITTI flow, not as a picture.")] = False,
    max_flow: options.MaxFlow = None,
    legend: options.Legend = False,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace files that are there already.")] = False,
    json: Annotated[bool, Option("--json", help="Print the statistics as JSON on stdout, nothing else.")] = False,
    verbose: Annotated[int, Option("--verbose", "-v", count=True, show_default=False, help="Log what is done.")] = 0,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No summary; errors still show.")] = False,
) -> None:
    """Statistics of a flow file in pixels; with --save its picture, or the same flow in another format.

    The colours are Middlebury's: hue is the direction, saturation the length, white no motion, black unknown.
    """
    report.start(verbose, quiet)
    from flowkit.io.flow_files import read_flow, write_flow
    from flowkit.io.images import write_image
    from flowkit.pipelines.outputs import flow_picture

    targets = save or []
    for target in targets:
        if target.exists() and not overwrite:
            raise UsageError(f"{target}: is there already; --overwrite replaces it")
    uv = read_flow(flow)
    for target in targets:
        if target.suffix.lower() == ".png" and not kitti:
            write_image(target, flow_picture(uv, max_flow, legend))
        else:
            write_flow(target, uv)
    facts = {"file": str(flow), **statistics(uv), "saved": [str(target) for target in targets]}
    if json:
        report.print_json(facts)
    elif not quiet:
        print(*_lines(facts), sep="\n")


def statistics(uv: np.ndarray) -> dict[str, Any]:
    """Size, share of known pixels, and the spread of length and of both components over these."""
    import numpy as np

    _, height, width = uv.shape
    known = np.isfinite(uv).all(axis=0)
    facts: dict[str, Any] = {"width": width, "height": height, "known": float(known.mean())}
    for name, values in (("length", np.hypot(*uv)[known]), ("x", uv[0][known]), ("y", uv[1][known])):
        if not values.size:
            facts[name] = None
            continue
        low, median, high, top = np.percentile(values, (0, 50, 99, 100))
        mean = values.mean(dtype=np.float64)
        spread = {"min": low, "median": median, "mean": mean, "p99": high, "max": top}
        facts[name] = {key: float(value) for key, value in spread.items()}
    return facts


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [f"{facts['file']}: {facts['width']}x{facts['height']}, {facts['known']:.1%} known"]
    for name in ("length", "x", "y"):
        if facts[name] is not None:
            spread = "  ".join(f"{key} {value:.3f}" for key, value in facts[name].items())
            lines.append(f"  {name:<6} {spread}  px")
    return lines + [f"  {file}" for file in facts["saved"]]
