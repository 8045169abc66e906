"""Tiles and their partners, with a network that knows the truth but only inside what it is shown."""

import numpy as np
import pytest

from flowkit.pipelines.tiling import Window, affordable_side, centrality, partners, tiled_flow, tiles

LOST = 1e4


def coded(height, width):
    """(H, W, 3) float32: every pixel shows its own x and y."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([x, y, np.zeros_like(x)], axis=2)


def seer(truth, reach=None):
    """A network that gives the true flow of pixels whose partner it is shown or left the picture, and nonsense for others.

    With `reach` it finds nothing further than that from the initial flow.
    """
    asked = []

    def network(tile, window, initial):
        asked.append((tile[0, 0, :2].tolist(), window[0, 0, :2].tolist()))
        x, y = tile[..., 0].astype(int), tile[..., 1].astype(int)
        target = np.stack([x, y]) + truth[:, y, x]
        low, high = window[0, 0, :2], window[-1, -1, :2]
        shown = ((target >= low[:, None, None] - 0.5) & (target <= high[:, None, None] + 0.5)).all(0)
        end = np.array(truth.shape[:0:-1])[:, None, None] - 0.5
        shown |= ((target < -0.5) | (target > end)).any(0)
        answer = truth[:, y, x] + (tile[0, 0, :2] - low)[:, None, None]
        if reach is not None:
            shown &= np.abs(answer - initial).max(0) <= reach
        return np.where(shown, answer, LOST).astype(np.float32)

    network.asked = asked
    return network


@pytest.mark.parametrize(("size", "side"), [((100, 100), 100), ((300, 100), 128), ((257, 513), 128), ((130, 900), 256)])
def test_tiles_cover_the_picture_and_overlap(size, side):
    windows = tiles(size, side)
    seen, sums = np.zeros(size, int), np.zeros(size)
    for window in windows:
        assert window.top >= 0 and window.left >= 0
        assert window.top + window.height <= size[0] and window.left + window.width <= size[1]
        seen[window.slices] += 1
        sums[window.slices] += centrality(window, window.points, size)
    assert seen.min() >= 1 and sums.min() > 0.3
    if len(windows) > 1:
        assert (seen > 1).mean() > 0.15


def test_points_are_x_and_y():
    points = Window(3, 10, 2, 4).points
    assert points[0].tolist() == [[10, 11, 12, 13]] * 2 and points[1].tolist() == [[3] * 4, [4] * 4]


def test_centrality_falls_only_towards_what_continues():
    window = Window(0, 100, 64, 100)
    weight = centrality(window, window.points, (64, 400))
    assert weight[0, 50] == weight[63, 50] == 1  # top and bottom are the picture's own
    assert weight[0, 0] == weight[0, 99] == pytest.approx(0.02) and (weight[:, 25:75] == 1).all()
    out = np.array([[[99.0, 250.0]], [[5.0, -20.0]]])
    assert centrality(window, out, (64, 400)).tolist() == [[0, 0]]


def test_a_shift_longer_than_a_tile_is_followed():
    truth = np.zeros((2, 200, 900), np.float32)
    truth[0], truth[1] = -300.5, 21.25
    guide = truth + 3
    network = seer(truth, reach=8)
    found = tiled_flow(coded(200, 900), coded(200, 900), guide, 128, network)
    assert np.abs(found - truth)[:, :175, 310:].max() < 1e-3  # what stays in the picture, also by the guide
    assert np.abs(found - truth).max() < 3.01
    assert np.abs(found - guide)[:, :, :100].max() < 1e-3  # the first tile leaves it altogether, and has only the guide
    assert len(network.asked) < len(tiles((200, 900), 128))


def test_a_tile_of_two_motions_is_run_with_both():
    truth = np.zeros((2, 256, 768), np.float32)
    truth[0, :, :384] = 200
    truth[0, :, 384:] = -150
    truth[1] = 5
    network = seer(truth)
    found = tiled_flow(coded(256, 768), coded(256, 768), truth, 256, network)
    stays = np.zeros((256, 768), bool)
    stays[:250] = True
    assert np.abs(found - truth)[:, stays].max() < 1e-3
    middle = next(tile for tile in tiles((256, 768), 256) if tile.left < 384 < tile.left + 128)
    shared = partners(middle, truth[:, *middle.slices], (256, 768))
    assert len(shared) == 2 and {window.left - middle.left for window in shared} == {
        171,
        -150,
    }  # 171: as far as the picture goes


def test_partners_lie_inside_the_picture():
    tile = Window(0, 0, 128, 128)
    motion = np.full((2, 128, 128), -60, np.float32)
    assert partners(tile, motion, (400, 400)) == [Window(0, 0, 128, 128)]
    assert partners(tile, motion - 100, (400, 400)) == []
    lean = round(60 - 2 * 0.125 * 32)  # towards the border, where there is no other tile
    assert partners(tile, -motion, (400, 400)) == [Window(lean, lean, 128, 128)]
    assert partners(Window(100, 100, 128, 128), -motion, (400, 400)) == [Window(160, 160, 128, 128)]


def test_seams_are_smooth():
    """Tiles that disagree by a constant give no step."""
    calls = []

    def network(tile, window, initial):
        calls.append(1)
        return np.full((2, *tile.shape[:2]), len(calls), np.float32)

    found = tiled_flow(coded(128, 400), coded(128, 400), np.zeros((2, 128, 400), np.float32), 128, network)
    assert found[0, 64, 0] == pytest.approx(1) and found[0, 64, -1] == pytest.approx(len(calls))
    assert np.abs(np.diff(found[0], axis=1)).max() < 0.1


def test_memory_buys_pixels(monkeypatch):
    from flowkit.pipelines import tiling

    assert tiling.free_memory("cpu") is None or tiling.free_memory("cpu") > 2**24
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2 * 1000 * 1000**2)
    assert affordable_side(1000, "cpu") == 960 and affordable_side(4000, "cpu") == 448
    assert affordable_side(0, "cpu") is None
