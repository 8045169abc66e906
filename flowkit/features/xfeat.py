"""XFeat (Potje et al., CVPR 2024), sparse and semi-dense, on kornia's network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flowkit.features.base import MIN_SIDE, assemble, nothing, working
from flowkit.features.matching import match_descriptors, no_matches
from flowkit.io.weights import card, load_checkpoint, load_strictly
from flowkit.types import Features, Image, Matches

if TYPE_CHECKING:
    import torch
    from kornia.feature import XFeat as Network


SCALES = ((0.6, 0.2), (1.3, 0.8))
"""XFeat*'s two image scales, each with its share of the keypoints."""
CELL_CENTRE = 3.0
"""Where in its 8 x 8 pixels a cell of image1 is matched, and the fine matcher's index of no move in image0: measured on
photos scaled by known factors (regression gives 3.07 and 3.04); the reference's own 0 and 4 are a pixel apart."""
FINE_SHARPNESS, FINE_CONFIDENCE = 3.0, 0.25
"""XFeat*'s softmax temperature and the least confidence of a refined match."""
CELL = 8
"""Pixels of the image a side, for one cell of the coarse map."""


class XFeat:
    """Sparse XFeat: 64-dimensional descriptors at the peaks of a keypoint map."""

    name = "xfeat"

    def __init__(self, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None) -> None:
        self.device, self.max_side = device, max_side
        self.max_keypoints = 4096 if max_keypoints is None else max_keypoints
        self.weights: Mapping[str, str] = {"xfeat": card("xfeat").sha256}

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length."""
        work = working(image, max_side=self.max_side)
        if work.blank or min(work.pixels.shape[:2]) < MIN_SIDE:
            return nothing(image.size, self.name, 64)
        tensor = work.tensor(self.device, divisor=32)  # so that the network itself resizes nothing
        found = load_network(self.device).detectAndCompute(tensor, top_k=tensor.shape[-1] * tensor.shape[-2])[0]
        keypoints, descriptors, scores = (found[k].cpu().numpy() for k in ("keypoints", "descriptors", "scores"))
        return assemble(work, self.name, keypoints, descriptors, scores, mask=mask, max_keypoints=self.max_keypoints)


class XFeatStar:
    """Semi-dense XFeat*: every reliable cell of the coarse map is matched, then moved by the network's fine matcher."""

    name = "xfeat*"

    def __init__(self, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None) -> None:
        self.device, self.max_side = device, max_side
        self.max_keypoints = 8000 if max_keypoints is None else max_keypoints
        self.weights: Mapping[str, str] = {"xfeat": card("xfeat").sha256}

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in the original pixels of both images; the score is the fine matcher's confidence."""
        import torch

        cells0, cells1 = self.extract(image0), self.extract(image1)
        coarse = match_descriptors(_normalised(cells0), _normalised(cells1), device=self.device)
        if not len(coarse):
            return no_matches(image0.size, image1.size, self.name)
        index0, index1 = coarse.pairs.T
        features0, features1 = (
            torch.from_numpy(cells.descriptors[index]).to(self.device)
            for cells, index in ((cells0, index0), (cells1, index1))
        )
        with torch.inference_mode():
            moves, scores = (
                found.cpu().numpy() for found in fine_moves(load_network(self.device), features0, features1)
            )
        points0 = cells0.keypoints[index0] + moves * _scales(cells0)[index0, None]
        height, width = image0.size
        keep = (scores > FINE_CONFIDENCE) & (points0 > -0.5).all(axis=1)
        keep &= (points0[:, 0] < width - 0.5) & (points0[:, 1] < height - 0.5)
        kept = np.arange(keep.sum())
        return replace(
            coarse,
            keypoints0=points0[keep].astype(np.float32),
            keypoints1=cells1.keypoints[index1[keep]],
            pairs=np.stack([kept, kept], axis=1),
            scores=scores[keep],
            origin=np.zeros(len(kept), np.int64),
        )

    def extract(self, image: Image) -> Features:
        """The most reliable cells of two scales; `scales` is how many original pixels one pixel of theirs is."""
        parts = [self._cells(image, *share) for share in SCALES]
        return Features(
            keypoints=np.concatenate([p.keypoints for p in parts]),
            descriptors=np.concatenate([p.descriptors for p in parts]),
            scores=np.concatenate([p.scores for p in parts]),
            size=image.size,
            name=self.name,
            scales=np.concatenate([_scales(p) for p in parts]),
        )

    def _cells(self, image: Image, scale: float, share: float) -> Features:
        """The cells of the image scaled by `scale`, a `share` of all keypoints."""
        fit = 1.0 if self.max_side is None else min(1.0, self.max_side / max(image.size))
        work = working(image, scale=scale * fit)
        if work.blank or min(work.pixels.shape[:2]) < MIN_SIDE:
            return nothing(image.size, self.name, 64)
        tensor = work.tensor(self.device, divisor=32)  # so that the network itself resizes nothing
        found = load_network(self.device).detectAndComputeDense(
            tensor, top_k=int(share * self.max_keypoints), multiscale=False
        )
        corners, descriptors = found["keypoints"][0].cpu().numpy(), found["descriptors"][0].cpu().numpy()
        rank = -np.arange(len(corners), dtype=np.float32)  # they come ordered by reliability
        ones = np.ones(len(corners), np.float32)
        return assemble(work, self.name, corners + CELL_CENTRE, descriptors, rank, scales=ones)


class XFeatDense:
    """A `DenseNetwork` (dense.py) of XFeat's coarse map: the more reliable half of its cells, refined as XFeat*'s are."""

    divisor = 32  # so that the network itself resizes nothing
    centre = (CELL_CENTRE + 0.5) / CELL
    share = 0.5
    notes: tuple[str, ...] = ()

    def __init__(self, *, device: str = "cpu") -> None:
        self.network, self.device = load_network(device), device
        self.weights: Mapping[str, str] = {"xfeat": card("xfeat").sha256}

    def describe(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(1, 3, H, W), RGB in [0, 1] -> features (64, H / 8, W / 8) of any length, their reliability (H / 8, W / 8)."""
        features, _, reliability = self.network.net(image)
        return features[0], reliability[0, 0]

    def refine(self, features0: torch.Tensor, features1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How far the points of image0 move (M, 2), in pixels it saw, and how sure that is (M,); 0 is not sure enough."""
        moves, confidence = fine_moves(self.network, features0, features1)
        return moves, confidence.where(confidence > FINE_CONFIDENCE, 0)


def fine_moves(network: Network, features0: torch.Tensor, features1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of matched cells (M, 64) each: where in its cell the point of image0 moves (M, 2), pixels (x, y), and how sure (M,)."""
    import torch

    logits = network.net.fine_matcher(torch.cat([features0, features1], dim=1))
    chance = (FINE_SHARPNESS * logits).softmax(dim=1).unflatten(1, (CELL, CELL))
    steps = torch.arange(CELL, device=chance.device) - CELL_CENTRE
    moves = torch.stack([chance.sum(dim=1) @ steps, chance.sum(dim=2) @ steps], dim=1)
    return moves, chance.amax(dim=(1, 2))


def _scales(cells: Features) -> np.ndarray:
    """(N,) original pixels per working pixel of each cell."""
    return np.ones(len(cells.keypoints), np.float32) if cells.scales is None else cells.scales


def _normalised(features: Features) -> Features:
    """The same with descriptors of unit length."""
    length = np.linalg.norm(features.descriptors, axis=1, keepdims=True)
    return replace(features, descriptors=features.descriptors / np.maximum(length, 1e-12))


@lru_cache(maxsize=4)
def load_network(device: str) -> Network:
    """The network with its published weights, ready to run: asked for where it runs, so that other features may go first."""
    from kornia.feature import XFeat as Network

    network = Network()
    load_strictly(network.net, load_checkpoint("xfeat"), "xfeat")
    return network.eval().to(device)
