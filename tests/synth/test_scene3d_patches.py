"""Plain and repeating faces of 3-D scenes: they look so, and nothing but the colours changes."""

from dataclasses import replace

import pytest
import torch
from scene_photos import store

from flowkit.errors import UsageError
from flowkit.geometry.sampling import sample
from flowkit.synth.scene3d import Scene3DSettings, Scenes3D, sample_scenes3d
from flowkit.synth.scene3d_patches import FADED, PERIOD
from flowkit.synth.scene3d_render import render_scenes3d

SIZE = (64, 96)


@pytest.fixture(scope="module")
def photos():
    return store()


def scenes_of(photos, count=4, seed=0, size=SIZE, **changes):
    settings = Scene3DSettings(max_displacement=25, min_displacement=4, relief=0.5, **{"moving": 0.0, **changes})
    return sample_scenes3d(count, size, settings, photos, torch.Generator().manual_seed(seed))


def test_without_them_the_draws_are_what_they_were(photos):
    # Taken before there were plain and repeating faces (commit 5277a0e).
    generator = torch.Generator().manual_seed(0)
    settings = Scene3DSettings(max_displacement=25, min_displacement=4, relief=0.5, moving=0.3)
    scenes = sample_scenes3d(8, (50, 76), settings, photos, generator)
    assert scenes.wanted[:3].tolist() == pytest.approx([5.730318338636137, 20.100334621194932, 24.095143489949354])
    assert scenes.skins.offset[0, 0].tolist() == pytest.approx([193.45135258995998, 89.01468947089428])
    assert scenes.rotations.sum().item() == pytest.approx(526.2685094903313)
    after = torch.rand(3, generator=generator).tolist()
    assert after == pytest.approx([0.554431676864624, 0.8237969875335693, 0.10636168718338013])
    assert scenes.skins.patch is None


def test_a_patch_that_is_none_changes_no_bit(photos):
    scenes = scenes_of(photos)
    patch = torch.zeros(*scenes.skins.photo.shape, 4, dtype=torch.float64)
    patch[..., 3] = 1
    neutral = render_scenes3d(replace(scenes, skins=replace(scenes.skins, patch=patch)), photos)
    for name, tensor in render_scenes3d(scenes, photos).tensors().items():
        assert torch.equal(tensor, neutral.tensors()[name]), name


def test_only_colours_change(photos):
    bare, dressed = (
        render_scenes3d(scenes_of(photos, moving=0.5, **shares), photos)
        for shares in ({}, {"plain": 0.4, "repeating": 0.4})
    )
    for name, tensor in bare.tensors().items():
        assert torch.equal(tensor, dressed.tensors()[name]) == (name not in ("image0", "image1")), name


def test_shares(photos):
    scenes = scenes_of(photos, 32, plain=0.3, repeating=0.2)
    counts, patch = scenes.objects.counts, scenes.skins.patch
    cut = torch.zeros(counts.skins, dtype=torch.bool)
    cut[counts.cutout_skins] = True
    assert cut.sum() == counts.cutouts > 0
    blank, tiled = patch[..., 3] == FADED, patch[..., 2] > 0
    assert blank[:, ~cut].float().mean() == pytest.approx(0.3, abs=0.03)
    assert tiled[:, ~cut].float().mean() == pytest.approx(0.2, abs=0.03)
    assert not (blank & tiled).any() and not (blank | tiled)[:, cut].any()
    for wrong in ({"plain": -0.1}, {"plain": 0.6, "repeating": 0.6}):
        with pytest.raises(UsageError, match="shares of plain faces"):
            Scene3DSettings(**wrong)


def test_plain_scenes_have_hardly_any_contrast(photos):
    usual, plain = (render_scenes3d(scenes_of(photos, 8, cutouts=0, plain=share), photos).image0 for share in (0, 1))
    slopes = [image.diff(dim=-1).abs().amax(1).flatten().median() for image in (usual, plain)]
    assert slopes[1] < 0.1 * slopes[0]
    assert (plain.flatten(2).mean(-1) - usual.flatten(2).mean(-1)).abs().max() < 0.15  # as bright as before


def before_a_wall(scenes: Scenes3D, further: float = 1.0) -> tuple[Scenes3D, torch.Tensor]:
    """The scenes with their first panel as a wall across the whole view, `further` times as far as it was; its period in px."""
    objects, panel = scenes.objects, scenes.objects.counts.span("panels").start
    distance = objects.centre[:, panel].norm(dim=-1)
    centre, axes = objects.centre.clone(), objects.axes.clone()
    centre[:, panel] = torch.eye(3, dtype=torch.float64)[2] * (further * distance)[:, None]
    axes[:, panel] = torch.eye(3, dtype=torch.float64) * (3 * further * distance)[:, None, None]
    others = torch.arange(objects.counts.objects) != panel
    others[0] = False
    centre[:, others] = 1e3 * (1 + distance[:, None, None]) * torch.eye(3, dtype=torch.float64)[2]
    axes[:, 0] *= 1e4  # the enclosure is behind the wall
    K = scenes.K0.clone()
    K[:, 1, 1] = K[:, 0, 0]
    skin = scenes.objects.counts.cutout_skins.start - scenes.objects.counts.panels
    period = 2 * scenes.skins.patch[:, skin, 2] * K[:, 0, 0] / (scenes.skins.density[:, skin] * further * distance)
    objects = replace(objects, centre=centre, axes=axes, fading=torch.zeros_like(objects.fading))
    return replace(scenes, objects=objects, K0=K, K1=K), period


def render(scenes, photos):
    return render_scenes3d(scenes, photos).image0.double()


def walls(photos, further=1.0):
    return before_a_wall(scenes_of(photos, 12, presence=1.0, forward=0.0, orbit=0.0, repeating=1.0), further)


def shifted_by(image, lag, axis):
    """How much (3, H, W) differs from itself `lag` px further along x (0) or y (1), over a region that has both."""
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(50.0), indexing="ij")
    here = torch.stack([x + 4, y + 4], -1).flatten(0, 1).double()
    there = here + lag * torch.eye(2, dtype=torch.float64)[axis]
    one, two = (sample(image, points) for points in (here, there))
    return float((one - two).abs().mean())


def test_a_repeating_wall_repeats_at_its_period(photos):
    scenes, period = walls(photos)
    assert period.min() >= PERIOD[0] - 1e-9 and period.max() <= PERIOD[1] + 1e-9
    found = 0
    for image, length in zip(render(scenes, photos), period.tolist(), strict=True):
        for axis in (0, 1):
            lags = [length * share for share in (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2)]
            differences = [shifted_by(image, lag, axis) for lag in lags]
            if max(differences) > 0.01:  # else the patch has nothing to show along this axis
                found += 1
                assert differences.index(min(differences)) == 3
                assert differences[3] < 0.35 * shifted_by(image, length / 2, axis)
    assert found > 12


def test_a_far_repeating_wall_fades_into_its_mean(photos):
    near, close = walls(photos)
    far, period = walls(photos, 16.0)
    assert torch.allclose(16 * period, close)
    one, two = render(near, photos), render(far, photos)
    assert two.flatten(2).std(-1).max() < 4e-3 < 0.05 < one.flatten(2).std(-1).mean()
    assert (one.flatten(2).mean(-1) - two.flatten(2).mean(-1)).abs().max() < 0.06


@pytest.mark.parametrize(("further", "like"), [(1.0, 0.15), (2.0, 0.4), (4.0, 1.0)])
def test_a_repeating_wall_is_antialiased(photos, further, like):
    """Against the mean of 4 x 4 rays a pixel: alike while the period is some pixels, softer, never harder, beyond."""
    scenes, period = walls(photos, further)
    fine = tuple(4 * n for n in scenes.size)
    K = scenes.K0.clone()
    K[:, :2] *= 4
    K[:, :2, 2] += 1.5
    exact = torch.nn.functional.avg_pool2d(render(replace(scenes, size=fine, K0=K, K1=K), photos), 4)
    drawn = render(scenes, photos)
    contrast, kept = (image.flatten(1).std(-1) for image in (exact, drawn))
    assert period.min() < 8 / further and period.max() > 16 / further
    assert ((drawn - exact).pow(2).flatten(1).mean(1).sqrt() < like * contrast).all()
    assert (kept < 1.02 * contrast).all()
