"""The result folder of `align`: one picture brought onto another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flowkit.io import results
from flowkit.io.atomic import write_bytes
from flowkit.io.flow_files import write_flow
from flowkit.pipelines.outputs import Outcome, Writer, flow_picture, write_pixels
from flowkit.pipelines.transfer import transferred
from flowkit.pipelines.warp import warp
from flowkit.types import Alignment, Image, Status
from flowkit.viz import animation, maps, overlays


def write_align_results(
    directory: Path,
    alignment: Alignment,
    source: Image,
    target: Image,
    *,
    transfer: np.ndarray | None = None,
    command: Sequence[str] = (),
    pictures: bool = True,
    max_flow: float | None = None,
    legend: bool = False,
) -> Outcome:
    """aligned.png, blend.png, blink.gif, flow.flo, flow.png, confidence.png, regions.png, align.json.

    With a region `transfer` (H, W) bool of the target also transfer.png: the target with the source in it there.
    """
    write = Writer(directory, "align", pictures)
    if alignment.status is Status.OK:
        write_flow(write.path("flow.flo"), alignment.flow.uv)
        if pictures or transfer is not None:
            _write_pictures(write, alignment, source, target, transfer, max_flow, legend)
    record = results.align_record(alignment, source.name, target.name, write.names, command)
    count = len(alignment.homographies)
    summary = (
        f"align {source.name} onto {target.name}: {count} homograph{'y' if count == 1 else 'ies'}, "
        f"{sum(alignment.inliers)} inliers, {alignment.flow.inside.mean():.0%} of the target covered"
    )
    return write.finish(alignment.status, record, summary)


def _write_pictures(
    write: Writer,
    alignment: Alignment,
    source: Image,
    target: Image,
    transfer: np.ndarray | None,
    max_flow: float | None,
    legend: bool,
) -> None:
    warped = warp(source, flow=alignment.flow.uv)
    aligned8, target8 = Image(warped.pixels).rgb8, target.rgb8
    if transfer is not None:
        write_pixels(write.path("transfer.png"), transferred(target8, aligned8, warped.valid, transfer))
    if not write.pictures:
        return
    write_pixels(write.path("aligned.png"), warped.pixels)
    write.picture("blend.png", overlays.blend(aligned8, target8, valid=warped.valid))
    filled = np.where(warped.valid[..., None], aligned8, overlays.dimmed(target8))
    write_bytes(write.path("blink.gif"), animation.blink(filled, target8, labels=("aligned", "target")))
    write.picture("flow.png", flow_picture(alignment.flow.uv, max_flow, legend))
    if alignment.flow.confidence is not None:
        write.picture("confidence.png", maps.confidence_picture(alignment.flow.confidence))
    write.picture("regions.png", maps.region_map(alignment.regions, target8))
