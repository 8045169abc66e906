"""All real roots of many polynomials at once, by the roots of their derivatives; no eigenvalues, so it runs on any device."""

from __future__ import annotations

import torch
from torch import Tensor

HALVINGS = 12
"""Of each bracket, before Newton's method, which from far is slow on high degrees."""
STEPS = 4
"""Of Newton's method, kept between its brackets, for each derivative ..."""
LAST_STEPS = 7
"""... and for the polynomial itself."""


def real_roots(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Roots of polynomials c0 + c1 z + ... + cn z^n, coefficients (..., n + 1): values (..., 2n) and which are roots, bool.

    Between two neighbouring roots of its derivative a polynomial has one root or none, so the roots are found degree by
    degree. Those in [-1, 1] come first, then those outside, as reciprocals of the roots of the reversed polynomial; where
    `found` is False the value means nothing. A double root is found twice, once or not at all: rounding decides.
    """
    scaled = coefficients / coefficients.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(coefficients.dtype).tiny)
    both = torch.stack([scaled, scaled.flip(-1)])
    inside, found = _roots_within(both)
    outside, there = inside[1], found[1] & (inside[1].abs() < 1)  # +-1 itself has been found already
    values = torch.cat([inside[0], 1 / torch.where(outside == 0, 1, outside)], -1)
    return values, torch.cat([found[0], there & (outside != 0)], -1)


def _roots_within(coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The roots in [-1, 1] of polynomials (..., n + 1): (..., n) in rising order, and which of the values are roots."""
    degree = coefficients.shape[-1] - 1
    chain = [coefficients]
    for _ in range(degree - 1):
        chain.append(_derivative(chain[-1]))
    ends = coefficients[..., :1].detach()
    low, high = torch.full_like(ends, -1), torch.ones_like(ends)
    points = low[..., :0]
    found = points.bool()
    for polynomial in reversed(chain):
        edges = torch.cat([low, points, high], -1)
        steps = LAST_STEPS if polynomial is coefficients else STEPS
        points, found = _between(polynomial, edges[..., :-1], edges[..., 1:], steps)
    return points, found


def _between(polynomial: Tensor, low: Tensor, high: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The root between each `low` and `high` (..., d), where the polynomial is monotonic; `high` where there is none."""
    slope = _derivative(polynomial)
    at_low, at_high = evaluate(polynomial, low), evaluate(polynomial, high)
    found = ((at_low < 0) != (at_high < 0)) & (low < high)
    rising = at_high > at_low
    x = (low + high) / 2
    a, b = low, high
    for step in range(HALVINGS + steps):
        value = evaluate(polynomial, x)
        right = (value < 0) == rising  # of x lies the root
        a, b = torch.where(right, x, a), torch.where(right, b, x)
        middle = (a + b) / 2
        if step >= HALVINGS:
            newton = x - value / evaluate(slope, x)
            slack = 1e-6 * (b - a)  # rounding must not drive a root that has been found out of its bracket
            near = (newton >= a - slack) & (newton <= b + slack)
            middle = torch.where(near, torch.minimum(torch.maximum(newton, a), b), middle)
        x = middle
    return torch.where(found, x, high), found


def evaluate(polynomial: Tensor, x: Tensor) -> Tensor:
    """c0 + c1 x + ... (..., d) of polynomials (..., n + 1) at places (..., d)."""
    value = polynomial[..., -1:].expand_as(x)
    for k in range(polynomial.shape[-1] - 2, -1, -1):
        value = torch.addcmul(polynomial[..., k : k + 1], value, x)
    return value


def _derivative(polynomial: Tensor) -> Tensor:
    powers = torch.arange(1, polynomial.shape[-1], dtype=polynomial.dtype, device=polynomial.device)
    return polynomial[..., 1:] * powers
