"""Matches out of a dense flow: a regular grid of points of image0, where the way there and back agrees."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from flowkit.errors import InputError
from flowkit.pipelines.align import align
from flowkit.pipelines.flow import flow
from flowkit.pipelines.masks import EVERYTHING, MaskChoice, Masks, allowed, chosen_masks
from flowkit.pipelines.prepare import load_pair
from flowkit.types import Flow, Matches

MOST = 4096
"""Points unless told otherwise."""
TRUSTED = 0.5
"""The least forward-backward confidence of a match."""
CONFIDENT = 0.95
"""The least confidence where geometry is to be computed from the matches (RANSAC-Flow, section 4.3; its matchability)."""


def dense_matches(
    image0: object,
    image1: object,
    *,
    model: str,
    max_keypoints: int | None = None,
    mask0: MaskChoice = None,
    mask1: MaskChoice = None,
    **options: Any,
) -> Matches:
    """At most `max_keypoints` matches in original pixels, evenly spread over image0, their scores the flow's confidence.

    `options` are those of `flowkit.pipelines.flow.flow`, which is asked both ways. A point counts where the flow is known,
    leads into image1, and comes back (confidence of at least 0.5), and where the masks (`flowkit.pipelines.masks`) allow it
    in both images. Raises what `flow` does, and InputError for a mask that does not fit.
    """
    pair = load_pair(image0, image1)
    masks = chosen_masks(pair, mask0, mask1)
    found = flow(*pair, model=model, bidirectional=True, **options)
    assert found.run is not None
    run = replace(found.run, options={**found.run.options, "max_keypoints": max_keypoints, **masks.provenance})
    return spread_matches(replace(found, run=run), usable(found, TRUSTED, masks), max_keypoints or MOST, model)


def aligned_flow(
    image0: object,
    image1: object,
    *,
    model: str | None = None,
    mask0: MaskChoice = None,
    mask1: MaskChoice = None,
    **options: Any,
) -> Flow:
    """The flow image0 -> image1 by `align` with several homographies: on image0's grid, with its confidence.

    It finds what is too far or turned too much for a dense method alone. `model` is the dense method of its fine stage
    (None: its own choice), `options` are further ones of `align`. Where nothing is found all of it is NaN. Raises what
    `align` does.
    """
    chosen: dict[str, Any] = {} if model is None else {"model": model}
    # Its flow lives on the target's grid, and its first mask is the source's.
    return align(image1, image0, multi_h=True, mask0=mask1, mask1=mask0, **chosen, **options).flow


def usable(flow: Flow, least: float, masks: Masks = EVERYTHING) -> np.ndarray:
    """(H, W) bool on the flow's grid: known, inside image1, at least so confident, and allowed by both masks.

    InputError for a flow without confidence.
    """
    if flow.confidence is None:
        raise InputError("the flow has no confidence; compute it with bidirectional=True, or by align")
    with np.errstate(invalid="ignore"):  # NaN is not confident
        return allowed(flow, masks) & (flow.confidence >= least)


def spread_matches(flow: Flow, keep: np.ndarray, most: int, origin: str) -> Matches:
    """At most `most` matches, evenly spread over the pixels (H, W) bool that are to be kept; all of them if they are fewer."""
    step = max(1.0, (keep.sum() / most) ** 0.5)
    while True:
        rows, columns = (_spread(length, step) for length in keep.shape)
        y, x = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
        here = keep[y, x]
        if here.sum() <= most:
            break
        step *= 1.01
    y, x = y[here], x[here]
    points = np.column_stack([x, y]).astype(np.float32)
    assert flow.confidence is not None
    return Matches(
        keypoints0=points,
        keypoints1=points + flow.uv[:, y, x].T,
        pairs=np.repeat(np.arange(len(points), dtype=np.int64)[:, None], 2, 1),
        scores=flow.confidence[y, x].astype(np.float32),
        size0=flow.size,
        size1=flow.size1,
        origins=(origin,),
        origin=np.zeros(len(points), np.int64),
        run=flow.run,
    )


def _spread(length: int, step: float) -> np.ndarray:
    """Whole pixels along an axis, about `step` apart, as far from the one border as from the other."""
    count = max(1, int(length / step))
    return np.floor((np.arange(count) + 0.5) * length / count).astype(np.int64)
