"""The essential matrix of a dense flow as a layer of a network: RANSAC and IRLS forwards, the implicit derivative backwards.

Jiang et al., Joint Unsupervised Learning of Optical Flow and Egomotion with Bi-Level Optimization, 3DV 2020, sections 3, 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flowkit.geometry.epipolar import epipolar_rows
from flowkit.geometry.essential_ransac import HYPOTHESES, Score, essential_ransac
from flowkit.geometry.grids import pixel_grid
from flowkit.geometry.implicit import argmin
from flowkit.geometry.irls import ITERATIONS, irls
from flowkit.geometry.matrix_manifolds import ESSENTIAL
from flowkit.geometry.pose import normalise_points
from flowkit.geometry.shapes import check, check_same

LEAST = 12
"""Matches below which there is no essential matrix."""


@dataclass(frozen=True)
class EssentialSettings:
    """How the lower level is solved; the paper's values."""

    delta: float = 1e-3
    """Where the penalty of x1' E x0 is truncated, in normalised coordinates with |t| = 1: about delta x f pixels."""
    hypotheses: int = HYPOTHESES
    """Five-point problems."""
    drawn: int = 10_000
    """Most correspondences that these are taken from, and that E is fitted to; 0 takes all there are."""
    held_out: int = 2_000
    """Most correspondences that hypotheses are tested on."""
    iterations: int = ITERATIONS
    """Of the re-weighted least squares, at most."""
    score: Score = "inliers"
    """How hypotheses are judged."""
    confidence: float | None = None
    """Draw no more hypotheses once five inliers were drawn with that probability; None draws all."""


@dataclass(frozen=True)
class EssentialFit:
    """E (B, 3, 3), ||E|| = sqrt(2), differentiable by what it was fitted to.

    `inlier_share` (B,) of the correspondences are within delta. Where `found` (B,) bool is False there is no E, and what stands
    in its place has no derivative.
    """

    E: Tensor
    inlier_share: Tensor
    found: Tensor


def essential_of_flow(
    flow: Tensor,
    K0: Tensor,
    K1: Tensor,
    usable: Tensor | None = None,
    settings: EssentialSettings | None = None,
    seed: int = 0,
) -> EssentialFit:
    """The E that best explains a flow (B, 2, H, W) image0 -> image1 in pixels, between cameras K (B, 3, 3); x1' E x0 = 0.

    `usable` (B, H, W) bool says which pixels count; those that are not finite never do. E has the flow's type; all is computed
    in float64. ValueError for shapes that do not fit.
    """
    check("flow", flow, "B", 2, "H", "W")
    settings = settings or EssentialSettings()
    size = int(flow.shape[-2]), int(flow.shape[-1])
    grid = pixel_grid(*size, device=flow.device, dtype=torch.float64).flatten(1).mT
    moved = flow.double().flatten(2).mT  # (B, HW, 2)
    counted = torch.isfinite(moved).all(-1)
    if usable is not None:
        check_same("usable", usable, "flow's pixels", flow[:, 0])
        counted = counted & usable.flatten(1)
    fits = []
    for number in range(len(flow)):
        index = _chosen(counted[number], settings, seed + number)
        here = grid[index]
        x0, x1 = (
            normalise_points(points, K[number].to(flow.device).double())
            for points, K in ((here, K0), (here + moved[number, index], K1))
        )
        fits.append(essential_of_matches(x0, x1, settings, seed + number))
    E, share, found = (
        torch.stack(parts) for parts in zip(*((fit.E, fit.inlier_share, fit.found) for fit in fits), strict=True)
    )
    return EssentialFit(E.to(flow.dtype), share.to(flow.dtype), found)


def essential_of_matches(
    normalised0: Tensor, normalised1: Tensor, settings: EssentialSettings | None = None, seed: int = 0
) -> EssentialFit:
    """The same of matches (N, 2) in normalised coordinates, in random order: no batch, `E` (3, 3), the others ().

    The last sixth of them, at most `held_out`, test the hypotheses; E is fitted to the others and differentiable by both points
    of each. Computed and given in float64.
    """
    check_same("normalised0", normalised0, "normalised1", normalised1)
    settings = settings or EssentialSettings()
    nothing = normalised0.new_zeros((), dtype=torch.float64)
    none = EssentialFit(nothing.expand(3, 3), nothing, torch.zeros((), dtype=torch.bool, device=normalised0.device))
    count = len(normalised0)
    if count < LEAST:
        return none
    x0, x1 = normalised0.double(), normalised1.double()
    fitted = count - min(settings.held_out, max(1, count // 6))
    detached = [x.detach() for x in (x0[:fitted], x1[:fitted], x0[fitted:], x1[fitted:])]
    candidates, inliers = essential_ransac(
        *detached,
        delta=settings.delta,
        hypotheses=settings.hypotheses,
        score=settings.score,
        confidence=settings.confidence,
        seed=seed,
    )
    if inliers == 0:
        return none
    E, share = refined(x0[:fitted], x1[:fitted], candidates[0], settings)
    return EssentialFit(E, share, torch.isfinite(E).all() & (share * fitted >= LEAST))


def refined(
    normalised0: Tensor, normalised1: Tensor, start: Tensor, settings: EssentialSettings
) -> tuple[Tensor, Tensor]:
    """E (3, 3), the minimum of the truncated penalty near `start`, differentiable by matches (N, 2), and the inliers' share."""
    rows = epipolar_rows(normalised0, normalised1)[None]
    minimum = irls(rows.detach(), ESSENTIAL.nearest(start)[None], ESSENTIAL, settings.delta, settings.iterations)
    E = argmin(rows, minimum.inliers, minimum.matrix, ESSENTIAL)
    return E[0], minimum.inliers[0].double().mean()


def _chosen(counted: Tensor, settings: EssentialSettings, seed: int) -> Tensor:
    """The numbers of the pixels to fit to, and to test on, in random order; drawn on the CPU, whatever the device."""
    index = torch.nonzero(counted)[:, 0]
    most = settings.drawn + settings.held_out if settings.drawn else len(index)
    generator = torch.Generator("cpu").manual_seed(seed)
    order = torch.randperm(len(index), generator=generator, device="cpu")[:most]
    return index[order.to(index.device)]
