"""Middlebury stereo 2005/2006 (Hirschmueller and Scharstein, CVPR 2007), a rectified pair as a flow problem.

x1 = x0 - d, y1 = y0; disparity 0 is unknown. Layouts: NAME/{NAMEL,NAMER,NAMEGT} as OpenCV ships aloe, or the original
NAME/{view1,view5,disp1}, whose full-size disparities are in pixels.
"""

from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.files import find_image, folder, read_map
from flowkit.datasets.samples import FlowSample
from flowkit.errors import InputError


def read_middlebury_stereo(root: Path, dataset: str = "middlebury-2006") -> list[FlowSample]:
    """Every pair of the folder, left -> right."""
    samples = []
    for scene in sorted(path for path in folder(root).iterdir() if path.is_dir()):
        if list(scene.glob(f"{scene.name}GT.*")):
            names = tuple(f"{scene.name}{end}" for end in ("L", "R", "GT"))
        elif list(scene.glob("disp1.*")):
            names = ("view1", "view5", "disp1")
        else:
            continue
        left, right, disparity = (find_image(scene / name) for name in names)
        samples.append(FlowSample(dataset, scene.name, left, right, partial(_flow_from_disparity, disparity)))
    if not samples:
        raise InputError(f"{root}: has no NAME/NAMEGT.png and no NAME/disp1.png; give the folder of the stereo pairs")
    return samples


def _flow_from_disparity(path: Path) -> np.ndarray:
    disparity = read_map(path).astype(np.float32)
    flow = np.stack([-disparity, np.zeros_like(disparity)])
    flow[:, disparity == 0] = np.nan
    return flow
