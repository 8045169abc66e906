"""Dense pose and point cloud of two real renderings, from the pictures on: the flow is found, nothing is given but K."""

from functools import cache

import numpy as np
import pytest
import textured_room as room

import flowkit
from flowkit.geometry.pose import relative_pose
from flowkit.pipelines.dense_matches import aligned_flow
from flowkit.pipelines.point_cloud import point_cloud
from flowkit.types import Status


@cache
def views():
    """Two pictures of the room and the true R, t (of length 1) between them, and their distance."""
    import torch

    first, second = room.poses()[[1, 3]]
    T0, T1 = (torch.from_numpy(np.vstack([pose, [0, 0, 0, 1]])) for pose in (first, second))
    T = relative_pose(T0, T1).numpy()
    distance = np.linalg.norm(T[:3, 3])
    return room.view(first), room.view(second), T[:3, :3], T[:3, 3] / distance, distance


@cache
def flow():
    return aligned_flow(*views()[:2], features="sift", model="dis")


def test_the_flow_goes_from_the_first_to_the_second():
    assert flow().size == room.SIZE and flow().size1 == room.SIZE
    assert flow().run.options["multi_h"] is True and flow().run.options["model"] == "dis"
    back = aligned_flow(*views()[1::-1], features="sift")
    centre = np.s_[:, 60:120, 90:150]
    known = (flow().confidence > 0.95)[centre[1:]]
    assert known.mean() > 0.5
    there = np.median(flow().uv[centre][:, known], axis=1)
    assert np.linalg.norm(there) > 8
    np.testing.assert_allclose(
        np.median(back.uv[centre][:, (back.confidence > 0.95)[centre[1:]]], axis=1), -there, atol=6
    )


def test_dense_pose_is_the_true_one():
    a, b, R, t, _ = views()
    found = flowkit.pose(a, b, room.K, room.K, dense=True, model="dis", features="sift")
    assert found.status is Status.OK and len(found.matches) > 1000
    angle = np.degrees(np.arccos((np.trace(R.T @ found.R) - 1) / 2))
    assert angle < 0.5 and np.degrees(np.arccos(found.t @ t)) < 2
    options = found.run.options
    assert options["dense"] is True and options["confidence"] == 0.95 and options["model"] == "dis"
    assert 0.1 < options["confident"] <= 1 and options["features"] == "sift"


def test_the_cloud_lies_on_the_walls():
    a, b, _, _, distance = views()
    found = flowkit.pose(a, b, room.K, room.K, dense=flow())
    cloud = point_cloud(found, flow(), a)
    assert len(cloud) > 5000 and cloud.reason is None
    # from camera A's frame and its unit to the room's
    pose = room.poses()[1]
    world = (distance * cloud.points - pose[:, 3]) @ pose[:, :3]
    off = np.min([np.abs(world @ np.array(normal) - d) for normal, d in room.PLANES], axis=0)
    assert np.median(off) < 0.03 and np.mean(off < 0.15) > 0.9  # in rooms four metres deep


def test_unrelated_pictures_have_no_dense_pose():
    rng = np.random.default_rng(0)
    other = np.kron(rng.integers(0, 256, (45, 60, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    found = flowkit.pose(views()[0], other, room.K, room.K, dense=True, features="sift")
    assert found.status is not Status.OK and found.R is None and found.run.options["confident"] == 0
    assert point_cloud(found, aligned_flow(views()[0], other, features="sift"), views()[0]).reason is not None


@pytest.mark.parametrize("name", ["pose", "pose-dense"])
def test_the_bench_measures_it(name):
    from flowkit.datasets.samples import PoseSample
    from flowkit.evaluation.methods import build_methods
    from flowkit.io.images import as_image

    a, b, R, _, _ = views()
    varied = {"features": ["sift"]} | ({"model": ["dis"]} if name == "pose-dense" else {})
    (method,) = build_methods("pose", [name], varied)
    sample = PoseSample("room", "1-3", None, None, room.K, room.K, np.eye(4))
    arrays, status = method.predict(as_image(a), as_image(b), sample, device="cpu", seed=0)
    assert status == "ok" and np.abs(arrays["R"] - R).max() < 0.02
    assert (len(arrays["points0"]) > 1000) == (name == "pose-dense")
