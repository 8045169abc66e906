"""HD1K (Kondermann et al., CVPR Workshops 2016): consecutive frames of driving sequences, flow known where the laser saw.

hd1k_input/image_2/SSSSSS_NNNN.png (sequence, frame) and hd1k_flow_gt/flow_occ/SSSSSS_NNNN.png, 16-bit as KITTI's. The flow
points into the next frame of the sequence.
"""

from functools import partial
from itertools import pairwise
from pathlib import Path

from flowkit.datasets.files import existing, folder, images_in
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError
from flowkit.io.flow_files import read_flow


def read_hd1k(root: Path, dataset: str = "hd1k") -> list[FlowSample]:
    """Every pair; the last frame of a sequence, and one whose next frame is missing in the copy, have none."""
    images = folder(root / "hd1k_input" / "image_2")
    flows = sorted(folder(root / "hd1k_flow_gt" / "flow_occ").glob("*_*.png"))
    following = _following(images_in(images))
    samples = []
    for flow in flows:
        first = existing(images / flow.name)
        if first in following:
            samples.append(FlowSample(dataset, flow.stem, first, following[first], partial(read_flow, flow)))
    if not samples:
        raise InputError(f"{root}: no hd1k_flow_gt/flow_occ/SSSSSS_NNNN.png whose two frames are in hd1k_input/image_2")
    return samples


def _following(images: list[Path]) -> dict[Path, Path]:
    """The next frame of each: in its sequence, and as many numbers on as frames are apart in that sequence."""
    sequences: dict[str, dict[int, Path]] = {}
    for path in images:
        sequence, _, number = path.stem.rpartition("_")
        if not number.isdigit():
            raise InputError(f"{path}: is not named SSSSSS_NNNN by sequence and frame; check the copy")
        sequences.setdefault(sequence, {})[int(number)] = path
    following = {}
    for frames in sequences.values():
        step = min((b - a for a, b in pairwise(sorted(frames))), default=1)
        following.update({path: frames[n + step] for n, path in frames.items() if n + step in frames})
    return following
