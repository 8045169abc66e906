"""MPI Sintel (Butler et al., ECCV 2012), training part: consecutive frames of the clean or the final pass.

training/{clean,final}/SCENE/frame_NNNN.png, flow/SCENE/frame_NNNN.flo, and where present occlusions/ and invalid/
(white = occluded, invalid). Invalid pixels are left out of the ground truth.
"""

from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.files import find_image, folder, read_map
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError
from flowkit.io.flow_files import read_flow


def read_sintel(root: Path, dataset: str = "sintel-final") -> list[FlowSample]:
    """Every pair of the pass that the data set's name ends with: sintel-clean or sintel-final."""
    base = root / "training" if (folder(root) / "training").is_dir() else root
    frames = folder(base / dataset.rpartition("-")[2])
    flows = sorted((base / "flow").glob("*/frame_*.flo"))
    if not flows:
        raise InputError(f"{base}: has no flow/SCENE/frame_NNNN.flo; give Sintel's folder with training/ in it")
    samples = []
    for flow in flows:
        scene, number = flow.parent.name, int(flow.stem.removeprefix("frame_"))
        occlusion = base / "occlusions" / scene / f"{flow.stem}.png"
        samples.append(
            FlowSample(
                dataset,
                f"{scene}/{flow.stem}",
                find_image(frames / scene / flow.stem),
                find_image(frames / scene / f"frame_{number + 1:04d}"),
                partial(_read_valid_flow, flow, base / "invalid" / scene / f"{flow.stem}.png"),
                partial(_black, occlusion) if occlusion.is_file() else None,
            )
        )
    return samples


def _read_valid_flow(path: Path, invalid: Path) -> np.ndarray:
    flow = read_flow(path)
    if invalid.is_file():
        flow[:, read_map(invalid) > 0] = np.nan
    return flow


def _black(path: Path) -> np.ndarray:
    return read_map(path) == 0
