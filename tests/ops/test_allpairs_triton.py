"""The Triton kernels against the torch code, on the CPU by Triton's interpreter; skipped where triton is not installed."""

import os

import pytest
import torch

from flowkit.ops import allpairs, sampled_dot
from flowkit.ops.allpairs import AllPairs

os.environ["TRITON_INTERPRET"] = "1"  # read when triton and the kernels are imported, so here and not in a fixture
pytest.importorskip("triton")
kernels = pytest.importorskip("flowkit.ops.allpairs_triton")


def problem(size1: tuple[int, int]):
    g = torch.Generator().manual_seed(1)
    f0 = torch.randn(2, 5, 2, 3, generator=g, dtype=torch.float64)
    f1 = torch.randn(2, 5, *size1, generator=g, dtype=torch.float64)
    points = (torch.rand(2, 2, 2, 3, generator=g, dtype=torch.float64) * 2 - 0.5) * max(size1)
    points[0, 0, 0, 0], points[1, :, 0, 0] = -1e6, 2.0
    return f0, f1, points


def by(f0: torch.Tensor, f1: torch.Tensor, points: torch.Tensor, lookup: str) -> list[torch.Tensor]:
    f0, f1 = f0.clone().requires_grad_(), f1.clone().requires_grad_()
    correlation = AllPairs(f0, f1, levels=3, radius=2, lookup=lookup)
    found = [correlation(points), correlation(points + 0.4)]
    weights = torch.linspace(-1, 1, found[0].numel(), dtype=f0.dtype).view(found[0].shape)
    (found[0] * weights + found[1].square()).sum().backward()
    return [*(f.detach() for f in found), f0.grad, f1.grad]


@pytest.mark.parametrize("lookup", ["volume", "ondemand"])
@pytest.mark.parametrize("size1", [(9, 13), (2, 7)])
def test_kernels_are_the_torch_code(monkeypatch, lookup, size1):
    arguments = problem(size1)
    expected = by(*arguments, lookup)
    monkeypatch.setattr(allpairs, "triton_kernels", lambda *_: kernels)
    monkeypatch.setattr(sampled_dot, "_sparse", kernels.sampled_dot)
    for one, other in zip(by(*arguments, lookup), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_points_that_are_no_numbers():
    volume = torch.randn(2, 6 * 7)
    points = torch.tensor([[torch.nan, 2.0], [1e30, torch.inf]])
    found = kernels.lookup(volume, points, [(6, 7)], 1)
    assert found[0].isnan().all() and found[1].isnan().all()
