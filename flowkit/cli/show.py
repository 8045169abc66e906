"""`flowkit show`: a flow file as numbers, as a picture, or in another format; or how a network matches a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from flowkit.cli import options, report
from flowkit.cli.correspondence import OfPair, refuse_files, show_correspondence
from flowkit.cli.options import grouped
from flowkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

_FILE = ".flo .pfm .png (KITTI) .flo5 .npy .npz; with --correspondence the first image."


@dataclass(frozen=True)
class OfFlow:
    """What belongs to a flow file."""

    kitti: Annotated[bool, Option("--kitti", help="A .png is written as a KITTI flow, not as a picture.")] = False
    max_flow: options.MaxFlow = None
    legend: options.Legend = False


@grouped
def show(
    file: Annotated[Path, Argument(metavar="FLOW|A", help=_FILE, show_default=False)],
    image1: Annotated[
        Path | None, Argument(metavar="B", help="Second image, with --correspondence.", show_default=False)
    ] = None,
    save: Annotated[
        list[Path] | None,
        Option(metavar="OUT", help="Write a picture (.png) or convert (.flo .pfm .flo5 .npy .npz); may be repeated."),
    ] = None,
    correspondence: Annotated[
        bool, Option("--correspondence", help="How sure a network is of B's places at a point of A.")
    ] = False,
    *,
    of_flow: OfFlow,
    of_pair: OfPair,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace files that are there already.")] = False,
    json: Annotated[bool, Option("--json", help="Print the statistics as JSON on stdout, nothing else.")] = False,
    verbose: Annotated[int, Option("--verbose", "-v", count=True, show_default=False, help="Log what is done.")] = 0,
    quiet: Annotated[bool, Option("--quiet", "-q", help="No summary; errors still show.")] = False,
) -> None:
    """Statistics of a flow file in pixels; with --save its picture, or the same flow in another format.

    The colours are Middlebury's: hue is the direction, saturation the length, white no motion, black unknown.

    `flowkit show A B --correspondence --at x,y --save OUT.png` draws how sure a network is, at that point of A, of every place
    in B: by its features alone, and before and after each step of GOCor.
    """
    report.start(verbose, quiet)
    targets = save or []
    if correspondence:
        _refuse(of_flow, "not together with --correspondence")
        facts, lines = show_correspondence(file, image1, of_pair, targets, overwrite)
    else:
        _refuse(of_pair, "only together with --correspondence")
        if image1 is not None:
            raise UsageError(f"{image1}: one flow file is shown at a time; two images need --correspondence --at x,y")
        facts, lines = _show_flow(file, of_flow, targets, overwrite)
    if json:
        report.print_json(facts)
    elif not quiet:
        print(*lines, sep="\n")


def _refuse(group: OfFlow | OfPair, why: str) -> None:
    """UsageError when an option of that group was given."""
    for each in fields(group):
        value = getattr(group, each.name)
        if value != each.default:
            name = options.NETWORK_OPTIONS.get(each.name, f"--{each.name.replace('_', '-')}")
            raise UsageError(f"{name}{'' if value is True else f' {value}'}: {why}")


def _show_flow(
    file: Path, chosen: OfFlow, targets: Sequence[Path], overwrite: bool
) -> tuple[dict[str, Any], list[str]]:
    from flowkit.io.flow_files import read_flow, write_flow
    from flowkit.io.images import write_image
    from flowkit.pipelines.outputs import flow_picture

    refuse_files(targets, overwrite)
    uv = read_flow(file)
    for target in targets:
        if target.suffix.lower() == ".png" and not chosen.kitti:
            write_image(target, flow_picture(uv, chosen.max_flow, chosen.legend))
        else:
            write_flow(target, uv)
    facts = {"file": str(file), **statistics(uv), "saved": [str(target) for target in targets]}
    return facts, _lines(facts)


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
