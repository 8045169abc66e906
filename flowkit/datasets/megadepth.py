"""One MegaDepth pair (Li and Snavely, CVPR 2018) per folder: two images, cameras.json with K by image name and T_0to1."""

from pathlib import Path

from flowkit.datasets.files import existing, folder, matrix, read_json
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError


def read_megadepth(root: Path, dataset: str = "megadepth") -> list[PoseSample]:
    """Every folder with a cameras.json, `root` itself included."""
    files = sorted([*folder(root).glob("cameras.json"), *root.glob("*/cameras.json")])
    if not files:
        raise InputError(f"{root}: has no cameras.json; give the folder of the pair")
    return [_read_pair(file, dataset) for file in files]


def _read_pair(file: Path, dataset: str) -> PoseSample:
    cameras = read_json(file)
    try:
        T = matrix(cameras.pop("T_0to1"), (4, 4), file)
        (name0, camera0), (name1, camera1) = sorted(cameras.items())
        K0, K1 = (matrix(camera["K"], (3, 3), file) for camera in (camera0, camera1))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: needs T_0to1 and K for two images; check the copy") from error
    return PoseSample(
        dataset, file.parent.name, existing(file.parent / name0), existing(file.parent / name1), K0, K1, T
    )
