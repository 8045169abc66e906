"""RANSAC for the essential matrix in batches: thousands of five-point problems at once, scored on matches held out.

Jiang et al. 2020, section 5.2: 10 000 hypotheses from 10 000 correspondences, each judged by its inliers among 2 000 others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flowkit.geometry.five_point import five_point
from flowkit.geometry.homography import homogeneous
from flowkit.geometry.shapes import check, check_same

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
    confidence: float | None = None,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """E (3, 3) float64, ||E|| = sqrt(2), with the most test matches |x1' E x0| < delta, and how many; the first of equals.

    From matches (N, 2), tested on others (T, 2), all in normalised coordinates. Samples are drawn on the CPU by a generator of
    their own, so the same seed draws the same ones on any device. `confidence` ends it early, once a sample of five inliers
    has been drawn with that probability; None draws all `hypotheses`. If no problem has a solution, E is 0 and so is the count.
    """
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    check_same("test0", test0, "test1", test1)
    generator = torch.Generator().manual_seed(seed)
    rows = epipolar_rows(test0.double(), test1.double()).float().mT.contiguous()
    best, most = normalised0.new_zeros(3, 3, dtype=torch.float64), 0
    needed, drawn = hypotheses, 0
    while drawn < needed:
        count = min(AT_ONCE if confidence is None else EARLY, hypotheses - drawn)
        chosen = torch.randint(len(normalised0), (count, 5), generator=generator).to(normalised0.device)
        drawn += count
        E, found = five_point(normalised0[chosen], normalised1[chosen], polish=0)
        E = E[found]
        if not len(E):
            continue
        counts = count_inliers(E, rows, delta)
        leader = int(counts.argmax())
        if int(counts[leader]) > most:
            best, most = E[leader], int(counts[leader])
            if confidence is not None:
                needed = min(hypotheses, _samples(most / len(test0), confidence))
    return best, most


def count_inliers(E: Tensor, rows: Tensor, delta: float) -> Tensor:
    """(M,) float32: of each E (M, 3, 3), with how many of the columns of rows (9, T) float32 its product is below delta."""
    flat = E.flatten(1).float()
    chunk = max(1, ELEMENTS // max(1, rows.shape[1]))
    # ones and zeros in place of the residuals: counting a mask of its own takes three times as long
    return torch.cat([(part @ rows).abs_().lt_(delta).sum(1) for part in flat.split(chunk)])


def _samples(share: float, confidence: float) -> int:
    """How many samples hold one of five inliers with that probability."""
    all_good = share**5
    if all_good >= confidence:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log1p(-all_good))
