"""Absolute poses against true ones, by hand."""

import numpy as np
import pytest

from flowkit.errors import InputError
from flowkit.evaluation.localization import localization, pose_errors, read_poses
from flowkit.evaluation.tables import COLUMNS, screen_table


def pose(degrees=0.0, centre=(0, 0, 0)):
    """qw qx qy qz tx ty tz of a camera at `centre`, turned about y; the world is to its front."""
    half = np.radians(degrees) / 2
    c, s = np.cos(2 * half), np.sin(2 * half)
    t = -np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.array(centre, float)
    return " ".join(f"{v:.12g}" for v in (np.cos(half), 0, np.sin(half), 0, *t))


def write(path, **poses):
    path.write_text("".join(f"{name.replace('__', '/')}.jpg {text}\n" for name, text in poses.items()))
    return path


def test_a_pose_is_world_to_camera(tmp_path):
    poses = read_poses(write(tmp_path / "p.txt", a=pose(90, (1, 2, 3))))
    T = poses["a.jpg"]
    np.testing.assert_allclose(T @ [1, 2, 3, 1], [0, 0, 0, 1], atol=1e-9)  # the camera stands at its own origin
    np.testing.assert_allclose(T[:3, :3] @ [1, 0, 0], [0, 0, -1], atol=1e-9)
    # Turned by 90 degrees at the same place: t differs by much, the centre does not.
    position, rotation = pose_errors(T, read_poses(write(tmp_path / "q.txt", a=pose(0, (1, 2, 3))))["a.jpg"])
    assert position == pytest.approx(0, abs=1e-9) and rotation == pytest.approx(90)
    assert pose_errors(None, T) == (np.inf, np.inf)


def test_both_thresholds_have_to_hold_and_a_missing_image_is_wrong(tmp_path):
    truth = write(tmp_path / "truth.txt", **{name: pose(30, (10, 0, 0)) for name in "abcde"})
    estimated = write(
        tmp_path / "estimated.txt",
        a=pose(31, (10.2, 0, 0)),  # fine
        b=pose(33, (10.2, 0, 0)),  # its angle is medium
        c=pose(30, (14, 0, 0)),  # its place is coarse
        d=pose(45, (10, 0, 0)),  # nothing
    )
    (row,), results = localization(estimated, truth)
    assert row.values["within_0.25m_2deg"] == 1 / 5
    assert row.values["within_0.5m_5deg"] == 2 / 5
    assert row.values["within_5m_10deg"] == 3 / 5
    assert row.values["within_0.5m_2deg"] == 1 / 5 and row.values["within_1m_5deg"] == 2 / 5  # RANSAC-Flow's
    assert row.values["failed"] == 1 and row.values["pairs"] == 5
    assert [result.status for result in results] == ["ok"] * 4 + ["missing"]
    assert set(row.values) <= set(COLUMNS) and "5 m 10° %" in [c.header for c in screen_table([row]).columns]


def test_submissions_leave_folders_out(tmp_path):
    truth = write(tmp_path / "truth.txt", query__night__a=pose(), x__b=pose(), y__b=pose())
    (row,), _ = localization(write(tmp_path / "estimated.txt", a=pose(), b=pose()), truth)
    assert row.values["within_5m_10deg"] == pytest.approx(1 / 3)  # b could be either


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1 0 0 0 0 0", "7 fields"),
        ("a.jpg 2 0 0 0 0 0 0", "length 2"),
        ("a.jpg 1 0 0 0 0 0 zero", "zero"),
        ("a.jpg 1 0 0 0 0 0 0\na.jpg 1 0 0 0 0 0 0", "already"),
        ("# nothing", "no poses"),
        ("other.jpg 1 0 0 0 0 0 0", "none of the images"),
    ],
)
def test_mistakes(tmp_path, text, message):
    (tmp_path / "estimated.txt").write_text(text + "\n")
    with pytest.raises(InputError, match=message):
        localization(tmp_path / "estimated.txt", write(tmp_path / "truth.txt", a=pose()))
