"""Training pairs from the public data sets: RAFT's and LiteFlowNet's mixtures, every pair as often as it counts.

>>> source = public_batches({"flyingchairs": "FlyingChairs_release"}, mixture("chairs"))    # doctest: +SKIP
>>> source.batch(10, (368, 496), seed=7)        # PairBatch, the same whenever it is asked for    # doctest: +SKIP
>>> source.numbered(step, 10, (368, 496), seed=0)    # every pair once an epoch    # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from flowkit.batch import PairBatch
from flowkit.datasets.training_sets import SETS, PairArrays, TrainingSet, load, read_training_set
from flowkit.errors import InputError, UsageError
from flowkit.training import flownet2_augmentation as flownet2
from flowkit.training.augment import DENSE, SPARSE
from flowkit.types import Size


class PairAugmentation(Protocol):
    """What is done to a pair before a network sees it: RAFT's `Augmentation` or `FlowNet2Augmentation`."""

    def apply(
        self, pair: PairArrays, crop: Size, rng: np.random.Generator, draw: int | None = None
    ) -> dict[str, np.ndarray]:
        """The arrays that `augment.augment` names, cropped to `crop`; `draw`: how many pairs of the run came before."""
        ...

    def excludes(self, pair: PairArrays) -> bool:
        """Whether the pair is not fit to be trained on."""
        ...


@dataclass(frozen=True)
class Part:
    """A data set of a mixture (a name of `SETS`), each of its pairs drawn `repeat` times an epoch."""

    name: str
    augmentation: PairAugmentation
    repeat: int = 1


@dataclass(frozen=True)
class PublicSettings:
    """What public data sets are trained on, and the crop (height, width) and batch size that the papers take with them."""

    parts: tuple[Part, ...]
    crop: Size
    batch_size: int

    def only(self, collections: Collection[str]) -> PublicSettings:
        """Without the data sets of other collections, such as RAFT's mixture for Sintel without KITTI and HD1K."""
        return replace(self, parts=tuple(part for part in self.parts if SETS[part.name].collection in collections))


def _part(name: str, scale: tuple[float, float], repeat: int = 1, flip_x: float = 0.5) -> Part:
    augmentation = SPARSE if SETS[name].sparse else DENSE
    return Part(name, replace(augmentation, min_scale=scale[0], max_scale=scale[1], flip_x=flip_x), repeat)


_FINE = (-0.2, 0.6)

STAGES = {
    "chairs": PublicSettings((_part("flyingchairs", (-0.1, 1.0)),), (368, 496), 10),
    "things": PublicSettings(
        tuple(_part(f"flyingthings-{kind}", (-0.4, 0.8)) for kind in ("clean", "final")), (400, 720), 6
    ),
    "kitti": PublicSettings((_part("kitti2015", (-0.2, 0.4), flip_x=0.0),), (288, 960), 6),
    "sintel": PublicSettings(
        (
            _part("sintel-clean", _FINE, 100),
            _part("sintel-final", _FINE, 100),
            _part("kitti2015", (-0.3, 0.5), 200),
            _part("hd1k", (-0.5, 0.2), 5),
            _part("flyingthings-clean", _FINE),
        ),
        (368, 768),
        6,
    ),
}
"""RAFT's stages: data sets, scales, crops and batch sizes (spec.md 1.4)."""

_SINTEL_PASSES = tuple(Part(name, flownet2.SINTEL) for name in ("sintel-clean", "sintel-final"))
_KITTI_YEARS = tuple(Part(name, flownet2.KITTI) for name in ("kitti2012", "kitti2015"))

LITEFLOWNET_STAGES = {
    "liteflownet-chairs": PublicSettings((Part("flyingchairs", flownet2.CHAIRS),), (320, 448), 8),
    "liteflownet-things": PublicSettings((Part("flyingthings-clean", flownet2.THINGS),), (384, 768), 4),
    "liteflownet-sintel": PublicSettings(_SINTEL_PASSES, (384, 768), 4),
    "liteflownet2-sintel": PublicSettings(
        # as often as not from KITTI: 2082 pairs of Sintel, 5 times 394 of KITTI
        (*_SINTEL_PASSES, *(replace(part, repeat=5) for part in _KITTI_YEARS)),
        (384, 768),
        4,
    ),
    "liteflownet-kitti": PublicSettings(_KITTI_YEARS, (320, 896), 4),
}
"""LiteFlowNet's and LiteFlowNet2's stages (sections 6.1 and 6.3); PWC-Net's are the same with other crops."""


def mixture(name: str) -> PublicSettings:
    """One of `STAGES` or `LITEFLOWNET_STAGES`, or a single data set of `SETS`, treated as RAFT treats its kind."""
    stages = {**STAGES, **LITEFLOWNET_STAGES}
    if name in stages:
        return stages[name]
    if name not in SETS:
        raise UsageError(f"unknown source of pairs {name!r}; use one of {', '.join([*stages, *SETS])}")
    collection = SETS[name].collection.replace("2012", "2015")
    stage, like = next((s, p) for s in STAGES.values() for p in s.parts if SETS[p.name].collection == collection)
    return replace(stage, parts=(Part(name, like.augmentation),))


class PublicPairs:
    """Augmented pairs of a mixture. What it gives depends on its arguments alone, so a resumed run sees the same batches."""

    def __init__(self, parts: Sequence[tuple[TrainingSet, PairAugmentation, int]]) -> None:
        """`parts`: data sets, what is done to their pairs, and how often each pair counts."""
        self.parts = [part for part in parts if len(part[0]) * part[2] > 0]
        if not self.parts:
            raise UsageError("the mixture has no pairs; give at least one data set")
        self._ends = np.cumsum([len(data) * repeat for data, _, repeat in self.parts])
        self._order: tuple[tuple[int, int], np.ndarray] | None = None

    def __len__(self) -> int:
        """Pairs in an epoch, repeats counted."""
        return int(self._ends[-1])

    def sample(self, index: int, size: Size, rng: np.random.Generator, draw: int | None = None) -> dict[str, Any]:
        """The arrays of the part's augmentation for pair `index` of the epoch's list, cropped to `size`, and its `name`.

        The pair that follows in the data set stands in for one that the augmentation excludes. `draw` is the number of pairs
        of the run that came before, None where there is no run.
        """
        part = int(np.searchsorted(self._ends, index, side="right"))
        data, augmentation, _ = self.parts[part]
        first = index - int(self._ends[part])
        for step in range(len(data)):
            sample = data[(first + step) % len(data)]
            pair = load(sample, data.sparse)
            if not augmentation.excludes(pair):
                return {**augmentation.apply(pair, size, rng, draw), "name": f"{data.name}/{sample.name}"}
        raise InputError(f"{data.name}: the flow of every pair is too long to be trained on; check the copy")

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size` (height, width) drawn at random with `seed`, on the CPU."""
        rng = np.random.default_rng([seed, 0])
        indices = rng.integers(len(self), size=count)
        return collate(
            [self.sample(int(index), size, child) for index, child in zip(indices, rng.spawn(count), strict=True)]
        )

    def numbered(self, number: int, count: int, size: Size, seed: int) -> PairBatch:
        """Batch `number` of a run: like `batch`, but in an order that takes every pair once before it is shuffled anew."""
        draws = range(number * count, (number + 1) * count)
        return collate(
            [self.sample(self._shuffled(k, seed), size, np.random.default_rng([seed, 1, k]), k) for k in draws]
        )

    def _shuffled(self, draw: int, seed: int) -> int:
        epoch, position = divmod(draw, len(self))
        if self._order is None or self._order[0] != (seed, epoch):
            self._order = (seed, epoch), np.random.default_rng([seed, 2, epoch]).permutation(len(self))
        return int(self._order[1][position])


def collate(samples: Sequence[Mapping[str, Any]]) -> PairBatch:
    """Several answers of `PublicPairs.sample` as one batch; occlusion is kept where all of them know it."""
    names = [name for name in samples[0] if name != "name" and all(name in sample for sample in samples)]
    tensors: dict[str, Any] = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in names}
    for name in ("image0", "image1"):
        tensors[name] = tensors[name].float().div_(255)
    return PairBatch(**tensors, made={"family": "public", "names": [str(sample["name"]) for sample in samples]})


def public_batches(folders: Mapping[str, Path | str], settings: PublicSettings) -> PublicPairs:
    """The batches of a mixture such as `mixture("sintel")`.

    `folders` has the folder of each collection that the mixture draws from: flyingchairs, flyingthings, sintel, kitti2012,
    kitti2015, hd1k. UsageError when one is missing (`settings.only(folders)` leaves its sets out), InputError when a folder
    is not laid out as the data set.
    """
    needed = sorted({SETS[part.name].collection for part in settings.parts})
    if missing := [name for name in needed if name not in folders]:
        raise UsageError(f"the mixture draws from {', '.join(needed)}; give the folder of {', '.join(missing)} too")
    return PublicPairs(
        [
            (read_training_set(part.name, folders[SETS[part.name].collection]), part.augmentation, part.repeat)
            for part in settings.parts
        ]
    )
