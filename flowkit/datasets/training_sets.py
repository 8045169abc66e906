"""The public data sets that recipes train on, each in its own original layout (docs/training_data.md).

>>> chairs = read_training_set("flyingchairs", Path("FlyingChairs_release"))    # doctest: +SKIP
>>> len(chairs), chairs.sparse                                                  # doctest: +SKIP
>>> pair = load(chairs[0])              # image0, image1, flow, occluded as numpy arrays    # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.files import folder, read_numbers
from flowkit.datasets.flyingchairs import read_flyingchairs
from flowkit.datasets.flyingthings import read_flyingthings
from flowkit.datasets.hd1k import read_hd1k
from flowkit.datasets.kitti import read_kitti
from flowkit.datasets.samples import FlowSample
from flowkit.datasets.sintel import read_sintel
from flowkit.errors import InputError, UsageError

log = logging.getLogger(__name__)

SPLIT = "FlyingChairs_train_val.txt"


@dataclass(frozen=True)
class TrainingSet:
    """Pairs with flow, read lazily. `sparse`: the flow is known at scattered points only and must not be interpolated."""

    name: str
    samples: Sequence[FlowSample]
    sparse: bool = False

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> FlowSample:
        return self.samples[index]


@dataclass(frozen=True)
class PairArrays:
    """One pair: images (H, W, 3) uint8 RGB, flow (2, H, W) float32 image0 -> image1, NaN where unknown.

    `occluded` (H, W) bool is True where the point of image0 is hidden in image1 or outside; None where the set does not say.
    """

    image0: np.ndarray
    image1: np.ndarray
    flow: np.ndarray
    occluded: np.ndarray | None = None


def load(sample: FlowSample, sparse: bool = False) -> PairArrays:
    """Read the files of a pair. InputError, naming the file, when one cannot be read or the sizes do not agree.

    A `sparse` truth says nothing of occlusion where it is unknown, so `occluded` is None.
    """
    from flowkit.io.images import read_image

    image0, image1 = read_image(sample.image0).rgb8, read_image(sample.image1).rgb8
    flow = sample.flow()
    occluded = None if sparse or sample.visible is None else ~sample.visible()
    sizes = {"its next frame": image1.shape[:2], "its flow": flow.shape[1:]}
    if occluded is not None:
        sizes["its occlusion"] = occluded.shape
    for what, size in sizes.items():
        if size != image0.shape[:2]:
            h, w = image0.shape[:2]
            raise InputError(f"{sample.image0}: is {h} x {w} pixels, but {what} {size[0]} x {size[1]}; check the copy")
    return PairArrays(image0, image1, flow, occluded)


# --- FlyingChairs ----------------------------------------------------------------------------------------------------


def _chairs(part: int, root: Path) -> list[FlowSample]:
    """The pairs that the split marks with `part`: 1 training, 2 validation; line n is for pair n."""
    root = root / "FlyingChairs_release" if (folder(root) / "FlyingChairs_release").is_dir() else root
    samples = read_flyingchairs(root)
    file = next((place / SPLIT for place in (root, root / "data", root.parent) if (place / SPLIT).is_file()), None)
    if file is None:
        if part != 1:
            raise InputError(f"{root}: has no {SPLIT}, which says what is for validation; download it beside data/")
        log.warning("%s: has no %s; the pairs meant for validation are trained on too", root, SPLIT)
        return samples
    marks = read_numbers(file, 1)[:, 0]
    if not np.isin(marks, (1, 2)).all():
        raise InputError(f"{file}: has other values than 1 (training) and 2 (validation); download it again")
    return [sample for sample in samples if marks[_line(sample, len(marks), file)] == part]


def _line(sample: FlowSample, lines: int, file: Path) -> int:
    if not (sample.name.isdigit() and 1 <= int(sample.name) <= lines):
        raise InputError(
            f"{file}: has {lines} lines, none for the pair {sample.name}; it is not the split of these pairs"
        )
    return int(sample.name) - 1


# --- KITTI -----------------------------------------------------------------------------------------------------------


def _kitti(images: str, noc: bool, root: Path) -> list[FlowSample]:
    """The pairs of one year, told by its folder of colour images; with `noc` only what is visible in both frames."""
    base = root / "training" if (folder(root) / "training").is_dir() else root
    if not (base / images).is_dir():
        raise InputError(f"{base}: has no {images}/")
    samples = read_kitti(root)
    if not noc:
        return samples
    if any(sample.visible is None for sample in samples):
        raise InputError(f"{base}: has no flow_noc/ for every pair")
    return [replace(sample, flow=partial(_visible_flow, sample)) for sample in samples]


def _visible_flow(sample: FlowSample) -> np.ndarray:
    assert sample.visible is not None
    return np.where(sample.visible(), sample.flow(), np.float32(np.nan))


# --- all of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PublicSet:
    """A data set by name: its reader, the collection whose folder it reads, what that folder must look like."""

    name: str
    collection: str
    read: Callable[[Path], Sequence[FlowSample]]
    layout: str
    sparse: bool = False


_CHAIRS = f"data/NNNNN_img1.ppm, data/NNNNN_img2.ppm, data/NNNNN_flow.flo and {SPLIT}"
_THINGS = (
    "frames_{0}pass/TRAIN/A/NNNN/left/NNNN.png and optical_flow/TRAIN/A/NNNN/into_future/left/*.pfm, "
    "or train/image_{0}/left/NNNNNNN.png and train/flow/left/into_future/NNNNNNN.flo"
)
_SINTEL = "training/{0}/SCENE/frame_NNNN.png, training/flow/SCENE/frame_NNNN.flo, and invalid/ and occlusions/ alike"
_KITTI = "training/{0}/NNNNNN_10.png and _11.png, training/flow_occ/NNNNNN_10.png, and flow_noc/ alike"
_HD1K = "hd1k_input/image_2/SSSSSS_NNNN.png and hd1k_flow_gt/flow_occ/SSSSSS_NNNN.png"

SETS = {
    entry.name: entry
    for entry in (
        PublicSet("flyingchairs", "flyingchairs", partial(_chairs, 1), _CHAIRS),
        PublicSet("flyingchairs-val", "flyingchairs", partial(_chairs, 2), _CHAIRS),
        *(
            PublicSet(name, "flyingthings", partial(read_flyingthings, dataset=name), _THINGS.format(name[13:]))
            for name in ("flyingthings-clean", "flyingthings-final")
        ),
        *(
            PublicSet(name, "sintel", partial(read_sintel, dataset=name), _SINTEL.format(name[7:]))
            for name in ("sintel-clean", "sintel-final")
        ),
        *(
            PublicSet(
                f"kitti{year}{end}", f"kitti{year}", partial(_kitti, images, bool(end)), _KITTI.format(images), True
            )
            for year, images in ((2012, "colored_0"), (2015, "image_2"))
            for end in ("", "-noc")
        ),
        PublicSet("hd1k", "hd1k", read_hd1k, _HD1K, sparse=True),
    )
}


def read_training_set(name: str, root: Path | str) -> TrainingSet:
    """Every pair of one of `SETS`. InputError says which layout was expected in `root` and what was found there."""
    if name not in SETS:
        raise UsageError(f"unknown training set {name!r}; use one of {', '.join(SETS)}")
    entry = SETS[name]
    try:
        samples = entry.read(Path(root))
    except InputError as error:
        raise InputError(f"{error}. {name} is laid out as {entry.layout}; {root} {_contents(Path(root))}") from error
    if not samples:
        raise InputError(f"{root}: has no pair of {name}, which is laid out as {entry.layout}; check the copy")
    return TrainingSet(name, samples, entry.sparse)


def _contents(root: Path, most: int = 6) -> str:
    """What is in a folder, for an error message."""
    if not root.is_dir():
        return "is not there" if not root.exists() else "is a file"
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in root.iterdir())
    if not names:
        return "is empty"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"has {', '.join(names[:most])}{more}"
