"""Intrinsics from words, files, a field of view and EXIF, in the pixel-centre convention."""

import json
import math

import numpy as np
import pytest

from flowkit.errors import InputError, UsageError
from flowkit.io.cameras import (
    colmap_to_pixel_centre,
    intrinsics_from_exif,
    intrinsics_from_fov,
    parse_intrinsics,
    pixel_centre_to_colmap,
)
from flowkit.types import Image

K = np.array([[500.25, 0.5, 320], [0, 510, 240.125], [0, 0, 1]])


def test_four_numbers():
    expected = [[500, 0, 320], [0, 510, 240.5], [0, 0, 1]]
    np.testing.assert_array_equal(parse_intrinsics(" 500, 510,320 ,240.5"), expected)
    assert parse_intrinsics("500,510,320,240.5").dtype == np.float64


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".npy", ".json", ".K.json", ""])
def test_files_are_row_major(tmp_path, suffix):
    path = tmp_path / f"my, camera{suffix}"
    if suffix == ".npy":
        np.save(path, K)
    elif suffix.endswith(".json"):
        data = K.tolist()
        path.write_text(json.dumps({"K": data, "size": [480, 640]} if suffix == ".K.json" else data))
    else:
        np.savetxt(path, K, delimiter="," if suffix == ".csv" else " ", header="camera", fmt="%.10g")
    np.testing.assert_array_equal(parse_intrinsics(path, (480, 640)), K)
    np.testing.assert_array_equal(parse_intrinsics(str(path)), K)


def test_a_file_with_all_numbers_in_one_line(tmp_path):
    (tmp_path / "K.txt").write_text(" ".join(map(str, K.ravel())))
    np.testing.assert_array_equal(parse_intrinsics(tmp_path / "K.txt"), K)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("500,510,320", "3 numbers"),
        ("500", "1 numbers"),
        ("500,510,320,240,1", "5 numbers"),
        ("0,510,320,240", "positive"),
        ("500,-510,320,240", "positive"),
        ("nan,510,320,240", "not finite"),
        ("500,510,inf,240", "not finite"),
        ("500,510,320,2400", "far outside the 640 x 480 image"),
        ("500,510,-400,240", "far outside"),
        ("500,wide,320,240", "neither"),
        ("", "neither|no such file|folder"),
    ],
)
def test_wrong_words(text, fault):
    with pytest.raises((UsageError, InputError), match=fault) as caught:
        parse_intrinsics(text, (480, 640))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("K.txt", "1 2 3\n4 5 6\n", "6 numbers"),
        ("K.txt", "500 0 wide\n0 500 1\n0 0 1", "K.txt:1: 'wide'"),
        ("K.txt", "500 0 0\n0 500 0\n320 240 1", "transposed"),
        ("K.txt", "500 0 0\n0 0 0\n0 0 1", "positive"),
        ("K.txt", "\n# none\n", "0 numbers"),
        ("K.json", "[[1, 2], [3, 4]]", "2 x 2"),
        ("K.json", "[[1, 2], [3]]", "not a matrix"),
        ("K.json", '{"R": []}', 'no "K"'),
        ("K.json", '{"K": "x"}', "not a matrix"),
        ("K.json", "[[500, 0, NaN], [0, 500, 0], [0, 0, 1]]", "not finite"),
        ("K.json", "[" * 100_000, "JSON"),
        ("K.npy", "no array", "npy"),
    ],
)
def test_wrong_files(tmp_path, name, content, fault):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=fault) as caught:
        parse_intrinsics(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        parse_intrinsics(tmp_path / "none.txt")


def test_real_camera_file(shared):
    K = parse_intrinsics(shared / "data/pose_depth_7scenes/camera-intrinsics.txt", (480, 640))
    np.testing.assert_array_equal(K, [[585, 0, 320], [0, 585, 240], [0, 0, 1]])


def test_field_of_view_spans_the_longer_side():
    for size in ((480, 640), (640, 480)):
        K = intrinsics_from_fov(90, size)
        assert K[0, 0] == pytest.approx(320) and K[1, 1] == K[0, 0]
        np.testing.assert_array_equal(K[:2, 2], [(size[1] - 1) / 2, (size[0] - 1) / 2])
    # The picture ends half a pixel beyond the outermost centres: that is where the ray of half the angle goes.
    K = intrinsics_from_fov(60, (480, 640))
    assert math.degrees(math.atan((639.5 - K[0, 2]) / K[0, 0])) == pytest.approx(30)
    for wrong in (0, 180, -5, float("nan")):
        with pytest.raises(UsageError):
            intrinsics_from_fov(wrong, (480, 640))


def test_exif_focal_length():
    pixels = np.zeros((400, 600, 3), np.uint8)
    K = intrinsics_from_exif(Image(pixels, focal_35mm=24.0))
    np.testing.assert_allclose(K, [[400, 0, 299.5], [0, 400, 199.5], [0, 0, 1]])
    portrait = intrinsics_from_exif(Image(pixels.transpose(1, 0, 2), focal_35mm=24.0))
    assert portrait[0, 0] == pytest.approx(400) and portrait[1, 2] == 299.5
    for focal in (None, 0.0, float("nan"), float("inf")):
        assert intrinsics_from_exif(Image(pixels, focal_35mm=focal)) is None


def test_colmap_is_half_a_pixel_further():
    before = K.copy()
    there = pixel_centre_to_colmap(K)
    np.testing.assert_array_equal(there[:, 2], [320.5, 240.625, 1])
    np.testing.assert_array_equal(colmap_to_pixel_centre(there), K)
    np.testing.assert_array_equal(K, before)
    np.testing.assert_array_equal(there[:, :2], K[:, :2])
