"""Oxford affine covariant regions (Mikolajczyk et al., IJCV 2005): img1 -> imgN, H1toNp."""

import re
from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_homography
from flowkit.datasets.samples import HomographySample
from flowkit.errors import InputError


def read_oxford(root: Path, dataset: str = "oxford") -> list[HomographySample]:
    """Every pair (1, N) of every scene; `root` holds the scenes or is one."""
    samples = []
    for file in sorted([*folder(root).glob("H1to*"), *root.glob("*/H1to*")]):
        match = re.fullmatch(r"H1to(\d)p?(\.txt)?", file.name)
        if match:
            first, other = find_image(file.parent / "img1"), find_image(file.parent / f"img{match[1]}")
            name = f"{file.parent.name}/1-{match[1]}"
            samples.append(HomographySample(dataset, name, first, other, read_homography(file)))
    if not samples:
        raise InputError(f"{root}: has no SCENE/H1toNp; give the folder of Oxford's scenes")
    return samples
