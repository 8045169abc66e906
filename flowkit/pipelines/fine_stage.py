"""The fine stage of an alignment on one pair: which pictures, at which size and where, by which method, per homography."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowkit.errors import UsageError
from flowkit.models.registry import model_spec
from flowkit.pipelines.evidence import Evidence
from flowkit.pipelines.fine import MARGIN, Layer, dis_pair, fine_layer
from flowkit.pipelines.fine_network import FineAligner, FineNetwork
from flowkit.pipelines.network import Settings
from flowkit.pipelines.prepare import Resize, resized, resized_image, scaled_points, working_size
from flowkit.pipelines.refinement import project, resize_matrix
from flowkit.types import Image, Matches, Size

AUTO = "auto"
"""In place of a model: RANSAC-Flow's network where all is one plane, DIS elsewhere."""
MAX_PIXELS = 2e6
"""Working size of the fine stage; the coarse stage and the result are at the original one."""
SHORT_SIDE = 480
"""Pixels, of the picture that RANSAC-Flow's network looks at."""
BEYOND = 0.25
"""Later homographies are looked at this share of the extent of their matches beyond them."""


class FineStage:
    """The fine flow of one pair under any homography, at the working size: by DIS unless a network is given."""

    witnesses: Matches | None = None
    """Matches that a network's flow has to go along with, or not; None to believe it."""
    plane = False
    """Whether the scene is one plane, or seen from one place."""

    def __init__(self, target: Image, source: Image, size: Size, network: FineNetwork | None = None) -> None:
        self.target, self.source, self.size, self.network = target, source, size, network
        self.picture = resized_image(target, size).rgb8

    def layer(
        self,
        matrix: np.ndarray,
        scales: Sequence[float] | None = None,
        *,
        seeds: Matches | None = None,
        around: np.ndarray | None = None,
    ) -> Layer:
        """Under a homography target -> source, in original pixels.

        A network goes over the pair at these shares of the working size in turn, each time from where it was before (None:
        its usual ones); DIS may be seeded with matches. `around` are points (N, 2) of the target that speak for the
        homography: only where they lie, and some way beyond, is it looked at.
        """
        window = slice(0, self.size[0]), slice(0, self.size[1])
        if around is not None:
            window = _window(scaled_points(around, self.target.size, self.size), self.size)
        matrix = matrix @ np.linalg.inv(resize_matrix(self.target.size, self.size)) @ _moved(window)
        picture = self.picture[window]
        if self.network is not None:
            layer = self._by_network(window, matrix, self.network, scales or self.network.scales)
        elif seeds is not None:
            layer = self._seeded(matrix, seeds)
        else:
            layer = fine_layer(picture, self.source.rgb8, matrix, dis_pair())
        return layer.within(window, self.size)

    def _seeded(self, matrix: np.ndarray, seeds: Matches) -> Layer:
        here = scaled_points(seeds.points0, self.target.size, self.size)
        # Where each match lies in the source once it is warped: what is left for the fine flow to do.
        there = project(np.linalg.inv(matrix), seeds.points1)
        close = np.isfinite(there).all(1) & (np.abs(there - here).max(1) < max(self.size))
        pad = int(MARGIN * max(self.size))
        seeded = dis_pair((here[close] + pad, there[close].astype(np.float32) + pad))
        return fine_layer(self.picture, self.source.rgb8, matrix, seeded, pad)

    def _by_network(
        self, window: tuple[slice, slice], matrix: np.ndarray, network: FineNetwork, scales: Sequence[float]
    ) -> Layer:
        """From small to large; what is found at one size is where the next one begins."""
        picture = self.picture[window]
        layer, full = None, (picture.shape[0], picture.shape[1])
        for scale in scales:
            size: Size = max(16, round(full[0] * scale)), max(16, round(full[1] * scale))
            before = None if layer is None else _enlarged_flow(layer.residual, size)
            working = matrix @ np.linalg.inv(resize_matrix(full, size))
            evidence = self._evidence(working, window, full, size)
            layer = fine_layer(
                resized(picture, size), self.source.rgb8, working, network, before=before, evidence=evidence
            )
        assert layer is not None
        return layer

    def _evidence(self, working: np.ndarray, window: tuple[slice, slice], full: Size, size: Size) -> Evidence | None:
        """What the matches say under a homography `working` -> source, in pixels of the window at `size`, of `full` before."""
        if self.witnesses is None:
            return None
        start = np.array([window[1].start, window[0].start])
        here = scaled_points(scaled_points(self.witnesses.points0, self.target.size, self.size) - start, full, size)
        residual = project(np.linalg.inv(working), self.witnesses.points1) - here
        seen = np.isfinite(residual).all(axis=1)
        return Evidence(here[seen], residual[seen].astype(np.float32), self.plane)


def _window(points: np.ndarray, size: Size) -> tuple[slice, slice]:
    """Rows and columns around points (N, 2), with a margin that surfaces go on in beyond their keypoints."""
    low, high = np.percentile(points, (1, 99), axis=0)
    margin = 32 + BEYOND * (high - low)
    left, top = np.floor(np.maximum(low - margin, 0)).astype(int)
    right, bottom = np.ceil(np.minimum(high + margin, (size[1], size[0]))).astype(int)
    return slice(int(top), max(int(bottom), int(top) + 16)), slice(int(left), max(int(right), int(left) + 16))


def _moved(window: tuple[slice, slice]) -> np.ndarray:
    """3x3: pixels of a window of a picture -> pixels of the picture."""
    return np.array([[1, 0, window[1].start], [0, 1, window[0].start], [0, 0, 1]], float)


def fine_network(model: str, settings: Settings, device: str) -> FineNetwork | None:
    """The network of that name, None for DIS and AUTO; UsageError for what neither is nor takes."""
    if model != AUTO:
        spec = model_spec(model)
        if spec.network:
            return (FineAligner if spec.coarse else FineNetwork)(spec, settings, device)
    given = (
        settings.weights is not None or settings.iterations is not None or settings.precision not in ("auto", "fp32")
    )
    if given:
        why = "chooses the method" if model == AUTO else "is no network"
        raise UsageError(f"--model {model}: {why}; leave --weights, --precision and --iters out")
    return None


def fine_size(size: Size, resize: Resize, network: FineNetwork | None) -> Size:
    """The working size of the fine stage: what `resize` says, else a shorter side of 480 for RANSAC-Flow's network."""
    if resize is None and isinstance(network, FineAligner):
        scale = SHORT_SIDE / min(size)
        size = max(16, round(size[0] * scale)), max(16, round(size[1] * scale))
    return working_size(size, resize, max_pixels=MAX_PIXELS)


def _enlarged_flow(residual: np.ndarray, size: Size) -> np.ndarray:
    """(H, W, 2) in pixels of a picture that grows to `size`."""
    import cv2

    scale = np.array([size[1] / residual.shape[1], size[0] / residual.shape[0]], np.float32)
    return cv2.resize(residual, size[::-1], interpolation=cv2.INTER_LINEAR) * scale
