"""FlyingChairs (Dosovitskiy et al., ICCV 2015): NNNNN_img1.ppm -> NNNNN_img2.ppm, NNNNN_flow.flo, all in one folder."""

from functools import partial
from pathlib import Path

from flowkit.datasets.files import find_image, folder
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError
from flowkit.io.flow_files import read_flow


def read_flyingchairs(root: Path, dataset: str = "flyingchairs") -> list[FlowSample]:
    """Every pair of the folder, or of its data/."""
    data = root / "data" if (folder(root) / "data").is_dir() else root
    flows = sorted(data.glob("*_flow.flo"))
    if not flows:
        raise InputError(f"{data}: has no NNNNN_flow.flo; give FlyingChairs' data folder")
    samples = []
    for flow in flows:
        number = flow.stem.removesuffix("_flow")
        first, second = find_image(data / f"{number}_img1"), find_image(data / f"{number}_img2")
        samples.append(FlowSample(dataset, number, first, second, partial(read_flow, flow)))
    return samples
