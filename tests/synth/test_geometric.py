import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from flowkit.geometry.flow import flow_from_homography
from flowkit.geometry.grids import flow_targets, pixel_grid
from flowkit.geometry.homography import fit_dlt, transform_points
from flowkit.geometry.sampling import sample, sample_flow, warp
from flowkit.synth.geometric import DYNAMIC, KINDS, LIFE, STATIC, sample_geometric, sample_maps
from flowkit.synth.geometric_render import map_flows, render_geometric, transformed
from flowkit.synth.photos import CUTOUT, PhotoStore
from flowkit.synth.random import Random
from flowkit.synth.thin_plate import fit_thin_plate

SIZE = (48, 64)


def smooth_picture(seed, shape=(120, 160, 3), sigma=7.0):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(shape), (0, 0), sigma)
    return ((noise - noise.min()) / np.ptp(noise) * 255).round().astype(np.uint8)


def square_cutout():
    """Opaque in the middle half of the cut-out, so that its outline is known."""
    pixels = np.zeros((CUTOUT, CUTOUT, 4), np.uint8)
    quarter = CUTOUT // 4
    pixels[quarter:-quarter, quarter:-quarter] = (200, 40, 90, 255)
    return pixels


@pytest.fixture(scope="module")
def photos():
    store = PhotoStore.from_arrays([smooth_picture(seed) for seed in range(3)], size=(120, 160))
    # Not through `from_arrays`, which would crop the rim away.
    return PhotoStore(store.levels, torch.from_numpy(square_cutout())[None])


def only(kind, settings=STATIC, **others):
    return replace(settings, **{name: float(name == kind) for name in KINDS}, **others)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def maps_of(kind, count=6, size=SIZE, settings=STATIC, seed=0):
    return sample_maps(count, size, only(kind, settings), Random.on_host(generator(seed), torch.float64))


def exact_targets(maps, points):
    """Where points (B, N, 2) of image0 are in image1, by the definition, in float64."""
    unit = maps.unit()
    inner = transform_points(unit, points.double())
    inner = transform_points(maps.matrix, maps.plate(inner.mT).mT)
    return transform_points(torch.linalg.inv(unit), inner)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [SIZE, (37, 91)])
def test_image1_warped_by_the_flow_is_image0(photos, kind, size):
    batch = render_geometric(sample_geometric(8, size, only(kind), photos, generator()), photos)
    warped, inside = warp(batch.image1, batch.flow)
    seen = batch.valid & ~batch.occlusion & inside
    assert seen.float().mean() > 0.5
    error = (warped - batch.image0).abs().amax(1)
    assert error[seen].quantile(0.99) < 0.02 < (batch.image1 - batch.image0).abs().amax(1)[seen].mean()
    warped, inside = warp(batch.image0, batch.backward)
    seen = batch.backward_valid & ~batch.backward_occlusion & inside
    # Where image0 is black beyond the photo, bilinear interpolation mixes the rim.
    assert (warped - batch.image1).abs().amax(1)[seen].quantile(0.95) < 0.02


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [STATIC, LIFE], ids=["static", "life"])
def test_flows_are_the_map_and_its_inverse_to_a_thousandth_of_a_pixel(kind, settings):
    size = (120, 160)
    maps = maps_of(kind, size=size, settings=settings)
    flow, backward = map_flows(maps, "cpu")
    grid = pixel_grid(*size, dtype=torch.float64).flatten(1).T.expand(len(maps), -1, -1)
    known = torch.isfinite(flow).all(1).flatten(1)
    there = flow_targets(flow).flatten(1, 2)
    assert (there - exact_targets(maps, grid))[known].abs().max() < 1e-4
    back = (backward.double() + pixel_grid(*size, dtype=torch.float64)).flatten(2).mT
    found = torch.isfinite(back).all(-1)
    assert found[~maps.folded | ~maps.bent].float().mean() > (0.98 if kind != "homography" else 0.9)
    reached = exact_targets(maps, back.nan_to_num(0.0))
    assert (reached - grid)[found].norm(dim=-1).max() < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_where_it_started(photos, kind):
    batch = render_geometric(sample_geometric(6, (96, 128), only(kind), photos, generator(1)), photos)
    target = flow_targets(batch.flow)
    # Bilinear interpolation of the backward flow is good between pixel centres, not in the rim around the outermost.
    within = ((target >= 0) & (target <= torch.tensor([127, 95]))).all(-1)
    back = sample_flow(torch.where(batch.backward_valid[:, None], batch.backward, torch.nan), target)
    seen = batch.valid & ~batch.occlusion & within
    known = seen & torch.isfinite(back).all(1)
    assert known.sum() > 0.98 * seen.sum() and seen.float().mean() > 0.4
    error = (batch.flow + back).norm(dim=1)[known]
    assert error.quantile(0.99) < 0.05 and error.max() < 0.5


def test_a_homographys_flow_is_that_of_its_four_corners():
    maps = maps_of("homography")
    corners = torch.tensor([[-1.0, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    height, width = SIZE
    # The frame is 750 / 520 times as large as the pictures around the same middle.
    middle, half = torch.tensor([width - 1, height - 1]) / 2, torch.tensor([width, height]) / 2 * 750 / 520
    moved = transform_points(maps.matrix, corners)
    assert 0.4 < (moved - corners).abs().max() <= 0.5 + 1e-9
    H = fit_dlt((middle + half * corners).expand(6, 4, 2), middle + half * moved)
    torch.testing.assert_close(map_flows(maps, "cpu")[0], flow_from_homography(H, SIZE).float(), atol=1e-3, rtol=0)


def test_affine_maps_are_drawn_within_their_ranges():
    maps = maps_of("affine", count=2000, size=(100, 100))
    stretch = torch.linalg.svdvals(maps.matrix[:, :2, :2])
    assert 0.55 - 1e-9 <= stretch.min() < 0.57 and 1.43 < stretch.max() <= 1.45 + 1e-9
    shift = maps.matrix[:, :2, 2]
    assert 0.24 < shift.abs().max() <= 0.25 and abs(float(shift.mean())) < 0.01
    # The rotation is what is left of the polar decomposition, for R(b)^T diag R(b) is symmetric.
    left, _, right = torch.linalg.svd(maps.matrix[:, :2, :2])
    turn = left @ right
    angle = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert math.radians(14.7) < angle.abs().max() <= math.radians(15) + 1e-9


def test_rotations_stay_rotations_in_pictures_that_are_not_square():
    settings = only("affine", scale=0.0, translation=0.0, rotation=1.0)
    maps = sample_maps(20, (50, 170), settings, Random.on_host(generator(), torch.float64))
    H = maps.homographies()
    torch.testing.assert_close(H[:, :2, :2] @ H[:, :2, :2].mT, torch.eye(2).double().expand(20, 2, 2))
    middle = torch.tensor([[84.5, 24.5]], dtype=torch.float64)
    torch.testing.assert_close(transform_points(H, middle), middle.expand(20, 1, 2))


@pytest.mark.parametrize(("kind", "reach"), [("thin_plate", 0.5), ("affine_thin_plate", 0.15)])
def test_splines_move_nine_points_within_their_range(kind, reach):
    maps = maps_of(kind, count=500)
    moved = maps.plate(maps.plate.controls.mT).mT - maps.plate.controls
    assert 0.97 * reach < moved.abs().max() <= reach + 1e-9
    assert maps.plate.controls.abs().amax() == 1 and (maps.plate.controls[0] == 0).all(-1).sum() == 1


def test_kinds_come_in_their_shares():
    maps = sample_maps(2000, SIZE, STATIC, Random.on_host(generator(), torch.float64))
    counts = torch.bincount(maps.kind, minlength=4) / 2000
    torch.testing.assert_close(counts, torch.tensor([0, 1 / 3, 1 / 3, 1 / 3]), atol=0.04, rtol=0)
    life = sample_maps(300, SIZE, LIFE, Random.on_host(generator(), torch.float64))
    assert torch.bincount(life.kind, minlength=4)[3] == 0 and life.shown == 1
    assert 0.73 < life.matrix[life.kind == 0, :2, 2].abs().max() <= 0.75


def test_a_folded_spline_is_not_claimed_to_be_known(photos):
    pairs = sample_geometric(1, (96, 128), only("thin_plate"), photos, generator())
    controls = pairs.maps.plate.controls
    values = controls.clone()
    values[0, controls[0, :, 0] == 0, 0] = 1.25  # the middle column of points goes past the right one
    plate = fit_thin_plate(controls, values)
    maps = replace(pairs.maps, plate=plate, folded=torch.tensor([True]), shown=1.0)
    batch = render_geometric(replace(pairs, maps=maps), photos)
    grid = pixel_grid(96, 128, dtype=torch.float64).flatten(1).T
    slope = plate.with_slope(transform_points(maps.unit(), grid)[None].mT)[1]
    turned = (torch.linalg.det(slope.movedim(-1, 1)) < 0).unflatten(1, (96, 128))
    assert turned.float().mean() > 0.1
    known = batch.valid & ~batch.occlusion
    assert not (known & turned).any() and known.float().mean() > 0.2
    back = sample(batch.backward, flow_targets(batch.flow), padding="border")
    assert (batch.flow + back).norm(dim=1)[known].max() < 1
    missed = (exact_targets(maps, flow_targets(batch.backward).flatten(1, 2)) - grid).norm(dim=-1)
    assert missed[batch.backward_valid.flatten(1)].max() < 1e-3


def inside_square(place, points, margin):
    """Whether points (B, H, W, 2) are in the opaque half of the object, grown by `margin` of it."""
    linear, offset = place[:, :, :2], place[:, :, 2]
    inner = torch.einsum("bij,bhwj->bhwi", torch.linalg.inv(linear), points.double() - offset[:, None, None])
    return inner.abs().amax(-1) <= 0.5 * (1 + margin)


@pytest.fixture(scope="module")
def moving(photos):
    settings = replace(DYNAMIC, objects=1.0, object_size=(0.6, 1.2))
    pairs = sample_geometric(12, (96, 128), settings, photos, generator(5))
    return pairs, render_geometric(pairs, photos)


def test_objects_hide_what_is_behind_them(moving):
    pairs, batch = moving
    grid = flow_targets(torch.zeros_like(batch.flow))
    cases = [
        (batch.flow, batch.valid, batch.occlusion, pairs.place0, pairs.place1),
        (batch.backward, batch.backward_valid, batch.backward_occlusion, pairs.place1, pairs.place0),
    ]
    for flow, valid, occlusion, place, other in cases:
        target = flow_targets(flow)
        outside = ((target < -0.5) | (target > torch.tensor([127.5, 95.5]))).any(-1)
        own = [inside_square(place, grid, margin) for margin in (-0.1, 0.1)]
        hidden = [inside_square(other, target, margin) for margin in (-0.1, 0.1)]
        clear = (own[0] == own[1]) & (hidden[0] == hidden[1]) & valid
        assert clear.float().mean() > 0.5 and (hidden[0] & ~own[0] & clear).sum() > 500
        expected = outside | (hidden[0] & ~own[0])
        assert (expected == occlusion)[clear].all()


def test_objects_move_by_their_similarity(moving):
    pairs, batch = moving
    linear = pairs.place1[:, :, :2] @ torch.linalg.inv(pairs.place0[:, :, :2])
    growth = torch.linalg.svdvals(linear)
    assert (growth.log().abs() <= 0.3 + 1e-6).all()
    torch.testing.assert_close(growth[:, 0], growth[:, 1])
    angle = torch.atan2(linear[:, 1, 0], linear[:, 0, 0])
    assert 0 < angle.abs().max() <= math.pi / 6
    grid = flow_targets(torch.zeros_like(batch.flow)).double()
    moved = torch.einsum("bij,bhwj->bhwi", linear, grid - pairs.place0[:, None, None, :, 2])
    moved = moved + pairs.place1[:, None, None, :, 2]
    own = inside_square(pairs.place0, grid, -0.1)
    assert (flow_targets(batch.flow) - moved)[own].abs().max() < 1e-3
    colour = torch.tensor([200, 40, 90]) / 255
    assert (batch.image0.movedim(1, -1)[own] - colour).abs().max() < 0.02
    assert (batch.valid | ~own).all()


def test_nearby_moves_are_few_pixels_and_half_of_all(photos):
    settings = only("affine", DYNAMIC, objects=1.0)
    pairs = sample_geometric(1000, (520, 520), settings, photos, generator())
    shift = (pairs.place1 - pairs.place0)[:, :, 2]
    near = (shift.abs() <= 8 + 1e-9).all(-1) & ((shift - shift.round()).abs() < 1e-9).all(-1)
    assert 0.45 < near.float().mean() < 0.55
    assert shift[~near].abs().amax(-1).median() > 50
    share = sample_geometric(1000, SIZE, only("affine", DYNAMIC), photos, generator()).has_object.float().mean()
    assert 0.76 < share < 0.84


@pytest.mark.parametrize("kind", KINDS)
def test_no_pixel_moves_further_than_the_limit(photos, kind):
    settings = only(kind, DYNAMIC, objects=0.0)
    pairs = sample_geometric(8, SIZE, settings, photos, generator(3), limit=6.0)
    flow = map_flows(pairs.maps, "cpu")[0].norm(dim=1).nan_to_num(0)
    assert (flow.amax((1, 2)) < 6.05).all() and (flow.amax((1, 2)) > 3).sum() >= 6  # weakened, but not to nothing
    free = sample_geometric(8, SIZE, settings, photos, generator(3)).maps
    assert map_flows(free, "cpu")[0].norm(dim=1).nan_to_num(0).amax() > 12
    wide = sample_geometric(8, SIZE, settings, photos, generator(3), limit=1e4).maps
    torch.testing.assert_close(wide.matrix, free.matrix, rtol=0, atol=0)


def test_objects_move_no_further_than_the_limit(photos):
    pairs = sample_geometric(100, SIZE, replace(DYNAMIC, objects=1.0), photos, generator(), limit=5.0)
    shift = (pairs.place1 - pairs.place0)[:, :, 2].norm(dim=1)
    assert shift.max() < 5 + 1e-9 and (shift > 4.99).any() and shift.isfinite().all()


def test_without_cutouts_there_are_no_objects(photos):
    store = PhotoStore(photos.levels, torch.zeros((0, CUTOUT, CUTOUT, 4), dtype=torch.uint8))
    assert not sample_geometric(5, SIZE, replace(DYNAMIC, objects=1.0), store, generator()).has_object.any()


def test_the_same_seed_gives_the_same_pairs(photos):
    def pair(seed):
        return render_geometric(sample_geometric(3, SIZE, DYNAMIC, photos, generator(seed)), photos)

    first, again, other = pair(4), pair(4), pair(5)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, again.tensors()[name]), name
    assert not torch.equal(first.image0, other.image0) and not torch.equal(first.flow, other.flow)
    assert first.made["seed"] == 4 and set(first.made["kinds"]) <= set(KINDS)
    assert first.image0.shape == (3, 3, *SIZE) and first.image0.dtype == torch.float32


def test_life_makes_b_prime_of_given_images():
    images = torch.from_numpy(np.stack([smooth_picture(k, (64, 80, 3), 4) for k in range(9)])).movedim(-1, 1) / 255
    batch = transformed(images, LIFE, generator(2))
    assert torch.equal(batch.image0, images)
    warped, inside = warp(batch.image1, batch.flow)
    # image1 is black where the warp leaves the image: keep away from that rim.
    dark = warp((~batch.backward_valid).float()[:, None], batch.flow)[0][:, 0] > 0
    seen = batch.valid & ~batch.occlusion & inside & ~dark
    assert (warped - images).abs().amax(1)[seen].quantile(0.98) < 0.03 and seen.float().mean() > 0.2
    warped, inside = warp(images, batch.backward)
    seen = batch.backward_valid & ~batch.backward_occlusion & inside
    assert (warped - batch.image1).abs().amax(1)[seen].quantile(0.999) < 1e-4
    assert (batch.image1.amax(1)[~batch.backward_valid] == 0).all()
    assert torch.equal(transformed(images, LIFE, generator(2)).image1, batch.image1)
