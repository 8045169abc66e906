"""RANSAC for the essential matrix in batches: thousands of five-point problems at once, scored on matches held out.

Jiang et al. 2020, section 5.2: 10 000 hypotheses from 10 000 correspondences, each judged by its inliers among 2 000 others,
or, which tells a right one from one that is nearly right, by the penalty that is minimised afterwards.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from flowkit.geometry.epipolar import epipolar_rows
from flowkit.geometry.five_point import five_point
from flowkit.geometry.homography import homogeneous
from flowkit.geometry.shapes import check, check_same

Score = Literal["inliers", "objective", "sampson"]
"""What the best hypothesis has most of, or of which least: sum rho(x1' E x0), equation 4; or the same sum of Sampson's
distances, which do not become small near the epipoles by themselves."""
HYPOTHESES = 10_000
AT_ONCE = 5_000
"""Five-point problems that are solved at a time ..."""
EARLY = 1_000
"""... at most so many where it may end early ..."""
ELEMENTS = 4_000_000
"""... and solutions times matches that are scored at a time: 16 MB."""


@torch.no_grad()
def essential_ransac(
    normalised0: Tensor,
    normalised1: Tensor,
    test0: Tensor,
    test1: Tensor,
    *,
    delta: float,
    hypotheses: int = HYPOTHESES,
    score: Score = "inliers",
    confidence: float | None = None,
    keep: int = 1,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """The `keep` best E (k, 3, 3) float64, ||E|| = sqrt(2), the best first, and its inliers: test matches |x1' E x0| < delta.

    From matches (N, 2), tested on others (T, 2), all in normalised coordinates. Samples are drawn on the CPU by a generator of
    their own, so the same seed draws the same ones on any device. `confidence` ends it early, once a sample of five inliers
    has been drawn with that probability; None draws all `hypotheses`. If no problem has a solution, k and the count are 0.
    """
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    check_same("test0", test0, "test1", test1)
    generator = torch.Generator("cpu").manual_seed(seed)
    best = normalised0.new_zeros(0, 3, 3, dtype=torch.float64)
    highest = normalised0.new_zeros(0, dtype=torch.float32)
    needed, drawn = hypotheses, 0
    while drawn < needed:
        count = min(AT_ONCE if confidence is None else EARLY, hypotheses - drawn)
        chosen = torch.randint(len(normalised0), (count, 5), generator=generator, device="cpu").to(normalised0.device)
        drawn += count
        E, found = five_point(normalised0[chosen], normalised1[chosen], polish=0)
        E = torch.cat([best, E[found]])
        scores = torch.cat([highest, scored(E[len(best) :], test0, test1, delta, score)])
        order = scores.argsort(descending=True, stable=True)[:keep]
        best, highest = E[order], scores[order]
        if confidence is not None and len(best):
            inliers = int(scored(best[:1], test0, test1, delta, "inliers"))
            needed = min(hypotheses, _samples(inliers / len(test0), confidence)) if inliers else hypotheses
    return best, int(scored(best[:1], test0, test1, delta, "inliers").sum())


def scored(E: Tensor, test0: Tensor, test1: Tensor, delta: float, score: Score) -> Tensor:
    """(M,) float32, the more the better, of each E (M, 3, 3) by test matches (T, 2) in normalised coordinates."""
    x0, x1 = (homogeneous(x.double()).float() for x in (test0, test1))
    rows = epipolar_rows(test0.float(), test1.float()).mT.contiguous()
    chunk = max(1, ELEMENTS // max(1, len(x0)))
    parts = []
    for some in E.float().split(chunk):
        squared = (some.flatten(1) @ rows).square_()
        if score == "sampson":
            squared /= _slope(some, x0).add_(_slope(some.mT, x1)).clamp_(min=torch.finfo(squared.dtype).tiny)
        if score == "inliers":
            # ones and zeros in place of the residuals: counting a mask of its own takes three times as long
            parts.append(squared.lt_(delta**2).sum(1))
        else:
            parts.append(-squared.clamp_(max=delta**2).sum(1) / 2)
    return torch.cat(parts) if parts else E.new_zeros(0, dtype=torch.float32)


def _slope(E: Tensor, x: Tensor) -> Tensor:
    """(M, T): the squared normal (E x)_1^2 + (E x)_2^2 of each line, of E (M, 3, 3) and x (T, 3)."""
    return (E[:, 0] @ x.mT).square_().add_((E[:, 1] @ x.mT).square_())


def _samples(share: float, confidence: float) -> int:
    """How many samples hold one of five inliers with that probability."""
    all_good = share**5
    if all_good >= confidence:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-all_good))
