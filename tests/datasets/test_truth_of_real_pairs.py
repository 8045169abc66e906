"""The real pairs beside the checkout: warping image1 by the truth must bring it onto image0, and not the other way round."""

import cv2
import numpy as np
import pytest

from flowkit.datasets.catalogue import find_samples
from flowkit.datasets.samples import FlowSample, HomographySample
from flowkit.evaluation import metrics
from flowkit.evaluation.scores import TASKS
from flowkit.io.images import read_image


@pytest.fixture(scope="module")
def samples(shared):
    return find_samples(shared / "data")


def similarity(image0, image1, flow):
    """Correlation of image0 and image1 warped by the flow, where the flow is known and points into image1."""
    y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float32)
    x, y = x + flow[0].astype(np.float32), y + flow[1].astype(np.float32)
    seen = (x >= 0) & (x <= image1.size[1] - 1) & (y >= 0) & (y <= image1.size[0] - 1)
    warped = cv2.remap(image1.grey8, np.where(seen, x, 0), np.where(seen, y, 0), cv2.INTER_LINEAR)
    return np.corrcoef(image0.grey8[seen].astype(float), warped[seen].astype(float))[0, 1]


def test_flow_brings_image1_onto_image0(samples):
    for sample in samples["flow"]:
        image0, image1 = read_image(sample.image0), read_image(sample.image1)
        flow = sample.flow()
        right = similarity(image0, image1, flow)
        assert right > 0.9, (sample.name, right)
        assert right > similarity(image0, image1, -flow) + 0.02, sample.name
        assert right > similarity(image0, image1, np.zeros_like(flow) * flow) + 0.01, sample.name
        assert right > similarity(image0, image1, flow[::-1]) + 0.02, sample.name


def test_homographies_bring_image1_onto_image0(samples):
    worst = {"fox": 0.35, "BruggeSquare": 0.5}  # extreme viewpoint and scale
    for sample in samples["homography"]:
        assert isinstance(sample, HomographySample)
        adapted = TASKS["flow"].adapt[HomographySample](sample)
        assert isinstance(adapted, FlowSample)
        image0, image1 = read_image(sample.image0), read_image(sample.image1)
        right = similarity(image0, image1, adapted.flow())
        assert right > worst.get(sample.name, 0.7), (sample.name, right)
        if sample.points0 is not None:
            assert metrics.transfer_errors(sample.H, sample.points0, sample.points1).mean() < 3, sample.name


def test_labels_obey_their_homography_or_one_epipolar_geometry(samples):
    for sample in samples["matching"]:
        if sample.H is not None:
            assert metrics.transfer_errors(sample.H, sample.points0, sample.points1).mean() < 3, sample.name
        elif sample.rigid and len(sample.points0) >= 8:
            F, _ = cv2.findFundamentalMat(sample.points0, sample.points1, cv2.FM_8POINT)
            assert np.median(metrics.epipolar_errors(F, sample.points0, sample.points1)) < 3, sample.name


def test_poses_are_rotations_and_neighbours_move_little(samples):
    for sample in samples["pose"]:
        R = sample.T_0to1[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-3)
        assert np.linalg.det(R) == pytest.approx(1, abs=1e-3)
        if sample.dataset == "kitti-odometry":  # the car drives forward, so points come nearer
            assert sample.T_0to1[2, 3] < 0
            assert metrics.rotation_error(R, np.eye(3)) < 10


def test_epipolar_geometry_of_the_poses_fits_sift_matches(samples):
    wanted = {"fountain-P11/0004-0005", "seq01/000000-000002"}
    chosen = [sample for sample in samples["pose"] if sample.name in wanted]
    assert len(chosen) == 2
    for sample in chosen:
        (points0, points1) = sift_matches(sample.image0, sample.image1)
        t, R = sample.T_0to1[:3, 3], sample.T_0to1[:3, :3]
        E = np.cross(np.eye(3), t / np.linalg.norm(t)).T @ R
        F = np.linalg.inv(sample.K1).T @ E @ np.linalg.inv(sample.K0)
        assert np.median(metrics.epipolar_errors(F, points0, points1)) < 1.5, sample.name


def sift_matches(path0, path1):
    sift = cv2.SIFT_create(1500)
    (kp0, d0), (kp1, d1) = (sift.detectAndCompute(read_image(path).grey8, None) for path in (path0, path1))
    matches = [m for m, n in cv2.BFMatcher().knnMatch(d0, d1, k=2) if m.distance < 0.7 * n.distance]
    return np.array([kp0[m.queryIdx].pt for m in matches]), np.array([kp1[m.trainIdx].pt for m in matches])
