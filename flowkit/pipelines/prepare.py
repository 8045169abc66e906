"""What every pipeline does before it starts: load both images, choose the device and the size to work at."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np

from flowkit.errors import InputError, UsageError
from flowkit.io.images import as_image
from flowkit.types import Image, Size

MIN_SIDE = 16
"""Pixels; below this neither features nor dense methods have anything to hold on to."""

Resize = int | Size | None
"""Working size: the longer side in pixels, an exact (height, width), or None to choose."""


def load_pair(image0: object, image1: object) -> tuple[Image, Image]:
    """Both images (anything `as_image` takes); InputError naming the one that is under MIN_SIDE pixels a side."""
    images = as_image(image0), as_image(image1)
    for image in images:
        if min(image.size) < MIN_SIDE:
            height, width = image.size
            raise InputError(f"{image.name}: {width}x{height} pixels is too small; both sides need at least {MIN_SIDE}")
    return images


def is_blank(image: Image) -> bool:
    """True when every pixel has the same grey: there is nothing to match."""
    low, high = int(image.grey8.min()), int(image.grey8.max())
    return low == high


def resolve_device(device: str) -> str:
    """`auto` becomes cuda where there is a GPU; UsageError for a device that this machine does not have."""
    if device == "cpu" or (device == "auto" and not _has_gpu()):
        return "cpu"
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {device}: this machine or this build of torch has no CUDA; use --device cpu")
        if index and (not index.isdigit() or int(index) >= torch.cuda.device_count()):
            raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return device
    if kind == "mps" and not index:
        if not torch.backends.mps.is_available():
            raise UsageError("--device mps: this machine has no Metal GPU; use --device cpu")
        return device
    raise UsageError(f"--device {device}: use auto, cpu, cuda, cuda:N or mps")


def _has_gpu() -> bool:
    """Whether torch might find a GPU; False only where it surely does not, which is known long before torch is there."""
    if not sys.platform.startswith("linux") or Path("/dev/kfd").exists():  # AMD's
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def working_size(
    size: Size, resize: Resize = None, *, max_pixels: float | None = None, max_side: int | None = None
) -> Size:
    """The size to work at: what `resize` asks for, else the image's own, shrunk to the given limits."""
    height, width = size
    if isinstance(resize, tuple):
        if min(resize) < MIN_SIDE:
            raise UsageError(f"--resize {resize[1]}x{resize[0]}: both sides need at least {MIN_SIDE} pixels")
        return resize
    scale = 1.0
    if resize is not None:
        if resize < MIN_SIDE:
            raise UsageError(f"--resize {resize}: needs at least {MIN_SIDE} pixels")
        scale = resize / max(size)
    else:
        if max_pixels is not None:
            scale = min(scale, (max_pixels / (height * width)) ** 0.5)
        if max_side is not None:
            scale = min(scale, max_side / max(size))
    if scale == 1.0:
        return size
    return max(MIN_SIDE, round(height * scale)), max(MIN_SIDE, round(width * scale))


def resized(pixels: np.ndarray, size: Size) -> np.ndarray:
    """(H, W[, C]) resampled to `size`: by area when shrinking, else cubic; x' = (x + 0.5) s - 0.5."""
    import cv2

    if pixels.shape[:2] == size:
        return pixels
    shrinks = size[0] <= pixels.shape[0] and size[1] <= pixels.shape[1]
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def resized_image(image: Image, size: Size) -> Image:
    """The image's 8-bit pixels at `size`, under the same name."""
    return image if image.size == size else Image(resized(image.rgb8, size), image.path, image.notes)


def scaled_points(points: np.ndarray, size_from: Size, size_to: Size) -> np.ndarray:
    """(N, 2) points of an image of one size in the same image at another (half-pixel rule)."""
    scale = np.array([size_to[1] / size_from[1], size_to[0] / size_from[0]])
    return (((points + 0.5) * scale) - 0.5).astype(np.float32)


def size_note(image: Image, size: Size) -> str | None:
    """One line for the log and the JSON when an image was not used at its own size."""
    if image.size == size:
        return None
    return f"{image.name}: worked at {size[1]}x{size[0]}, results are in its original {image.size[1]}x{image.size[0]} pixels"
