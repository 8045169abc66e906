"""Extreme View Dataset (Mishkin, Matas, Perdoch, 2013): 1/NAME -> 2/NAME, h/NAME.txt."""

from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_homography
from flowkit.datasets.samples import HomographySample
from flowkit.errors import InputError


def read_evd(root: Path, dataset: str = "evd") -> list[HomographySample]:
    """Every pair that has a homography."""
    files = sorted((folder(root) / "h").glob("*.txt"))
    if not files:
        raise InputError(f"{root}: has no h/NAME.txt; give EVD's folder")
    return [
        HomographySample(
            dataset,
            file.stem,
            find_image(root / "1" / file.stem),
            find_image(root / "2" / file.stem),
            read_homography(file),
        )
        for file in files
    ]
