import numpy as np

from flowkit.viz import maps


def test_error_map_runs_from_blue_to_red_and_unknown_is_black():
    error = np.array([[0, 0.1, 2, 40, np.nan, np.inf]], np.float32)
    picture = maps.error_map(error, bar=False).astype(int)[0]
    assert (picture[0] == picture[1]).all() and picture[0, 2] > picture[0, 0] + 50
    assert picture[2].min() > 180
    assert picture[3, 0] > picture[3, 2] + 50 and (picture[5] == picture[3]).all()
    assert (picture[4] == 0).all()


def test_error_bar_is_beside_the_map_at_any_height():
    for height in (1, 8, 30, 200):
        picture = maps.error_map(np.ones((height, 50)), 16)
        assert picture.shape[0] == height and picture.shape[1] > 60


def test_confidence_as_grey_and_as_colour():
    confidence = np.array([[0, 0.5, 1, 2, np.nan]], np.float32)
    assert maps.confidence_picture(confidence).tolist() == [[0, 128, 255, 255, 0]]
    colours = maps.confidence_picture(confidence, colour=True)
    assert colours.shape == (1, 5, 3) and colours[0, 2, 0] > colours[0, 0, 0]


def test_occlusion_and_matchability():
    mask = np.array([[True, False]])
    picture = np.full((1, 2, 3), 100, np.uint8)
    assert maps.occlusion_picture(mask).tolist() == [[255, 0]]
    tinted = maps.occlusion_overlay(picture, mask)
    assert tinted[0, 0, 0] > 150 and (tinted[0, 1] == 100).all() and (picture == 100).all()
    faded = maps.matchability_overlay(picture, np.array([[0.0, 1.0]]))
    assert faded[0, 0].max() < 80 and (faded[0, 1] == 100).all()


def test_regions_have_distinct_colours_and_none_is_dark():
    regions = np.arange(-1, 8)[None].astype(np.int16)
    plain = maps.region_map(regions)[0]
    assert len({tuple(colour) for colour in plain.tolist()}) == 9
    over = maps.region_map(regions, np.full((1, 9, 3), 100, np.uint8))[0]
    assert (over[0] == 40).all() and len({tuple(colour) for colour in over.tolist()}) == 9
    assert maps.region_map(np.full((2, 2), -1)).max() == 40
