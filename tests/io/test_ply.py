"""A point cloud in the bytes that the format prescribes, read here without the code under test."""

import struct

import numpy as np
import pytest

from flowkit.errors import OutputError
from flowkit.io.ply import write_ply


def test_every_byte_is_where_the_format_has_it(tmp_path):
    points = np.array([[1.5, -2.25, 3.0], [0.1, 1e-3, 1e6]])
    colours = np.array([[0, 128, 255], [7, 8, 9]], np.uint8)
    write_ply(tmp_path / "p.ply", points, colours, ["unit: the baseline", "a\nb é"])
    data = (tmp_path / "p.ply").read_bytes()
    header, end, body = data.partition(b"end_header\n")
    assert end and header.decode("ascii").splitlines() == [
        "ply",
        "format binary_little_endian 1.0",
        "comment unit: the baseline",
        "comment a b ?",
        "element vertex 2",
        "property float x",
        "property float y",
        "property float z",
        "property uchar red",
        "property uchar green",
        "property uchar blue",
    ]
    read = list(struct.iter_unpack("<fffBBB", body))
    assert len(body) == 30 and len(read) == 2
    for row, point, colour in zip(read, points, colours, strict=True):
        assert row[:3] == tuple(float(value) for value in point.astype(np.float32)) and row[3:] == tuple(colour)


def test_nothing_is_written_of_what_is_no_point_cloud(tmp_path):
    points, colours = np.zeros((2, 3)), np.zeros((2, 3), np.uint8)
    for wrong in (
        (points[:1], colours),
        (points, colours.astype(float)),
        (points[:, :2], colours[:, :2]),
        (points + np.nan, colours),
    ):
        with pytest.raises(ValueError):
            write_ply(tmp_path / "p.ply", *wrong)
    with pytest.raises(OutputError, match="folder"):
        write_ply(tmp_path, points, colours)
    assert not list(tmp_path.iterdir())
