"""Sequences of frames: a folder of pictures or a video file, read one frame at a time."""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError
from flowkit.io import images
from flowkit.io.inputs import check_input, decoding, one_line
from flowkit.types import Image, Size

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".3gp", ".ogv", ".gif"
)  # fmt: skip
"""ffmpeg would also "play" text files and fetch play lists, so only these are handed to it."""

Frame = tuple[str, Image]


class Sequence(ABC):
    """Frames in order, each decoded when it is asked for; iterating again starts from the beginning.

    `path` is where they come from, `length` how many there are and `fps` how many a second, None where unknown.
    """

    path: Path
    length: int | None = None
    fps: float | None = None

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]:
        """Give (name, image) of every frame."""

    def chosen(self, start: int = 0, stop: int | None = None, every: int = 1) -> Iterator[tuple[int, str, Image]]:
        """Give (place in the sequence from 0, name, image) of every so many-th frame from `start` to before `stop`."""
        for place, (name, image) in islice(enumerate(self), start, stop, every):
            yield place, name, image

    def pairs(self) -> Iterator[tuple[Frame, Frame]]:
        """Give every two consecutive frames; each frame is decoded once and two are held at most."""
        previous: Frame | None = None
        count = 0
        for frame in self:
            if previous is not None:
                yield previous, frame
            previous = frame
            count += 1
        if count < 2:
            raise InputError(f"{self.path}: has {count} frame{'s' * (count != 1)}, a sequence needs at least two")


class Folder(Sequence):
    """The pictures of a folder in natural order (frame2 before frame10); a frame's name is its file name."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """List the folder; nothing is decoded yet."""
        self.path = Path(path)
        try:
            entries = list(self.path.iterdir())
        except OSError as error:
            raise InputError(f"{path}: cannot list the folder ({one_line(error)}); make it readable for you") from None
        self.files = sorted((file for file in entries if _is_frame(file)), key=lambda file: natural_key(file.name))
        self.length = len(self.files)
        if self.length < 2:
            raise InputError(
                f"{path}: has {self.length} picture{'s' * (self.length != 1)} ({' '.join(images.SUFFIXES)}), "
                "a sequence needs at least two"
            )

    def __iter__(self) -> Iterator[Frame]:
        """Give (file name, image) of every picture."""
        for file in self.files:
            yield file.name, images.read_image(file)

    def chosen(self, start: int = 0, stop: int | None = None, every: int = 1) -> Iterator[tuple[int, str, Image]]:
        """As above; frames in between are not even read."""
        for place in range(len(self.files))[start:stop:every]:
            yield place, self.files[place].name, images.read_image(self.files[place])


class Video(Sequence):
    """The frames of a video file, decoded by ffmpeg as it goes; a frame's name is its number, "000000" the first."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the header; how many frames there are is known only at the end."""
        self.path = check_input(path, "a video")
        with decoding(path, "a video"), closing(self._decoder()) as decoder:
            header = next(decoder)
            fps = float(header.get("fps") or 0)
            self.fps = fps if fps > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        """Give (number, image) of every frame."""
        index = -1
        with closing(self._decoder()) as decoder:
            with decoding(self.path, "a video"):
                size = _upright_size(next(decoder))
            while True:
                with decoding(self.path, "a video"):
                    data = next(decoder, None)
                if data is None:
                    break
                index += 1
                name = f"{index:06d}"
                pixels = np.frombuffer(data, np.uint8).reshape(*size, 3)
                yield name, Image(pixels, f"{self.path}#{name}")
        if index < 0:
            raise InputError(f"{self.path}: has no frame that can be decoded; the video is damaged, encode it again")

    def _decoder(self) -> Generator[Any]:
        """imageio's generator: a dict about the video first, then every frame as RGB bytes, turned upright by ffmpeg."""
        import imageio_ffmpeg

        logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)  # it remarks on every video that is turned
        # An absolute path, because ffmpeg takes "clip:1.mp4" for a protocol; passthrough gives every coded frame once,
        # where a constant rate would repeat and drop frames of phone videos.
        options = ["-fps_mode", "passthrough"]
        try:
            yield from imageio_ffmpeg.read_frames(str(self.path.resolve()), output_params=options)
        except (OSError, RuntimeError) as error:  # carries all that ffmpeg printed; what went wrong comes last
            raise ValueError(str(error).strip().splitlines()[-1]) from error


def open_sequence(path: str | os.PathLike[str]) -> Sequence:
    """Open a folder of pictures or a video file; InputError if it is neither or has too few frames."""
    file = Path(path)
    if file.is_dir():
        return Folder(path)
    check_input(path, "a folder of pictures or a video")
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        raise InputError(
            f"{path}: is neither a folder of pictures nor a video ({' '.join(VIDEO_SUFFIXES)}); give one of these"
        )
    return Video(path)


def natural_key(name: str) -> tuple:
    """Sort key that reads digits as numbers: frame2 before frame10."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name


def _is_frame(file: Path) -> bool:
    return not file.name.startswith(".") and file.suffix.lower() in images.SUFFIXES and file.is_file()


def _upright_size(header: dict) -> Size:
    width, height = header["size"]
    return int(height), int(width)
