"""Pair lists with ground truth as SuperGlue publishes them for ScanNet (38 fields a line, see flowkit.io.pairs).

The pair's pose refers to the images as they are on disk, so the list's rotations (for viewing upright) are not needed.
"""

from pathlib import Path

import numpy as np

from flowkit.datasets.files import existing
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError


def read_pair_list(root: Path, dataset: str = "scannet") -> list[PoseSample]:
    """Every pair of a list; `root` is the list or a folder with one .txt list; images lie beside it or in folders there."""
    from flowkit.io.pairs import read_pairs

    lists = [root] if root.is_file() else sorted(root.glob("*pairs*.txt"))
    if len(lists) != 1:
        raise InputError(f"{root}: has {len(lists)} files *pairs*.txt where one belongs; give the pair list itself")
    samples = []
    for pair in read_pairs(lists[0]):
        if pair.K0 is None or pair.K1 is None or pair.T_0to1 is None:
            raise InputError(f"{lists[0]}: {pair.name0} {pair.name1} has no pose; ground truth takes 38 fields a line")
        image0, image1 = (_image(lists[0].parent, name) for name in (pair.name0, pair.name1))
        T = np.asarray(pair.T_0to1, np.float64)
        samples.append(
            PoseSample(
                dataset, f"{pair.name0} {pair.name1}", image0, image1, np.asarray(pair.K0), np.asarray(pair.K1), T
            )
        )
    return samples


def _image(directory: Path, name: str) -> Path:
    """The image called `name`; SuperGlue's own sample keeps scene/sensor/file as scene_file in a sub-folder."""
    if (directory / name).is_file():
        return directory / name
    for candidate in (name, name.replace("/sens/", "_").replace("/", "_")):
        found = sorted(directory.glob(f"*/{candidate}"))
        if found:
            return found[0]
    return existing(directory / name)
