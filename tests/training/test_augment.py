"""RAFT's augmentation: images and flow stay together to a fraction of a pixel, and the draws are RAFT's."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from known_pairs import CENTRE, SIZE, A, affine_pair, grid, shift_between, warp_error, waves

from flowkit.datasets.training_sets import PairArrays
from flowkit.training.augment import (
    DENSE,
    SPARSE,
    Placement,
    augment,
    erase,
    jitter,
    place,
)

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "eraser": 0.0}


@pytest.mark.parametrize("seed", range(6))
def test_dense_flow_still_brings_image1_onto_image0(seed):
    arrays = augment(
        affine_pair(), (64, 96), replace(DENSE, **STILL, spatial=1.0, flip_y=0.5), np.random.default_rng(seed)
    )
    assert arrays["image0"].shape == (3, 64, 96) and arrays["flow"].shape == (2, 64, 96) and arrays["valid"].all()
    error, off = warp_error(arrays)
    assert error.mean() < 1.2 and error.quantile(0.99) < 5  # interpolation and rounding
    assert np.abs(off).max() < 0.03


@pytest.mark.parametrize("shift", [(0.5, 0), (0, 0.5)])
def test_the_measure_sees_half_a_pixel(shift):
    """What the test above would say of images half a pixel apart."""
    arrays = augment(affine_pair(), (64, 96), replace(DENSE, **STILL, spatial=1.0), np.random.default_rng(1))
    flow = arrays["flow"] + np.float32(shift).reshape(2, 1, 1)
    error, off = warp_error({**arrays, "flow": flow})
    assert error.mean() > 2.5 and np.abs(off).max() > 0.2


PLACEMENTS = [
    Placement(SIZE, (150, 300), (False, False), (7, 11), (64, 96)),
    Placement(SIZE, (90, 110), (True, False), (3, 5), (64, 96)),
    Placement(SIZE, (173, 161), (True, True), (20, 30), (64, 96)),
    Placement(SIZE, SIZE, (False, True), (0, 56), (64, 96)),
]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_crop_shows_what_the_resize_rule_says(placement):
    """Pixel (x, y) of the crop is the point ((x - t) / s) of the original, with x' = (x + 0.5) s - 0.5 before flip and crop."""
    pair = affine_pair()
    (sx, tx), (sy, ty) = placement.axes
    x, y = grid(placement.crop)
    x, y = (x - tx) / sx, (y - ty) / sy
    inner = (x > 1) & (x < SIZE[1] - 2) & (y > 1) & (y < SIZE[0] - 2)
    shown = placement.picture(pair.image1).astype(np.float64)
    assert np.abs(shown - waves(x, y))[inner].mean() < 1.5
    shown[~inner] = np.nan
    assert np.abs(shift_between(waves(x, y), shown)).max() < 0.02
    # an affine flow survives bilinear interpolation exactly
    targets = (np.stack([x, y], axis=-1) - CENTRE) @ A.T + CENTRE
    expected = np.stack([(targets[..., 0] - x) * sx, (targets[..., 1] - y) * sy])
    np.testing.assert_allclose(placement.dense_flow(pair.flow)[:, inner], expected[:, inner], atol=2e-3)


def test_axes_by_hand():
    """Twice as wide, half as high, flipped in x, cropped at (3, 2)."""
    placement = Placement((8, 10), (4, 20), (True, False), (3, 2), (2, 5))
    (sx, tx), (sy, ty) = placement.axes
    # original x = 1: resized (1 + 0.5) 2 - 0.5 = 2.5, flipped 19 - 2.5 = 16.5, cropped 13.5
    assert sx * 1 + tx == pytest.approx(13.5)
    # original y = 5: resized 5.5 / 2 - 0.5 = 2.25, cropped 0.25
    assert sy * 5 + ty == pytest.approx(0.25)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_scattered_flow_goes_to_the_nearest_pixel(placement):
    """A flow that says where its pixel was: every vector must be within half a pixel of where it belongs, and none biased."""
    x, y = grid(SIZE)
    coordinates = np.stack([x, y]).astype(np.float32)
    coordinates[:, np.random.default_rng(0).random(SIZE) < 0.9] = np.nan
    moved = placement.sparse_flow(coordinates)
    (sx, tx), (sy, ty) = placement.axes
    known = np.isfinite(moved).all(axis=0)
    share = np.isfinite(coordinates[0]).mean() / (abs(sx) * abs(sy))
    assert known.mean() == pytest.approx(share, rel=0.25)
    cx, cy = grid(placement.crop)
    off_x, off_y = moved[0][known] + tx - cx[known], moved[1][known] + ty - cy[known]  # values are scaled like vectors
    assert np.abs(off_x).max() <= 0.5 + 1e-3 and np.abs(off_y).max() <= 0.5 + 1e-3
    assert abs(off_x.mean()) < 0.1 and abs(off_y.mean()) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_sparse_pair_under_a_translation_is_exact(seed):
    x, y = grid(SIZE)
    image0, image1 = (np.rint(waves(x + dx, y + dy)).astype(np.uint8) for dx, dy in ((5.3, -3.6), (0, 0)))
    flow = np.broadcast_to(np.float32([5.3, -3.6]).reshape(2, 1, 1), (2, *SIZE)).copy()
    flow[:, np.random.default_rng(seed).random(SIZE) < 0.7] = np.nan
    settings = replace(SPARSE, **STILL, spatial=1.0, min_scale=-0.3, max_scale=0.5)
    arrays = augment(PairArrays(image0, image1, flow), (64, 96), settings, np.random.default_rng(seed))
    assert 0.05 < arrays["valid"].mean() < 0.6 and not arrays["flow"][:, ~arrays["valid"]].any()
    assert warp_error(arrays)[0].mean() < 1.2 and "occlusion" not in arrays


def test_unknown_and_huge_flow_is_not_valid():
    pair = affine_pair()
    flow = pair.flow.copy()
    flow[:, :30], flow[0, 60:70] = np.nan, 1500
    arrays = augment(
        replace(pair, flow=flow), SIZE, replace(DENSE, **STILL, spatial=0, flip_x=0, flip_y=0), np.random.default_rng(0)
    )
    np.testing.assert_array_equal(arrays["valid"][:, 0], [row >= 30 and not 60 <= row < 70 for row in range(SIZE[0])])
    assert not arrays["flow"][:, ~arrays["valid"]].any() and arrays["flow"].dtype == np.float32


def test_unknown_flow_does_not_leak_when_resized():
    flow = affine_pair().flow.copy()
    flow[:, 40:50] = np.nan
    resized = Placement(SIZE, (200, 300), (False, False), (0, 0), (200, 300)).dense_flow(flow)
    assert (
        np.isnan(resized[:, 68:82]).all() and np.isfinite(resized[:, :64]).all() and np.isfinite(resized[:, 86:]).all()
    )


def test_occlusion_is_hidden_erased_or_outside():
    x, _ = grid(SIZE)
    flow = np.zeros((2, *SIZE), np.float32)
    flow[0] = 30
    hidden = x < 20
    image = np.full((*SIZE, 3), 90, np.uint8)
    image[0] = 0  # so that the mean colour differs
    settings = replace(
        DENSE, **{**STILL, "eraser": 1.0}, spatial=1.0, flip_x=0, flip_y=0, stretch=0, min_scale=1, max_scale=1
    )
    for seed in range(4):
        arrays = augment(PairArrays(image, image, flow, hidden), (240, 320), settings, np.random.default_rng(seed))
        size = arrays["flow"].shape[1:]
        assert size == (240, 320)
        erased = ((arrays["image1"] != 90).any(axis=0)) & (np.arange(240)[:, None] > 3)
        assert erased.any()
        shift = round(float(arrays["flow"][0, 0, 0]))
        expected = np.ones(size, bool)
        expected[:, : size[1] - shift] = erased[:, shift:]
        occlusion = arrays["occlusion"]
        differing = (occlusion != expected)[8:, 60 : size[1] - shift - 2]
        assert differing.mean() < 0.03  # the rims of the rectangles
        assert occlusion[:, -shift + 2 :].all() and occlusion[:, :20].all()


def test_flips_turn_the_flow():
    flow = np.broadcast_to(np.float32([3, -2]).reshape(2, 1, 1), (2, *SIZE)).copy()
    pair = replace(affine_pair(), flow=flow)
    for flip_x, flip_y, expected in ((1, 0, [-3, -2]), (0, 1, [3, 2]), (0, 0, [3, -2])):
        settings = replace(DENSE, **STILL, spatial=0, flip_x=flip_x, flip_y=flip_y)
        arrays = augment(pair, (64, 96), settings, np.random.default_rng(0))
        np.testing.assert_array_equal(arrays["flow"][:, 5, 5], expected)


def drawn(size, crop, settings, count=3000):
    rng = np.random.default_rng(0)
    return [place(size, crop, settings, rng) for _ in range(count)]


def test_draws_of_places_are_rafts():
    size, crop = (384, 512), (184, 248)
    placements = drawn(size, crop, replace(DENSE, min_scale=-0.1, max_scale=1.0))
    resized = np.array([p.resized for p in placements if p.resized != size])
    assert len(resized) / len(placements) == pytest.approx(0.8, abs=0.03)
    scales = np.log2(resized / np.array(size))
    assert scales.min() > -0.31 and scales.max() < 1.21 and scales.mean() == pytest.approx(0.45, abs=0.03)
    stretch = scales[:, 1] - scales[:, 0]
    assert (np.abs(stretch) > 0.01).mean() == pytest.approx(0.8 * 0.95, abs=0.04) and np.abs(stretch).max() < 0.41
    assert np.mean([p.flip for p in placements], axis=0) == pytest.approx([0.5, 0.1], abs=0.03)
    rooms = np.array([(p.resized[1] - crop[1], p.resized[0] - crop[0]) for p in placements])
    corners = np.array([p.corner for p in placements])
    assert (corners >= 0).all() and (corners <= rooms).all()
    assert (corners / rooms).mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.03)


def test_the_crop_fits_with_room_to_spare():
    for settings, spare in ((DENSE, 8), (SPARSE, 1)):
        for placement in drawn((100, 400), (96, 160), replace(settings, spatial=1.0, min_scale=-3, max_scale=-2), 50):
            assert placement.resized[0] == 96 + spare
            assert placement.resized[1] == round(400 * (96 + spare) / 100)
        for placement in drawn((50, 60), (96, 160), replace(settings, spatial=0.0), 20):  # smaller than the crop
            assert placement.resized[0] >= 96 + spare and placement.resized[1] >= 160 + spare


def test_sparse_crops_favour_the_bottom_and_both_sides():
    crop = (288, 960)
    corners = np.array([p.corner for p in drawn((375, 1242), crop, replace(SPARSE, spatial=0.0))])
    assert (corners[:, 0] == 0).mean() == pytest.approx(51 / 383, abs=0.03)
    assert (corners[:, 0] == 282).mean() == pytest.approx(51 / 383, abs=0.03)
    assert (corners[:, 1] == 87).mean() == pytest.approx(21 / 108, abs=0.03)
    assert (corners[:, 1] == 0).mean() < 0.03
    assert SPARSE.stretch == SPARSE.flip_y == SPARSE.asymmetric == 0


def colours():
    return np.random.default_rng(3).integers(0, 256, (40, 60, 3), np.uint8)


QUIET = replace(DENSE, **STILL)


def test_no_jitter_changes_next_to_nothing():
    changed = jitter(colours(), QUIET, np.random.default_rng(0)).astype(int) - colours()
    assert np.abs(changed).max() <= 10 and np.abs(changed).mean() < 1  # the way to hue and back


def test_hue_turns_the_colours():
    """A third of a circle makes red green and green blue; brightness stays."""
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0], image[2:, :, 0], image[2:, :, 1] = 200, 0, 180

    class Third:
        def uniform(self, low, high):
            return 1 / 3 if low < 0 else 1.0

        def permutation(self, names):
            return names

    turned = jitter(image, replace(QUIET, hue=0.5), Third()).astype(int)
    assert np.abs(turned[0, 0] - [0, 200, 0]).max() <= 6 and np.abs(turned[3, 0] - [0, 0, 180]).max() <= 6


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation"])
def test_factors_of_the_jitter(field):
    """The extreme factors 0.6 and 1.4, worked out in floating point."""
    image = colours() // 3 + 80  # far from being clipped
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    anchor = {"brightness": 0, "contrast": grey.mean(), "saturation": grey[..., None]}[field]

    class Fixed:
        def __init__(self, side):
            self.side = side

        def uniform(self, low, high):
            return 0.0 if low == high == 0 else (low, high)[self.side]

        def permutation(self, names):
            return names

    for side, factor in enumerate((0.6, 1.4)):
        changed = jitter(image, replace(QUIET, **{field: 0.4}), Fixed(side)).astype(np.float64)
        expected = (anchor + (image - anchor) * factor).clip(0, 255)
        assert np.abs(changed - expected).mean() < 1.2 and np.abs(changed - expected).max() <= 6


def same_colours(settings, seed):
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    pair = PairArrays(image, image, np.zeros((2, 64, 96), np.float32))
    arrays = augment(pair, (64, 96), replace(settings, eraser=0.0, spatial=0.0), np.random.default_rng(seed))
    return bool((arrays["image0"] == arrays["image1"]).all())


def test_colours_differ_between_the_images_one_time_in_five():
    assert np.mean([not same_colours(DENSE, seed) for seed in range(150)]) == pytest.approx(0.2, abs=0.1)
    assert all(same_colours(SPARSE, seed) for seed in range(20))


def test_eraser():
    image = np.zeros((300, 400, 3), np.uint8)
    image[..., 0] = np.arange(300, dtype=np.uint16)[:, None] % 200
    rng, erased = np.random.default_rng(0), []
    mean = np.rint(image.mean(axis=(0, 1))).astype(int)
    for _ in range(60):
        result, boxes = erase(image, DENSE, rng)
        erased.append(len(boxes))
        mask = np.zeros(image.shape[:2], bool)
        for box in boxes:
            left, top, right, bottom = (round(edge + 0.5) for edge in box)
            assert 0 <= left < right <= 400 and 0 <= top < bottom <= 300
            assert right - left <= 100 and bottom - top <= 100
            assert right - left >= 50 or right == 400
            mask[top:bottom, left:right] = True
        assert np.abs(result[mask].astype(int) - mean).max(initial=0) <= 1
        np.testing.assert_array_equal(result[~mask], image[~mask])
    assert np.mean(np.array(erased) > 0) == pytest.approx(0.5, abs=0.15) and set(erased) == {0, 1, 2}
    assert not (image == 255).any()  # the original is as it was


def test_noise_has_the_deviation_asked_for():
    image = np.full((64, 96, 3), 128, np.uint8)
    pair = PairArrays(image, image, np.zeros((2, 64, 96), np.float32))
    settings = replace(QUIET, spatial=0.0, noise=5.0)
    deviations = [
        augment(pair, (64, 96), settings, np.random.default_rng(seed))["image1"].astype(float).std()
        for seed in range(40)
    ]
    assert max(deviations) < 5.2 and np.mean(deviations) == pytest.approx(2.5, abs=0.8)
