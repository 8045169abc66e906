"""homogr (Lebeda, Matas, Chum, BMVC 2012): NAME{A,B}, NAME_H_A_to_B.txt, NAME_vpts.txt (xA yA xB yB, checked by hand)."""

from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_homography, read_numbers
from flowkit.datasets.samples import HomographySample
from flowkit.errors import InputError


def read_homogr(root: Path, dataset: str = "homogr") -> list[HomographySample]:
    """Every pair A -> B with its verification points."""
    samples = []
    for file in sorted(folder(root).glob("*_H_A_to_B.txt")):
        name = file.name.removesuffix("_H_A_to_B.txt")
        points = read_numbers(root / f"{name}_vpts.txt", 4)
        A, B = find_image(root / f"{name}A"), find_image(root / f"{name}B")
        samples.append(HomographySample(dataset, name, A, B, read_homography(file), points[:, :2], points[:, 2:]))
    if not samples:
        raise InputError(f"{root}: has no NAME_H_A_to_B.txt; give homogr's folder")
    return samples
