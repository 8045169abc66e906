"""What a run learns from: the photos, parted into those to train on and those held out, or public data sets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.synth.photos import PhotoStore

if TYPE_CHECKING:
    import torch

    from flowkit.training.recipe import Recipe

log = logging.getLogger(__name__)

_HELD_OUT = 0.05
"""The share of the photos that is held out where the folder does not say which."""


@dataclass(frozen=True)
class Material:
    """The photos to train on and those to validate on, and the folders of public data sets, by collection.

    Photos may be None: then there is nothing of that kind.
    """

    photos: PhotoStore | None = None
    held_out: PhotoStore | None = None
    data: Mapping[str, Path] = field(default_factory=dict)

    def to(self, device: torch.device) -> Material:
        """The same with the photos to train on, and so their rendering, on another device."""
        return self if self.photos is None else replace(self, photos=self.photos.to(device))

    @property
    def skipped(self) -> int:
        """Pictures that could not be read."""
        held_out = 0 if self.held_out is None or self.held_out is self.photos else self.held_out.skipped
        return held_out + (0 if self.photos is None else self.photos.skipped)

    def renders_on_gpu(self, recipe: Recipe) -> bool:
        """Whether the recipe's pairs are rendered by something else than the CPU."""
        return recipe.renders and self.photos is not None and self.photos.device.type != "cpu"


def read_photos(folder: Path) -> Material:
    """The photos of a folder. Its subfolders train/, val/ and cutouts/ are used as such, where it has them.

    Without val/, about 5 % of the photos are held out, chosen by their names, so that every run chooses the same. InputError
    when no photo can be read; unreadable ones are skipped and counted.
    """
    train, held, cutouts = (folder / name for name in ("train", "val", "cutouts"))
    shapes = cutouts if cutouts.is_dir() else None
    if train.is_dir() and held.is_dir():
        return Material(PhotoStore.from_folder(train, shapes), PhotoStore.from_folder(held, shapes))
    store = PhotoStore.from_folder(train if train.is_dir() else folder, shapes)
    return parted(store)


def parted(store: PhotoStore) -> Material:
    """Hold some photos out, at least one; of a single photo both parts are that one."""
    if len(store) == 1:
        log.warning("only one photo: the scenes of the validation are made from it, too, and say little")
        return Material(store, store)
    marks = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in store.names]
    count = max(1, round(_HELD_OUT * len(store)))
    chosen = set(sorted(range(len(store)), key=lambda index: marks[index])[:count])
    train = [index for index in range(len(store)) if index not in chosen]
    return Material(_some(store, train, store.skipped), _some(store, sorted(chosen), 0))


def _some(store: PhotoStore, indices: list[int], skipped: int) -> PhotoStore:
    levels = tuple(level[indices] for level in store.levels)
    return PhotoStore(levels, store.cutouts, tuple(store.names[index] for index in indices), skipped)
