"""The all-pairs correlation against its definition, written out with loops and grid_sample in float64."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.autograd import gradcheck

from flowkit.ops import allpairs
from flowkit.ops.allpairs import AllPairs, volume_bytes

LOOKUPS = ["volume", "ondemand"]


def by_definition(f0: torch.Tensor, f1: torch.Tensor, points: torch.Tensor, levels: int, radius: int) -> torch.Tensor:
    """<f0(p), f1(q)> / sqrt(C), averaged over 2x2 cells of q again and again, sampled bilinearly with zeros outside."""
    batch, channels, height, width = f0.shape
    volume = torch.einsum("bcij,bckl->bijkl", f0, f1) / channels**0.5
    volume = volume.reshape(batch * height * width, 1, *f1.shape[-2:])
    answers = []
    for level in range(levels):
        if level:
            volume = F.avg_pool2d(volume, 2, stride=2) if min(volume.shape[-2:]) > 1 else volume[..., :0, :0]
        centres = points.permute(0, 2, 3, 1).reshape(-1, 2) / 2**level
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                if not volume.numel():
                    answers.append(torch.zeros(batch, height, width, dtype=f0.dtype))
                    continue
                x, y = (centres + torch.tensor([dx, dy])).unbind(-1)
                h, w = volume.shape[-2:]
                where = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)[:, None, None]
                value = F.grid_sample(volume, where.to(volume), align_corners=False, padding_mode="zeros")
                answers.append(value.reshape(batch, height, width))
    return torch.stack(answers, dim=1)


def problem(size0: tuple[int, int], size1: tuple[int, int], batch: int = 2, channels: int = 6, seed: int = 0):
    """Features and points, some of them far outside, some on whole cells."""
    g = torch.Generator().manual_seed(seed)
    f0 = torch.randn(batch, channels, *size0, generator=g, dtype=torch.float64)
    f1 = torch.randn(batch, channels, *size1, generator=g, dtype=torch.float64)
    reach = torch.tensor([size1[1], size1[0]], dtype=torch.float64).view(1, 2, 1, 1)
    points = (torch.rand(batch, 2, *size0, generator=g, dtype=torch.float64) * 1.6 - 0.3) * reach
    points[0, :, 0] = points[0, :, 0].round()
    points[-1, 0, -1] = -1000.0
    return f0, f1, points


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize(
    "size0, size1, levels, radius",
    [((5, 7), (5, 7), 4, 4), ((4, 3), (23, 31), 3, 2), ((3, 4), (1, 9), 4, 3), ((2, 2), (1, 1), 4, 1)],
)
def test_lookup_is_the_definition(size0, size1, levels, radius, lookup):
    f0, f1, points = problem(size0, size1)
    found = AllPairs(f0, f1, levels=levels, radius=radius, lookup=lookup)(points)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, by_definition(f0, f1, points, levels, radius), rtol=1e-9, atol=1e-9)


def test_channel_order_by_hand():
    """One bright cell at (x=3, y=1), a window of 3x3 around (2.25, 1): x runs slowly, the cell's share is a quarter at dx=1."""
    f0, f1 = torch.zeros(1, 4, 1, 1), torch.zeros(1, 4, 4, 6)
    f0[0, 0], f1[0, 0, 1, 3] = 2, 1
    points = torch.tensor([2.25, 1.0]).view(1, 2, 1, 1)
    for lookup in LOOKUPS:
        found = AllPairs(f0, f1, levels=2, radius=1, lookup=lookup)(points).flatten()
        level0 = [[0, 0, 0], [0, 0.25, 0], [0, 0.75, 0]]  # [dx + 1][dy + 1]; correlation 2 * 1 / sqrt(4) = 1
        # Level 1 is around (1.125, 0.5); the bright cell is (1, 0) there, with a quarter of the value.
        level1 = [[0.0, 0.0, 0.0], [0.109375, 0.109375, 0.0], [0.0, 0.0, 0.0]]
        level1[0] = [0.25 * 0.125 * 0.5, 0.25 * 0.125 * 0.5, 0.0]
        expected = torch.tensor([level0, level1]).flatten()
        # At dx = -1 the sample is at 0.125, whose right neighbour is the bright cell; at dx = 0 at 1.125, 7/8 of it.
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_gradients(lookup, monkeypatch):
    monkeypatch.setattr(allpairs, "_CHUNK", 3)
    f0, f1, points = problem((2, 3), (6, 11), batch=2, channels=3)

    def twice(f0: torch.Tensor, f1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        correlation = AllPairs(f0, f1, levels=2, radius=1, lookup=lookup)
        return correlation(points), correlation(points.flip(0) + 0.3)

    assert gradcheck(twice, (f0.requires_grad_(), f1.requires_grad_()))


def test_a_second_backward_pass_starts_afresh():
    f0, f1, points = problem((2, 3), (5, 4))
    f0.requires_grad_()
    found = AllPairs(f0, f1, levels=2, radius=1, lookup="volume")(points).square().sum()
    once, again = (torch.autograd.grad(found, f0, retain_graph=True)[0] for _ in range(2))
    torch.testing.assert_close(once, again)


def test_chunks_do_not_show(monkeypatch):
    f0, f1, points = problem((5, 7), (25, 30))
    whole = [AllPairs(f0, f1, lookup=lookup)(points) for lookup in LOOKUPS]
    monkeypatch.setattr(allpairs, "_CHUNK", 8)
    for lookup, expected in zip(LOOKUPS, whole, strict=True):
        torch.testing.assert_close(AllPairs(f0, f1, lookup=lookup)(points), expected)


def test_auto_goes_by_the_memory():
    f0, f1, _ = problem((4, 6), (8, 10), batch=1)
    needed = volume_bytes(24, (8, 10), levels=3)
    assert needed == 4 * 24 * (80 + 20 + 4)
    assert AllPairs(f0, f1, levels=3, limit=needed).lookup == "volume"
    assert AllPairs(f0, f1, levels=3, limit=needed - 1).lookup == "ondemand"


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_float32_under_autocast(lookup):
    f0, f1, points = problem((5, 7), (25, 30))
    half0, half1 = f0.bfloat16(), f1.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = AllPairs(half0, half1, lookup=lookup)(points.float())
    expected = AllPairs(half0.double(), half1.double(), lookup=lookup)(points.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_points_that_are_no_numbers(lookup):
    """A diverged network gives NaN, not a crash and not somebody else's cells."""
    f0, f1, points = problem((3, 4), (20, 21), batch=1)
    points[0, 0, 0, 0], points[0, 1, 1, 1], points[0, 0, 2, 2] = torch.nan, torch.inf, 1e30
    found = AllPairs(f0, f1, lookup=lookup)(points)
    assert found[0, :, 0, 0].isnan().all() and found[0, :, 1, 1].isnan().all()
    assert (found[0, :, 2, 2] == 0).all()
    assert torch.isfinite(found[0, :, :, 3]).all()


def test_bad_arguments():
    f0, f1, points = problem((3, 4), (5, 6))
    with pytest.raises(ValueError, match="detach"):
        AllPairs(f0, f1)(points.requires_grad_())
    with pytest.raises(ValueError, match="points must be"):
        AllPairs(f0, f1)(points[:, :, :2])
    with pytest.raises(ValueError, match="one B and C"):
        AllPairs(f0, f1[:, :3])
    with pytest.raises(ValueError, match="lookup"):
        AllPairs(f0, f1, lookup="both")
