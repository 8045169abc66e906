"""RANSAC-Flow's loop over homographies: a coarse alignment, its fine flow, what is matchable under it, the next one.

Shen et al., RANSAC-Flow, ECCV 2020, section 3.3; the official code differs from the paper (spec.md 9.4, 9.6), so there are two
sets of rules, and a third for driving scenes. flowkit's own way of joining homographies is in pipelines/joining.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from flowkit.pipelines.fine import Layer
from flowkit.pipelines.joining import Joined
from flowkit.pipelines.refinement import project
from flowkit.pipelines.seeding import without_specks
from flowkit.types import Fit, Matches


@dataclass(frozen=True)
class Rules:
    """When a homography is taken, what it closes to the next ones, and which pixels it gets. Shares are of the picture."""

    limit: int = 11
    """Most homographies."""
    draws: int = 10_000
    """Of RANSAC, for each."""
    remove_inliers: bool = False
    """Whether matches that agreed with a homography are gone for the next ones."""
    least: float = 0.01
    """Least mean matchability on what is still open; the first homography is taken in any case."""
    certain: bool = False
    """Whether only matchability above `closed` counts there."""
    closed: float = 1.0
    """Pixels whose matchability comes to this are closed: matches there are gone."""
    taken: float = 0.95
    """Least matchability of a pixel that a homography gets; what none gets goes with the first."""
    speck: float = 0.0
    """Connected parts of what is sure (`closed`) that are smaller than this share do not count as matchable."""
    nearest: bool = False
    """What no homography gets takes the flow of the nearest pixel that one has got."""
    scales: tuple[float, ...] = (1.0,)
    """Of the working size: the fine network goes over each homography at these in turn."""


RULES: Mapping[str, Rules] = MappingProxyType(
    {
        "official": Rules(),
        "paper": Rules(remove_inliers=True, closed=0.5, taken=0.5),
        "kitti": Rules(
            limit=100, least=0.005, certain=True, closed=0.9999, taken=1.0, speck=0.01, nearest=True, scales=(0.5, 1.0)
        ),
    }
)
"""The official code's (which closes only what is saturated), the paper's (matchable is what is more likely so than not; it
gives no number), and the official code's for KITTI."""

Fitter = Callable[[np.ndarray, np.ndarray], Fit]
"""A robust homography from points (N, 2) of target and source."""
Finer = Callable[[np.ndarray, Sequence[float]], Layer]
"""The fine flow under a homography, target -> source in original pixels, at these shares of the working size."""


def homographies_in_turn(
    matches: Matches, first: np.ndarray, fit: Fitter, fine: Finer, rules: Rules, threshold: float
) -> tuple[list[np.ndarray], list[Layer]]:
    """The homographies (target -> source, original pixels), `first` the first of them, and the fine flow under each.

    `matches` are target -> source; `threshold` in pixels says which agree with a homography, where that counts.
    """
    models, layers = [first], [_cleaned(fine(first, rules.scales), rules)]
    left = np.ones(len(matches), bool)
    closed = _sure(layers[0]) >= rules.closed
    while len(models) < rules.limit:
        if rules.remove_inliers:
            error = np.linalg.norm(project(models[-1], matches.points0) - matches.points1, axis=1)
            left &= ~(error <= threshold)
        usable = left & ~_shown(closed, matches)
        if usable.sum() < 4:
            break
        found = fit(matches.points0[usable], matches.points1[usable])
        if found.model is None:
            break
        layer = _cleaned(fine(found.model, rules.scales), rules)
        sure = _sure(layer)
        if float(np.mean((sure > rules.closed if rules.certain else sure) * ~closed)) <= rules.least:
            break
        before = closed
        closed = closed | (_sure(layer) >= rules.closed)
        models.append(found.model)
        layers.append(layer)
        if not rules.remove_inliers and (closed == before).all():
            break  # the same matches are left, and would give the same homography
    return models, layers


def aggregated(layers: Sequence[Layer], rules: Rules) -> Joined:
    """Every pixel takes the first homography under which its matchability is high enough; `confidence` is that matchability."""
    residual, sure = layers[0].residual.copy(), _sure(layers[0]).copy()
    choice = np.zeros(sure.shape, np.int16)
    matched = sure >= rules.taken
    for k, layer in enumerate(layers[1:], 1):
        take = ~matched & (_sure(layer) >= rules.taken)
        residual[take], sure[take], choice[take] = layer.residual[take], _sure(layer)[take], k
        matched |= take
    if rules.nearest and matched.any():
        row, column = _nearest(matched)
        choice = choice[row, column]
        for k, layer in enumerate(layers):
            residual[choice == k] = layer.residual[row, column][choice == k]
    return Joined(residual, choice, sure.astype(np.float32))


def _nearest(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) rows and columns of the nearest pixel that is known."""
    import cv2

    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    row, column = np.nonzero(known)
    of_label = np.zeros(labels.max() + 1, np.int64)
    of_label[labels[row, column]] = np.arange(len(row))
    return row[of_label[labels]], column[of_label[labels]]


def _sure(layer: Layer) -> np.ndarray:
    assert layer.matchability is not None
    return layer.matchability


def _cleaned(layer: Layer, rules: Rules) -> Layer:
    """Without the small parts of what is matchable, where the rules want that."""
    if not rules.speck:
        return layer
    sure = _sure(layer)
    certain = sure > rules.closed
    specks = certain & ~without_specks(certain, int(rules.speck * sure.size))
    return replace(layer, matchability=np.where(specks, 0, sure))


def _shown(closed: np.ndarray, matches: Matches) -> np.ndarray:
    """(M,) bool: whether the target's pixel of each match is closed on a grid (h, w) of another size."""
    import cv2

    small = np.array([closed.shape[1] / matches.size0[1], closed.shape[0] / matches.size0[0]])
    points = ((matches.points0 + 0.5) * small - 0.5).astype(np.float32)
    share = cv2.remap(
        closed.astype(np.float32), points[:, 0], points[:, 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return share.ravel() >= 0.5
