"""High effort: strong tilts are found, unrelated pictures are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from skimage import data

from flowkit.pipelines.refinement import project
from flowkit.pipelines.viewpoints import common_view, render, thorough_homography
from flowkit.types import Image, Status

THRESHOLD = 3.0


def corner_error(matrix: np.ndarray, truth: np.ndarray, size: tuple[int, int]) -> float:
    height, width = size
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    return float(np.linalg.norm(project(matrix, corners) - project(truth, corners), axis=1).mean())


@pytest.fixture(scope="module")
def astronaut() -> Image:
    return Image(cv2.resize(data.astronaut(), (384, 384), interpolation=cv2.INTER_AREA))


def tilted(image: Image) -> tuple[Image, np.ndarray]:
    """The image seen from aside: turned by 30 degrees, squeezed four times, with some perspective."""
    turn = np.deg2rad(30)
    rotation = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    matrix = np.diag([0.25, 1.0, 1.0]) @ rotation
    matrix[2, :2] = 3e-4, 2e-4
    corners = project(matrix, np.array([[0, 0], [383, 0], [383, 383], [0, 383]], float))
    shift = np.eye(3)
    shift[:2, 2] = 10 - corners.min(axis=0)
    matrix = shift @ matrix
    size = tuple(np.ceil(np.ptp(corners, axis=0) + 20).astype(int)[::-1])
    return Image(render(image.rgb8, matrix, size)[0]), matrix / matrix[2, 2]


def test_common_view_of_opposite_tilts_squeezes_both() -> None:
    # image1 shows x four times smaller and y twice as large: the view keeps the coarser of both in each direction.
    view = common_view(np.diag([0.25, 2.0, 1.0]), (200, 400), (400, 100))
    assert view is not None
    np.testing.assert_allclose(view.to_view0[:2, :2] / view.to_view0[1, 1], np.diag([0.25, 1.0]), atol=1e-6)
    np.testing.assert_allclose(view.to_view1[:2, :2] / view.to_view1[0, 0], np.diag([1.0, 0.5]), atol=1e-6)


def test_no_common_view_without_overlap() -> None:
    matrix = np.array([[1.0, 0, 1000], [0, 1, 0], [0, 0, 1]])
    assert common_view(matrix, (200, 200), (200, 200)) is None


def test_strong_tilt_is_found(astronaut: Image) -> None:
    other, truth = tilted(astronaut)
    found = thorough_homography(astronaut, other, threshold=THRESHOLD, device="cpu")
    assert found.status is Status.OK and found.matrix is not None
    assert corner_error(found.matrix, truth, astronaut.size) < 3.0
    assert found.matches.inliers is not None and found.matches.inliers.sum() > 100
    assert found.matches.run is not None and found.matches.run.method == "sift+xfeat"
    height, width = other.size
    assert (found.matches.points1[found.matches.inliers] < [width, height]).all()


def test_opposite_grazing_views_are_found() -> None:
    # One picture squeezed six times across, the other six times down: between them lies a tilt of 36.
    image, squeeze = Image(data.astronaut()), 6.0
    matrices = [np.diag([1 / squeeze, 1.0, 1.0]), np.diag([1.0, 1 / squeeze, 1.0])]
    for matrix in matrices:
        matrix[:2, 2] = (np.diag(matrix)[:2] - 1) / 2  # pixel centres
    across, down = (
        Image(render(image.rgb8, matrix, size)[0])
        for matrix, size in zip(matrices, [(512, 85), (85, 512)], strict=True)
    )
    found = thorough_homography(across, down, threshold=THRESHOLD, device="cpu")
    assert found.status is Status.OK and found.matrix is not None
    assert corner_error(found.matrix, matrices[1] @ np.linalg.inv(matrices[0]), across.size) < 1.0


def test_named_features_are_the_only_ones(astronaut: Image) -> None:
    found = thorough_homography(astronaut, astronaut, features="sift", threshold=THRESHOLD, device="cpu")
    assert found.status is Status.OK and found.matrix is not None
    assert found.matches.origins == ("sift",)
    assert corner_error(found.matrix, np.eye(3), astronaut.size) < 0.5


def test_unrelated_pictures_have_no_homography(astronaut: Image) -> None:
    coffee = Image(cv2.resize(data.coffee(), (300, 200), interpolation=cv2.INTER_AREA))
    small = Image(cv2.resize(astronaut.rgb8, (200, 200), interpolation=cv2.INTER_AREA))
    found = thorough_homography(small, coffee, threshold=THRESHOLD, device="cpu")
    assert found.matrix is None
    assert found.status in (Status.NO_OVERLAP, Status.TOO_FEW_MATCHES, Status.DEGENERATE)
    assert found.matches.inliers is not None and not found.matches.inliers.any()


def test_blank_picture_answers_with_a_status(astronaut: Image) -> None:
    blank = Image(np.full((100, 100, 3), 128, np.uint8))
    found = thorough_homography(astronaut, blank, features="sift", threshold=THRESHOLD, device="cpu")
    assert found.matrix is None and found.status is Status.TOO_FEW_MATCHES
