"""FlowNet2's augmentation: the flow fits the two crops to a fraction of a pixel, and the draws are the paper's."""

from dataclasses import fields, replace

import numpy as np
import pytest
from known_pairs import CENTRE, SIZE, A, affine_pair, grid, warp_error, waves

from flowkit.datasets.training_sets import PairArrays
from flowkit.training.flownet2_augmentation import (
    CHAIRS,
    KITTI,
    SINTEL,
    THINGS,
    Colours,
    Effect,
    FlowNet2Augmentation,
    Motion,
    Normal,
    Uniform,
    affect,
    affine,
    recolour,
    shows_only,
)


def without(settings):
    """The same distributions without any width, and about nothing."""
    return replace(
        settings, **{f.name: replace(getattr(settings, f.name), width=0.0, mean=0.0) for f in fields(settings)}
    )


NO_NOISE = Uniform(0.0)
STILL = {"motion": without(Motion()), "relative": without(Motion())}
COLOURLESS = {"colours": without(Colours()), "effect": without(Effect()), "noise": NO_NOISE}
MOVING = FlowNet2Augmentation(
    **COLOURLESS,
    mirror=0.5,
    relative=Motion(Normal(0.05), Normal(0.1), Normal(0.1, exp=True), Normal(0.05, exp=True)),
)
CROP = (64, 96)


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_flow_still_brings_image1_onto_image0(seed):
    arrays = MOVING.apply(affine_pair(), CROP, np.random.default_rng(seed))
    assert arrays["image0"].shape == arrays["image1"].shape == (3, *CROP) and arrays["image0"].dtype == np.uint8
    assert arrays["flow"].shape == (2, *CROP) and arrays["flow"].dtype == np.float32 and arrays["valid"].all()
    error, off = warp_error(arrays)
    assert error.mean() < 1.2 and error.quantile(0.99) < 5  # interpolation and rounding
    assert np.abs(off).max() < 0.03


@pytest.mark.parametrize(
    "change", [lambda f: -f, lambda f: f[::-1], lambda f: f + 0.5, lambda f: f - [[[0.0]], [[0.5]]]]
)
def test_the_measure_sees_a_wrong_flow(change):
    arrays = MOVING.apply(affine_pair(), CROP, np.random.default_rng(1))
    error, _ = warp_error({**arrays, "flow": change(arrays["flow"]).astype(np.float32).copy()})
    assert error.mean() > 2.5


def test_affine_by_hand():
    """A picture 10 high and 20 wide, a crop 4 high and 6 wide: centres (9.5, 4.5) and (2.5, 1.5)."""

    def to(point, **changes):
        plain = {"translate": np.zeros(2), "rotate": 0.0, "zoom": 1.0, "squeeze": 1.0}
        return (affine((10, 20), (4, 6), **{**plain, **changes}) @ [*point, 1])[:2]

    assert to((9.5, 4.5)) == pytest.approx([2.5, 1.5])
    assert to((10.5, 4.5)) == pytest.approx([3.5, 1.5])
    assert to((10.5, 4.5), rotate=np.pi / 2) == pytest.approx([2.5, 2.5])  # from x to y
    assert to((10.5, 5.5), zoom=2.0, squeeze=1.5) == pytest.approx([2.5 + 3, 1.5 + 4 / 3])
    assert to((14.5, 2.5), translate=np.array([0.25, -0.2]), rotate=0.3, zoom=2.0) == pytest.approx([2.5, 1.5])


def to_one_point(known):
    """A flow that takes every point to (70, 50), NaN where not `known`."""
    x, y = grid(SIZE)
    return np.where(known, np.stack([70 - x, 50 - y]), np.nan).astype(np.float32)


def maps(seed):
    drawn = MOVING.place(SIZE, CROP, np.random.default_rng(seed))
    assert shows_only(drawn.to_crop0, SIZE, CROP) and shows_only(drawn.to_crop1, SIZE, CROP)
    return drawn, (drawn.to_crop1 @ [70, 50, 1])[:2].reshape(2, 1)


@pytest.mark.parametrize("seed", range(4))
def test_all_dense_vectors_meet_where_the_second_map_says(seed):
    drawn, (x, y) = maps(seed)
    flow = drawn.dense_flow(to_one_point(True))
    gx, gy = grid(CROP)
    np.testing.assert_allclose(flow, np.stack([x - gx, y - gy]), atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_scattered_vectors_start_at_the_nearest_pixel(seed):
    drawn, end = maps(seed)
    known = np.random.default_rng(seed).random(SIZE) < 0.1
    flow = drawn.sparse_flow(to_one_point(known))
    landed = np.isfinite(flow).all(axis=0)
    share = known.mean() / abs(np.linalg.det(drawn.to_crop0[:2, :2]))
    assert landed.mean() == pytest.approx(share, rel=0.3)
    starts = end - flow[:, landed]
    off = starts - np.stack(grid(CROP))[:, landed]
    assert np.abs(off).max() <= 0.5 + 1e-3 and np.abs(off.mean(axis=1)).max() < 0.1
    # and they are starts of vectors that were given
    back = np.linalg.inv(drawn.to_crop0) @ np.concatenate([starts, np.ones((1, landed.sum()))])
    assert np.abs(back[:2] - np.rint(back[:2])).max() < 1e-3
    column, row = np.rint(back[:2]).astype(int)
    assert known[row, column].all()


@pytest.mark.parametrize("seed", range(3))
def test_sparse_pair(seed):
    x, y = grid(SIZE)
    image0, image1 = (np.rint(waves(x + dx, y + dy)).astype(np.uint8) for dx, dy in ((5.3, -3.6), (0, 0)))
    flow = np.broadcast_to(np.float32([5.3, -3.6]).reshape(2, 1, 1), (2, *SIZE)).copy()
    flow[:, np.random.default_rng(seed).random(SIZE) < 0.6] = np.nan
    pair = PairArrays(image0, image1, flow, np.zeros(SIZE, bool))
    arrays = replace(KITTI, **COLOURLESS).apply(pair, CROP, np.random.default_rng(seed))
    assert 0.15 < arrays["valid"].mean() < 0.6 and not arrays["flow"][:, ~arrays["valid"]].any()
    error, off = warp_error(arrays)
    assert error.mean() < 1.2 and np.abs(off).max() < 0.03 and "occlusion" not in arrays


def test_unknown_flow_does_not_leak():
    pair = affine_pair()
    unknown = np.zeros(SIZE, bool)
    unknown[:, 70:80], unknown[50, :] = True, True
    holed = replace(pair, flow=np.where(unknown, np.float32(np.nan), pair.flow))
    arrays, whole = (MOVING.apply(p, CROP, np.random.default_rng(3)) for p in (holed, pair))
    valid = arrays["valid"]
    np.testing.assert_allclose(arrays["flow"][:, valid], whole["flow"][:, valid], atol=1e-4)
    assert not arrays["flow"][:, ~valid].any() and np.isfinite(arrays["flow"]).all()
    # invalid exactly where one of the four neighbours is unknown
    back = np.linalg.inv(MOVING.place(SIZE, CROP, np.random.default_rng(3)).to_crop0)
    x, y = np.moveaxis(np.stack(grid(CROP), axis=-1) @ back[:2, :2].T + back[:2, 2], -1, 0)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    neighbours = [
        unknown[np.minimum(top + i, SIZE[0] - 1), np.minimum(left + j, SIZE[1] - 1)] for i in (0, 1) for j in (0, 1)
    ]
    assert 0.05 < (~valid).mean() < 0.8 and (~valid == np.any(neighbours, axis=0)).mean() > 0.999


def test_huge_flow_is_not_valid_and_extreme_pairs_are_excluded():
    pair = affine_pair()
    flow = pair.flow.copy()
    flow[1, :30], flow[0, 90:, :5] = -990, np.nan
    long = replace(pair, flow=flow)
    doubled = replace(MOVING, **STILL, mirror=0.0)
    doubled = replace(doubled, motion=replace(doubled.motion, zoom=Uniform(0.0, np.log(1.2), exp=True)))
    valid = doubled.apply(long, (100, 140), np.random.default_rng(0))["valid"]
    assert not valid[:12].any() and valid[-40:, 60:].all()
    assert not CHAIRS.excludes(long) and CHAIRS.excludes(replace(pair, flow=flow * np.float32(1.1)))
    assert not CHAIRS.excludes(replace(pair, flow=np.full_like(flow, np.nan)))


def test_crops_show_nothing_from_beyond_the_picture():
    rng = np.random.default_rng(0)
    for size, crop in (((80, 110), CROP), ((64, 96), CROP), ((40, 90), CROP), ((375, 1242), (320, 896))):
        plain = 0
        for _ in range(40):
            drawn = replace(SINTEL, tries=20).place(size, crop, rng)
            assert shows_only(drawn.to_crop0, size, crop) and shows_only(drawn.to_crop1, size, crop)
            plain += drawn.to_crop0[0, 1] == 0
        assert plain < 30 or size == (40, 90)  # which would have to be enlarged more than most draws do
    still = replace(CHAIRS, tries=0).place((40, 60), CROP, rng)  # nothing is drawn: a plain crop, alike of both
    assert still.to_crop0[0, 0] == pytest.approx(63 / 39) and np.array_equal(still.to_crop0, still.to_crop1)
    assert not shows_only(np.diag([1.0, 1, 1]) + np.array([[0, 0, 0.01], [0, 0, 0], [0, 0, 0]]), CROP, CROP)


def test_image1_moves_beyond_image0_within_the_crop():
    """Twice as large, then a tenth of the crop (96 wide, 64 high) further right and down, whatever the zoom."""
    twice = replace(without(Motion()), zoom=Uniform(0.0, np.log(2), exp=True))
    further = replace(without(Motion()), translate=Uniform(0.0, 0.1))
    drawn = replace(CHAIRS, motion=twice, relative=further).place(SIZE, CROP, np.random.default_rng(0))
    assert drawn.to_crop0 @ [79.5, 59.5, 1] == pytest.approx([47.5, 31.5, 1])
    assert drawn.to_crop1 @ [79.5, 59.5, 1] == pytest.approx([47.5 - 9.6, 31.5 - 6.4, 1])
    assert drawn.to_crop1[:2, :2] == pytest.approx(2 * np.eye(2))


def test_mirroring():
    flow = np.broadcast_to(np.float32([3, -2]).reshape(2, 1, 1), (2, *SIZE)).copy()
    still = replace(FlowNet2Augmentation(**COLOURLESS), **STILL)
    for mirror, expected in ((1.0, [-3, -2]), (0.0, [3, -2])):
        arrays = replace(still, mirror=mirror).apply(replace(affine_pair(), flow=flow), SIZE, np.random.default_rng(0))
        np.testing.assert_allclose(arrays["flow"][:, 5, 5], expected, atol=1e-4)
        image = np.moveaxis(affine_pair().image0, -1, 0)
        np.testing.assert_array_equal(arrays["image0"], image[..., ::-1] if mirror else image)


def test_occlusion_is_hidden_or_outside():
    flow = np.zeros((2, *SIZE), np.float32)
    flow[0] = 30
    x, _ = grid(SIZE)
    image = np.full((*SIZE, 3), 90, np.uint8)
    still = replace(CHAIRS, **STILL)
    arrays = still.apply(PairArrays(image, image, flow, x < 20), SIZE, np.random.default_rng(0))
    np.testing.assert_array_equal(arrays["occlusion"], (x < 20) | (x + 30 > SIZE[1] - 0.5))
    for seed in range(3):
        pair = affine_pair()
        targets = (np.stack(grid(SIZE), axis=-1) - CENTRE) @ A.T + CENTRE
        pair = replace(pair, occluded=targets[..., 0] < 60)
        drawn = MOVING.place(SIZE, CROP, np.random.default_rng(seed))
        arrays = MOVING.apply(pair, CROP, np.random.default_rng(seed))
        x1, y1 = np.stack(grid(CROP)) + arrays["flow"]
        back = np.linalg.inv(drawn.to_crop1)
        hidden = back[0, 0] * x1 + back[0, 1] * y1 + back[0, 2] < 60
        outside = (x1 < -0.5) | (x1 > CROP[1] - 0.5) | (y1 < -0.5) | (y1 > CROP[0] - 0.5)
        assert (arrays["occlusion"] != (hidden | outside)).mean() < 0.02


# --- colours ---------------------------------------------------------------------------------------------------------

NEUTRAL = {f.name: np.array(1.0 if f.name.endswith(("pow", "mult")) else 0.0) for f in fields(Colours)}
NEUTRAL.update(col_pow=np.ones(3), col_mult=np.ones(3), col_add=np.zeros(3))
UNCHANGED = {"gamma": np.array(1.0), "brightness": np.array(0.0), "contrast": np.array(1.0), "colour": np.ones(3)}


def colour(red, green, blue):
    return np.array([red, green, blue], np.float32).reshape(3, 1, 1)


def recoloured(rgb, **changes):
    return recolour(colour(*rgb), {**NEUTRAL, **{name: np.array(value) for name, value in changes.items()}}).ravel()


def test_neutral_numbers_change_nothing():
    rgb = np.random.default_rng(0).random((3, 20, 30), np.float32)
    rgb[:, 0], rgb[1:, 1] = 0.3, 0.0
    np.testing.assert_allclose(recolour(rgb, NEUTRAL), rgb, atol=1e-6)
    np.testing.assert_allclose(affect(rgb, UNCHANGED), rgb, atol=1e-6)


def test_what_the_numbers_mean():
    col = {"col_pow": [2, 1, 1], "col_mult": [1, 0.5, 1], "col_add": [0, 0, 0.1]}
    assert recoloured((0.5, 0.6, 0.2), **col) == pytest.approx([0.25, 0.3, 0.3], abs=1e-5)
    # the luminance 0.4 becomes 2 * 0.16 - 0.02 = 0.3: the same distance on every channel, or the same proportion
    numbers = {"pow": 2, "mult": 2, "add": -0.02}
    ladd, lmult = ({f"{name}_{key}": value for key, value in numbers.items()} for name in ("ladd", "lmult"))
    assert recoloured((0.3, 0.5, 0.4), **ladd) == pytest.approx([0.2, 0.4, 0.3], abs=1e-5)
    assert recoloured((0.3, 0.5, 0.4), **lmult) == pytest.approx([0.225, 0.375, 0.3], abs=1e-5)
    # the saturation of pure red at 0.5 is 0.5; it goes to 1.5 * 0.25 + 0.025 = 0.4, 0.8 of the distance from grey
    assert recoloured((0.5, 0, 0), sat_pow=2, sat_mult=1.5, sat_add=0.025) == pytest.approx(
        [1 / 6 + 0.8 / 3, 1 / 6 - 0.8 / 6, 1 / 6 - 0.8 / 6], abs=1e-5
    )
    third = recoloured((0.9, 0.2, 0.1), col_rotate=2 * np.pi / 3)
    assert third == pytest.approx([0.1, 0.9, 0.2], abs=1e-5)
    assert recoloured((0.4, 0.4, 0.4), col_rotate=1.0, sat_pow=0.5, sat_mult=2) == pytest.approx([0.4] * 3, abs=1e-3)


def test_what_the_effect_means():
    drawn = {
        "gamma": np.array(2.0),
        "contrast": np.array(1.2),
        "brightness": np.array(0.1),
        "colour": np.array([1, 2, 0.5]),
    }
    expected = (np.array([0.25, 0.04, 0.64]) - 0.5) * 1.2 + 0.6
    assert affect(colour(0.5, 0.2, 0.8), drawn).ravel() == pytest.approx(expected * [1, 2, 0.5], abs=1e-5)


def same_picture(settings, seed, strong=None):
    x, y = grid(CROP)
    image = np.rint(60 + 0.5 * waves(x, y)).astype(np.uint8)
    pair = PairArrays(image, image, np.zeros((2, *CROP), np.float32))
    arrays = replace(settings, **STILL).apply(pair, CROP, np.random.default_rng(seed), strong)
    before = np.moveaxis(image, -1, 0).astype(float)
    return before, arrays["image0"].astype(float), arrays["image1"].astype(float)


def test_both_images_change_alike_but_for_the_effect():
    quiet, changed, apart = replace(CHAIRS, noise=NO_NOISE), [], []
    for seed in range(20):
        before, image0, image1 = same_picture(replace(quiet, effect=without(Effect())), seed)
        np.testing.assert_array_equal(image0, image1)
        changed.append(np.abs(image0 - before).mean())
        _, image0, image1 = same_picture(quiet, seed)
        apart.append(np.abs(image0 - image1).mean())
    assert np.median(changed) > 20 and 1 < np.median(apart) < 8 and max(apart) < 25


def test_noise_is_the_images_own():
    noisy = replace(CHAIRS, **{**COLOURLESS, "noise": Uniform(0.0, 0.04)})
    before, image0, image1 = same_picture(noisy, 0)
    assert [(image - before).std() for image in (image0, image1)] == pytest.approx([0.04 * 255] * 2, rel=0.05)
    assert abs(np.corrcoef((image0 - before).ravel(), (image1 - before).ravel())[0, 1]) < 0.05
    levels = [same_picture(replace(noisy, noise=CHAIRS.noise), seed) for seed in range(40)]
    deviations = np.array([(image0 - before).std() / 255 for before, image0, _ in levels])
    assert deviations.max() < 0.062 and deviations.mean() == pytest.approx(0.03, abs=0.008)
    for before, image0, image1 in (same_picture(replace(SINTEL, **COLOURLESS, mirror=0.0), seed) for seed in range(5)):
        assert np.array_equal(image0, before) and np.array_equal(image1, before)


# --- draws -----------------------------------------------------------------------------------------------------------


def table(settings):
    return {
        f.name: (type(d).__name__[0], d.mean, d.width, d.exp)
        for f in fields(settings)
        for d in [getattr(settings, f.name)]
    }


def test_distributions_are_the_papers():
    assert table(CHAIRS.motion) == {
        "translate": ("U", 0, 0.4, False),
        "rotate": ("U", 0, 0.4, False),
        "zoom": ("U", 0.2, 0.4, True),
        "squeeze": ("U", 0, 0.3, True),
    }
    relative = table(CHAIRS.relative)
    assert relative.pop("squeeze")[2] == 0
    assert relative == {name: ("N", 0, 0.03, name == "zoom") for name in ("translate", "rotate", "zoom")}
    assert table(CHAIRS.colours) == {
        "lmult_pow": ("U", -0.2, 0.4, True),
        "lmult_mult": ("U", 0, 0.4, True),
        "lmult_add": ("U", 0, 0.03, False),
        "sat_pow": ("U", 0, 0.4, True),
        "sat_mult": ("U", -0.3, 0.5, True),
        "sat_add": ("U", 0, 0.03, False),
        "col_pow": ("N", 0, 0.4, True),
        "col_mult": ("N", 0, 0.2, True),
        "col_add": ("N", 0, 0.02, False),
        "ladd_pow": ("N", 0, 0.4, True),
        "ladd_mult": ("N", 0, 0.4, True),
        "ladd_add": ("N", 0, 0.04, False),
        "col_rotate": ("U", 0, 1.0, False),
    }
    assert table(CHAIRS.effect) == {name: ("N", 0, 0.02, name != "brightness") for name in table(CHAIRS.effect)}
    assert (CHAIRS.noise.mean, CHAIRS.noise.width, CHAIRS.mirror) == (0.03, 0.03, 0.0)


def test_draws():
    rng = np.random.default_rng(0)
    uniform = Uniform(0.4, 0.2).draw(rng, 0.5, 4000)
    assert uniform.min() == pytest.approx(0, abs=0.01) and uniform.max() == pytest.approx(0.4, abs=0.01)
    factors = np.log(Normal(0.4, exp=True).draw(rng, count=4000))
    assert factors.mean() == pytest.approx(0, abs=0.02) and factors.std() == pytest.approx(0.4, rel=0.05)
    assert np.ndim(Uniform(1.0).draw(rng)) == 0


def test_strength_grows_with_the_pairs_drawn():
    assert [CHAIRS.strength(draw) for draw in (0, 400_000, 800_000, None)] == pytest.approx([0.5, 0.75, 0.875, 1])
    assert THINGS.strength(200_000) == pytest.approx(0.75)
    turned = {}
    for draw in (0, None):
        strength = CHAIRS.strength(draw)
        placed = [CHAIRS.place((240, 320), (32, 48), np.random.default_rng(seed), strength) for seed in range(200)]
        turned[draw] = np.mean([abs(np.arctan2(p.to_crop0[1, 0], p.to_crop0[1, 1])) for p in placed])
    assert turned[0] == pytest.approx(0.1, abs=0.02) and turned[None] == pytest.approx(0.2, abs=0.03)
    half, full = (np.abs(np.subtract(*same_picture(CHAIRS, 3, draw)[:2])).mean() for draw in (0, 10**9))
    assert half < full


def test_the_same_draw_is_the_same_pair():
    one, other, later = (CHAIRS.apply(affine_pair(), CROP, np.random.default_rng(7), draw) for draw in (5, 5, 500_000))
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not np.array_equal(one["image0"], later["image0"])
