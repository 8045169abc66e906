"""3-D scenes are exact: against a slow ray caster, against two-view geometry, and against themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scene3d_raycaster import Caster, grid
from scene_photos import disc, smooth_picture, store

from flowkit.errors import UsageError
from flowkit.geometry.epipolar import epipolar_distance
from flowkit.geometry.flow import flow_from_homography
from flowkit.geometry.grids import flow_targets, inside
from flowkit.geometry.pose import rotation_homography
from flowkit.geometry.sampling import sample, warp
from flowkit.synth.cameras import MOTIONS
from flowkit.synth.photos import CUTOUT, PhotoStore
from flowkit.synth.scene3d import Scene3DSettings, sample_scenes3d
from flowkit.synth.scene3d_render import render_scenes3d, views_of

SIZE = (50, 76)  # no multiple of the tiles
SETTINGS = Scene3DSettings(max_displacement=25, min_displacement=4, relief=0.5, moving=0.0)
ONLY = {name: 0.0 for name in MOTIONS}


@pytest.fixture(scope="module")
def photos():
    return store()


def scenes_of(photos, count=8, seed=0, size=SIZE, settings=SETTINGS, **changes):
    generator = torch.Generator().manual_seed(seed)
    return sample_scenes3d(count, size, replace(settings, **changes), photos, generator)


@pytest.fixture(scope="module")
def made(photos):
    """Eight scenes in which things move, and their pairs."""
    scenes = scenes_of(photos, moving=0.6)
    return scenes, render_scenes3d(scenes, photos)


@pytest.fixture(scope="module")
def still(photos):
    """Twelve scenes in which nothing moves on its own."""
    return render_scenes3d(scenes_of(photos, 12, seed=3), photos)


def opacity_of(scenes, photos, index):
    """The alpha of a scene's cutouts at places -1..1, bilinear, at the scale that the renderer has chosen."""
    side = views_of(scenes, photos).forms.alpha.side
    sides = side[index, scenes.objects.counts.cutout_slots].tolist()

    def opacity(k, a, b):
        side = sides[k]
        alpha = photos.cutouts[scenes.skins.cutout[index, k], ..., 3].numpy().astype(float)
        alpha = alpha.reshape(side, CUTOUT // side, side, CUTOUT // side).mean((1, 3)).round()
        x, y = (np.clip((v + 1) * side / 2 - 0.5, 0, side - 1.001) for v in (a, b))
        left, top = x.astype(int), y.astype(int)
        across, down = x - left, y - top
        above = alpha[top, left] * (1 - across) + alpha[top, left + 1] * across
        below = alpha[top + 1, left] * (1 - across) + alpha[top + 1, left + 1] * across
        return above * (1 - down) + below * down

    return opacity


def cast(scenes, photos, index):
    """Depth, flow, occlusion and moving mask of a scene by the slow ray caster, and which occlusions are beyond doubt."""
    opacity = opacity_of(scenes, photos, index)
    first, second = (Caster(scenes, index, camera, opacity) for camera in (0, 1))
    pixels = grid(scenes.size)
    rays = first.rays(pixels)
    found = first.depths(rays)
    depth, owner = found.min(1), found.argmin(1)
    R, t = scenes.rotations[index].numpy()[owner], scenes.translations[index].numpy()[owner]
    there = np.einsum("nij,nj->ni", R, rays * depth[:, None]) + t
    projected = there @ second.K.T
    points = projected[:, :2] / projected[:, 2:]

    def occluded(offset):
        moved = points + offset
        outside = ((moved < -0.5) | (moved > np.array(scenes.size[::-1]) - 0.5)).any(1)
        hit = second.depths(second.rays(moved), enclosure=False).min(1)
        return outside | (there[:, 2] <= 0) | (hit < there[:, 2] * (1 - 1e-4))

    occlusion = occluded(0)
    sure = np.all([occluded(np.array(step)) == occlusion for step in ((3e-4, 3e-4), (-3e-4, 3e-4), (0, -3e-4))], axis=0)
    return depth, points - pixels, occlusion, scenes.moving[index].numpy()[owner], sure


@pytest.mark.parametrize("index", range(8))
def test_all_agrees_with_a_slow_ray_caster(made, photos, index):
    scenes, pairs = made
    depth, flow, occlusion, moving, sure = cast(scenes, photos, index)
    assert sure.mean() > 0.99
    assert np.allclose(pairs.depth0[index].flatten(), depth, rtol=1e-4)
    valid = pairs.valid[index].flatten().numpy()
    assert valid.mean() > 0.98
    assert np.abs(pairs.flow[index].flatten(1).T.numpy() - flow)[valid].max() < 1e-3
    assert np.array_equal(pairs.occlusion[index].flatten().numpy()[sure], occlusion[sure])
    assert np.array_equal(pairs.moving[index].flatten().numpy(), moving)


def test_the_scenes_have_everything(made, photos):
    scenes, pairs = made
    seen = set()
    for index in range(len(scenes)):
        caster = Caster(scenes, index, 0, opacity_of(scenes, photos, index))
        owners = set(caster.depths(caster.rays(grid(SIZE))).argmin(1))
        spans = {
            kind: scenes.objects.counts.span(kind)
            for kind in ("enclosure", "boxes", "panels", "cutouts", "rounds", "reliefs")
        }
        seen |= {kind for kind, span in spans.items() if owners & set(range(span.start, span.stop))}
    assert seen == set(spans)
    assert 0.02 < pairs.occlusion.float().mean() < 0.6
    assert 0 < pairs.moving.float().mean() < 0.7
    assert scenes.objects.flat.any() and not scenes.objects.flat.all()


def test_cutouts_have_their_outline(photos):
    changes = {"boxes": 0, "panels": 0, "rounds": 0, "relief": 0.0, "presence": 1.0, "cutouts": 3}
    scenes = scenes_of(photos, 6, seed=2, **changes)
    pairs = render_scenes3d(scenes, photos)
    for index in range(6):
        depth, _, occlusion, _, sure = cast(scenes, photos, index)
        assert np.allclose(pairs.depth0[index].flatten(), depth, rtol=1e-4)
        assert np.array_equal(pairs.occlusion[index].flatten().numpy()[sure], occlusion[sure])


@pytest.fixture(scope="module")
def blurred():
    """Larger pairs with textures so smooth that interpolation does not hurt them."""
    pictures = [smooth_picture(seed, 40, 50) for seed in range(5)]
    photos = PhotoStore.from_arrays(pictures, [disc(7)], size=(320, 400))
    return render_scenes3d(scenes_of(photos, 6, seed=4, size=(100, 150), moving=0.5, antialias=False), photos)


def test_warping_image1_gives_image0(blurred):
    pairs = blurred
    warped, usable = warp(pairs.image1, pairs.flow)
    smooth = away_from_borders(pairs) & usable
    error = (warped - pairs.image0).abs().amax(1)[smooth]
    unmoved = (pairs.image1 - pairs.image0).abs().amax(1)[smooth]
    assert smooth.float().mean() > 0.35
    assert error.mean() < 0.003 and error.quantile(0.98) < 0.02
    assert unmoved.mean() > 12 * error.mean()


def away_from_borders(pairs):
    """(B, H, W) bool: not occluded, and within two pixels of its place in image1 the flow back hardly changes."""
    points = flow_targets(pairs.flow)
    high, low = (sign * extreme(sign * pairs.backward) for sign in (1, -1))
    change = sample((high - low).amax(1, keepdim=True), points, padding="border")[:, 0]
    within = inside(points - 1, (pairs.size[0] - 2, pairs.size[1] - 2))
    return (change < 0.3) & pairs.valid & ~pairs.occlusion & within


def extreme(values):
    """The largest value within two pixels."""
    return torch.nn.functional.max_pool2d(values, 5, stride=1, padding=2)


def pixel_rays(pairs, K):
    """(B, H W, 3) float64, z = 1."""
    pixels = torch.from_numpy(grid(pairs.size))
    points = torch.cat([pixels, torch.ones(len(pixels), 1, dtype=torch.float64)], 1)
    return points @ torch.linalg.inv(K).mT


def test_forward_and_backward_agree(blurred):
    pairs = blurred
    points = flow_targets(pairs.flow)
    smooth = away_from_borders(pairs)
    assert smooth.float().mean() > 0.35
    residual = (pairs.flow + sample(pairs.backward, points)).norm(dim=1)[smooth]
    # A post thinner than a pixel is seen at pixels of image0, but may lie between those of image1.
    assert residual.quantile(0.999) < 0.1 and residual.mean() < 0.005
    # What is seen from here is seen from there: few of the points are called occluded on the way back.
    lost = sample(pairs.backward_occlusion[:, None].float(), points)[:, 0][smooth]
    assert (lost > 0.99).float().mean() < 0.002


def test_flow_is_projected_depth(still):
    rays = pixel_rays(still, still.K0)
    there = (rays * still.depth0.double().flatten(1)[..., None]) @ still.R.mT + still.t[:, None]
    projected = there @ still.K1.mT
    flow = projected[..., :2] / projected[..., 2:] - torch.from_numpy(grid(still.size))
    difference = (still.flow.flatten(2).mT - flow).abs().amax(-1)
    assert difference[still.valid.flatten(1)].max() < 1e-3


def test_epipolar_residual(still, photos):
    wide = render_scenes3d(
        scenes_of(photos, 4, seed=5, size=(96, 320), max_displacement=100, min_displacement=20), photos
    )
    for pairs in (still, wide):
        points0 = torch.from_numpy(grid(pairs.size)).expand(len(pairs), -1, -1)
        points1 = points0 + pairs.flow.flatten(2).mT
        translated = pairs.t.norm(dim=-1) > 0
        assert translated.sum() >= 3
        known = pairs.valid.flatten(1) & translated[:, None]
        assert epipolar_distance(pairs.F, points0, points1)[known].max() < 1e-3
        assert epipolar_distance(pairs.F.mT, points1, points0)[known].max() < 1e-3


def test_cameras_are_consistent(still):
    identity = torch.eye(3, dtype=torch.float64)
    assert still.R.dtype == torch.float64
    assert torch.allclose(still.R @ still.R.mT, identity.expand(len(still), 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(still.R), torch.ones(len(still), dtype=torch.float64))
    x, y, z = still.t.unbind(-1)
    o = torch.zeros_like(x)
    cross = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))
    assert torch.allclose(still.E, cross @ still.R)
    translated = still.t.norm(dim=-1) > 0
    back = (still.K1.mT @ still.F @ still.K0)[translated]
    ratio = back / back.norm(dim=(1, 2), keepdim=True)
    essential = still.E[translated] / still.E[translated].norm(dim=(1, 2), keepdim=True)
    assert torch.allclose(ratio, essential, atol=1e-9)
    assert not still.E[~translated].any() and not still.F[~translated].any()


def test_pure_rotation_is_a_homography(photos):
    scenes = scenes_of(photos, 3, **{**ONLY, "rotation": 1.0, "zooming": 0.5})
    pairs = render_scenes3d(scenes, photos)
    assert scenes.motions() == ["rotation"] * 3
    assert not pairs.t.any() and not pairs.E.any()
    H = rotation_homography(pairs.K0, pairs.R, pairs.K1)
    expected = torch.stack([flow_from_homography(h, SIZE) for h in H])
    assert (pairs.flow - expected).abs().amax(1)[pairs.valid].max() < 1e-3
    outside = ~inside(flow_targets(pairs.flow), SIZE)
    differs = pairs.occlusion != outside
    assert differs.float().mean() < 1e-3  # nothing hides anything when the camera only turns


def test_driving_expands_from_one_point(photos):
    scenes = scenes_of(photos, 16, **{**ONLY, "forward": 1.0})
    pairs = render_scenes3d(scenes, photos)
    ahead = scenes.t[:, 2] < 0
    assert 8 < ahead.sum() < 16
    unturned = torch.eye(3, dtype=torch.float64).expand_as(scenes.R).contiguous()
    turned = torch.stack([flow_from_homography(h, SIZE) for h in rotation_homography(scenes.K0, scenes.R, scenes.K1)])
    assert not torch.allclose(scenes.R, unturned)
    outwards = ((pairs.flow - turned) * (grid_tensor() - focus(scenes)[..., None, None])).sum(1)
    assert (outwards[ahead] > -1e-2).float().mean() > 0.97
    assert (outwards[~ahead] < 1e-2).float().mean() > 0.97


def grid_tensor():
    return torch.from_numpy(grid(SIZE).T.reshape(2, *SIZE))


def focus(scenes):
    """Where camera 0 sees the place of camera 1."""
    place = -(scenes.R.mT @ scenes.t[..., None])
    pixel = (scenes.K0 @ place)[..., 0]
    return pixel[:, :2] / pixel[:, 2:]


def test_displacement_is_what_was_asked_for(photos):
    changes = {"min_displacement": 2.0, "max_displacement": 16.0}
    scenes = scenes_of(photos, 32, seed=1, size=(64, 96), **changes)
    pairs = render_scenes3d(scenes, photos)
    reached = torch.stack(
        [flow.norm(dim=0)[valid].quantile(0.9) for flow, valid in zip(pairs.flow, pairs.valid, strict=True)]
    )
    ratio = reached / scenes.wanted.float()
    assert 2 <= scenes.wanted.min() < 4 and 8 < scenes.wanted.max() <= 16
    assert ((ratio > 0.7) & (ratio < 1.3)).float().mean() > 0.85
    assert ratio.max() < 2


def test_a_seed_gives_the_same_pairs(photos):
    one, two, other = (render_scenes3d(scenes_of(photos, 2, seed=seed), photos) for seed in (7, 7, 8))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, two.tensors()[name]), name
    assert not torch.equal(one.image0, other.image0)
    assert not torch.equal(one.flow, other.flow)


def test_a_scene_does_not_depend_on_its_company(photos):
    scenes = scenes_of(photos, 6, moving=0.5)
    together, alone = render_scenes3d(scenes, photos), render_scenes3d(scenes[4:5], photos)
    for name, tensor in alone.tensors().items():
        assert torch.allclose(tensor.double(), together.tensors()[name][4:5].double(), atol=1e-5), name


def test_moving_things_leave_the_epipolar_lines(made):
    scenes, pairs = made
    points0 = torch.from_numpy(grid(SIZE)).expand(len(pairs), -1, -1)
    distance = epipolar_distance(pairs.F, points0, points0 + pairs.flow.flatten(2).mT)
    moving, valid = pairs.moving.flatten(1), pairs.valid.flatten(1) & (scenes.t.norm(dim=-1) > 0)[:, None]
    assert distance[valid & ~moving].max() < 1e-3
    assert (distance[valid & moving] > 0.05).float().mean() > 0.7
    still = ~scenes.moving.any(1)
    assert still.any() and not pairs.moving[still].any()


def test_antialiasing_changes_only_borders_and_only_colours(photos):
    scenes = scenes_of(photos, 3, seed=9)
    smooth, hard = (render_scenes3d(replace(scenes, antialias=on), photos) for on in (True, False))
    for name, tensor in smooth.tensors().items():
        assert torch.equal(tensor, hard.tensors()[name]) == (name not in ("image0", "image1")), name
    changed = (smooth.image0 != hard.image0).any(1)
    assert 0.005 < changed.float().mean() < 0.3
    edges = steepness(hard.image0)[changed].mean() / steepness(smooth.image0)[changed].mean()
    assert edges > 1.1


def steepness(image):
    across = torch.nn.functional.pad(image.diff(dim=-1), (0, 1))
    return across.abs().amax(1)


def test_images_are_pictures_of_the_photos(still):
    assert still.image0.dtype == torch.float32 and still.image0.shape == (12, 3, *SIZE)
    assert still.image0.min() >= 0 and still.image0.max() <= 1
    assert (still.image0.flatten(2).std(-1) > 0.02).float().mean() > 0.9
    assert torch.equal(still.reversed().flow, still.backward)


def test_cameras_vary(photos):
    scenes = scenes_of(photos, 64, size=(96, 320), zooming=0.5)
    angle = 2 * torch.rad2deg(torch.atan(160 / scenes.K0[:, 0, 0]))
    assert angle.min() < 60 and angle.max() > 85
    assert (scenes.K0[:, 0, 2] - 159.5).abs().max() > 5
    zoomed = (scenes.K0 != scenes.K1).flatten(1).any(1)
    assert 0.25 < zoomed.float().mean() < 0.75
    assert set(scenes.motions()) == set(MOTIONS)


def test_no_cutouts_and_too_many_surfaces(photos):
    bare = replace(photos, cutouts=photos.cutouts[:0])
    pairs = render_scenes3d(scenes_of(bare, 2), bare)
    assert torch.isfinite(pairs.image0).all()
    with pytest.raises(UsageError, match="64 surfaces"):
        scenes_of(photos, boxes=20)
