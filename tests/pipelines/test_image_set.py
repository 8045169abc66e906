"""A set of images: each one's keypoints found once and the same in every pair, guided or not."""

import numpy as np
import pytest

from flowkit.errors import UsageError
from flowkit.features.sift import Sift
from flowkit.pipelines.image_set import SetMatcher
from flowkit.types import Image


@pytest.fixture(scope="module")
def images():
    """Three windows of one texture, each (5, 3) pixels further than the one before, and a blank one."""
    import cv2

    noise = np.random.default_rng(0).uniform(0, 255, (150, 180)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 1.5)
    texture = np.clip((blurred - blurred.mean()) / blurred.std() * 50 + 128, 0, 255).astype(np.uint8)
    windows = [texture[3 * i : 3 * i + 96, 5 * i : 5 * i + 128] for i in range(3)]
    pictures = [np.repeat(window[..., None], 3, axis=2) for window in (*windows, np.full((96, 128), 90, np.uint8))]
    return [Image(pixels, f"{i}.png") for i, pixels in enumerate(pictures)]


@pytest.mark.parametrize("guide", [None, "dis"])
def test_keypoints_are_the_same_in_every_pair_and_found_once(images, guide, monkeypatch):
    monkeypatch.setattr("flowkit.pipelines.guide.INIT", "none")  # else the flow's own seeds are extracted, too
    extracted = []
    real = Sift.extract
    monkeypatch.setattr(
        Sift, "extract", lambda self, image, mask=None: extracted.append(image.name) or real(self, image)
    )
    matcher = SetMatcher(features="sift+xfeat", guide=guide, max_keypoints=300, device="cpu", resize=160)
    m01, m02, m21, m30 = (matcher.match(images[a], images[b]) for a, b in ((0, 1), (0, 2), (2, 1), (3, 0)))
    assert sorted(extracted) == ["0.png", "1.png", "2.png", "3.png"]
    assert matcher.options.get("guide_init") == (None if guide is None else "none")
    np.testing.assert_array_equal(m01.keypoints0, m02.keypoints0)
    np.testing.assert_array_equal(m01.keypoints1, m21.keypoints1)
    np.testing.assert_array_equal(m02.keypoints1, m21.keypoints0)
    np.testing.assert_array_equal(m30.keypoints1, m01.keypoints0)  # whole, though the other image has none
    assert len(m30) == 0 and len(m01) > 100 and (m01.stage is not None) == (guide is not None)
    np.testing.assert_allclose(np.median(m01.points1 - m01.points0, axis=0), [-5, -3], atol=0.1)
    np.testing.assert_allclose(np.median(m21.points1 - m21.points0, axis=0), [5, 3], atol=0.1)
    unguided = SetMatcher(features="sift+xfeat", max_keypoints=300, device="cpu", resize=160)
    np.testing.assert_array_equal(unguided.match(images[0], images[2]).keypoints0, m01.keypoints0)


def test_keypoints_made_for_a_pair_are_refused():
    with pytest.raises(UsageError, match=r"xfeat\*"):
        SetMatcher(features="sift+xfeat*", device="cpu")
