"""KITTI and TUM trajectories: camera to world, row-major, quaternions with the scalar last."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.errors import InputError
from flowkit.io.trajectories import read_kitti, read_tum, write_kitti, write_tum


def turned_left():
    """A camera at (1, 2, 3) turned by 90 degrees about z: its x axis looks along the world's y."""
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    pose[:3, 3] = 1, 2, 3
    return pose


def test_kitti_line_is_the_matrix_row_by_row(tmp_path):
    (tmp_path / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n0 -1 0 1 1 0 0 2 0 0 1 3\n")
    np.testing.assert_array_equal(read_kitti(tmp_path / "poses.txt"), [np.eye(4), turned_left()])
    write_kitti(tmp_path / "out.txt", [turned_left()])
    assert (tmp_path / "out.txt").read_text() == "0.0 -1.0 0.0 1.0 1.0 0.0 0.0 2.0 0.0 0.0 1.0 3.0\n"


def test_tum_has_the_scalar_last_and_camera_to_world(tmp_path):
    half = np.sqrt(0.5)
    (tmp_path / "t.txt").write_text(f"# comment\n1311868169.163498 1 2 3 0 0 {half} {half}\n")
    timestamps, poses = read_tum(tmp_path / "t.txt")
    assert timestamps.tolist() == [1311868169.163498]
    np.testing.assert_allclose(poses[0], turned_left(), atol=1e-12)
    np.testing.assert_allclose(poses[0] @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)  # camera's x axis, in the world
    write_tum(tmp_path / "out.txt", timestamps, poses)
    fields = [float(word) for word in (tmp_path / "out.txt").read_text().splitlines()[-1].split()]
    np.testing.assert_allclose(fields, [1311868169.163498, 1, 2, 3, 0, 0, half, half], rtol=1e-15)


@given(st.lists(st.tuples(*[st.floats(-1, 1)] * 4, *[st.floats(-1e6, 1e6)] * 3), min_size=1, max_size=4))
def test_round_trips(tmp_path_factory, rows):
    from scipy.spatial.transform import Rotation

    folder = tmp_path_factory.mktemp("trajectory")
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    for pose, (*quaternion, x, y, z) in zip(poses, rows, strict=True):
        quaternion[3] += 2  # never zero
        pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()
        pose[:3, 3] = x, y, z
    write_kitti(folder / "kitti.txt", poses)
    np.testing.assert_array_equal(read_kitti(folder / "kitti.txt"), poses)
    times = np.arange(len(poses)) / 30 + 1311868169
    write_tum(folder / "tum.txt", times, poses)
    back_times, back = read_tum(folder / "tum.txt")
    np.testing.assert_array_equal(back_times, times)
    np.testing.assert_allclose(back, poses, atol=1e-12)


@pytest.mark.parametrize(
    ("read", "line", "fault"),
    [
        (read_kitti, "1 0 0 0 0 1 0 0 0 0 1", "11 fields"),
        (read_kitti, "000 1 0 0 0 0 1 0 0 0 0 1 0", "13 fields"),
        (read_kitti, "1 0 0 x 0 1 0 0 0 0 1 0", "not a number"),
        (read_kitti, "1 0 0 nan 0 1 0 0 0 0 1 0", "not finite"),
        (read_kitti, "2 0 0 0 0 1 0 0 0 0 1 0", "not a rotation"),
        (read_kitti, "1e200 0 0 0 0 1 0 0 0 0 1 0", "not a rotation"),
        (read_kitti, "-1 0 0 0 0 1 0 0 0 0 1 0", "mirrors"),
        (read_tum, "0 0 0 0 0 0 0 0", "length 0"),
        (read_tum, "0 0 0 0 1 1 0 0", "length 1.41"),
        (read_tum, "0 0 0 0 0 0 1", "7 fields"),
        (read_tum, "inf 0 0 0 0 0 0 1", "not finite"),
    ],
)
def test_wrong_lines(tmp_path, read, line, fault):
    good = "1 0 0 0 0 1 0 0 0 0 1 0" if read is read_kitti else "0 0 0 0 0 0 0 1"
    (tmp_path / "t.txt").write_text(f"{good}\n{line}\n")
    with pytest.raises(InputError, match=fault) as caught:
        read(tmp_path / "t.txt")
    assert "t.txt:2: " in str(caught.value)


@pytest.mark.parametrize("read", [read_kitti, read_tum])
@given(content=st.binary(max_size=100) | st.text("01 .-\n#e", max_size=100).map(str.encode))
def test_junk(tmp_path_factory, read, content):
    path = tmp_path_factory.mktemp("junk") / "t.txt"
    path.write_bytes(content)
    try:
        read(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)


def test_nothing_wrong_is_written(tmp_path):
    mirror = np.diag([-1.0, 1, 1, 1])
    for poses in ([mirror], [np.eye(4) * np.nan], np.eye(4), [np.eye(4)[:3]], [np.diag([1.0, 1, 1, 2])]):
        with pytest.raises(ValueError):
            write_kitti(tmp_path / "t.txt", poses)
    with pytest.raises(ValueError):
        write_tum(tmp_path / "t.txt", [0.0, 1.0], [np.eye(4)])
    assert not (tmp_path / "t.txt").exists()


def test_real_tum_file(shared):
    timestamps, poses = read_tum(shared / "data/pose_tum_fr2_desk/groundtruth.txt")
    assert len(poses) == len(timestamps) > 1 and (np.diff(timestamps) > 0).all()
    assert np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1).max() < 1  # a hand-held camera, metres
