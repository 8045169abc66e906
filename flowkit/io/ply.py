"""Point clouds as binary little-endian PLY (Turk, The PLY polygon file format, 1994), as MeshLab and CloudCompare open them."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from flowkit.io.atomic import write_bytes

VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
"""One point: 15 bytes, without padding."""


def write_ply(
    path: str | os.PathLike[str], points: np.ndarray, colours: np.ndarray, comments: Sequence[str] = ()
) -> None:
    """Write points (N, 3), as float32 x, y, z, with colours (N, 3) uint8 RGB, wholly or not at all.

    `comments` are lines of the header; what is not ASCII in them becomes "?". Raises OutputError; ValueError for arrays of
    other shapes, a colour that is not uint8, or a coordinate that is not finite.
    """
    points, colours = np.asarray(points), np.asarray(colours)
    if points.ndim != 2 or points.shape[1] != 3 or colours.shape != points.shape or colours.dtype != np.uint8:
        raise ValueError(
            f"points are (N, 3), colours (N, 3) uint8, not {points.shape} and {colours.shape} {colours.dtype}"
        )
    if not np.isfinite(points).all():
        raise ValueError("a coordinate is not finite")
    vertices = np.empty(len(points), VERTEX)
    vertices["xyz"], vertices["rgb"] = points, colours
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {' '.join(comment.split())}" for comment in comments),
        f"element vertex {len(points)}",
        *(f"property float {axis}" for axis in "xyz"),
        *(f"property uchar {channel}" for channel in ("red", "green", "blue")),
        "end_header\n",
    ]
    write_bytes(path, "\n".join(header).encode("ascii", "replace") + vertices.tobytes())
