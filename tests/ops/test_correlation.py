"""Local correlation by banded products, against the definition, in value and gradient."""

import pytest
import torch

from flowkit.ops.correlation import BLOCK, correlation_reference, local_correlation


@pytest.mark.parametrize("width", [1, 7, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
@pytest.mark.parametrize("radius", [1, 4])
def test_it_is_the_mean_product_with_every_neighbour(width: int, radius: int) -> None:
    a, b = torch.randn(2, 2, 6, 5, width, dtype=torch.float64)
    assert torch.allclose(local_correlation(a, b, radius), correlation_reference(a, b, radius), atol=1e-12)


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
    theirs = torch.autograd.grad(correlation_reference(a, b, 2), (a, b), upstream)
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(ours, theirs, strict=True))
    small = [torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda x, y: local_correlation(x, y, 1), small)


@pytest.mark.parametrize("strides", [(2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2), (1, 2, 3), (2, 3, 2), (1, 4, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_strides(strides: tuple[int, int, int], layout: torch.memory_format) -> None:
    """(input, output, displacement): value and gradients are those of the definition."""
    torch.manual_seed(0)
    options = dict(zip(("input_stride", "output_stride", "displacement_stride"), strides, strict=True))
    inputs = [
        torch.randn(2, 3, 13, 11, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
        for _ in range(2)
    ]
    found, wanted = local_correlation(*inputs, 2, **options), correlation_reference(*inputs, 2, **options)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(wanted)
    ours, theirs = (torch.autograd.grad(volume, inputs, upstream) for volume in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_the_reference_is_the_definition() -> None:
    """f0 at o y, f1 at o y + k d, both of every s-th cell; outside is 0."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 4, 12, 10, dtype=torch.float64)
    volume = correlation_reference(a, b, 1, input_stride=2, output_stride=3, displacement_stride=2)
    assert volume.shape == (1, 9, 2, 2)
    # cell (1, 1) of the answer is cell (3, 3) of the maps' every second: (6, 6); one step up is two of those cells
    assert volume[0, 1, 1, 1] == pytest.approx(float((a[0, :, 6, 6] * b[0, :, 2, 6]).mean()))
    assert volume[0, 5, 1, 1] == 0  # two to the right of column 3 there is none


def test_float32_against_float64() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 96, 9, 40)
    exact = correlation_reference(a.double(), b.double(), 4)
    torch.testing.assert_close(local_correlation(a, b, 4).double(), exact, atol=1e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    a = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="of one shape"):
        local_correlation(a, a[..., :3], 1)
    with pytest.raises(ValueError, match="strides at least 1"):
        local_correlation(a, a, 1, output_stride=0)
