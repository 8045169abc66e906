"""Training pairs from photographs whose cameras are known: no flow, but the epipolar geometry that it must obey (LIFE).

>>> source = open_posed({"colmap": Path("reconstructed")})              # doctest: +SKIP
>>> pairs = source.batch(2, (256, 384), seed=7)     # PairBatch with K0, K1, R, t, E, F; nothing valid    # doctest: +SKIP
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.datasets.colmap_model import PairLimits, read_colmap_pairs
from flowkit.datasets.megadepth_caps import read_megadepth_caps
from flowkit.datasets.posed_views import PosedPair, View
from flowkit.datasets.samples import PoseSample
from flowkit.errors import UsageError
from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential
from flowkit.synth.lighting import relight
from flowkit.training.augment import Placement
from flowkit.training.posed_windows import PosedSettings, place_pair, placement_matrix, scales
from flowkit.types import Size


def _of_megadepth(root: Path, dataset: str, limits: PairLimits) -> Sequence[PoseSample]:
    """Its lists have chosen the pairs by what they share already."""
    return read_megadepth_caps(root, dataset, max_rotation=limits.max_rotation, max_pairs=limits.max_pairs)


READERS: dict[str, Callable[[Path, str, PairLimits], Sequence[PoseSample]]] = {
    "colmap": read_colmap_pairs,
    "megadepth-caps": _of_megadepth,
}
"""The collections of pairs with poses, by the names that --data gives them."""
_SHRUNK = 0.65
"""Above this scale bilinear interpolation leaves no pixel out."""


class PosedPairs:
    """Crops of pairs with known cameras; what it gives depends on its arguments alone."""

    def __init__(self, samples: Sequence[PoseSample], settings: PosedSettings | None = None) -> None:
        """UsageError where no sample has a translation that is good for something."""
        pairs = [PosedPair.from_sample(sample) for sample in samples if not sample.rotation_only]
        self.pairs = [pair for pair in pairs if np.linalg.norm(pair.T_0to1[:3, 3]) > 0]
        if not self.pairs:
            raise UsageError("no pair of views has an epipolar geometry; give pairs whose cameras stand apart")
        self.settings = settings or PosedSettings()
        self._pictures = _Pictures(self.settings.cache)

    def __len__(self) -> int:
        return len(self.pairs)

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size` (height, width) drawn with `seed`, in either order, on the CPU.

        `flow` is 0 and `valid` False everywhere: it is not known. `made` names the pairs and says which are turned round.
        InputError, naming the file, when a picture cannot be read.
        """
        rng = np.random.default_rng([seed, 3])
        indices = rng.integers(len(self), size=count)
        crops = [self._crop(int(index), size, child) for index, child in zip(indices, rng.spawn(count), strict=True)]
        image0, image1 = (
            torch.from_numpy(np.stack([np.moveaxis(crop.pictures[k], -1, 0) for crop in crops])).float().div_(255)
            for k in (0, 1)
        )
        K0, K1 = (torch.from_numpy(np.stack([crop.K[k] for crop in crops])) for k in (0, 1))
        T = torch.from_numpy(np.stack([crop.pair.T_0to1 for crop in crops]))
        pairs = PairBatch(
            image0=image0,
            image1=image1,
            flow=torch.zeros(count, 2, *size),
            valid=torch.zeros(count, *size, dtype=torch.bool),
            **geometry(K0, K1, T),
            made={
                "family": "posed",
                "names": [f"{crop.pair.dataset}/{crop.pair.name}" for crop in crops],
                "turned": [crop.turned for crop in crops],
            },
        )
        if self.settings.lighting == 0:
            return pairs
        generator = torch.Generator().manual_seed(seed)
        return relight(pairs, self.settings.lighting * torch.rand(count, generator=generator), generator)

    def _crop(self, index: int, size: Size, rng: np.random.Generator) -> _Crop:
        turned = bool(rng.random() < 0.5)
        pair = self.pairs[index].reversed() if turned else self.pairs[index]
        pictures = [self._pictures.read(view, size, self.settings) for view in (pair.view0, pair.view1)]
        placements = place_pair(pair, pictures[0].size, pictures[1].size, size, self.settings, rng)
        cut = [_cut(picture.pixels, placement) for picture, placement in zip(pictures, placements, strict=True)]
        K = placement_matrix(placements[0]) @ pair.K0, placement_matrix(placements[1]) @ pair.K1
        return _Crop(pair, turned, (cut[0], cut[1]), K)


@dataclass(frozen=True)
class _Crop:
    pair: PosedPair
    turned: bool
    pictures: tuple[np.ndarray, np.ndarray]
    K: tuple[np.ndarray, np.ndarray]


def open_posed(
    folders: Mapping[str, Path] | Mapping[str, str],
    *,
    settings: PosedSettings | None = None,
    limits: PairLimits | None = None,
) -> PosedPairs:
    """The pairs of one or several collections, by the names of `READERS`: colmap, megadepth-caps.

    `limits` say which pairs are taken; of MegaDepth, whose lists know what pictures share, only by rotation and number.
    UsageError for a name that is none of them, InputError when a folder is not laid out so (docs/training_data.md).
    """
    if not folders:
        raise UsageError(f"pairs with poses come from --data NAME=DIR; NAME is one of {', '.join(READERS)}")
    if unknown := [name for name in folders if name not in READERS]:
        raise UsageError(f"{unknown[0]!r} has no poses; use one of {', '.join(READERS)}")
    limits = limits or PairLimits()
    samples = [sample for name, folder in folders.items() for sample in READERS[name](Path(folder), name, limits)]
    return PosedPairs(samples, settings)


def geometry(K0: Tensor, K1: Tensor, T: Tensor) -> dict[str, Tensor]:
    """`K0`, `K1`, `R`, `t` (|t| = 1), `E`, `F` of a batch from K (B, 3, 3) and T_0to1 (B, 4, 4).

    Computed in float64, given in float32.
    """
    K0, K1, T = K0.double(), K1.double(), T.double()
    R, t = T[:, :3, :3], T[:, :3, 3]
    E = essential_from_pose(R, t)
    F = fundamental_from_essential(E, K0, K1)
    values = {"K0": K0, "K1": K1, "R": R, "t": t / t.norm(dim=-1, keepdim=True), "E": E, "F": F}
    return {name: value.float().contiguous() for name, value in values.items()}


# --- pictures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    """Pixels (h, w, 3) uint8, perhaps shrunk from the original `size`."""

    pixels: np.ndarray
    size: Size


class _Pictures:
    """Decoded pictures, the last ones used, up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[tuple[View, Size], _Picture] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def read(self, view: View, crop: Size, settings: PosedSettings) -> _Picture:
        """The picture of a view, no larger than crops of that size ever show it. The same whether it was kept or not."""
        key = view, crop
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        pixels = view.read()
        size = int(pixels.shape[0]), int(pixels.shape[1])
        scale = min(1.0, scales(size, crop, settings.least_share)[1] * 2**settings.scale_jitter)
        shrunk = _resize(pixels, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
        picture = self._kept[key] = _Picture(shrunk, size)
        self._bytes += shrunk.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].pixels.nbytes
        return picture


def _cut(pixels: np.ndarray, placement: Placement) -> np.ndarray:
    """The crop of a picture that may have been shrunk already."""
    return placement.cut(_resize(pixels, placement.resized))


def _resize(pixels: np.ndarray, size: Size) -> np.ndarray:
    """By averages where it shrinks much, which takes longer; cv2 keeps areas on areas, x' = (x + 0.5) s - 0.5."""
    if pixels.shape[:2] == size:
        return pixels
    shrinks = size[0] < _SHRUNK * pixels.shape[0]
    return cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
