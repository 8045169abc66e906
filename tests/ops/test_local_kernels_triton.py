"""Triton's local correlation, warping and local convolution against their references, by Triton's interpreter on the CPU."""

import os

import pytest
import torch

from flowkit.ops import correlation, local_convolution, warping

os.environ["TRITON_INTERPRET"] = "1"  # read when triton and the kernels are imported, so here and not in a fixture
pytest.importorskip("triton")
from flowkit.ops import correlation_triton, local_convolution_triton, warping_triton


def random(*shape: int, scale: float = 1.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)).requires_grad_()


def compared(kernel, reference, inputs: list[torch.Tensor], **tolerance: float) -> None:
    """Value and both gradients of a kernel and its reference, in float64."""
    found, wanted = kernel(*inputs), reference(*inputs)
    torch.testing.assert_close(found, wanted, **tolerance)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(9), dtype=wanted.dtype)
    ours = torch.autograd.grad(found, inputs, upstream)
    theirs = torch.autograd.grad(wanted, inputs, upstream)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


@pytest.mark.parametrize(("radius", "output", "displacement"), [(2, 1, 1), (1, 2, 1), (1, 1, 3), (1, 3, 2), (3, 2, 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_correlation(monkeypatch, radius, output, displacement, layout) -> None:
    monkeypatch.setattr(correlation, "triton_kernels", lambda *_: correlation_triton)
    inputs = [
        random(2, 5, 7, 6, seed=seed).detach().contiguous(memory_format=layout).requires_grad_() for seed in (0, 1)
    ]
    options = {"output_stride": output, "displacement_stride": displacement}
    compared(
        lambda a, b: correlation.local_correlation(a, b, radius, **options),
        lambda a, b: correlation.correlation_reference(a, b, radius, **options),
        inputs,
    )


def test_correlation_in_blocks_of_cells_and_channels() -> None:
    a, b = random(1, 35, 2, 33, seed=0), random(1, 35, 2, 33, seed=1)
    found = correlation_triton.correlation(a.detach(), b.detach(), 1, 1, 1)
    torch.testing.assert_close(found, correlation.correlation_reference(a, b, 1).detach())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_warping(monkeypatch, layout) -> None:
    monkeypatch.setattr(warping, "triton_kernels", lambda *_: warping_triton)
    features = random(2, 17, 5, 7).detach().contiguous(memory_format=layout).requires_grad_()
    compared(warping.warped, warping.warped_reference, [features, random(2, 2, 6, 4, scale=3, seed=1)])


def test_warping_to_nowhere(monkeypatch) -> None:
    monkeypatch.setattr(warping, "triton_kernels", lambda *_: warping_triton)
    flow = torch.tensor([torch.nan, 1e30, -torch.inf, 0.0]).view(1, 1, 1, 4).repeat(1, 2, 1, 1)
    assert warping.warped(torch.ones(1, 1, 3, 4), flow).flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("side", [1, 3, 5])
def test_local_convolution(monkeypatch, side) -> None:
    monkeypatch.setattr(local_convolution, "triton_kernels", lambda *_: local_convolution_triton)
    inputs = [random(2, 2, 6, 5), random(2, side * side, 6, 5, scale=2, seed=1)]
    compared(local_convolution.local_convolution, local_convolution.local_convolution_reference, inputs)
