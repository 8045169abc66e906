"""Photographs for tests: smooth random pictures, whose colours a half-pixel slip would change, and round cut-outs."""

import numpy as np

from flowkit.synth.photos import PhotoStore


def smooth_picture(seed: int, height: int = 160, width: int = 200, waves: int = 12) -> np.ndarray:
    """(H, W, 3) uint8: a sum of random waves of 15 pixels' length or more."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    picture = np.zeros((height, width, 3))
    for _ in range(waves):
        length, angle, phase = rng.uniform(15, 60), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / length + phase)
        picture += wave[..., None] * rng.normal(size=3)
    picture = (picture - picture.min()) / np.ptp(picture)
    return (255 * picture).astype(np.uint8)


def disc(seed: int, side: int = 90) -> np.ndarray:
    """(S, S, 4) uint8: a round cut-out with a smooth picture on it."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.clip(side / 2 - 3 - np.hypot(x, y), 0, 1) * 255
    return np.dstack([smooth_picture(seed, side, side), alpha.astype(np.uint8)])


def store(photos: int = 5, cutouts: int = 2) -> PhotoStore:
    """A small store of such pictures."""
    return PhotoStore.from_arrays(
        [smooth_picture(seed) for seed in range(photos)], [disc(100 + seed) for seed in range(cutouts)], size=(160, 200)
    )
