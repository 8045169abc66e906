"""Texture transfer: the region is painted, nothing else, with a soft seam."""

import cv2
import numpy as np
import pytest

from flowkit.errors import InputError, UsageError
from flowkit.pipelines.transfer import read_region, transferred

SIZE = (60, 100)


def test_a_box_is_x_y_width_height():
    region = read_region("10,20,30,15", SIZE)
    rows, columns = np.nonzero(region)
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 39, 20, 34)
    assert read_region("90,50,100,100", SIZE).sum() == 100  # what lies outside of the picture is cut off
    with pytest.raises(UsageError, match="holds no pixel"):
        read_region("200,5,10,10", SIZE)


def test_a_mask_file_is_white_in_the_region(tmp_path):
    mask = np.zeros(SIZE, np.uint8)
    mask[5:9, 7:20] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    np.testing.assert_array_equal(read_region(str(tmp_path / "m.png"), SIZE), mask > 0)
    cv2.imwrite(str(tmp_path / "n.png"), mask * 0)
    with pytest.raises(InputError, match="black all over"):
        read_region(str(tmp_path / "n.png"), SIZE)
    with pytest.raises(InputError, match="100x60"):
        read_region(str(tmp_path / "m.png"), (61, 100))


def test_only_the_region_changes_and_only_where_something_is_known():
    target, aligned = np.full((*SIZE, 3), 50, np.uint8), np.full((*SIZE, 3), 200, np.uint8)
    region, known = np.zeros(SIZE, bool), np.ones(SIZE, bool)
    region[10:50, 20:80] = True
    known[:, 60:] = False
    result = transferred(target, aligned, known, region)
    assert (result[~(region & known)] == 50).all()
    assert (result[15:45, 25:55] == 200).all()
    seam = result[30, 18:26, 0].astype(int)
    assert (np.diff(seam) >= 0).all() and 50 < seam[2] < 200
