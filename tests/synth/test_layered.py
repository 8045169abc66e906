"""Layered scenes: the flow, the occlusion and both renderers, against what the description says pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene_photos import store

from flowkit.geometry.sampling import warp
from flowkit.synth.layer_maps import coverage, move, move_back
from flowkit.synth.layer_render import render_layers
from flowkit.synth.layer_render_cpu import render_layers_cpu
from flowkit.synth.layered import LayeredScenes, LayeredSettings, sample_layers
from flowkit.synth.photos import PhotoStore

SIZE = (64, 96)
SETTINGS = LayeredSettings(max_displacement=20, defocus=0, motion_blur=0)


@pytest.fixture(scope="module")
def photos() -> PhotoStore:
    return store()


def scenes(photos: PhotoStore, seed: int = 0, count: int = 6, settings: LayeredSettings = SETTINGS) -> LayeredScenes:
    return sample_layers(count, SIZE, settings, photos, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("render", [render_layers, render_layers_cpu])
def test_image1_along_the_flow_is_image0(photos: PhotoStore, render) -> None:
    pair = render(scenes(photos), photos)
    for here, there, flow, hidden in (
        (pair.image0, pair.image1, pair.flow, pair.occlusion),
        (pair.image1, pair.image0, pair.backward, pair.backward_occlusion),
    ):
        back, inside = warp(there, flow)
        error = (back - here).abs().mean(1)[inside & ~hidden]
        still = (there - here).abs().mean(1)[inside & ~hidden]
        assert error.median() < 0.006  # textures are resampled twice
        assert error.mean() < 0.25 * still.mean()


def test_a_flow_that_is_half_a_pixel_off_would_be_noticed(photos: PhotoStore) -> None:
    pair = render_layers(scenes(photos), photos)
    seen = ~pair.occlusion

    def error(slip: float) -> float:
        back, inside = warp(pair.image1, pair.flow + slip)
        return float((back - pair.image0).abs().mean(1)[inside & seen].median())

    assert error(0.5) > 3 * error(0) and error(-0.5) > 3 * error(0)


def test_forward_and_backward_flow_agree_where_both_see_the_point(photos: PhotoStore) -> None:
    pair = render_layers(scenes(photos, count=10), photos)
    there, inside = warp(pair.backward, pair.flow)
    _, hidden_there = warp(pair.backward_occlusion[:, None].float(), pair.flow)
    close = (there + pair.flow).norm(dim=1)[inside & ~pair.occlusion & hidden_there]
    assert close.median() < 1e-3  # bilinear interpolation of a curved flow, not the flow itself
    assert close.quantile(0.8) < 0.02


def test_both_renderers_draw_the_same(photos: PhotoStore) -> None:
    described = scenes(photos, seed=3, count=8, settings=replace(SETTINGS, motion_blur=0.5, defocus=0.5))
    ours, fast = render_layers(described, photos), render_layers_cpu(described, photos)
    for name, tensor in ours.tensors().items():
        other = getattr(fast, name)
        assert other.shape == tensor.shape and other.dtype == tensor.dtype, name
        difference = (tensor.float() - other.float()).abs()
        # OpenCV rounds texture coordinates to 1/32 pixel; an alpha of one half may fall on either side.
        assert difference.mean() < 2e-3 and (difference > 0.05).float().mean() < 1e-3, name


def test_occlusion_is_what_a_z_test_at_every_pixel_says(photos: PhotoStore) -> None:
    described = scenes(photos, seed=5, count=4)
    pair = render_layers(described, photos)
    rng = np.random.default_rng(0)
    for row in range(4):
        for _ in range(150):
            x, y = int(rng.integers(SIZE[1])), int(rng.integers(SIZE[0]))
            point = torch.tensor([[[float(x), float(y)]]])
            front0 = _front(described, photos, row, point, moved=False)
            target = _moved(described, row, front0, point)
            tx, ty = target[0, 0].tolist()
            outside = not (-0.5 <= tx <= SIZE[1] - 0.5 and -0.5 <= ty <= SIZE[0] - 0.5)
            hidden = outside or _front(described, photos, row, target, moved=True) > front0
            assert bool(pair.occlusion[row, y, x]) == hidden
            assert torch.allclose(pair.flow[row, :, y, x], (target - point)[0, 0], atol=1e-3)


def _field(described: LayeredScenes, row: int, k: int) -> torch.Tensor:
    from flowkit.synth.layer_maps import dense_field

    return dense_field(described.field[row, k][None], SIZE)


def _moved(described: LayeredScenes, row: int, k: int, point: torch.Tensor) -> torch.Tensor:
    return move(described.motion[row, k][None], _field(described, row, k), point)


def _front(described: LayeredScenes, photos: PhotoStore, row: int, point: torch.Tensor, moved: bool) -> int:
    """The nearest layer whose alpha is above one half at a point of image0, or of image1."""
    for k in reversed(range(1, described.present.shape[1])):
        if not described.present[row, k]:
            continue
        u = point
        if moved:
            u = move_back(described.motion[row, k].inverse()[None], _field(described, row, k), point)
        if described.cutout_slots[k]:
            pixels = photos.cutouts[described.picture[row, k]][..., 3].float() / 255
            place = described.texture[row, k] @ torch.cat([u[0, 0], torch.ones(1)])
            alpha = _bilinear(pixels, place)
        else:
            parts = (described.local, described.outline, described.sharpness, described.hole, described.stripe)
            alpha = float(coverage(u, *(part[row, k][None] for part in parts)))
        if alpha > 0.5:
            return k
    return 0


def _bilinear(pixels: torch.Tensor, place: torch.Tensor) -> float:
    x0, y0 = int(place[0].floor()), int(place[1].floor())
    total = 0.0
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = x0 + dx, y0 + dy
            if 0 <= x < pixels.shape[1] and 0 <= y < pixels.shape[0]:
                total += float(pixels[y, x] * (1 - abs(place[0] - x)) * (1 - abs(place[1] - y)))
    return total


def test_the_inverse_of_a_bent_motion_is_exact(photos: PhotoStore) -> None:
    described = scenes(photos, settings=replace(SETTINGS, deformed=1.0, max_displacement=40))
    field = torch.stack([_field(described, 0, k)[0] for k in range(7)])
    points = torch.rand(7, 200, 2) * torch.tensor([95.0, 63.0])
    motion = described.motion[0]
    back = move_back(motion.double().inverse().float(), field, move(motion, field, points))
    assert field.abs().amax() > 1
    assert (back - points).abs().max() < 1e-3


def test_the_same_seed_gives_the_same_pair_and_another_seed_another(photos: PhotoStore) -> None:
    first, again, other = (render_layers_cpu(scenes(photos, seed=s, count=2), photos) for s in (1, 1, 2))
    assert all(torch.equal(tensor, getattr(again, name)) for name, tensor in first.tensors().items())
    assert not torch.equal(first.image0, other.image0)


def test_displacements_follow_the_settings(photos: PhotoStore) -> None:
    def lengths(**changes: float) -> torch.Tensor:
        described = scenes(photos, count=40, settings=replace(SETTINGS, foregrounds=0, still=0, **changes))
        return render_layers_cpu(described, photos).flow.norm(dim=1).flatten(1).median(1).values

    small, large = lengths(min_displacement=0.5, max_displacement=1), lengths(min_displacement=15, max_displacement=30)
    assert 0.1 < small.median() < 1.5 and small.max() < 4
    assert 6 < large.median() < 45
    assert lengths(min_displacement=1, max_displacement=1.01).median() == pytest.approx(0.8, abs=0.5)
    still = scenes(photos, count=3, settings=replace(SETTINGS, foregrounds=0, still=1))
    assert render_layers_cpu(still, photos).flow.abs().max() < 1e-4


def test_without_cutouts_every_foreground_is_an_outline() -> None:
    bare = store(3, cutouts=0)
    described = scenes(bare)
    assert not any(described.cutout_slots)
    assert render_layers(described, bare).image0.isfinite().all()


def test_no_pixel_moves_much_further_than_the_largest_displacement(photos: PhotoStore) -> None:
    """Long thin shapes and tilted ones, too; a foreground adds its motion to the background's."""
    settings = replace(SETTINGS, max_displacement=16, thin=0.5, projective=1, attached=0.5)
    flow = render_layers_cpu(scenes(photos, count=60, settings=settings), photos).flow.norm(dim=1)
    assert flow.max() < 5 * 16
    assert flow.flatten().quantile(0.999) < 3 * 16
