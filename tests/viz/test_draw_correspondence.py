"""Heat maps of confidences: where cells are drawn, and in which colours."""

import numpy as np

from flowkit.viz import canvas
from flowkit.viz.correspondence import BOX, Compared, Heat, close_up, draw_correspondence


def grid(columns, rows, cell):
    y, x = np.mgrid[:rows, :columns]
    return np.stack([(x.ravel() + 0.5) * cell[0] - 0.5, (y.ravel() + 0.5) * cell[1] - 0.5], axis=1)


def drawing(values, peaks):
    """Panels of 64x32 pictures on 8x4 cells; gives the heat panels of the first row."""
    compared = Compared(np.full((32, 64, 3), 120, np.uint8), grid(8, 4, (8, 8)), (8, 8))
    heats = [Heat("step", np.array(v, float), peak, "peak\nratio") for v, peak in zip(values, peaks, strict=True)]
    picture = draw_correspondence(compared, compared, (60.0, 3.0), (heats, heats), (59.5, 3.5))
    top = (picture.shape[0] // 2 - BOX // 2) // 3  # one line over and two under a panel
    return picture, [
        picture[top : top + BOX // 2, (BOX + canvas.GAP) * i : (BOX + canvas.GAP) * i + BOX] for i in range(4)
    ]


def test_a_cell_is_drawn_where_it_lies_on_one_scale():
    hot, cold = np.zeros(32), np.zeros(32)
    hot[1 * 8 + 6], cold[2 * 8 + 1] = 2.0, 1.0
    _, (a, b, first, second) = drawing([hot, cold], [None, None])
    yellow = first[..., :2].astype(int).sum(axis=2)
    y, x = np.nonzero(yellow > yellow.max() - 10)
    assert (x.min(), x.max(), y.min(), y.max()) == (192, 223, 32, 63)  # column 6, row 1; 32 pixels a cell
    where = np.nonzero(np.abs(second.astype(int) - second[0, -1]).sum(axis=2) > 30)
    assert (where[1].min(), where[1].max(), where[0].min(), where[0].max()) == (32, 63, 64, 95)
    assert second[80, 48].astype(int).sum() < first[48, 208].astype(int).sum() - 50  # half as sure is darker
    green = np.nonzero((a == canvas.GREEN).all(axis=2))
    assert green[1].min() > 220 and green[0].max() < 40  # the point is at the top right
    assert not (b == canvas.GREEN).all(axis=2).any()


def test_the_peak_is_marked_and_places_that_are_not_there_are_left_out():
    values = np.zeros(32)
    values[:8] = np.nan
    _, (_, _, first, _) = drawing([values], [(11.5, 27.5)])
    red = np.nonzero((first == canvas.RED).all(axis=2))
    assert abs((red[1].min() + red[1].max()) / 2 - 47.5) <= 1 and abs((red[0].min() + red[0].max()) / 2 - 111.5) <= 3
    assert (first[10] == first[10, 0]).all() and len(np.unique(first[10, 0])) == 1  # grey
    assert len(np.unique(first[60, 200])) == 3


def test_what_is_nowhere_can_be_drawn():
    picture, _ = drawing([np.full(32, np.nan)], [None])
    assert picture.dtype == np.uint8 and picture.shape[1] > 3 * BOX


def test_a_close_up_stays_in_the_picture():
    assert close_up(np.array([[2.0, 10.0], [38.0, 46.0]]), (4, 4), (60, 100)) == (0, 0, 57, 60)
    assert close_up(np.array([[np.nan, 1.0]]), (4, 4), (60, 100)) == (0, 0, 100, 60)
    left, top, right, bottom = close_up(np.array([[-30.0, -30.0]]), (4, 4), (60, 100))
    assert left < right and top < bottom and min(left, top) >= 0
