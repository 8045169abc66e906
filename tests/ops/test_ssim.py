"""Structural similarity against its definition, written out for one pixel."""

import numpy as np
import pytest
import torch

from flowkit.ops.ssim import ssim


def reference(a, b, y, x):
    """Of one channel at one pixel, in float64."""
    at = np.arange(11) - 5
    line = np.exp(-(at**2) / 4.5)
    weight = np.outer(line, line) / np.outer(line, line).sum()
    windows = [np.pad(picture, 5)[y : y + 11, x : x + 11] for picture in (a, b)]
    mean = [(weight * w).sum() for w in windows]
    var = [(weight * w * w).sum() - m * m for w, m in zip(windows, mean, strict=True)]
    cov = (weight * windows[0] * windows[1]).sum() - mean[0] * mean[1]
    c1, c2 = 1e-4, 9e-4
    top = (2 * mean[0] * mean[1] + c1) * (2 * cov + c2)
    return top / ((mean[0] ** 2 + mean[1] ** 2 + c1) * (var[0] + var[1] + c2))


def test_equals_its_definition():
    make = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 20, 24, generator=make, dtype=torch.float64) for _ in range(2))
    found = ssim(a, b)
    assert found.shape == a.shape
    for batch, channel, y, x in [(0, 0, 10, 12), (1, 2, 0, 0), (1, 1, 19, 5), (0, 2, 7, 23)]:
        expected = reference(a[batch, channel].numpy(), b[batch, channel].numpy(), y, x)
        assert found[batch, channel, y, x].item() == pytest.approx(expected, rel=1e-9)


def test_alike_is_one_and_gradients_are_right():
    make = torch.Generator().manual_seed(1)
    a, b = (torch.rand(1, 1, 7, 8, generator=make, dtype=torch.float64).requires_grad_() for _ in range(2))
    torch.testing.assert_close(ssim(a, a), torch.ones_like(a))
    assert torch.autograd.gradcheck(ssim, (a, b))
