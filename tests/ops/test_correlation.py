"""Local correlation by banded products, against the definition, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.ops.correlation import BLOCK, local_correlation


def defined(features0: torch.Tensor, features1: torch.Tensor, radius: int) -> torch.Tensor:
    """Shift, multiply, average: what the docstring says."""
    height, width = features0.shape[-2:]
    padded = F.pad(features1, (radius,) * 4)
    shifts = [(dy, dx) for dy in range(2 * radius + 1) for dx in range(2 * radius + 1)]
    return torch.stack([(features0 * padded[..., dy : dy + height, dx : dx + width]).mean(1) for dy, dx in shifts], 1)


@pytest.mark.parametrize("width", [1, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("radius", [1, 4])
def test_it_is_the_mean_product_with_every_neighbour(width: int, radius: int) -> None:
    a, b = torch.randn(2, 2, 6, 5, width, dtype=torch.float64)
    assert torch.allclose(local_correlation(a, b, radius), defined(a, b, radius), atol=1e-12)


def test_channels_go_row_by_row_through_the_window() -> None:
    a, b = torch.zeros(2, 1, 1, 9, 9)
    a[0, 0, 4, 4] = 1
    b[0, 0, 3, 6] = 1  # one up, two to the right
    volume = local_correlation(a, b, 2)
    assert volume[0, :, 4, 4].nonzero().flatten().tolist() == [(-1 + 2) * 5 + (2 + 2)]


def test_gradients_are_those_of_the_definition() -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(2, 3, 4, BLOCK + 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    upstream = torch.randn(2, 25, 4, BLOCK + 2, dtype=torch.float64)
    ours = torch.autograd.grad(local_correlation(a, b, 2), (a, b), upstream)
    theirs = torch.autograd.grad(defined(a, b, 2), (a, b), upstream)
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(ours, theirs, strict=True))
    small = [torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda x, y: local_correlation(x, y, 1), small)
