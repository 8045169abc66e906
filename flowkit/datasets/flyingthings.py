"""FlyingThings3D (Mayer et al., CVPR 2016): consecutive frames, forwards and backwards in time, both cameras, both passes.

Full set: frames_{clean,final}pass/TRAIN/A/0000/left/0006.png and
optical_flow/TRAIN/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm (into_past likewise).
Subset (of DispNet and FlowNet 2.0): train/image_{clean,final}/left/0000006.png and train/flow/left/into_future/0000006.flo.
The flow of frame N points into frame N + 1 (into_future) or N - 1 (into_past).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from flowkit.datasets.files import existing, folder, images_in
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError, UsageError
from flowkit.io.flow_files import read_flow

DIRECTIONS = {"into_future": 1, "into_past": -1}
"""Folder of the flow, and how many frames on it points."""


def read_flyingthings(
    root: Path,
    dataset: str = "flyingthings-clean",
    split: str = "train",
    sides: Sequence[str] = ("left",),
    directions: Sequence[str] = tuple(DIRECTIONS),
) -> list[FlowSample]:
    """Every pair of the pass that the data set's name ends with (-clean, -final), as RAFT takes them: left, both directions.

    `split` is train, or test (in the subset val). The last frame of a sequence has no next one and its flow is left out; a
    flow without its own frame is an InputError.
    """
    if unknown := {*directions} - {*DIRECTIONS} or {*sides} - {"left", "right"}:
        raise UsageError(
            f"FlyingThings3D has no {', '.join(sorted(unknown))}; use left, right, {', '.join(DIRECTIONS)}"
        )
    samples = [
        sample
        for images, flows, name, step in _folders(root, dataset.rpartition("-")[2], split, sides, directions)
        for sample in _pairs(images, flows, name, step, dataset)
    ]
    if not samples:
        raise InputError(
            f"{root}: no flow of its {split} part has its two frames; unpack frames and flows of the same part"
        )
    return samples


def _folders(
    root: Path, kind: str, split: str, sides: Sequence[str], directions: Sequence[str]
) -> Iterator[tuple[Path, Path, str, int]]:
    """Folder of frames, folder of flows, name and step of every sequence."""
    base = next((root / part for part in ("FlyingThings3D", "FlyingThings3D_subset") if (root / part).is_dir()), root)
    train = split == "train"
    subset = base / ("train" if train else "val")
    if (folder(base) / "optical_flow").is_dir():
        part = "TRAIN" if train else "TEST"
        frames = folder(base / f"frames_{kind}pass" / part)
        for sequence in sorted(folder(base / "optical_flow" / part).glob("*/*")):
            name = f"{sequence.parent.name}/{sequence.name}"
            for direction, side in product(directions, sides):
                flows = folder(sequence / direction / side)
                yield folder(frames / name / side), flows, f"{name}/{side}/{direction}", DIRECTIONS[direction]
    elif (subset / "flow").is_dir():
        for direction, side in product(directions, sides):
            flows = folder(subset / "flow" / side / direction)
            yield folder(subset / f"image_{kind}" / side), flows, f"{side}/{direction}", DIRECTIONS[direction]
    else:
        raise InputError(f"{base}: has neither optical_flow/ (the full set) nor {subset.name}/flow/ (the subset)")


def _pairs(images: Path, flows: Path, name: str, step: int, dataset: str) -> Iterator[FlowSample]:
    frames = {int(path.stem): path for path in images_in(images) if path.stem.isdigit()}
    for flow in sorted(path for path in flows.iterdir() if path.suffix in (".pfm", ".flo")):
        if (number := re.search(r"(\d+)(_[LR])?$", flow.stem)) is None:
            raise InputError(f"{flow}: is not named by its frame; check the copy")
        frame = int(number[1])
        first = frames.get(frame) or existing(images / f"{number[1]}.png")
        if (second := frames.get(frame + step)) is not None:
            yield FlowSample(dataset, f"{name}/{number[1]}", first, second, partial(read_flow, flow))
