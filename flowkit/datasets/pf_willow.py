"""PF-WILLOW (Ham et al., CVPR 2016): different objects of one class, ten keypoints each, every pair of a class.

CLASS/keypoints.json gives [x, y] lists by image name. Relative PCK refers to the longer side of the box around image1's
keypoints.
"""

from itertools import combinations
from pathlib import Path

import numpy as np

from flowkit.datasets.files import existing, folder, read_json
from flowkit.datasets.samples import MatchSample
from flowkit.errors import InputError


def read_pf_willow(root: Path, dataset: str = "pf-willow") -> list[MatchSample]:
    """Every pair i < j of every class."""
    samples = []
    for file in sorted(folder(root).glob("*/keypoints.json")):
        try:
            points = {name: np.array(xy, np.float64).reshape(-1, 2) for name, xy in sorted(read_json(file).items())}
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(f"{file}: is not a table of image name -> [x, y] lists; check the copy") from error
        for name0, name1 in combinations(points, 2):
            image0, image1 = existing(file.parent / name0), existing(file.parent / name1)
            name = f"{file.parent.name}/{image0.stem}-{image1.stem}"
            extent = float(np.ptp(points[name1], axis=0).max())
            samples.append(
                MatchSample(dataset, name, image0, image1, points[name0], points[name1], rigid=False, extent=extent)
            )
    if not samples:
        raise InputError(f"{root}: has no CLASS/keypoints.json; give PF-WILLOW's folder of classes")
    return samples
