"""OpenCV's Dense Inverse Search (Kroeger et al., ECCV 2016) as a dense method: needs no weights, runs on any CPU."""

from __future__ import annotations

import numpy as np

from flowkit.errors import UsageError

PRESETS = ("fast", "fine")


def dis_flow(
    grey0: np.ndarray, grey1: np.ndarray, preset: str = "fine", initial: np.ndarray | None = None
) -> np.ndarray:
    """Flow grey0 -> grey1, (H, W, 2) float32 in pixels, from two (H, W) uint8 pictures of one size.

    `fine`: finest scale 0, patch stride 2, 32 gradient steps, 10 variational steps; `fast`: OpenCV's medium preset.
    `initial` (H, W, 2) is a candidate at every scale of the search.
    """
    import cv2

    if preset not in PRESETS:
        raise UsageError(f"unknown DIS preset {preset!r}; use one of {', '.join(PRESETS)}")
    height, width = grey0.shape
    # DIS refuses pictures that hold less than a patch at its coarsest scale: pad them by replication.
    pad_h, pad_w = max(0, 32 - height), max(0, 32 - width)
    if pad_h or pad_w:
        grey0, grey1 = (cv2.copyMakeBorder(g, 0, pad_h, 0, pad_w, cv2.BORDER_REPLICATE) for g in (grey0, grey1))
        if initial is not None:
            initial = cv2.copyMakeBorder(initial, 0, pad_h, 0, pad_w, cv2.BORDER_REPLICATE)
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    if preset == "fine":
        dis.setFinestScale(0)
        dis.setPatchStride(2)
        dis.setGradientDescentIterations(32)
        dis.setVariationalRefinementIterations(10)
    flow = dis.calc(
        np.ascontiguousarray(grey0), np.ascontiguousarray(grey1), None if initial is None else initial.copy()
    )
    return flow[:height, :width]


def variational_refinement(grey0: np.ndarray, grey1: np.ndarray, flow: np.ndarray, iterations: int = 10) -> np.ndarray:
    """Sub-pixel refinement of a (H, W, 2) flow by the variational step of DIS (Brox energy), at full resolution."""
    import cv2

    if min(grey0.shape) < 8:
        return flow
    refine = cv2.VariationalRefinement_create()
    refine.setFixedPointIterations(iterations)
    return refine.calc(
        np.ascontiguousarray(grey0), np.ascontiguousarray(grey1), np.ascontiguousarray(flow, np.float32).copy()
    )
