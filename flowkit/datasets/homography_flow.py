"""The dense flow that a homography makes, as ground truth: known only where it ends inside the other image."""

import numpy as np

from flowkit.types import Size


def homography_flow(H: np.ndarray, size0: Size, size1: Size) -> np.ndarray:
    """(2, H0, W0) float64 flow of x1 ~ H x0 on image0's grid, NaN unless it ends in [0, width - 1] x [0, height - 1]."""
    import torch

    from flowkit.geometry.flow import flow_from_homography
    from flowkit.geometry.grids import flow_targets

    flow = flow_from_homography(torch.from_numpy(np.asarray(H, np.float64)), size0)
    x, y = flow_targets(flow).unbind(-1)
    flow[:, ~((x >= 0) & (x <= size1[1] - 1) & (y >= 0) & (y <= size1[0] - 1))] = torch.nan
    return flow.numpy()
