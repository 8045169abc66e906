"""Edge-aware filling of holes from what is known around them (domain transform, Gastal and Oliveira 2011)."""

from __future__ import annotations

import numpy as np


def fill(flow: np.ndarray, keep: np.ndarray, guide: np.ndarray, reach: float = 40.0, edge: float = 0.15) -> np.ndarray:
    """`flow` (H, W, C) where `keep` (H, W), elsewhere the edge-aware average of what is kept.

    Normalised convolution with the recursive domain-transform filter; `guide` is the (H, W, 3) uint8 image whose edges stop
    it, `reach` its range in pixels. Where nothing is kept the flow comes back as it is.
    """
    if not keep.any():
        return flow
    values = smoothed(np.dstack([flow * keep[..., None], keep]).astype(np.float32), guide, reach, edge)
    averaged = values[..., :-1] / np.maximum(values[..., -1:], 1e-12)
    # Beyond the filter's reach nothing is known: the nearest kept flow is the best guess.
    averaged = np.where(values[..., -1:] > 1e-6, averaged, _nearest_kept(flow, keep))
    return np.where(keep[..., None], flow, averaged).astype(np.float32)


def smoothed(values: np.ndarray, guide: np.ndarray, reach: float, edge: float, rounds: int = 2) -> np.ndarray:
    """`values` (H, W, C) float32 blurred by a sigma of `reach` pixels, hardly across the edges of `guide` (H, W, 3) uint8.

    The recursive domain-transform filter; `edge` is the change of all channels together, of 1 each, that counts as `reach`.
    """
    guide = guide.astype(np.float32) / 255
    across = 1 + reach / edge * np.abs(np.diff(guide, axis=1)).sum(2)
    down = 1 + reach / edge * np.abs(np.diff(guide, axis=0)).sum(2)
    values = values.copy()
    for i in range(rounds):
        sigma = reach * np.sqrt(3) * 2 ** (rounds - i - 1) / np.sqrt(4**rounds - 1)
        decay = np.float32(np.exp(-np.sqrt(2) / sigma))
        _recursive(values.transpose(1, 0, 2), (decay**across).T)
        _recursive(values, decay**down)
    return values


def _recursive(values: np.ndarray, weight: np.ndarray) -> None:
    for i in range(1, len(values)):
        values[i] += weight[i - 1, :, None] * (values[i - 1] - values[i])
    for i in range(len(values) - 2, -1, -1):
        values[i] += weight[i, :, None] * (values[i + 1] - values[i])


def _nearest_kept(flow: np.ndarray, keep: np.ndarray) -> np.ndarray:
    import cv2

    _, label = cv2.distanceTransformWithLabels((~keep).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    lookup = np.zeros((int(label.max()) + 1, flow.shape[2]), np.float32)
    lookup[label[keep]] = flow[keep]
    return lookup[label]
