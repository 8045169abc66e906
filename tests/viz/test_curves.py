"""Curves: where they pass, and that every panel and name is there."""

import numpy as np

from flowkit.viz.curves import _LEFT, _PLOT, _TOP, COLOURS, Panel, draw_curves


def near(picture, x, y, colour):
    """Whether a pixel of this colour is within two pixels of (x, y)."""
    patch = picture[y - 2 : y + 3, x - 2 : x + 3].astype(int)
    return bool((np.abs(patch - colour).max(axis=-1) < 40).any())


def test_a_curve_passes_through_its_values():
    picture = draw_curves([Panel("all", {"a": [0.25, 0.5, 0.75], "b": [1, 1, np.nan]})], [1, 2, 3], "px", "%")
    middle = _LEFT + _PLOT // 2
    assert near(picture, middle, _TOP + _PLOT // 2, COLOURS[0])
    assert near(picture, _LEFT + 1, _TOP + _PLOT * 3 // 4, COLOURS[0])
    assert near(picture, middle - 40, _TOP, COLOURS[1]) and not near(picture, _LEFT + _PLOT - 10, _TOP, COLOURS[1])
    assert not near(picture, middle, _TOP + _PLOT * 3 // 4, COLOURS[0])


def test_panels_stand_side_by_side_and_share_colours_and_legend():
    curves = {f"method {i}": [0.1 * i, 0.1 * i] for i in range(9)}
    one = draw_curves([Panel("x", curves)], [1, 10], "px", "%")
    two = draw_curves([Panel("x", curves), Panel("y", {"method 1": [0.9, 0.9]})], [1, 10], "px", "%")
    assert two.shape[0] == one.shape[0] and two.shape[1] > one.shape[1] + _PLOT
    second = two[_TOP : _TOP + _PLOT, one.shape[1] + 20 :]
    assert (np.abs(second.astype(int) - COLOURS[1]).max(axis=-1) < 40).any()
    dashed = one[round(_TOP + _PLOT * 0.2), _LEFT + 2 : _LEFT + _PLOT]  # method 8
    share = (np.abs(dashed.astype(int) - COLOURS[8 % len(COLOURS)]).max(axis=-1) < 60).mean()
    assert 0.3 < share < 0.8
    long = draw_curves([Panel("x", {"a method with a very long name, " * 4: [0, 1]})], [1, 10], "px", "%")
    assert long.shape[1] > one.shape[1]
