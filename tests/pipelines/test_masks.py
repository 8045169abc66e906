"""Masks: read from files, found in pictures whose sky and blank walls are known, applied to matches."""

import cv2
import numpy as np
import pytest

import flowkit
from flowkit.errors import InputError
from flowkit.io.images import as_image
from flowkit.pipelines.dense_matches import dense_matches
from flowkit.pipelines.masks import Masks, automatic_mask, chosen_mask, masked_matches, read_mask, shows
from flowkit.types import Matches

SIZE = (240, 320)


def texture(size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(20, 236, (size[0] // 6 + 1, size[1] // 6 + 1, 3), dtype=np.uint8)
    return cv2.resize(blocks, None, fx=6, fy=6, interpolation=cv2.INTER_NEAREST)[: size[0], : size[1]]


def noisy(picture, deviation=2.0):
    noise = np.random.default_rng(1).normal(0, deviation, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def under_sky(top, bottom, horizon=100, ground=None):
    """A sky that runs from one colour to another above textured ground."""
    picture = (texture() if ground is None else ground).astype(float)
    share = np.linspace(0, 1, horizon)[:, None, None]
    picture[:horizon] = (1 - share) * np.array(top, float) + share * np.array(bottom, float)
    return noisy(picture)


@pytest.mark.parametrize("colours", [((70, 110, 190), (190, 210, 235)), ((200, 205, 210), (245, 245, 245))])
def test_a_sky_over_textured_ground_is_excluded_and_the_ground_is_not(colours):
    mask = automatic_mask(under_sky(*colours))
    assert mask.shape == SIZE and mask.dtype == bool
    assert mask[:95].mean() < 0.02 and mask[105:].mean() > 0.99


def test_soft_clouds_belong_to_the_sky_and_birds_too():
    picture = under_sky((120, 160, 220), (200, 215, 235)).astype(float)
    clouds = cv2.GaussianBlur(np.random.default_rng(2).normal(0, 1, SIZE).astype(np.float32), (0, 0), 12)
    picture[:95] = np.clip(picture[:95] + 25 * (clouds / clouds.std())[:95, :, None], 150, 250)
    picture[40:43, 100:106] = 20
    mask = automatic_mask(picture.astype(np.uint8))
    assert mask[:95].mean() < 0.05 and mask[105:].mean() > 0.99


def test_what_is_bright_and_calm_but_not_above_is_no_sky():
    ground = texture()
    ground[150:200, 100:220] = (190, 215, 250)  # a lake with a boat every few pixels
    ground[150:200:8, 100:220:8] = 40
    assert automatic_mask(noisy(ground))[150:200, 100:220].mean() > 0.9
    grain = np.random.default_rng(3).integers(0, 60, (SIZE[0] // 2, SIZE[1] // 2, 1))
    leaves = (np.kron(grain, np.ones((2, 2, 1))) + np.array([60, 120, 190])).astype(
        np.uint8
    )  # blue and above, but not calm
    assert automatic_mask(leaves).mean() > 0.99


@pytest.mark.parametrize("grey", [30, 128, 250])
def test_a_blank_wall_is_excluded_whatever_its_noise(grey):
    picture = texture()
    picture[80:220, 60:260] = grey
    for deviation in (0, 2, 5):
        mask = automatic_mask(noisy(picture, deviation))
        assert mask[100:200, 80:240].mean() < 0.02, deviation
        assert mask[:75].mean() > 0.99 and mask[:, :55].mean() > 0.99
    assert not automatic_mask(noisy(np.full((*SIZE, 3), grey, np.uint8))).any()


def test_the_mask_has_the_size_of_the_picture_whatever_that_is():
    picture = cv2.resize(under_sky((70, 110, 190), (190, 210, 235)), (1500, 900), interpolation=cv2.INTER_CUBIC)
    mask = automatic_mask(picture)
    assert mask.shape == (900, 1500) and mask[:350].mean() < 0.02 and mask[400:].mean() > 0.98
    assert automatic_mask(texture((20, 400))).shape == (20, 400)


def test_masks_from_files_white_is_used(tmp_path):
    drawn = np.zeros(SIZE, np.uint8)
    drawn[:, 100:] = 255
    drawn[:10] = 127
    cv2.imwrite(str(tmp_path / "m.png"), drawn)
    mask = read_mask(tmp_path / "m.png", SIZE)
    assert mask.dtype == bool and not mask[:10].any() and not mask[:, :100].any() and mask[10:, 100:].all()
    np.testing.assert_array_equal(chosen_mask(tmp_path / "m.png", as_image(texture())), mask)
    np.testing.assert_array_equal(chosen_mask(mask, as_image(texture())), mask)
    np.testing.assert_array_equal(chosen_mask(drawn, as_image(texture())), mask)
    assert chosen_mask(None, as_image(texture())) is None
    with pytest.raises(InputError, match=r"m\.png: is 320x240 pixels, the picture it masks 240x320"):
        read_mask(tmp_path / "m.png", SIZE[::-1])
    with pytest.raises(InputError, match="shape"):
        chosen_mask(mask.T, as_image(texture()))
    with pytest.raises(InputError, match=r"none\.png"):
        read_mask(tmp_path / "none.png", SIZE)


def test_a_point_is_judged_by_its_nearest_pixel():
    mask = np.zeros((4, 6), bool)
    mask[1, 2] = True
    points = np.array([[2, 1], [2.4, 0.6], [2.6, 1], [-3, 1], [9, 1], [np.nan, 1]])
    assert shows(mask, points).tolist() == [True, True, False, False, False, False]


def test_masked_matches_keep_what_belongs_together():
    n = 6
    keypoints = np.column_stack([np.arange(n), np.zeros(n)]).astype(np.float32)
    pairs = np.column_stack([np.arange(n), np.arange(n)[::-1]])
    scores, origin, stage = np.linspace(0, 1, n).astype(np.float32), np.arange(n) % 2, np.arange(n)
    matches = Matches(keypoints, keypoints, pairs, scores, (1, n), (1, n), ("a", "b"), origin, None, stage)
    not_first, not_second = np.ones((1, n), bool), np.ones((1, n), bool)
    not_first[0, 0], not_second[0, 1] = False, False
    kept = masked_matches(matches, Masks(not_first, not_second))
    assert kept.stage.tolist() == [1, 2, 3, 5] and kept.origin.tolist() == [1, 0, 1, 1]
    np.testing.assert_array_equal(kept.scores, scores[[1, 2, 3, 5]])
    np.testing.assert_array_equal(kept.points0[:, 0], [1, 2, 3, 5])


def test_sparse_and_dense_matches_stay_where_both_masks_allow_them():
    world = texture((300, 400))
    a, b = world[20:260, 20:340], world[30:270, 34:354]  # the flow a -> b is (-14, -10)
    left, low = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    left[:, :200], low[80:] = True, True
    sparse = flowkit.match(a, b, features="sift", mask0=left, mask1=low)
    dense = dense_matches(a, b, model="dis", mask0=left, mask1=low)
    for found in (sparse, dense):
        assert len(found) > 100
        assert found.points0[:, 0].max() < 200 and found.points1[:, 1].min() > 79
        assert found.run.options["mask0"] == {"from": "array", "used": 0.625}
        assert np.median(found.points1 - found.points0, axis=0) == pytest.approx([-14, -10], abs=0.1)
    assert len(flowkit.match(a, b, features="sift")) > 1.5 * len(sparse)
