"""Contact sheets show the pairs that a run begins with."""

from dataclasses import replace

import numpy as np
from PIL import Image
from tiny_training import TINY, Shifts

from flowkit.training.feeding import Maker
from flowkit.training.preview import row, write_preview
from flowkit.training.recipe import Stage
from flowkit.viz.canvas import GAP


def test_a_sheet_for_each_stage(material, tmp_path):
    recipe = replace(TINY, stages=(Stage(), Stage(size=(32, 40), batch=1)))
    files = write_preview(recipe, material, 10, tmp_path)
    assert files == sorted(tmp_path.glob("preview-*.png")) and len(files) == 2
    first, second = (np.asarray(Image.open(file)) for file in files)
    assert first.shape == (5 * 24 + 4 * GAP, 4 * 32 + 3 * GAP, 3)
    assert second.shape == (5 * 32 + 4 * GAP, 4 * 40 + 3 * GAP, 3)
    assert [len(list(tmp_path.iterdir())), len(write_preview(replace(TINY), material, 13, tmp_path / "plain"))] == [
        2,
        3,
    ]
    batch = Maker(recipe, material).batch((1, 1))
    shown = second[32 + GAP : 2 * 32 + GAP, 40 + GAP : 2 * 40 + GAP]
    np.testing.assert_array_equal(shown, (batch.image1[0].movedim(0, -1) * 255).round().byte().numpy())


def test_what_a_row_shows(material):
    pairs = Shifts(material.photos, 6).batch(1, (24, 32), 3)
    hidden = pairs.valid.clone()
    hidden[:, :, :16] = False
    known = hidden.clone()
    strip = row(replace(pairs, occlusion=hidden, valid=known), 0)
    image, flow, marked = (strip[:, k * (32 + GAP) : k * (32 + GAP) + 32] for k in (0, 2, 3))
    assert (flow[-4:, :16] == 0).all() and flow[-4:, 16:].any(), "black where nothing is known"
    np.testing.assert_array_equal(marked[:, :16], image[:, :16])
    assert (marked[:, 16:, 0].astype(int) >= 0.65 * 255 - 1).all(), "red where the point is hidden"


def test_a_triplet_shows_its_third_picture(material):
    pairs = Shifts(material.photos, 6).batch(1, (24, 32), 3)
    strip = row(replace(pairs, warped=1 - pairs.image1), 0)
    third, last = (strip[:, k * (32 + GAP) : k * (32 + GAP) + 32].astype(int) for k in (1, 4))
    assert np.abs(third + last - 255).max() <= 1
