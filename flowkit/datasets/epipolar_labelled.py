"""Point pairs labelled with the motion they belong to (AdelaideRMF, kusvod2): NAMEA, NAMEB, NAME_pts.txt.

Each line is xA yA xB yB label; label 0 is an outlier, 1, 2 ... a motion. The motion with the most points is kept, since a pair
of motions has no common epipolar geometry; NAME_vpts.txt (checked points, xA yA xB yB) are added to motion 1.
"""

from pathlib import Path

import numpy as np

from flowkit.datasets.files import find_image, folder, read_numbers
from flowkit.datasets.samples import MatchSample
from flowkit.errors import InputError


def read_epipolar_labelled(root: Path, dataset: str = "epipolar-labelled") -> list[MatchSample]:
    """Every pair A -> B with the points of its main motion."""
    samples = []
    for file in sorted(folder(root).glob("*_pts.txt")):
        name = file.name.removesuffix("_pts.txt")
        table = read_numbers(file, 5)
        points, labels = table[:, :4], table[:, 4].astype(int)
        checked = root / f"{name}_vpts.txt"
        if checked.is_file():
            extra = read_numbers(checked, 4)
            points, labels = np.vstack([points, extra]), np.append(labels, np.ones(len(extra), int))
        if not labels.any():
            raise InputError(f"{file}: labels no motion (all 0); check the copy")
        points = np.unique(points[labels == np.bincount(labels[labels > 0]).argmax()], axis=0)
        A, B = find_image(root / f"{name}A"), find_image(root / f"{name}B")
        samples.append(MatchSample(dataset, name, A, B, points[:, :2], points[:, 2:]))
    if not samples:
        raise InputError(f"{root}: has no NAME_pts.txt; give the folder of the labelled pairs")
    return samples
