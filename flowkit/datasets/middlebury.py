"""Middlebury optical flow (Baker et al., IJCV 2011): frame10 -> frame11, flow10.flo.

Layouts: NAME/{frame10.png,frame11.png,flow10.flo}, or the original other-data/NAME/ and other-gt-flow/NAME/.
"""

from functools import partial
from pathlib import Path

from flowkit.datasets.files import find_image, folder
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError
from flowkit.io.flow_files import read_flow


def read_middlebury(root: Path, dataset: str = "middlebury") -> list[FlowSample]:
    """Every sequence with ground truth."""
    truth = next((root / name for name in ("other-gt-flow", "gt-flow") if (root / name).is_dir()), folder(root))
    frames = root / "other-data" if truth != root else root
    flows = sorted(truth.glob("*/flow10.flo"))
    if not flows:
        raise InputError(f"{truth}: has no NAME/flow10.flo; give the folder of Middlebury's sequences")
    return [
        FlowSample(
            dataset,
            flow.parent.name,
            find_image(frames / flow.parent.name / "frame10"),
            find_image(frames / flow.parent.name / "frame11"),
            partial(read_flow, flow),
        )
        for flow in flows
    ]
