"""What every picture needs: resizing for the screen, panels side by side, and readable text on a dark plate."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from flowkit.errors import InputError
from flowkit.types import Size

Colour = tuple[int, int, int]

GREEN: Colour = (64, 220, 96)
RED: Colour = (240, 64, 56)
YELLOW: Colour = (255, 214, 64)
CYAN: Colour = (80, 220, 240)
WHITE: Colour = (255, 255, 255)
GAP = 6
"""Pixels between two panels."""


def same_size(*pictures: np.ndarray) -> Size:
    """The (height, width) that all pictures and masks share; InputError when they do not."""
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) != 1:
        listed = " and ".join(f"{w}x{h}" for h, w in sorted(sizes))
        raise InputError(f"pictures of different sizes ({listed}) cannot be overlaid; warp one onto the other first")
    return sizes.pop()


def resized(picture: np.ndarray, size: Size) -> np.ndarray:
    """The picture at `size` (height, width): area average when shrinking, linear when growing; always a copy."""
    import cv2

    height, width = max(1, size[0]), max(1, size[1])
    if (height, width) == picture.shape[:2]:
        return picture.copy()
    shrinking = height <= picture.shape[0] and width <= picture.shape[1]
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def fit_within(picture: np.ndarray, max_side: int) -> np.ndarray:
    """The picture shrunk until its longer side is at most `max_side`; smaller pictures are copied unchanged."""
    height, width = picture.shape[:2]
    scale = min(1.0, max_side / max(height, width))
    return resized(picture, (round(height * scale), round(width * scale)))


def equal_heights(sizes: list[Size], max_width: int, max_height: int = 1200) -> list[Size]:
    """Sizes with the original aspects and one common height that fit, with gaps, in a row of `max_width`."""
    aspect = sum(width / height for height, width in sizes)
    room = max_width - GAP * (len(sizes) - 1)
    common = max(1, round(min(max(height for height, _ in sizes), max_height, room / aspect)))
    return [(common, max(1, round(width * common / height))) for height, width in sizes]


def row(panels: list[np.ndarray], background: int = 255) -> np.ndarray:
    """Panels of one height joined left to right with a gap."""
    gap = np.full((panels[0].shape[0], GAP, 3), background, np.uint8)
    pieces = [piece for panel in panels for piece in (gap, panel)]
    return np.concatenate(pieces[1:], axis=1)


def text_size(picture: np.ndarray) -> int:
    """A font size in pixels that reads well on a picture of these dimensions."""
    return int(np.clip(min(picture.shape[:2]) / 24, 11, 26))


@lru_cache(maxsize=256)
def text_mask(text: str, size: int) -> np.ndarray:
    """The text as (h, w) float32 coverage in [0, 1], cropped to one line's height."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # the other kind comes only where no size is asked for
    ascent, descent = font.getmetrics()
    patch = Image.new("L", (max(1, round(font.getlength(text)) + 1), ascent + descent))
    ImageDraw.Draw(patch).text((0, 0), text, fill=255, font=font)
    return np.asarray(patch, np.float32) / 255


def draw_text(
    picture: np.ndarray,
    text: str,
    corner: tuple[str, str] = ("top", "left"),
    *,
    size: int | None = None,
    colour: Colour = WHITE,
) -> np.ndarray:
    """Write `text` into a corner of `picture`, in place, on a darkened plate; what does not fit is cut off."""
    mask = text_mask(text, size or text_size(picture))
    pad = max(2, mask.shape[0] // 5)
    mask = np.pad(mask, ((pad, pad), (2 * pad, 2 * pad)))[: picture.shape[0], : picture.shape[1]]
    height, width = mask.shape
    top = 0 if corner[0] == "top" else picture.shape[0] - height
    left = 0 if corner[1] == "left" else picture.shape[1] - width
    place = picture[top : top + height, left : left + width]
    coverage = mask[..., None]
    place[:] = np.rint(place * (0.35 * (1 - coverage)) + np.asarray(colour, np.float32) * coverage).astype(np.uint8)
    return picture
