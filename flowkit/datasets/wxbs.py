"""WxBS (Mishkin et al., BMVC 2015): 01.png, 02.png, corrs.txt (x0 y0 x1 y1) in folders KIND/NAME."""

from pathlib import Path

from flowkit.datasets.files import find_image, folder, read_numbers
from flowkit.datasets.samples import MatchSample
from flowkit.errors import InputError


def read_wxbs(root: Path, dataset: str = "wxbs") -> list[MatchSample]:
    """Every pair at any depth below `root`."""
    samples = []
    for file in sorted(folder(root).rglob("corrs.txt")):
        points = read_numbers(file, 4)
        first, second = find_image(file.parent / "01"), find_image(file.parent / "02")
        name = "/".join(file.parts[-3:-1])
        samples.append(MatchSample(dataset, name, first, second, points[:, :2], points[:, 2:]))
    if not samples:
        raise InputError(f"{root}: has no KIND/NAME/corrs.txt; give WxBS' folder")
    return samples
