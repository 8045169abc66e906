"""RANSAC for the essential matrix in batches: thousands of five-point problems at once, scored on matches held out.

Jiang et al. 2020, section 5.2: 10 000 hypotheses from 10 000 correspondences, each judged by its inliers among 2 000 others,
or, which tells a right one from one that is nearly right, by the penalty that is minimised afterwards.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from flowkit.geometry.five_point import five_point
from flowkit.geometry.homography import homogeneous
from flowkit.geometry.shapes import check, check_same

Score = Literal["inliers", "objective"]
"""What the best hypothesis has most of, or of which least: sum rho(x1' E x0), equation 4."""
HYPOTHESES = 10_000
AT_ONCE = 5_000
"""Five-point problems that are solved at a time ..."""
EARLY = 1_000
"""... at most so many where it may end early ..."""
ELEMENTS = 4_000_000
"""... and solutions times matches that are scored at a time: 16 MB."""


def epipolar_rows(normalised0: Tensor, normalised1: Tensor) -> Tensor:
    """(..., N, 9): a with x1' E x0 = a . E of matches (..., N, 2) in normalised coordinates; E's elements row by row."""
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    return (homogeneous(normalised1)[..., :, None] * homogeneous(normalised0)[..., None, :]).flatten(-2)


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
    seed: int = 0,
) -> tuple[Tensor, int]:
    """The best E (3, 3) float64, ||E|| = sqrt(2), the first of equals, and its inliers: test matches with |x1' E x0| < delta.

    From matches (N, 2), tested on others (T, 2), all in normalised coordinates. Samples are drawn on the CPU by a generator of
    their own, so the same seed draws the same ones on any device. `confidence` ends it early, once a sample of five inliers
    has been drawn with that probability; None draws all `hypotheses`. If no problem has a solution, E is 0 and so is the count.
    """
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    check_same("test0", test0, "test1", test1)
    generator = torch.Generator().manual_seed(seed)
    rows = epipolar_rows(test0.double(), test1.double()).float().mT.contiguous()
    best, inliers, highest = normalised0.new_zeros(3, 3, dtype=torch.float64), 0, -math.inf
    needed, drawn = hypotheses, 0
    while drawn < needed:
        count = min(AT_ONCE if confidence is None else EARLY, hypotheses - drawn)
        chosen = torch.randint(len(normalised0), (count, 5), generator=generator).to(normalised0.device)
        drawn += count
        E, found = five_point(normalised0[chosen], normalised1[chosen], polish=0)
        E = E[found]
        if not len(E):
            continue
        scores = scored(E, rows, delta, score)
        leader = int(scores.argmax())
        if float(scores[leader]) > highest:
            best, highest = E[leader], float(scores[leader])
            inliers = int(scored(best[None], rows, delta, "inliers"))
            if confidence is not None and inliers:
                needed = min(hypotheses, _samples(inliers / len(test0), confidence))
    return best, inliers


def scored(E: Tensor, rows: Tensor, delta: float, score: Score) -> Tensor:
    """(M,) float32, the more the better, of each E (M, 3, 3) by its products with the columns of rows (9, T) float32."""
    flat = E.flatten(1).float()
    chunk = max(1, ELEMENTS // max(1, rows.shape[1]))
    products = (part @ rows for part in flat.split(chunk))
    if score == "inliers":
        # ones and zeros in place of the products: counting a mask of its own takes three times as long
        return torch.cat([each.abs_().lt_(delta).sum(1) for each in products])
    return torch.cat([-each.square_().clamp_(max=delta**2).sum(1) / 2 for each in products])


def _samples(share: float, confidence: float) -> int:
    """How many samples hold one of five inliers with that probability."""
    all_good = share**5
    if all_good >= confidence:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-all_good))
