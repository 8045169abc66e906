import cv2
import numpy as np
import pytest
import skimage.data

from flowkit.features import registry
from flowkit.features.affine import AffineSimulation, simulated_view
from flowkit.features.sift import Sift
from flowkit.types import Image

PHOTO = Image(cv2.resize(skimage.data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA))


def errors(matches, H):
    points = np.c_[matches.points0.astype(np.float64), np.ones(len(matches))] @ H.T
    return matches.points1 - points[:, :2] / points[:, 2:]


@pytest.mark.parametrize(("tilt", "angle"), [(1.0, 30.0), (2.0, 0.0), (2.8, 110.0)])
def test_a_view_holds_the_whole_image(tilt, angle):
    affine, (height, width) = simulated_view((100, 160), tilt, angle)
    corners = np.array([[0, 0, 1], [159, 0, 1], [0, 99, 1], [159, 99, 1]]) @ affine.T
    assert (corners > -0.5).all() and (corners < [width - 0.5, height - 0.5]).all()
    assert abs(np.linalg.det(affine[:, :2])) == pytest.approx(1 / tilt)


def test_views_follow_the_papers_sampling():
    views = AffineSimulation(Sift()).views()
    assert len(views) == 28 and views[0] == (1.0, 0.0) and len(set(views)) == 28


def test_keypoints_come_back_to_where_they_are():
    features = AffineSimulation(Sift(max_keypoints=300), tilts=[2.0]).extract(PHOTO)
    plain = Sift().extract(PHOTO)
    offset = features.keypoints[:, None] - plain.keypoints[None]
    offset = offset[np.arange(len(offset)), np.linalg.norm(offset, axis=2).argmin(axis=1)]
    close = np.linalg.norm(offset, axis=1) < 1
    assert close.sum() > 100 and np.abs(offset[close].mean(axis=0)).max() < 0.06


def test_strong_tilts_are_bridged():
    H = np.array([[0.3, 0.0, 60.3], [0.04, 0.95, 3.2], [0, 0, 1.0]])
    blurred = cv2.GaussianBlur(PHOTO.pixels, (0, 0), sigmaX=2.5, sigmaY=0.01)
    other = Image(cv2.warpPerspective(blurred, H, (256, 256), flags=cv2.INTER_CUBIC))
    counts = {}
    for name in ("sift", "affine-sift"):
        matches = registry.matcher(name).match(PHOTO, other)
        error = np.linalg.norm(errors(matches, H), axis=1)
        counts[name] = int((error < 2).sum())
    assert counts["affine-sift"] > max(100, 5 * counts["sift"])
    assert np.median(error[error < 2]) < 0.6
