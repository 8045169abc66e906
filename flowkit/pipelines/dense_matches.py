"""Matches out of a dense flow: a regular grid of points of image0, where the way there and back agrees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flowkit.pipelines.flow import flow
from flowkit.pipelines.prepare import load_pair
from flowkit.types import Matches

MOST = 4096
"""Points of the grid unless told otherwise."""
TRUSTED = 0.5
"""The least forward-backward confidence of a match."""


def dense_matches(
    image0: object, image1: object, *, model: str, max_keypoints: int | None = None, **options: Any
) -> Matches:
    """At most `max_keypoints` matches in original pixels, evenly spread over image0, their scores the flow's confidence.

    `options` are those of `flowkit.pipelines.flow.flow`, which is asked both ways. A point counts where the flow is known,
    leads into image1, and comes back (confidence of at least 0.5). Raises what `flow` does.
    """
    pair = load_pair(image0, image1)
    found = flow(*pair, model=model, bidirectional=True, **options)
    assert found.run is not None and found.confidence is not None
    height, width = found.size
    step = max(1.0, (height * width / (max_keypoints or MOST)) ** 0.5)
    rows, columns = (_spread(length, step) for length in (height, width))
    y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    keep = found.inside[y, x] & (np.nan_to_num(found.confidence[y, x]) >= TRUSTED)
    y, x = y[keep], x[keep]
    points = np.column_stack([x, y]).astype(np.float32)
    return Matches(
        keypoints0=points,
        keypoints1=points + found.uv[:, y, x].T,
        pairs=np.repeat(np.arange(len(points), dtype=np.int64)[:, None], 2, 1),
        scores=found.confidence[y, x].astype(np.float32),
        size0=pair[0].size,
        size1=pair[1].size,
        origins=(model,),
        origin=np.zeros(len(points), np.int64),
        run=replace(found.run, options={**found.run.options, "max_keypoints": max_keypoints}),
    )


def _spread(length: int, step: float) -> np.ndarray:
    """Whole pixels along an axis, about `step` apart, as far from the one border as from the other."""
    count = max(1, int(length / step))
    return np.floor((np.arange(count) + 0.5) * length / count).astype(np.int64)
