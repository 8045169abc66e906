"""Matches against image1 turned and zoomed, for pairs that do not match as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from flowkit.pipelines.match import FeatureChoice, match
from flowkit.pipelines.prepare import resized_image, scaled_points
from flowkit.types import Image, Matches

TURNS = (1, 2, 3)
ZOOMS = (2.0, 0.5)
MAX_ZOOMED_SIDE = 2400


def variants(
    image0: Image, image1: Image, *, features: FeatureChoice | None, device: str, seed: int
) -> Iterator[Matches]:
    """Matches with image1 turned by quarter turns, then zoomed; their points are in the original pixels of both."""
    for turns in TURNS:
        yield _turned(image0, image1, turns, features, device, seed)
    for zoom in ZOOMS:
        if zoom * max(image1.size) <= MAX_ZOOMED_SIDE:
            yield _zoomed(image0, image1, zoom, features, device, seed)


def _turned(
    image0: Image, image1: Image, turns: int, features: FeatureChoice | None, device: str, seed: int
) -> Matches:
    import torch

    from flowkit.geometry.grids import rotate90_points, rotate90_size

    turned = Image(np.ascontiguousarray(np.rot90(image1.rgb8, turns)), image1.path)
    found = match(image0, turned, features=features, device=device, seed=seed)
    points = torch.as_tensor(found.keypoints1)
    back = rotate90_points(points, rotate90_size(image1.size, turns), -turns % 4).numpy()
    return replace(found, keypoints1=back, size1=image1.size)


def _zoomed(
    image0: Image, image1: Image, zoom: float, features: FeatureChoice | None, device: str, seed: int
) -> Matches:
    size = max(16, round(image1.size[0] * zoom)), max(16, round(image1.size[1] * zoom))
    found = match(image0, resized_image(image1, size), features=features, device=device, seed=seed)
    return replace(found, keypoints1=scaled_points(found.keypoints1, size, image1.size), size1=image1.size)
