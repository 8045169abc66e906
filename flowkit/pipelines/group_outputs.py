"""The result folder of a whole set brought onto one picture; images come and go one at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.io import results
from flowkit.pipelines.outputs import FILES, Outcome, write_pixels
from flowkit.pipelines.prepare import resized
from flowkit.pipelines.warp import warp
from flowkit.types import Alignment, Image, Size, Status


class _Average:
    """The mean of pictures of one size, where each is valid."""

    def __init__(self, size: Size) -> None:
        self.total = np.zeros((*size, 3), np.float32)
        self.count = np.zeros(size, np.uint16)

    def add(self, picture: np.ndarray, valid: np.ndarray | None = None) -> None:
        """Add (H, W, 3) uint8."""
        if valid is None:
            self.total += picture
            self.count += 1
        else:
            self.total += picture * valid[..., None]
            self.count += valid

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8, black where nothing was added."""
        return np.rint(self.total / np.maximum(self.count, 1)[..., None]).astype(np.uint8)


def write_group_results(
    directory: Path,
    aligned: Iterable[tuple[Image, Alignment]],
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
    before, after = _Average(target.size), _Average(target.size)
    before.add(target.rgb8)
    after.add(target.rgb8)
    images: list[dict[str, Any]] = []
    files: list[Path] = []
    used: Counter[str] = Counter()
    for image, alignment in aligned:
        entry = {
            "path": image.name,
            "status": str(alignment.status),
            "file": None,
            "inliers": int(sum(alignment.inliers)),
        }
        entry["homographies"] = [H.tolist() for H in alignment.homographies]
        images.append(entry)
        if alignment.status is not Status.OK:
            continue
        warped = warp(image, flow=alignment.flow.uv)
        name = Path(image.name).stem
        used[name.casefold()] += 1
        if used[name.casefold()] > 1:
            name += f"-{used[name.casefold()]}"
        entry["file"] = f"aligned-{name}.png"
        files.append(directory / entry["file"])
        write_pixels(files[-1], warped.pixels)
        before.add(resized(image.rgb8, target.size))
        after.add(Image(warped.pixels).rgb8, warped.valid)
    for path, message in refused:
        images.append({"path": str(path), "status": "unreadable", "file": None, "inliers": 0, "message": message})
    good = sum(image["status"] == Status.OK for image in images)
    if pictures and good:
        for name, average in (("average.png", after), ("average_before.png", before)):
            files.append(directory / name)
            write_pixels(files[-1], average.picture())
    record = results.group_record(target, images, method=method, command=command)
    results.write_json(directory / "group.json", record)
    files.append(directory / "group.json")
    lines = [f"align {len(images)} images onto {target.name}: {good} aligned"]
    lines += [f"  {image['path']}: {image['status']}" for image in images if image["status"] != Status.OK]
    status = Status.OK if good else Status.NO_OVERLAP
    return Outcome(status, record.model_dump(mode="json"), tuple(lines), tuple(files))
