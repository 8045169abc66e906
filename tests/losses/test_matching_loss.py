"""The matching loss: direction, what counts, and its slope."""

import math

import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.losses.matching import matching_loss

STRIDE, SIZE = 4, (64, 96)


def pairs(flow: tuple[float, float], count: int = 2, **changes: torch.Tensor) -> PairBatch:
    image = torch.zeros(count, 3, *SIZE)
    truth = torch.tensor(flow)[None, :, None, None].expand(count, 2, *SIZE).contiguous()
    known = {"valid": torch.ones(count, *SIZE, dtype=torch.bool), **changes}
    return PairBatch(image, image, truth, **known)


def shifted_features(x: int, y: int, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that only match where image1 shows what image0 shows, x cells further right and y further down."""
    height, width = SIZE[0] // STRIDE, SIZE[1] // STRIDE
    world = 3 * torch.randn(count, 16, height + 8, width + 8, generator=torch.Generator().manual_seed(1))
    crop0, crop1 = (world[..., 4 - b : 4 - b + height, 4 - a : 4 - a + width] for a, b in ((0, 0), (x, y)))
    return crop0, crop1


def test_features_that_follow_the_flow_cost_little_and_others_much() -> None:
    features = {STRIDE: shifted_features(2, -1)}
    right = matching_loss(features, pairs((8.0, -4.0)), radius=1)  # a radius of 1 leaves no room for a shift
    assert right < 0.01
    for wrong in ((-8.0, 4.0), (-4.0, 8.0), (8.0, 4.0), (0.0, 0.0), (10.0, -4.0)):
        assert matching_loss(features, pairs(wrong), radius=1) > 20 * right + 1


def test_the_shift_is_to_be_found_back() -> None:
    # Smooth features, so that shifts between cells are interpolated well.
    x, y = torch.meshgrid(torch.arange(24.0), torch.arange(16.0), indexing="xy")
    waves = torch.tensor([[0.5, 0.1], [0.1, 0.6], [0.4, -0.4], [0.8, 0.3], [0.2, 0.9], [0.9, -0.7]])
    angles = waves[:, 0, None, None] * x + waves[:, 1, None, None] * y
    maps = 1.4 * torch.cat([angles.sin(), angles.cos()])[None].expand(2, -1, -1, -1)
    torch.manual_seed(0)
    found = torch.stack([matching_loss({STRIDE: (maps, maps)}, pairs((0.0, 0.0))) for _ in range(5)])
    chance = math.log(81)
    assert found.max() < chance - 1
    flat = torch.full_like(maps, 0.01)
    assert matching_loss({STRIDE: (flat, flat)}, pairs((0.0, 0.0))) == pytest.approx(chance, abs=0.3)


def test_what_is_hidden_or_unknown_does_not_count() -> None:
    hidden = torch.zeros(2, *SIZE, dtype=torch.bool)
    hidden[:, :, 48:] = True
    features0, features1 = shifted_features(1, 0)
    spoilt = features1.clone()
    spoilt[..., 14:] = torch.randn_like(spoilt[..., 14:])
    full = pairs((4.0, 0.0))
    right, wrong = {STRIDE: (features0, features1)}, {STRIDE: (features0, spoilt)}
    assert matching_loss(wrong, full, radius=1) > matching_loss(right, full, radius=1) + 0.5
    for unseen in (pairs((4.0, 0.0), occlusion=hidden), pairs((4.0, 0.0), valid=~hidden)):
        assert matching_loss(wrong, unseen, radius=1) == matching_loss(right, unseen, radius=1) < 0.1
    nothing = pairs((4.0, 0.0), valid=torch.zeros(2, *SIZE, dtype=torch.bool))
    assert matching_loss({STRIDE: (features0, features1)}, nothing) == 0


def test_the_slope_is_right() -> None:
    features = [torch.randn(2, 3, 8, 12, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    batch = PairBatch(
        *2 * [torch.zeros(2, 3, 32, 48)],
        torch.randn(2, 2, 1, 1, dtype=torch.float64).expand(2, 2, 32, 48).contiguous(),
        torch.ones(2, 32, 48).bool(),
    )

    def loss(features0: torch.Tensor, features1: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return matching_loss({4: (features0, features1)}, batch, radius=2)

    assert torch.autograd.gradcheck(loss, features, eps=1e-5, atol=1e-6)
