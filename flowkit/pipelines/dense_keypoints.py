"""Matches of the keypoints of a set's images by a dense flow, without descriptors: what COLMAP and hloc can use of it.

RANSAC-Flow's way to localise Aachen's night (Shen et al., ECCV 2020, section 4.3): a sparse detector says where an image has
points that others see as well, the flow says where they went, and what it leads to is the other image's keypoint next to there.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import UsageError
from flowkit.features.guided import RADIUS
from flowkit.features.matching import merge
from flowkit.features.registry import extractor
from flowkit.features.remembered import Remembered
from flowkit.models.registry import model_spec
from flowkit.pipelines.dense_matches import TRUSTED, usable
from flowkit.pipelines.flow import flow
from flowkit.pipelines.guide import INIT, MAX_SIDE, at_size
from flowkit.pipelines.match import FeatureChoice, chosen_features, working_pair
from flowkit.pipelines.prepare import Resize, load_pair, resolve_device
from flowkit.types import Features, Flow, Image, Matches

DETECTOR = "xfeat"
"""Whose keypoints they are unless told otherwise. The paper has SuperPoint's, whose weights the user brings."""


class DenseSetMatcher:
    """Matches pairs of images with different names, as `image_set.SetMatcher`; an image has the same keypoints in every pair.

    `model` is any of `flowkit.pipelines.flow.flow`, `dense` further options of it (weights, iterations, precision); those
    that do not themselves find what is far begin with sparse matches. `radius` is in original pixels.
    """

    def __init__(
        self,
        *,
        model: str,
        features: FeatureChoice | None = None,
        feature_weights: Mapping[str, str | Path] | None = None,
        radius: float = RADIUS,
        max_keypoints: int | None = None,
        resize: Resize = None,
        device: str = "auto",
        seed: int = 0,
        store: MutableMapping[str, Features] | None = None,
        **dense: Any,
    ) -> None:
        if not radius > 0:
            raise UsageError(f"radius {radius:g}: give more than 0 pixels")
        init = None if model_spec(model).coarse else INIT
        chosen = chosen_features(features or DETECTOR, feature_weights)
        self.resize, self.device, self.radius = resize, resolve_device(device), radius
        self.dense = {"model": model, "init": init, "seed": seed, "device": self.device, **dense}
        store, files = {} if store is None else store, dict(chosen.files)
        self.detectors = [
            Remembered(extractor(name, device=self.device, max_keypoints=max_keypoints, weights=files.get(name)), store)
            for name in chosen.parts
        ]

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in original pixels of both; both sets of keypoints are whole, also where nothing matches."""
        pair = load_pair(image0, image1)
        work = working_pair(pair, self.resize)
        resize = MAX_SIDE if self.resize is None and max(pair[0].size) > MAX_SIDE else self.resize
        found = flow(*pair, bidirectional=True, resize=resize, **self.dense)
        parts = []
        for detector in self.detectors:
            features0, features1 = (
                at_size(detector.extract(small), image.size) for small, image in zip(work, pair, strict=True)
            )
            parts.append(match_keypoints(features0, features1, found, self.radius))
        return merge(parts)


def match_keypoints(features0: Features, features1: Features, flow: Flow, radius: float = RADIUS) -> Matches:
    """Each keypoint of image0 with the one of image1 that is nearest to where the flow image0 -> image1 leads it.

    At most `radius` pixels of image1 from there; of several that lead to one keypoint the nearest has it. A keypoint counts
    where the flow is known, ends inside image1 and has a confidence of at least 0.5, which is then the score. Descriptors
    are not looked at. ValueError when the flow is not of the images' sizes.
    """
    from scipy.spatial import cKDTree

    if (flow.size, flow.size1) != (features0.size, features1.size):
        raise ValueError(f"flow {flow.size} -> {flow.size1} for keypoints in {features0.size} and {features1.size}")
    moved, scores = _moved(features0.keypoints, flow)
    known = np.flatnonzero(np.isfinite(moved).all(axis=1))
    pairs, chosen = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if len(known) and len(features1.keypoints):
        distance, nearest = cKDTree(features1.keypoints).query(moved[known])
        order = np.argsort(distance, kind="stable")
        order = order[distance[order] <= radius]
        _, first = np.unique(nearest[order], return_index=True)
        kept = np.sort(order[first])
        pairs, chosen = np.stack([known[kept], nearest[kept]], axis=1), scores[known[kept]]
    return Matches(
        features0.keypoints,
        features1.keypoints,
        pairs,
        chosen,
        features0.size,
        features1.size,
        origins=(features0.name,),
        origin=np.zeros(len(pairs), np.int64),
    )


def _moved(points: np.ndarray, flow: Flow) -> tuple[np.ndarray, np.ndarray]:
    """Where points (N, 2) of image0 go, NaN where that is unknown or not trusted, and how confident the flow is (N,)."""
    import torch

    from flowkit.geometry.sampling import sample_flow

    assert flow.confidence is not None
    places = torch.from_numpy(points).float()
    moved = points + sample_flow(torch.from_numpy(flow.uv), places).T.numpy()
    column, row = (
        np.clip(np.rint(axis), 0, side - 1).astype(int) for axis, side in zip(points.T, flow.size[::-1], strict=True)
    )
    moved[~usable(flow, TRUSTED)[row, column]] = np.nan
    return moved, flow.confidence[row, column]
