"""The result folder of a whole set brought onto one picture; images come and go one at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flowkit.io import results
from flowkit.io.atomic import write_bytes
from flowkit.io.schema import GroupImage
from flowkit.pipelines.group import Aligned, Average
from flowkit.pipelines.outputs import Outcome, Writer, write_pixels
from flowkit.types import Image, Run, Status
from flowkit.viz import animation


def write_group_results(
    directory: Path,
    aligned: Iterable[Aligned],
    target: Image,
    refused: Sequence[tuple[Path, str]] = (),
    *,
    method: Mapping[str, Any],
    command: Sequence[str] = (),
    pictures: bool = True,
) -> Outcome:
    """aligned-NAME.png of each image, average.png, average_coarse.png, average_before.png, average.gif, group.json.

    All averages have the target in them. `average_before` is made of the same images, merely resized, `average_coarse` of
    them brought over by homographies alone; average.gif shows the three in turn. `refused` fills up while `aligned` is
    consumed.
    """
    started = time.perf_counter()
    write = Writer(directory, "group", pictures)
    before, coarse, after = averages = tuple(Average(target.size) for _ in range(3))
    for average in averages:
        average.add(target.rgb8)
    images: list[GroupImage] = []
    runs: list[Run] = []
    used: set[str] = set()
    for one in aligned:
        image, alignment, file = one.image, one.alignment, None
        if one.warped is not None and one.coarse is not None:
            file = _file_name(image, used)
            write_pixels(write.path(file), one.warped.pixels)
            before.add(image.rgb8)
            for average, moved in ((coarse, one.coarse), (after, one.warped)):
                average.add(Image(moved.pixels).rgb8, moved.valid)
        images.append(results.group_image(alignment, image.name, file))
        runs += [alignment.run] if alignment.run else []
    images += [results.unreadable_image(str(path), message) for path, message in refused]
    good = sum(image.status is Status.OK for image in images)
    if good:
        stages = {"before": before.picture(), "homographies": coarse.picture(), "aligned": after.picture()}
        write.picture("average.png", stages["aligned"])
        write.picture("average_coarse.png", stages["homographies"])
        write.picture("average_before.png", stages["before"])
        if pictures:
            frames = animation.in_turn(list(stages.values()), labels=list(stages), duration_ms=900)
            write_bytes(write.path("average.gif"), frames)
    run = replace(_run(runs, method), seconds={"total": time.perf_counter() - started})
    record = results.group_record(images, target.name, target.size, write.names, command, run=run)
    lines = [f"align {len(images)} images onto {target.name}: {good} aligned"]
    lines += [f"  {image.name}: {image.status}" for image in images if image.status is not Status.OK]
    # Also when none was aligned: what became of each image says more than one reason for all of them.
    return replace(write.finish(record.status, record), summary=tuple(lines))


def _file_name(image: Image, used: set[str]) -> str:
    """aligned-NAME.png; with a number where it is taken, say because images differ only in their suffix."""
    stem = name = Path(image.name).stem
    number = 1
    while name.casefold() in used:  # some file systems do not tell A from a
        number += 1
        name = f"{stem}-{number}"
    used.add(name.casefold())
    return f"aligned-{name}.png"


def _run(runs: Sequence[Run], method: Mapping[str, Any]) -> Run:
    """How the whole set was made: the weights and notes of all its images."""
    weights: dict[str, str] = {}
    notes: dict[str, None] = {}
    for run in runs:
        weights |= run.weights
        notes |= dict.fromkeys(run.notes)
    device = runs[0].device if runs else str(method["device"])  # "auto" only as long as nothing has run
    return Run(
        str(method["model"]),
        method,
        weights=weights,
        seed=int(method["seed"]),
        device=device,
        notes=tuple(notes),
    )
