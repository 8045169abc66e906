"""The first homography of an alignment: at the images' own scale, and if support is weak at others and rotated."""

from __future__ import annotations

import numpy as np

from flowkit.pipelines.homography import from_matches, homography
from flowkit.pipelines.match import match
from flowkit.types import Homography, Image, Matches, Status

ENOUGH = 30
"""Inliers with which the first try is taken without looking further."""
TURNS = (1, 2, 3)
ZOOMS = (2.0, 0.5)


def find(
    image0: Image, image1: Image, *, features: str | None, effort: str, threshold: float, device: str, seed: int
) -> Homography:
    """The homography image0 -> image1 with the most inliers over quarter turns and changes of scale of image1."""
    best = homography(image0, image1, features=features, effort=effort, threshold=threshold, device=device, seed=seed)
    if (
        effort == "high"
        or support(best) >= ENOUGH
        or (best.status is Status.TOO_FEW_MATCHES and _blank(image0, image1))
    ):
        return best
    for turns, zoom in [(turns, 1.0) for turns in TURNS] + [(0, zoom) for zoom in ZOOMS]:
        other = from_matches(_transformed(image0, image1, turns, zoom, features, device, seed), threshold, seed)
        # A turned picture must beat, not just match, what chance gives.
        if support(other) > max(1.2 * support(best), 12):
            best = other
        if support(best) >= ENOUGH:
            break
    return best


def support(found: Homography) -> int:
    """How many matches agree with it; 0 without a matrix."""
    return 0 if found.matrix is None or found.matches.inliers is None else int(found.matches.inliers.sum())


def _blank(image0: Image, image1: Image) -> bool:
    from flowkit.pipelines.prepare import is_blank

    return is_blank(image0) or is_blank(image1)


def _transformed(
    image0: Image, image1: Image, turns: int, zoom: float, features: str | None, device: str, seed: int
) -> Matches:
    """Matches against image1 turned by quarter turns or zoomed, their points back in image1's own pixels."""
    from dataclasses import replace

    import torch

    from flowkit.geometry.grids import rotate90_points, rotate90_size

    if turns:
        turned = Image(np.ascontiguousarray(np.rot90(image1.rgb8, turns)), image1.path)
        found = match(image0, turned, features=features, device=device, seed=seed)
        points = torch.as_tensor(found.keypoints1)
        back = rotate90_points(points, rotate90_size(image1.size, turns), -turns % 4).numpy()
        return replace(found, keypoints1=back, size1=image1.size)
    from flowkit.pipelines.prepare import resized_image, scaled_points

    size = max(16, round(image1.size[0] * zoom)), max(16, round(image1.size[1] * zoom))
    if max(size) > 2400:
        size = image1.size
    found = match(image0, resized_image(image1, size), features=features, device=device, seed=seed)
    return replace(found, keypoints1=scaled_points(found.keypoints1, size, image1.size), size1=image1.size)
