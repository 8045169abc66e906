from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.synth.lighting import LightingSettings, erase, relight
from flowkit.synth.lighting_fields import hazy, lamp, places, remoteness, shadow, smooth_field
from flowkit.synth.sensor import to_linear, vignette

NOTHING = replace(LightingSettings(**{f.name: 0.0 for f in fields(LightingSettings)}), brightest=1.0)
"""Every effect off; tests turn one on."""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pairs(count=4, size=(40, 56), low=0.0, high=1.0, **others):
    random = np.random.default_rng(0)
    pictures = np.stack([cv2.GaussianBlur(random.random((*size, 3)), (0, 0), 2) for _ in range(count)])
    pictures = (pictures - pictures.min()) / np.ptp(pictures)
    image = torch.from_numpy(low + (high - low) * pictures).float().movedim(-1, 1)
    valid = torch.ones(count, *size, dtype=torch.bool)
    return PairBatch(image, image.clone(), torch.zeros(count, 2, *size), valid, **others)


def test_strength_0_changes_nothing_also_for_single_pairs():
    batch = pairs(low=-0.0)
    same = relight(batch, 0.0, generator())
    assert torch.equal(same.image0, batch.image0) and torch.equal(same.image1, batch.image1)
    mixed = relight(batch, torch.tensor([0.0, 1.0, 0.0, 0.6]), generator())
    changed = (mixed.image0 != batch.image0).flatten(1).any(1), (mixed.image1 != batch.image1).flatten(1).any(1)
    assert changed[0].tolist() == changed[1].tolist() == [False, True, False, True]


def test_only_the_pictures_change():
    batch = pairs(depth0=torch.ones(4, 40, 56), depth1=torch.ones(4, 40, 56))
    lit = relight(batch, 0.7, generator())
    for name, tensor in batch.tensors().items():
        assert (lit.tensors()[name] is tensor) == (name not in ("image0", "image1")), name
    assert lit.made["light"] == [0.7] * 4


def test_more_strength_is_more_change_and_the_pictures_differ_from_each_other():
    batch = pairs(48)
    changes, differences = [], []
    for strength in (0.05, 0.15, 0.3, 0.6, 1.0):
        lit = relight(batch, strength, generator(3))
        changes.append(float((lit.image0 - batch.image0).abs().mean()))
        differences.append(float((lit.image1 - lit.image0).abs().mean()))
    assert (np.diff(changes) > 0.01).all() and (np.diff(differences) > 0.01).all()
    assert changes[0] < 0.03 and changes[-1] > 0.15


@pytest.mark.parametrize("size", [(40, 56), (9, 7), (64, 31)])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_pictures_stay_pictures(size, strength):
    batch = pairs(24, size)
    batch.image0[:2], batch.image1[2:4] = 0, 1
    lit = relight(batch, strength, generator(1), LightingSettings(erase=0.5))
    for image in (lit.image0, lit.image1):
        assert image.dtype == torch.float32 and image.shape == (24, 3, *size)
        assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1


def test_the_seed_decides():
    batch = pairs()
    first, again, other = (relight(batch, 0.8, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.image0, again.image0) and torch.equal(first.image1, again.image1)
    assert not torch.equal(first.image0, other.image0)
    running = generator(1)
    relight(batch, 0.8, running)
    assert not torch.equal(relight(batch, 0.8, running).image0, first.image0)


def test_pictures_of_two_sizes():
    batch = pairs()
    batch = replace(batch, image1=batch.image1[..., 10:])
    lit = relight(batch, 0.8, generator())
    assert lit.image1.shape == batch.image1.shape and not torch.equal(lit.image1, batch.image1)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        relight(pairs(), strength, generator())


def test_same_light_is_the_same_in_both_pictures_but_for_shadows_and_lamps():
    batch = pairs(8)
    calm = replace(LightingSettings(), noise=0, unevenness=0, night_probability=0, same_light=1, haze=0)
    same = relight(batch, 0.8, generator(), replace(calm, shadow=0, lamp=0))
    torch.testing.assert_close(same.image0, same.image1, atol=1e-5, rtol=0)
    assert (same.image0 - batch.image0).abs().mean() > 0.05
    moved = relight(batch, 0.8, generator(), replace(calm, shadow_probability=1.0))
    assert (moved.image0 - moved.image1).abs().mean() > 0.02


def ratios(settings, strength=1.0, low=0.4, high=0.5):
    """Linear light after over before, (2B, 3, H, W)."""
    batch = pairs(16, low=low, high=high)
    lit = relight(batch, strength, generator(2), replace(settings, same_light=0.0, common=0.0))
    after, before = torch.cat([lit.image0, lit.image1]), torch.cat([batch.image0, batch.image1])
    return to_linear(after.clone()) / to_linear(before)


def test_nothing_turned_on_is_nothing():
    torch.testing.assert_close(ratios(NOTHING), torch.ones(32, 3, 40, 56), atol=1e-4, rtol=0)


def test_exposure_scales_linear_light():
    factor = ratios(replace(NOTHING, exposure=2.0))
    mean = factor.mean((1, 2, 3))
    unclipped = mean < 3.5
    assert (factor / mean[:, None, None, None] - 1)[unclipped].abs().max() < 1e-3
    assert mean.log2().min() < -1.5 and mean.log2().abs().max() <= 2.0 + 1e-3 and mean.log2().max() > 1.2
    assert ratios(replace(NOTHING, exposure=2.0), 0.25).log2().abs().max() <= 0.5 + 1e-3


def test_exposure_is_held_back_from_black_and_white():
    batch = pairs(32, low=0.2, high=0.9)
    lit = relight(batch, 1.0, generator(), replace(NOTHING, exposure=6.0, darkest=0.05, brightest=0.5))
    mean = to_linear(torch.cat([lit.image0, lit.image1])).mean((1, 2, 3))
    assert 0.045 < mean.min() < 0.06 and mean.max() < 0.55


def test_white_balance_scales_each_colour():
    factor = ratios(replace(NOTHING, temperature=1.0, tint=0.3))
    gains = factor.mean((-2, -1))
    assert (factor / gains[..., None, None] - 1).abs().max() < 1e-3
    warmth = (gains[:, 0] / gains[:, 2]).log2()
    assert warmth.min() < -0.8 and warmth.max() > 0.8 and warmth.abs().max() <= 1.001
    assert gains[:, 1].log2().abs().max() <= 0.301


def test_gamma_is_an_exponent_on_what_is_displayed():
    batch = pairs(16, low=0.2, high=0.9)
    lit = relight(batch, 1.0, generator(), replace(NOTHING, gamma=0.7))
    exponent = lit.image0.log() / batch.image0.log()
    assert (exponent - exponent.mean((1, 2, 3), keepdim=True)).abs().max() < 1e-3
    assert 0.3 < exponent.log2().abs().max() <= 0.701


def test_contrast_saturation_and_hue():
    batch = pairs(24, low=0.35, high=0.65)

    def changed(**settings):
        return relight(batch, 1.0, generator(), replace(NOTHING, **settings)).image0

    def luma(image):
        return torch.einsum("c,bchw->bhw", torch.tensor([0.299, 0.587, 0.114]), image)

    mean = batch.image0.mean((1, 2, 3), keepdim=True)
    image = changed(contrast=1.0)
    scale = ((image - mean) * (batch.image0 - mean)).sum((1, 2, 3)) / (batch.image0 - mean).square().sum((1, 2, 3))
    torch.testing.assert_close(image, mean + scale[:, None, None, None] * (batch.image0 - mean), atol=1e-4, rtol=0)
    assert scale.min() < 0.7 and scale.max() > 1.4 and scale.log2().abs().max() <= 1.001
    for name, most in (("saturation", 1.5), ("hue", 0.1)):
        image = changed(**{name: most})
        torch.testing.assert_close(luma(image), luma(batch.image0), atol=1e-4, rtol=0)
        spread = (image - luma(image)[:, None]).square().sum((1, 2, 3)).sqrt()
        spread = spread / (batch.image0 - luma(batch.image0)[:, None]).square().sum((1, 2, 3)).sqrt()
        assert (image - batch.image0).abs().mean() > 0.005
        if name == "saturation":
            assert spread.min() < 0.6 and 1.2 < spread.max() <= 2**0.5 + 1e-3
        else:
            assert (spread - 1).abs().max() < 0.35


def test_vignetting_darkens_the_corners():
    settings = replace(NOTHING, vignette=1.0, vignette_probability=1.0)
    factor = ratios(settings)[:, 0]
    assert (factor[:, 19:21, 27:29] > 0.99).all() and factor[:, 0, 0].min() < 0.35
    amount = factor[:, 0, 0].rsqrt() - 1
    torch.testing.assert_close(factor, vignette(amount, (40, 56))[:, 0], atol=2e-3, rtol=0)


def test_night_is_dark_and_different_from_day():
    batch = pairs(32, low=0.3, high=0.9)
    settings = replace(NOTHING, night=5.0, night_probability=1.0)
    dark = to_linear(relight(batch, 1.0, generator(), settings).image0).mean((1, 2, 3))
    before = to_linear(batch.image0).mean((1, 2, 3))
    assert (dark < 0.6 * before).all() and (dark / before).median() < 0.35
    assert torch.equal(relight(batch, 0.3, generator(), settings).image0.isfinite(), batch.image0.isfinite())
    torch.testing.assert_close(relight(batch, 0.3, generator(), settings).image0, batch.image0, atol=1e-4, rtol=0)
    lamps = to_linear(relight(batch, 1.0, generator(), replace(settings, lamp=2.0)).image0)
    assert lamps.amax((1, 2, 3)).median() > 2 * dark.median()


def test_haze_hides_what_is_far():
    depth = torch.linspace(1, 20, 56).expand(16, 40, 56)
    batch = pairs(16, depth0=depth, depth1=depth)
    settings = replace(NOTHING, haze=2.0, haze_probability=1.0)
    for thick in (batch, replace(batch, depth0=None, depth1=None)):
        image = to_linear(relight(thick, 1.0, generator(), settings).image0)
        contrast = image.std((1, 2)) / to_linear(batch.image0.clone()).std((1, 2))
        assert contrast.mean() < 0.8
        if thick is batch:
            assert (contrast[:, :10].mean(1) > contrast[:, -10:].mean(1)).float().mean() > 0.9


def test_haze_is_koschmieders_law():
    light, air = torch.rand(2, 3, 4, 5), torch.tensor([[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]])
    density = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4, 5)
    seen = hazy(light, density, air)
    torch.testing.assert_close(seen[0], light[0])
    through = np.exp(-1)
    torch.testing.assert_close(seen[1], light[1] * through + air[1, :, None, None] * (1 - through))
    depth = torch.tensor([[1.0, 2, 4, torch.inf, torch.nan, 0, 400, 2]]).view(1, 2, 4)
    assert remoteness(depth).flatten().tolist() == [0.5, 1, 2, 6, 6, 6, 6, 1]


def test_a_shadow_is_dark_inside_and_its_edge_as_soft_as_asked():
    normals = torch.tensor([[[1.0, 0], [-1, 0], [0, 1], [0, -1]]]).expand(2, -1, -1)
    offsets = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).expand(2, -1)
    taken = shadow(normals, offsets, torch.zeros(2, 100, 200), torch.tensor([0.02, 0.2]))
    x, y = places((100, 200))
    inside = torch.maximum(x.abs() - 0.5, y.abs() - 0.2)
    assert (taken[0][inside < -0.05] > 0.99).all() and (taken[0][inside > 0.05] < 0.01).all()
    soft = ((taken > 0.12) & (taken < 0.88)).sum((1, 2))
    assert 5 < soft[1] / soft[0] < 20
    grown = shadow(normals, offsets, torch.full((2, 100, 200), 0.1), torch.tensor([0.02, 0.2]))
    assert (grown[0][(inside > 0.02) & (inside < 0.08)] > 0.8).all()


def test_shadows_take_light_and_each_picture_has_its_own():
    factor = ratios(replace(NOTHING, shadow=0.8, shadow_probability=1.0))[:, 1]
    assert factor.max() < 1.01 and factor.min() > 0.19 and factor.min() < 0.4
    shaded = (factor < 0.9).float().mean((1, 2))
    assert 0.1 < shaded.mean() < 0.9
    assert (factor[:16] - factor[16:]).abs().mean((1, 2)).gt(0.01).float().mean() > 0.8


def test_a_lamp_shines_around_and_a_cone_ahead():
    centre, radius = torch.zeros(1, 2, 2), torch.full((1, 2), 0.4)
    down = torch.tensor([[[0.0, 1], [0, 1]]])
    shine = lamp(centre, radius, down, torch.tensor([[-2.0, 0.8]]), (101, 101))[0]
    x, y = places((101, 101))
    distance = (x.square() + y.square()).sqrt()
    torch.testing.assert_close(shine[0], 1 / (1 + distance.square() / 0.16) ** 2, atol=1e-4, rtol=0)
    assert shine[1, 80, 50] > 0.9 * shine[0, 80, 50]  # ahead: y points down
    assert shine[1, 20, 50] < 1e-3 * shine[0, 20, 50] and shine[1, 50, 80] < 0.01 * shine[0, 50, 80]


def test_a_smooth_field_is_the_b_spline_of_its_knots():
    torch.testing.assert_close(smooth_field(torch.full((1, 5, 6), 0.7), (30, 41)), torch.full((1, 30, 41), 0.7))
    ramp = smooth_field(torch.arange(6.0).expand(5, 6)[None], (20, 30))[0]
    torch.testing.assert_close(ramp[:, 1:] - ramp[:, :-1], torch.full((20, 29), 0.1), atol=1e-5, rtol=0)
    assert float(ramp[0, 0]) == pytest.approx(1.05, abs=1e-5)


def test_noise_blur_and_jpeg_are_there_when_asked():
    for name in ("noise", "blur", "jpeg"):
        settings = replace(NOTHING, **{name: getattr(LightingSettings(), name), f"{name}_probability": 1.0})
        batch = pairs(8)
        lit = relight(batch, 1.0, generator(), settings)
        rough = [image.diff(dim=-1).abs().mean() for image in (batch.image0, lit.image0)]
        assert (lit.image0 - batch.image0).abs().mean() > 0.001, name
        if name == "noise":
            assert rough[1] > 1.1 * rough[0]
        if name == "blur":
            assert rough[1] < 0.99 * rough[0]


def test_erasing_fills_rectangles_of_image1_with_its_mean():
    batch = pairs(100, (60, 80))
    erased = erase(batch, 0.5, generator(), side=(10, 20))
    assert erased.image0 is batch.image0 and erased.valid is batch.valid
    changed = (erased.image1 != batch.image1).any(1)
    share = changed.flatten(1).any(1).float().mean()
    assert 0.35 < share < 0.65
    mean = batch.image1.mean((-2, -1))[:, :, None, None].expand_as(batch.image1)
    torch.testing.assert_close(erased.image1.movedim(1, -1)[changed], mean.movedim(1, -1)[changed], atol=1e-6, rtol=0)
    areas = changed.sum((1, 2))
    assert areas.max() <= 2 * 20 * 20
    rows, columns = changed.any(2).sum(1), changed.any(1).sum(1)
    single = areas == rows * columns  # one rectangle
    assert rows[single].max() <= 20 and columns[single].max() <= 20 and single.sum() > 10
    assert ((areas > 0) & ~single).sum() > 10  # two
    assert torch.equal(erase(batch, 0.0, generator()).image1, batch.image1)
