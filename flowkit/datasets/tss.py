"""TSS (Taniai et al., CVPR 2016): 400 pairs of different objects with dense flow on the foreground, judged both ways.

{FG3DCar, JODS, PASCAL}/NAME/image1.png, image2.png, flow1.flo, flow2.flo, mask1.png, mask2.png. flowN.flo lives on imageN,
where maskN is white, and points into the other image.
"""

from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.files import existing, folder, read_map
from flowkit.datasets.samples import FlowSample, Group, Preparation
from flowkit.errors import InputError
from flowkit.io.flow_files import read_flow
from flowkit.io.images import image_header
from flowkit.types import Size

GROUPS = ("FG3DCar", "JODS", "PASCAL")
_WHITE = 255


def read_tss(root: Path, dataset: str = "tss") -> list[FlowSample]:
    """Two samples for each folder, 1-2 and 2-1, by group.

    Both images are padded with black, right and below, to one size. PCK refers to the longer side of image1 without it.
    """
    base = root / "TSS_CVPR2016" if (folder(root) / "TSS_CVPR2016").is_dir() else root
    scenes = [path for group in GROUPS if (base / group).is_dir() for path in sorted((base / group).iterdir())]
    samples = [_sample(path, dataset, *pair) for path in scenes if path.is_dir() for pair in ((1, 2), (2, 1))]
    if not samples:
        raise InputError(f"{root}: has no folder in {' or '.join(GROUPS)}; give TSS's own folder")
    return samples


def _sample(scene: Path, dataset: str, number: int, other: int) -> FlowSample:
    """The pair with image `number` first, on whose grid the flow lives."""
    image0, image1 = (existing(scene / f"image{n}.png") for n in (number, other))
    size0, size1 = image_header(image0), image_header(image1)
    padded = max(size0[0], size1[0]), max(size0[1], size1[1])
    return FlowSample(
        dataset,
        f"{scene.parent.name}/{scene.name}: {number}-{other}",
        image0,
        image1,
        partial(_flow, existing(scene / f"flow{number}.flo"), existing(scene / f"mask{number}.png"), size0, padded),
        extent=max(size1),
        group=Group(scene.parent.name),
        preparation0=Preparation(size0, padded=padded),
        preparation1=Preparation(size1, padded=padded),
    )


def _flow(path: Path, mask: Path, size: Size, padded: Size) -> np.ndarray:
    """The flow on the padded grid, NaN but on the foreground."""
    flow, foreground = read_flow(path), read_map(mask) == _WHITE
    for file, found in ((path, flow.shape[1:]), (mask, foreground.shape)):
        if found != size:
            raise InputError(f"{file}: is {found}, but its image {size} (height, width); check the copy")
    known = np.full((2, *padded), np.nan, np.float32)
    known[:, : size[0], : size[1]] = np.where(foreground, flow, np.nan)
    if np.isnan(known).all():
        raise InputError(f"{path}: has no flow where {mask.name} is white; check the copy")
    return known
