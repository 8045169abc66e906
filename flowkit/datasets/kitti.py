"""KITTI flow 2012 and 2015: NNNNNN_10 -> NNNNNN_11, flow_occ (all pixels), flow_noc (those visible in both).

Images are in image_2 (2015), image_0 (2012, grey) or colored_0 (2012), inside training/ or directly in the folder given.
"""

from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.files import find_image, first_folder, folder
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError
from flowkit.io.flow_files import read_flow

_IMAGES = {
    "kitti": ("image_2", "colored_0", "image_0"),
    "kitti2012": ("image_0", "colored_0"),
    "kitti2015": ("image_2",),
}
"""Data set -> the folders its images may be in, the first one there is taken."""


def read_kitti(root: Path, dataset: str = "kitti") -> list[FlowSample]:
    """Every training pair; the flow is flow_occ, `visible` is where flow_noc is known.

    `kitti2012` takes the grey pictures if they are there, as LIFE does; `kitti` takes what there is.
    """
    base = root / "training" if (folder(root) / "training").is_dir() else root
    images = first_folder(base, *_IMAGES[dataset])
    flows = sorted((base / "flow_occ").glob("*_10.png"))
    if not flows:
        raise InputError(f"{base}: has no flow_occ/*_10.png; give KITTI's training folder")
    samples = []
    for flow in flows:
        number = flow.stem.removesuffix("_10")
        noc = base / "flow_noc" / flow.name
        visible = partial(_known, noc) if noc.is_file() else None
        first, second = find_image(images / f"{number}_10"), find_image(images / f"{number}_11")
        samples.append(FlowSample(dataset, number, first, second, partial(read_flow, flow), visible))
    return samples


def _known(path: Path) -> np.ndarray:
    return np.isfinite(read_flow(path)).all(axis=0)
