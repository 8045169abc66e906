"""The photographs that every scene is textured with, held as uint8 on the device that renders."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowkit.errors import InputError
from flowkit.types import Size

log = logging.getLogger(__name__)

CUTOUT = 256
"""Side of a cut-out in pixels."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
LEVELS = 3
"""How many sizes of every photo are kept, each half the one before: a texture seen from afar is sampled without aliasing."""


@dataclass(frozen=True)
class PhotoStore:
    """N photos of one size at LEVELS scales, and M cut-outs with alpha.

    `levels[k]` is (N, H >> k, W >> k, 3) uint8 RGB. `cutouts` is (M, S, S, 4) uint8, colours not multiplied by alpha, the
    object centred and as large as it fits; M may be 0. `skipped` counts the files that could not be read.
    """

    levels: tuple[Tensor, ...]
    cutouts: Tensor
    names: tuple[str, ...] = ()
    skipped: int = 0
    texels: Tensor = field(init=False, repr=False)
    """(T, 3) uint8: every pixel of every level, one level after the other; `levels` are views of it."""

    def __len__(self) -> int:
        return int(self.levels[0].shape[0])

    @property
    def size(self) -> Size:
        """(height, width) of the photos at level 0."""
        return int(self.levels[0].shape[1]), int(self.levels[0].shape[2])

    @property
    def device(self) -> torch.device:
        """Where the photos are."""
        return self.levels[0].device

    def to(self, device: torch.device | str) -> PhotoStore:
        """The same photos on another device."""
        return PhotoStore(
            tuple(level.to(device) for level in self.levels), self.cutouts.to(device), self.names, self.skipped
        )

    def __post_init__(self) -> None:
        counts = [level.numel() // 3 for level in self.levels]
        texels = self.levels[0].new_empty((sum(counts), 3))
        parts = texels.split(counts)
        for part, level in zip(parts, self.levels, strict=True):
            part.copy_(level.reshape(-1, 3))
        object.__setattr__(self, "texels", texels)
        object.__setattr__(
            self, "levels", tuple(part.view(level.shape) for part, level in zip(parts, self.levels, strict=True))
        )

    @classmethod
    def from_arrays(
        cls, photos: list[np.ndarray], cutouts: list[np.ndarray] | None = None, size: Size = (480, 640)
    ) -> PhotoStore:
        """From (H, W, 3) uint8 pictures of any sizes, and (H, W, 4) cut-outs."""
        full = np.stack([covering(photo, size) for photo in photos])
        cut = (
            np.stack([fitted(cutout) for cutout in cutouts]) if cutouts else np.zeros((0, CUTOUT, CUTOUT, 4), np.uint8)
        )
        return cls(pyramid(full), torch.from_numpy(cut))

    @classmethod
    def from_folder(
        cls, folder: Path | str, cutouts: Path | str | None = None, size: Size = (480, 640), limit: int | None = None
    ) -> PhotoStore:
        """Every picture of the folder and its subfolders, and every cut-out (a picture with transparency) of `cutouts`.

        Unreadable files are skipped, counted and named in the log. InputError if a folder is missing or no photo of it can
        be read.
        """
        files = pictures(Path(folder))[:limit]
        shapes = pictures(Path(cutouts)) if cutouts is not None else []
        full = np.empty((len(files), *size, 3), np.uint8)
        names: list[str] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release Python's lock
            for file, photo in zip(files, pool.map(lambda file: _photo(file, size), files), strict=True):
                if photo is not None:
                    full[len(names)] = photo
                    names.append(file.name)
            cut = [figure for figure in pool.map(_cutout, shapes) if figure is not None]
        if not names:
            raise InputError(
                f"{folder}: none of its {len(files)} pictures can be read; give a folder of JPEG, PNG or WebP photographs"
            )
        skipped = len(files) - len(names) + len(shapes) - len(cut)
        if skipped:
            log.warning("%s: %d of %d pictures could not be used", folder, skipped, len(files) + len(shapes))
        stacked = np.stack(cut) if cut else np.zeros((0, CUTOUT, CUTOUT, 4), np.uint8)
        return cls(pyramid(full[: len(names)]), torch.from_numpy(stacked), tuple(names), skipped)


def pictures(folder: Path) -> list[Path]:
    """The picture files in the folder and its subfolders, sorted; InputError if it is no folder or has none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of photographs")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{folder}: no picture in it (looked for {', '.join(SUFFIXES)})")
    return found


def _photo(file: Path, size: Size) -> np.ndarray | None:
    import cv2

    from flowkit.io.images import read_image

    pixels = cv2.imread(
        str(file), cv2.IMREAD_COLOR_RGB
    )  # three times as fast as `read_image`, which takes what it refuses
    try:
        return covering(read_image(file).rgb8 if pixels is None else pixels, size)
    except InputError as error:
        log.warning("skipped: %s", error)
        return None


def _cutout(file: Path) -> np.ndarray | None:
    from PIL import Image as Pillow

    try:
        with Pillow.open(file) as picture:
            return fitted(np.array(picture.convert("RGBA")))
    except OSError as error:
        log.warning("skipped: %s (%s)", file, error)
        return None


def covering(photo: np.ndarray, size: Size) -> np.ndarray:
    """The centre of the picture, scaled so that it just covers `size`."""
    import cv2

    height, width = size
    scale = max(height / photo.shape[0], width / photo.shape[1])
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    rows, columns = max(height, round(photo.shape[0] * scale)), max(width, round(photo.shape[1] * scale))
    resized = cv2.resize(photo, (columns, rows), interpolation=interpolation)
    top, left = (rows - height) // 2, (columns - width) // 2
    return np.ascontiguousarray(resized[top : top + height, left : left + width])


def fitted(cutout: np.ndarray, side: int = CUTOUT) -> np.ndarray:
    """The cut-out's visible part, scaled into a square of `side` with a transparent rim."""
    import cv2

    rows, columns = np.nonzero(cutout[..., 3] > 8)
    if len(rows) == 0:
        return np.zeros((side, side, 4), np.uint8)
    part = cutout[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    room = side - 4
    scale = room / max(part.shape[:2])
    height, width = (max(1, round(n * scale)) for n in part.shape[:2])
    resized = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((side, side, 4), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = resized
    return square


def pyramid(photos: np.ndarray, levels: int = LEVELS) -> tuple[Tensor, ...]:
    """(N, H, W, 3) uint8 and its halved copies (area averages)."""
    import cv2

    result = [photos]
    for _ in range(levels - 1):
        count, height, width, _ = result[-1].shape
        half = np.empty((count, height // 2, width // 2, 3), np.uint8)
        for photo, small in zip(result[-1], half, strict=True):
            cv2.resize(photo, (width // 2, height // 2), dst=small, interpolation=cv2.INTER_AREA)
        result.append(half)
    return tuple(torch.from_numpy(level) for level in result)


def mirrored(points: Tensor, count: Tensor | float) -> Tensor:
    """Coordinates along an axis of `count` pixels, folded back at the picture's edges, half a pixel beyond the centres."""
    folded = torch.remainder(points + 0.5, 2 * count)
    return torch.minimum(folded, 2 * count - folded) - 0.5


def lookup(photos: PhotoStore, picture: Tensor, level: Tensor, points: Tensor) -> Tensor:
    """(N, P, 3) float32 in [0, 1]: photo `picture` (N,) at scale `level` (N,), bilinear, at `points` (N, P, 2).

    The points are pixels (x, y) of level 0; beyond its edges the photo is mirrored. Different photos and levels are read in
    one go, from all texels laid end to end.
    """
    sizes = torch.tensor([level.shape[1:3] for level in photos.levels], device=points.device)
    starts = torch.tensor([0, *(level.numel() // 3 for level in photos.levels[:-1])], device=points.device).cumsum(0)
    texels = photos.texels
    rows, columns = sizes[level].unbind(-1)
    start = starts[level] + picture * rows * columns
    scale = torch.exp2(-level.to(points.dtype))[:, None]
    x = mirrored((points[..., 0] + 0.5) * scale - 0.5, columns[:, None].to(points.dtype))
    y = mirrored((points[..., 1] + 0.5) * scale - 0.5, rows[:, None].to(points.dtype))
    left, top = x.floor(), y.floor()
    across, down = (x - left)[..., None], (y - top)[..., None]
    x0, y0 = left.long(), top.long()

    def texel(dx: int, dy: int) -> Tensor:
        column = (x0 + dx).clamp_min(0).minimum(columns[:, None] - 1)
        row = (y0 + dy).clamp_min(0).minimum(rows[:, None] - 1)
        return texels[start[:, None] + row * columns[:, None] + column].to(points.dtype)

    above = texel(0, 0).lerp(texel(1, 0), across)
    below = texel(0, 1).lerp(texel(1, 1), across)
    return above.lerp(below, down) / 255
