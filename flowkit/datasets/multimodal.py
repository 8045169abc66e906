"""Multi-modality matching (Jiang et al., Information Fusion 2021): move -> fix, landmarks by hand and a homography.

landmarks_fix_move.txt has a line x_fix y_fix x_move y_move for each landmark. The homography fits them within a few pixels
only, so it judges matches coarsely and the landmarks are the truth.
"""

from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_homography, read_numbers
from flowkit.datasets.samples import MatchSample
from flowkit.errors import InputError


def read_multimodal(root: Path, dataset: str = "multimodal") -> list[MatchSample]:
    """Every pair of the folder, image0 = move, image1 = fix."""
    samples = []
    for file in sorted(folder(root).glob("*/landmarks_fix_move.txt")):
        pair = file.parent
        points, H = read_numbers(file, 4), read_homography(pair / "H_move_to_fix.txt")
        move, fix = find_image(pair / "move"), find_image(pair / "fix")
        samples.append(MatchSample(dataset, pair.name, move, fix, points[:, 2:], points[:, :2], H=H))
    if not samples:
        raise InputError(f"{root}: has no NAME/landmarks_fix_move.txt; give the folder of the pairs")
    return samples
