"""The census loss against equation 12 written out, its slope against differences, and what it is there for."""

import numpy as np
import pytest
import torch

from flowkit.losses.census import census_loss, grey_levels

FORMS = ("charbonnier", "soft-hamming")


def greys(size=(9, 11), seed=0, count=1):
    make = torch.Generator().manual_seed(seed)
    first = 40 * torch.rand(count, 1, *size, generator=make, dtype=torch.float64)
    return first, first + 6 * torch.rand(count, 1, *size, generator=make, dtype=torch.float64)


def written_out(grey0, grey1, weight, radius, form):
    total = counted = 0.0
    height, width = weight.shape[-2:]
    for b, y, x in np.ndindex(len(weight), height, width):
        if not (radius <= y < height - radius and radius <= x < width - radius):
            continue
        differences = []
        for dy, dx in np.ndindex(2 * radius + 1, 2 * radius + 1):
            if (dy, dx) == (radius, radius):
                continue
            steps = [float(g[b, 0, y + dy - radius, x + dx - radius] - g[b, 0, y, x]) for g in (grey0, grey1)]
            first, second = (step / np.sqrt(0.81 + step**2) for step in steps)
            differences.append(first - second)
        d = np.array(differences)
        if form == "charbonnier":
            value = ((d**2 + 1e-6) ** 0.45).mean()
        else:
            value = ((d**2 / (0.1 + d**2)).sum() ** 2 + 1e-6) ** 0.45
        total += float(weight[b, y, x]) * value
        counted += float(weight[b, y, x])
    return total / max(counted, 1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_it_is_the_equation(form, radius):
    grey0, grey1 = greys(count=2)
    weight = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = float(census_loss(grey0, grey1, weight, radius=radius, form=form))
    assert found == pytest.approx(written_out(grey0, grey1, weight, radius, form), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_slope_is_that_of_differences(form):
    grey0, grey1 = greys()
    weight = torch.rand(1, 9, 11, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weight[:, 4, 5] = 0
    for radius in (1, 3):
        assert torch.autograd.gradcheck(
            lambda moved, radius=radius: census_loss(grey0, moved, weight, radius=radius, form=form),
            (grey1.requires_grad_(),),
        )


@pytest.mark.parametrize("form", FORMS)
def test_light_that_is_added_does_not_count(form):
    grey0, _ = greys()
    weight = torch.ones(1, 9, 11, dtype=torch.float64)
    least = 1e-6**0.45
    assert float(census_loss(grey0, grey0 + 50, weight, form=form)) == pytest.approx(least, rel=1e-6)
    noise = torch.randn(grey0.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert float(census_loss(grey0, grey0 + noise, weight, form=form)) > 10 * least


def test_only_weighed_patches_inside_the_picture_count():
    grey0, grey1 = greys()
    one = torch.zeros(1, 9, 11, dtype=torch.float64)
    one[0, 4, 3] = 1
    rim = torch.ones_like(one)
    rim[:, 1:-1, 1:-1] = 0
    changed = grey1.clone()
    changed[..., 6:, :] += 30 * torch.rand(3, 11, generator=torch.Generator().manual_seed(1))
    assert census_loss(grey0, changed, one, radius=1) == census_loss(grey0, grey1, one, radius=1)
    assert census_loss(grey0, changed, one, radius=2) != census_loss(grey0, grey1, one, radius=2)
    assert float(census_loss(grey0, grey1, rim, radius=1)) == 0


@pytest.mark.parametrize("form", FORMS)
def test_the_true_shift_costs_least(form):
    picture = grey_levels(torch.rand(1, 3, 24, 40, generator=torch.Generator().manual_seed(2)))
    weight = torch.ones(1, 24, 30)
    costs = [float(census_loss(picture[..., 5:35], picture[..., s : s + 30], weight, form=form)) for s in range(11)]
    assert costs.index(min(costs)) == 5


def test_pictures_smaller_than_a_patch_say_nothing_and_a_patch_has_neighbours():
    grey0, grey1 = greys((6, 11))
    assert float(census_loss(grey0, grey1, torch.ones(1, 6, 11), radius=3)) == 0
    with pytest.raises(ValueError, match="radius=0"):
        census_loss(grey0, grey1, torch.ones(1, 6, 11), radius=0)


def test_grey_levels_are_those_of_television():
    colours = torch.eye(3)[:, :, None, None]
    assert torch.allclose(grey_levels(colours).flatten(), 255 * torch.tensor([0.299, 0.587, 0.114]))
