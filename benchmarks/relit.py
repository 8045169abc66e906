"""One picture in other light: the data engine's lighting on a picture as loaded, the same for whoever is measured on it."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from flowkit.batch import PairBatch
from flowkit.synth.lighting import relight


def seed_of(*parts: object) -> int:
    """A seed below 2^48 that depends on nothing but the parts."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big")


def relit(pictures: torch.Tensor, strength: float, seed: int) -> torch.Tensor:
    """(B, 3, H, W) in [0, 1] in another light each, of the kind that the engine gives image1; nothing is erased.

    The same seed at another strength is the same weather, only more or less of it.
    """
    count, _, height, width = pictures.shape
    still = torch.zeros(count, 2, height, width)
    pair = PairBatch(pictures, pictures, still, torch.ones(count, height, width, dtype=torch.bool))
    return relight(pair, strength, torch.Generator().manual_seed(seed)).image1


def relit_picture(picture: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """The same for one (H, W, 3) uint8 picture."""
    tensor = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0)[None].float() / 255
    return to_uint8(relit(tensor, strength, seed)[0])


def to_uint8(picture: torch.Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] as (H, W, 3) uint8."""
    return np.ascontiguousarray((picture * 255).round().clamp(0, 255).byte().movedim(0, -1).numpy())
