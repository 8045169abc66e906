"""The result folder of a whole set brought onto one picture; images come and go one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowkit.io import results
from flowkit.io.schema import SCHEMA_VERSION
from flowkit.pipelines.group import Average
from flowkit.pipelines.outputs import FILES, Outcome, write_pixels
from flowkit.types import Alignment, Image, Run, Status, Warped


def write_group_results(
    directory: Path,
    aligned: Iterable[tuple[Image, Alignment, Warped | None]],
    target: Image,
    refused: Sequence[tuple[Path, str]] = (),
    *,
    method: Mapping[str, Any],
    command: Sequence[str] = (),
    pictures: bool = True,
) -> Outcome:
    """aligned-NAME.png of each image, average.png and average_before.png (both with the target in them), group.json.

    `average_before` is made of the same images, merely resized. `refused` fills up while `aligned` is consumed.
    """
    for name in reversed(FILES["group"]):
        (directory / name).unlink(missing_ok=True)
    before, after = Average(target.size), Average(target.size)
    before.add(target.rgb8)
    after.add(target.rgb8)
    images: list[dict[str, Any]] = []
    files: list[Path] = []
    used: Counter[str] = Counter()
    for image, alignment, warped in aligned:
        entry: dict[str, Any] = {
            "name": image.name,
            "status": str(alignment.status),
            "file": None,
            "inliers": int(sum(alignment.inliers)),
            "homographies": [matrix.tolist() for matrix in alignment.homographies],
        }
        images.append(entry)
        if warped is None:
            continue
        name = Path(image.name).stem
        used[name.casefold()] += 1
        if used[name.casefold()] > 1:
            name += f"-{used[name.casefold()]}"
        entry["file"] = f"aligned-{name}.png"
        files.append(directory / entry["file"])
        write_pixels(files[-1], warped.pixels)
        before.add(image.rgb8)
        after.add(Image(warped.pixels).rgb8, warped.valid)
    for path, message in refused:
        images.append({"name": str(path), "status": "unreadable", "file": None, "inliers": 0, "message": message})
    good = sum(image["status"] == Status.OK for image in images)
    if pictures and good:
        for name, average in (("average.png", after), ("average_before.png", before)):
            files.append(directory / name)
            write_pixels(files[-1], average.picture())
    run = Run(str(method["model"]), method, seed=int(method["seed"]), device=str(method["device"]))
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": "group",
        "status": str(Status.OK if good else Status.NO_OVERLAP),
        "target": {"name": target.name, "size": list(target.size)},
        "images": images,
        "files": [file.name for file in files],
        "provenance": results.provenance(run, command).model_dump(mode="json"),
    }
    results.write_json(directory / "group.json", record)
    files.append(directory / "group.json")
    lines = [f"align {len(images)} images onto {target.name}: {good} aligned"]
    lines += [f"  {image['name']}: {image['status']}" for image in images if image["status"] != Status.OK]
    status = Status.OK if good else Status.NO_OVERLAP
    return Outcome(status, record, tuple(lines), tuple(files))
