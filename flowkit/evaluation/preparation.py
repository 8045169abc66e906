"""The pictures as methods see them: as they are on disk, or as a protocol prepares them (another size, a warp, a margin).

The only place where the bench changes a picture. Truth and answers are in the pixels of what comes out here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flowkit.datasets.samples import Preparation, Sample
from flowkit.io.images import image_header, read_image
from flowkit.types import Image, Size


def prepared_images(sample: Sample) -> tuple[Image, Image]:
    """Both images of a sample."""
    return _prepared(sample.image0, sample.preparation0), _prepared(sample.image1, sample.preparation1)


def prepared_sizes(sample: Sample) -> tuple[Size, Size]:
    """The (height, width) of both, without decoding them."""
    pairs = ((sample.image0, sample.preparation0), (sample.image1, sample.preparation1))
    size0, size1 = (_size(preparation) if preparation else image_header(path) for path, preparation in pairs)
    return size0, size1


def _size(preparation: Preparation) -> Size:
    return preparation.padded or preparation.size


def preparation_key(sample: Sample) -> list[object]:
    """What a kept prediction depends on, ready for JSON; empty when nothing is done to the images."""
    done = [sample.preparation0, sample.preparation1]
    if done == [None, None]:
        return []
    return [each and _key(each) for each in done]


def _key(each: Preparation) -> list[object]:
    return [each.size, each.lanczos, None if each.warp is None else each.warp.tolist(), each.padded]


def _prepared(path: Path, preparation: Preparation | None) -> Image:
    image = read_image(path)
    if preparation is None:
        return image
    pixels = _resized(image.rgb8, preparation)
    if preparation.warp is not None:
        import cv2

        pixels = cv2.warpPerspective(
            pixels, preparation.warp, (pixels.shape[1], pixels.shape[0]), flags=cv2.INTER_LINEAR
        )
    if preparation.padded is not None:
        (height, width), (to_height, to_width) = pixels.shape[:2], preparation.padded
        pixels = np.pad(pixels, ((0, to_height - height), (0, to_width - width), (0, 0)))
    return Image(np.ascontiguousarray(pixels), image.path, image.notes)


def _resized(pixels: np.ndarray, preparation: Preparation) -> np.ndarray:
    height, width = preparation.size
    if pixels.shape[:2] == (height, width):
        return pixels
    if preparation.lanczos:
        import PIL.Image

        return np.asarray(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.LANCZOS))
    import cv2

    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
