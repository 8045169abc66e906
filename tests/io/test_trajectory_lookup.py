"""Trajectories whose format is told by their lines, and the pose of a frame in them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from flowkit.errors import InputError
from flowkit.io.trajectories import pose_at, read_trajectory

LINE = "1 0 0 {x} 0 1 0 0 0 0 1 0"


def test_kitti_with_and_without_numbers(tmp_path):
    (tmp_path / "plain.txt").write_text("".join(LINE.format(x=x) + "\n" for x in (0, 1, 2)))
    plain = read_trajectory(tmp_path / "plain.txt")
    assert plain.counted and plain.at(2, 0.0)[0, 3] == 2 and plain.at(3, 0.0) is None
    (tmp_path / "numbered.txt").write_text("".join(f"{n:06d} {LINE.format(x=n)}\n" for n in (4, 8)))
    numbered = read_trajectory(tmp_path / "numbered.txt")
    assert not numbered.counted and numbered.at(8, 0.0)[0, 3] == 8 and numbered.at(1, 0.0) is None
    (tmp_path / "bad.txt").write_text(f"000000 {LINE.format(x=0)}\n000001 2 0 0 0 0 1 0 0 0 0 1 0\n")
    with pytest.raises(InputError, match=r"bad.txt:2: its 3x3 part is not a rotation"):
        read_trajectory(tmp_path / "bad.txt")


def test_tum_goes_by_time(tmp_path):
    (tmp_path / "tum.txt").write_text("# t\n10.00 0 0 0 0 0 0 1\n10.01 1 0 0 0 0 0 1\n11.0 5 0 0 0 0 0 1\n")
    found = read_trajectory(tmp_path / "tum.txt")
    assert found.at(0, 10.0025)[0, 3] == pytest.approx(0.25)
    assert found.at(0, 10.025)[0, 3] == 1  # nothing near behind it: the nearest
    assert found.at(0, 10.5) is None and found.at(0, 10.99)[0, 3] == 5


def test_between_two_samples_the_rotation_goes_the_short_way():
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, :3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    middle = pose_at(np.array([1.01, 1.0]), poses[::-1], 1.004)  # in any order
    assert Rotation.from_matrix(middle[:3, :3]).as_euler("zyx", degrees=True)[0] == pytest.approx(12)
