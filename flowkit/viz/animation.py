"""Two pictures in turn, the best way to see whether they are aligned, as the bytes of a GIF or WebP file."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from flowkit.errors import UsageError
from flowkit.viz import canvas

FORMATS = ("gif", "webp")


def blink(
    a: np.ndarray,
    b: np.ndarray,
    fmt: str = "gif",
    duration_ms: int = 500,
    labels: tuple[str, str] | None = None,
    max_side: int = 640,
) -> bytes:
    """An endless animation of a and b, (H, W, 3) uint8 of one size, shrunk to `max_side`; always the same bytes."""
    return in_turn((a, b), fmt, duration_ms, labels or (), max_side)


def in_turn(
    pictures: Sequence[np.ndarray],
    fmt: str = "gif",
    duration_ms: int = 500,
    labels: Sequence[str] = (),
    max_side: int = 640,
) -> bytes:
    """The same of any number of pictures."""
    canvas.same_size(*pictures)
    frames = [canvas.fit_within(picture, max_side) for picture in pictures]
    for frame, label in zip(frames, labels, strict=False):
        canvas.draw_text(frame, label)
    return encode_frames(frames, fmt, duration_ms)


def encode_frames(frames: Sequence[np.ndarray], fmt: str = "gif", duration_ms: int = 500) -> bytes:
    """Frames of one size as an endless animation. GIF frames share one palette, so that colours do not flicker."""
    from PIL import Image

    if fmt not in FORMATS:
        raise UsageError(f"animation format {fmt!r} is not known; use one of {', '.join(FORMATS)}")
    height, _ = canvas.same_size(*frames)
    if fmt == "gif":
        together = Image.fromarray(np.concatenate(frames)).quantize(256, Image.Quantize.MEDIANCUT)
        tops = range(0, together.height, height)
        pages = [together.crop((0, top, together.width, top + height)) for top in tops]
        options = {"optimize": False, "disposal": 1}
    else:
        pages = [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]
        options = {"quality": 85, "method": 4}
    file = io.BytesIO()
    pages[0].save(file, fmt, save_all=True, append_images=pages[1:], duration=duration_ms, loop=0, **options)
    return file.getvalue()
