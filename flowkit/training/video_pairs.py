"""Training pairs from videos of a camera whose K is known: frames a little apart, and nothing else known of them.

>>> source = open_videos({"video": Path("drive.mp4")}, K="707,707,601,183", gap=2)       # doctest: +SKIP
>>> pairs = source.batch(4, (128, 192), seed=7)      # PairBatch with K0 and K1; nothing valid  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch

from flowkit.batch import PairBatch
from flowkit.datasets.colmap_model import read_colmap_views
from flowkit.datasets.posed_views import View
from flowkit.errors import InputError, UsageError
from flowkit.geometry.pose import relative_pose
from flowkit.io.cameras import parse_intrinsics
from flowkit.io.images import read_image
from flowkit.io.sequences import Folder, Video, open_sequence
from flowkit.pipelines.prepare import resized
from flowkit.training.augment import Placement
from flowkit.training.posed_windows import placement_matrix, scales
from flowkit.types import Size

log = logging.getLogger(__name__)

COLLECTION = "video"
"""Its name for --data."""
_LEAST_SHARE = 0.5
"""A crop shows between all of its frame, as far as their shapes allow, and this share of its area."""
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 97]
"""Decoded frames of a video file are kept so: a frame can only be had by decoding all before it."""
_TINY = 1e-6
"""Shorter translations are none."""


@dataclass(frozen=True)
class Clip:
    """Frames (H, W, 3) uint8 RGB in order, each read when it is asked for, with K (N, 3, 3) in their pixels.

    `T` (N, 4, 4), world to camera, is known of clips that were reconstructed, up to their scale.
    """

    name: str
    frames: Sequence[Callable[[], np.ndarray]]
    K: np.ndarray
    T: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.frames)


class VideoPairs:
    """Crops of two frames at one place; what it gives depends on its arguments alone."""

    def __init__(self, clips: Sequence[Clip], gap: int) -> None:
        self.clips, self.gap = clips, gap
        self._ends = np.cumsum([len(clip) - 1 for clip in clips])

    def __len__(self) -> int:
        """How many pairs of neighbours there are."""
        return int(self._ends[-1])

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size` (height, width), 1 to `gap` frames apart, in either order, drawn with `seed`; on the CPU.

        `flow` is 0 and `valid` False everywhere: it is not known. K refers to the crops; R and t, |t| = 1, are there if they
        are known of all pairs. InputError, naming the frame, when one cannot be read.
        """
        rng = np.random.default_rng([seed, 7])
        pairs = [self._pair(size, child) for child in rng.spawn(count)]
        image0, image1 = (
            torch.from_numpy(np.stack([np.moveaxis(pair.pictures[k], -1, 0) for pair in pairs])).float().div_(255)
            for k in (0, 1)
        )
        K0, K1 = (torch.from_numpy(np.stack([pair.K[k] for pair in pairs])).float() for k in (0, 1))
        motions = [pair.motion for pair in pairs if pair.motion is not None]
        known = {}
        if len(motions) == count:
            T = torch.from_numpy(np.stack(motions)).float()
            known = {"R": T[:, :3, :3].contiguous(), "t": T[:, :3, 3].contiguous()}
        return PairBatch(
            image0=image0,
            image1=image1,
            flow=torch.zeros(count, 2, *size),
            valid=torch.zeros(count, *size, dtype=torch.bool),
            K0=K0,
            K1=K1,
            **known,
            made={"family": COLLECTION, "names": [pair.name for pair in pairs]},
        )

    def _pair(self, size: Size, rng: np.random.Generator) -> _Pair:
        number = int(rng.integers(len(self)))
        which = int(np.searchsorted(self._ends, number, side="right"))
        clip = self.clips[which]
        first = number - (int(self._ends[which - 1]) if which else 0)
        second = min(first + int(rng.integers(1, self.gap + 1)), len(clip) - 1)
        indices = (first, second) if rng.random() < 0.5 else (second, first)
        pictures = [clip.frames[index]() for index in indices]
        name = f"{clip.name} {indices[0]} {indices[1]}"
        if pictures[0].shape != pictures[1].shape:
            raise InputError(f"{name}: frames of different sizes; all frames of a video must have the same")
        placement = _placement(pictures[0].shape[:2], size, rng)
        cut = [placement.cut(resized(picture, placement.resized)) for picture in pictures]
        K = [placement_matrix(placement) @ clip.K[index] for index in indices]
        motion = None if clip.T is None else _motion(*(clip.T[index] for index in indices))
        return _Pair(name, (cut[0], cut[1]), (K[0], K[1]), motion)


@dataclass(frozen=True)
class _Pair:
    name: str
    pictures: tuple[np.ndarray, np.ndarray]
    K: tuple[np.ndarray, np.ndarray]
    motion: np.ndarray | None


def open_videos(folders: Mapping[str, Path], K: str, gap: int) -> VideoPairs:
    """The pairs of `folders["video"]`: a video file, a folder of frames, or one of scenes that COLMAP has reconstructed.

    `K` is "fx,fy,cx,cy" or a file with a 3x3 matrix, in pixels of the frames; scenes (images/ and sparse/) have their own, and
    poses. UsageError for other names and a K that is missing or wrong, InputError for fewer than two frames.
    """
    if unknown := sorted(folders.keys() - {COLLECTION}):
        raise UsageError(f"--data {unknown[0]}=...: egoflow learns from --video PATH (or --data {COLLECTION}=PATH)")
    return VideoPairs(_clips(folders[COLLECTION].resolve(), K), gap)


@lru_cache(maxsize=2)
def _clips(path: Path, K: str) -> list[Clip]:
    """Opened once a process, whatever the stages."""
    scenes = read_colmap_views(path) if path.is_dir() else {}
    if scenes:
        if K:
            raise UsageError(f"--K {K}: {path} was reconstructed, which gives K; leave --K out")
        clips = [_of_views(name, views) for name, views in scenes.items() if len(views) > 1]
        if not clips:
            raise InputError(f"{path}: no scene has two frames with a pose; reconstruct more pictures")
    else:
        clips = [_of_sequence(path, K)]
    log.info("%s: %d frames", path, sum(len(clip) for clip in clips))
    return clips


def _of_views(name: str, views: list[View]) -> Clip:
    K, T = (np.stack([getattr(view, field) for view in views]) for field in ("K", "T"))
    return Clip(name, [view.read for view in views], K, T)


def _of_sequence(path: Path, K: str) -> Clip:
    sequence = open_sequence(path)
    if not K:
        raise UsageError(f"{path}: its camera's K is not known; give --K fx,fy,cx,cy or a file with a 3x3 matrix")
    frames: list[Callable[[], np.ndarray]]
    if isinstance(sequence, Folder):
        frames = [partial(_read, file) for file in sequence.files]
    else:
        assert isinstance(sequence, Video)
        frames = [partial(_decoded, _encoded(image.rgb8)) for _, image in sequence]
    if len(frames) < 2:
        raise InputError(f"{path}: has {len(frames)} frame, a video needs at least two")
    size = frames[0]().shape[:2]
    matrix = parse_intrinsics(K, (int(size[0]), int(size[1])))
    return Clip(path.name, frames, np.broadcast_to(matrix, (len(frames), 3, 3)))


def _read(file: Path) -> np.ndarray:
    return read_image(file).rgb8


def _encoded(rgb: np.ndarray) -> np.ndarray:
    return cv2.imencode(".jpg", rgb[..., ::-1], _JPEG)[1]


def _decoded(data: np.ndarray) -> np.ndarray:
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]


def _placement(full: tuple[int, ...], crop: Size, rng: np.random.Generator) -> Placement:
    size = int(full[0]), int(full[1])
    smallest, largest = scales(size, crop, _LEAST_SHARE)
    scale = smallest * (largest / smallest) ** rng.random()
    shown: Size = max(crop[0], round(size[0] * scale)), max(crop[1], round(size[1] * scale))
    corner = int(rng.integers(shown[1] - crop[1] + 1)), int(rng.integers(shown[0] - crop[0] + 1))
    return Placement(size, shown, (False, False), corner, crop)


def _motion(T0: np.ndarray, T1: np.ndarray) -> np.ndarray | None:
    """(4, 4) with |t| = 1; None where the camera stands still."""
    T = relative_pose(torch.from_numpy(T0), torch.from_numpy(T1)).numpy()
    length = np.linalg.norm(T[:3, 3])
    if length < _TINY:
        return None
    T[:3, 3] /= length
    return T
