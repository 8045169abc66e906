import numpy as np
import pytest

from flowkit.errors import InputError
from flowkit.viz.overlays import anaglyph, blend, checkerboard, dimmed, side_by_side

A, B = np.full((40, 60, 3), 200, np.uint8), np.full((40, 60, 3), 100, np.uint8)
VALID = np.arange(60)[None, :].repeat(40, 0) < 30


def test_blend_mixes_and_dims_what_is_invalid():
    assert (blend(A, B) == 150).all() and (blend(A, B, 1.0) == 200).all()
    mixed = blend(A, B, 0.25, VALID)
    assert (mixed[VALID] == 125).all() and (mixed[~VALID] == 40).all()


def test_checkerboard_alternates():
    board = checkerboard(A, B, cells=6)
    assert board[0, 0, 0] == 200 and board[0, 10, 0] == 100 and board[10, 10, 0] == 200
    assert (checkerboard(A, B, 6, VALID)[:, 30:] == 40).all()


def test_anaglyph_is_grey_where_the_two_agree():
    same = anaglyph(A, A)
    assert np.ptp(same, axis=2).max() == 0
    different = anaglyph(A, B)
    assert different[0, 0].tolist() == [200, 100, 100]


def test_side_by_side_brings_all_to_one_height():
    row = side_by_side(A, np.zeros((80, 60, 3), np.uint8), labels=("moved", "target"))
    assert row.shape == (80, 120 + 6 + 60, 3)


def test_inputs_stay_as_they_were():
    before = A.copy()
    side_by_side(A, B, labels=("a", "b"))
    blend(A, B, valid=VALID), dimmed(A)
    np.testing.assert_array_equal(A, before)


@pytest.mark.parametrize("overlay", [blend, checkerboard, anaglyph])
def test_different_sizes_are_refused(overlay):
    with pytest.raises(InputError, match="60x40"):
        overlay(A, B[:30])
