"""Pairs of pictures whose flow is known, and a measure of how well a flow brings one onto the other."""

import numpy as np
import torch

from flowkit.datasets.training_sets import PairArrays
from flowkit.geometry.sampling import warp

SIZE = (120, 160)
A = np.array([[1.25, -0.3], [0.25, 0.85]])  # image0 -> image1 about the centre, a strong change of scale and shape
CENTRE = np.array([79.5, 59.5])


def grid(size):
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    return x, y


def waves(x, y):
    """A smooth picture, (..., 3) in 0..255, with slopes to 25 levels a pixel."""
    channels = [np.sin(x / 4.6 + 0.7), np.sin(y / 5.1), np.sin((x - y) / 6.3 + 2)]
    return 127.5 + 110 * np.stack(channels, axis=-1)


def affine_pair(sparse=False):
    """image1 is `waves`, image0 what it looks like through p -> A (p - c) + c, and the flow of that."""
    x, y = grid(SIZE)
    points = np.stack([x, y], axis=-1)
    targets = (points - CENTRE) @ A.T + CENTRE
    image0, image1 = waves(targets[..., 0], targets[..., 1]), waves(x, y)
    flow = np.moveaxis(targets - points, -1, 0).astype(np.float32)
    if sparse:
        flow[:, np.random.default_rng(0).random(SIZE) < 0.7] = np.nan
    return PairArrays(np.rint(image0).astype(np.uint8), np.rint(image1).astype(np.uint8), flow)


def shift_between(one, other):
    """The (x, y) in pixels by which picture `other` (H, W, C) seems displaced from `one`; NaN pixels do not count."""
    slopes = np.stack([np.gradient(one, axis=axis).ravel() for axis in (1, 0)], axis=1)
    difference = (one - other).ravel()
    kept = np.isfinite(slopes).all(axis=1) & np.isfinite(difference)
    return np.linalg.lstsq(slopes[kept], difference[kept])[0]


def warp_error(arrays):
    """|image1 brought back by the flow - image0| in grey levels where it is valid, and by how many pixels (x, y) it is off."""
    image0, image1, flow = (torch.from_numpy(arrays[name]).float() for name in ("image0", "image1", "flow"))
    warped, inside = warp(image1, flow)
    kept = inside & torch.from_numpy(arrays["valid"])
    assert kept.float().mean() > 0.1
    off = shift_between(
        *(np.moveaxis(torch.where(kept, image, torch.nan).numpy(), 0, -1) for image in (image0, warped))
    )
    return (warped - image0).abs()[:, kept], off
