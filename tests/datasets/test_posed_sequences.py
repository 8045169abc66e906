"""Sequences with poses in the original layouts of KITTI odometry and TUM RGB-D, and flow from depth and poses."""

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowkit.datasets.catalogue import find_sequences, read_dataset
from flowkit.datasets.depth_flow import flow_from_depth, visible_by_depth
from flowkit.datasets.kitti_odometry import kitti_sequences
from flowkit.datasets.posed_views import Lens
from flowkit.datasets.tum import tum_sequence
from flowkit.errors import InputError, UsageError

SIZE = (24, 32)
K = np.array([[30.0, 0, 15.5], [0, 30, 11.5], [0, 0, 1]])
FR1 = (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(" ".join(map(str, row)) + "\n" for row in rows))


def picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def pose(x=0.0, y=0.0, z=0.0, yaw=0.0):
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_euler("y", yaw, degrees=True).as_matrix(), (x, y, z)
    return T


def test_kitti_sequence_has_the_poses_of_the_camera_whose_pictures_it_takes(tmp_path):
    for name in ("000000", "000001", "000002"):
        picture(tmp_path / "sequences/05/image_2" / f"{name}.png", np.zeros(SIZE, np.uint8))
    left = np.column_stack([K, [0, 0, 0]])
    colour = np.column_stack([K, K @ [-0.06, 0, 0]])  # 6 cm to the right of camera 0
    rows = [[f"P{i}:", *P.ravel()] for i, P in enumerate([left, left, colour])]
    lines(tmp_path / "sequences/05/calib.txt", rows)
    track = [pose(), pose(z=1, yaw=20), pose(x=0.5, z=2, yaw=40)]
    lines(tmp_path / "poses/05.txt", [T[:3].ravel() for T in track])
    (sequence,) = kitti_sequences(tmp_path)
    assert sequence.name == "05" and [path.name for path in sequence.frames] == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    np.testing.assert_allclose(sequence.poses[0][:3, 3], [0.06, 0, 0], atol=1e-12)
    np.testing.assert_allclose(sequence.poses[1], track[1] @ pose(x=0.06), atol=1e-12)
    sample = read_dataset("kitti-odometry", tmp_path)[1]
    expected = pose(x=-0.06) @ np.linalg.inv(track[2]) @ track[1] @ pose(x=0.06)
    np.testing.assert_allclose(sample.T_0to1, expected, atol=1e-12)
    assert [each.name for each in find_sequences(tmp_path)] == ["05"]
    with pytest.raises(UsageError, match="calib"):
        find_sequences(tmp_path, K)


def tum(root, track, depth=2.0, camera=True):
    """Frames a tenth of a second apart at those poses, their depth a plane unless told."""
    listed = []
    for i, _ in enumerate(track):
        rgb, near = f"rgb/{i / 10:.6f}.png", f"depth/{i / 10 + 0.01:.6f}.png"
        picture(root / rgb, np.full(SIZE, 40 * i, np.uint8))
        depths = np.full(SIZE, depth if np.isscalar(depth) else depth[i], np.float64)
        picture(root / near, np.rint(depths * 5000).astype(np.uint16))
        listed.append((f"{i / 10:.6f}", rgb, near))
    lines(root / "rgb.txt", [("#", "timestamp", "filename"), *((t, rgb) for t, rgb, _ in listed)])
    lines(root / "depth.txt", [(f"{float(t) + 0.01:.6f}", near) for t, _, near in listed])
    quaternions = [Rotation.from_matrix(T[:3, :3]).as_quat() for T in track]
    rows = [(i / 10, *T[:3, 3], *q) for i, (T, q) in enumerate(zip(track, quaternions, strict=True))]
    lines(root / "groundtruth.txt", [("#", "ground", "truth"), *rows])
    if camera:
        (root / "camera.json").write_text(f'{{"K": {K.tolist()}}}')


def test_tum_flow_is_the_projection_of_what_the_depth_says(tmp_path):
    tum(tmp_path, [pose(), pose(x=0.02), pose(x=0.1)])
    (sample,) = read_dataset("tum-flow", tmp_path)  # frame 1 is only 2 cm away
    assert sample.name == "0.000000-0.200000"
    flow = sample.flow()
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow[0], -30 * 0.1 / 2, atol=1e-5)  # the camera goes right, the scene left
    np.testing.assert_allclose(flow[1], 0, atol=1e-5)
    visible = sample.visible()
    assert not visible[:, 0].any() and visible[:, 2:].all()


def test_tum_flow_is_unknown_without_depth_and_hidden_behind_what_is_nearer(tmp_path):
    first, second = np.full(SIZE, 2.0), np.full(SIZE, 2.0)
    first[5, 5] = 0
    second[:, 20:24] = 1.0
    second[10, 3] = 0
    tum(tmp_path, [pose(), pose(x=0.2)], depth=[first, second])
    (sample,) = read_dataset("tum-flow", tmp_path)
    flow, visible = sample.flow(), sample.visible()
    assert np.isnan(flow[:, 5, 5]).all() and np.isfinite(flow).all(axis=0).sum() == flow[0].size - 1
    assert not visible[5, 5] and visible[10, 6]  # three pixels to the left there is no depth: nothing speaks against it
    assert not visible[:, 23:27].any() and visible[12, 8:22].all()


def test_tum_sequence_by_the_folders_name_and_by_a_given_matrix(tmp_path):
    root = tmp_path / "rgbd_dataset_freiburg1_desk"
    tum(root, [pose(), pose(x=0.1), pose(x=0.2)], camera=False)
    with (root / "rgb.txt").open("a") as file:
        file.write("7.0 rgb/0.000000.png\n")  # without a pose
    sequence = tum_sequence(root)
    assert sequence.K[0, 0] == 517.3 and sequence.distortion == FR1 and len(sequence.frames) == 3
    np.testing.assert_allclose(sequence.timestamps, [0, 0.1, 0.2])
    np.testing.assert_allclose(sequence.poses[2], pose(x=0.2), atol=1e-9)
    (own,) = find_sequences(tmp_path, K)
    assert own.distortion == () and own.K[0, 0] == 30
    tum(tmp_path / "frontal", [pose(), pose()], camera=False)  # no camera of TUM's
    with pytest.raises(InputError, match=r"camera\.json"):
        tum_sequence(tmp_path / "frontal")
    tum(tmp_path / "fr3_still", [pose(), pose(x=0.01)], camera=False)
    with pytest.raises(InputError, match="m apart"):
        read_dataset("tum-flow", tmp_path / "fr3_still")


def test_a_lens_bends_the_flow_as_it_bends_the_pictures():
    """A camera that stands still has no flow; one that moves sees what OpenCV projects."""
    camera = np.array([[517.3, 0, 318.6], [0, 516.5, 255.3], [0, 0, 1]])
    lens = Lens.of(camera, FR1)
    depth = np.full((480, 640), 1.5)
    still, z = flow_from_depth(depth, np.eye(4), lens, lens)
    assert np.abs(still).max() < 0.01 and np.abs(z - 1.5).max() < 1e-6
    T = np.linalg.inv(pose(x=0.05, y=-0.02, z=0.1, yaw=1))
    flow, _ = flow_from_depth(depth, T, lens, lens)
    rays = lens.rays(np.array([[100.0, 50], [320, 240], [600, 400]]))
    points = np.column_stack([rays, np.ones(3)]) * 1.5
    seen, _ = cv2.projectPoints(points, cv2.Rodrigues(T[:3, :3])[0], T[:3, 3], camera, np.array(FR1))
    for (x, y), target in zip([(100, 50), (320, 240), (600, 400)], seen[:, 0], strict=True):
        np.testing.assert_allclose(flow[:, y, x] + (x, y), target, atol=0.02)


def test_what_comes_to_lie_behind_the_camera_is_unknown():
    lens = Lens.of(K, ())
    flow, z = flow_from_depth(np.full(SIZE, 0.5), np.linalg.inv(pose(z=1)), lens, lens)
    assert np.isnan(flow).all() and np.isnan(z).all()
    assert not visible_by_depth(flow, z, np.full(SIZE, 0.5)).any()


def test_real_depth_brings_the_second_frame_onto_the_first(shared):
    """7-Scenes' frames 0 and 10, whose depth is in millimetres."""
    root = shared / "data/pose_depth_7scenes"
    grey = [cv2.imread(str(root / f"frame-{i:06d}.color.jpg"), cv2.IMREAD_GRAYSCALE) for i in (0, 10)]
    depth = cv2.imread(str(root / "frame-000000.depth.png"), cv2.IMREAD_UNCHANGED) / 1000.0
    depth[depth > 60] = 0  # 65535 is unknown
    T = np.linalg.inv(np.loadtxt(root / "frame-000010.pose.txt")) @ np.loadtxt(root / "frame-000000.pose.txt")
    lens = Lens.of(np.loadtxt(root / "camera-intrinsics.txt"), ())
    flow, _ = flow_from_depth(depth, T, lens, lens)

    def alike(flow):
        y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float32)
        x, y = x + flow[0], y + flow[1]
        seen = (x >= 0) & (x <= 639) & (y >= 0) & (y <= 479)
        warped = cv2.remap(grey[1], np.where(seen, x, 0), np.where(seen, y, 0), cv2.INTER_LINEAR)
        return np.corrcoef(grey[0][seen].astype(float), warped[seen].astype(float))[0, 1]

    assert alike(flow) > alike(0 * flow) + 0.02 and alike(flow) > alike(-flow) + 0.02 and alike(flow) > 0.8
