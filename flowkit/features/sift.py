"""SIFT (Lowe, IJCV 2004) with RootSIFT descriptors (Arandjelovic and Zisserman, CVPR 2012), on OpenCV."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from flowkit.features.base import assemble, nothing, working
from flowkit.types import Features, Image


class Sift:
    """OpenCV's SIFT with a low contrast threshold; a place with several orientations gives several keypoints.

    OpenCV's default first octave moves every keypoint by +0.25 pixel; `enable_precise_upscale` does not.
    """

    name = "sift"
    weights: Mapping[str, str] = {}

    def __init__(
        self, *, max_keypoints: int | None = None, max_side: int | None = None, contrast_threshold: float = 0.01
    ) -> None:
        self.max_keypoints = 8000 if max_keypoints is None else max_keypoints
        self.max_side = max_side
        self.contrast_threshold = contrast_threshold

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first; descriptors have unit length."""
        import cv2

        work = working(image, max_side=self.max_side, grey=True)
        sift = cv2.SIFT_create(
            nfeatures=self.max_keypoints if mask is None else 0,
            contrastThreshold=self.contrast_threshold,
            enable_precise_upscale=True,
        )
        found, descriptors = sift.detectAndCompute(work.pixels, None)
        if not found:
            return nothing(image.size, self.name, 128)
        x, y, scales, angles, scores = np.array([(*k.pt, k.size / 2, k.angle, k.response) for k in found]).T
        return assemble(
            work,
            self.name,
            np.stack([x, y], axis=1),
            root_sift(descriptors),
            scores,
            mask=mask,
            max_keypoints=self.max_keypoints,
            scales=scales,
            angles=angles,
        )


def root_sift(descriptors: np.ndarray) -> np.ndarray:
    """(N, 128) SIFT descriptors -> their square roots after L1 normalisation, which have unit length."""
    return np.sqrt(descriptors / np.maximum(descriptors.sum(axis=1, keepdims=True), 1e-12))
