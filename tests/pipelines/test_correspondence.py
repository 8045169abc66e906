"""The place of the peak in original pixels, where it is known: pictures shifted, stretched, small and padded."""

import numpy as np
import pytest
import torch

from flowkit.errors import UsageError
from flowkit.io.weights import write_weights
from flowkit.models.registry import build
from flowkit.pipelines.correspondence import _ARCHITECTURES, Places, confidence, correspondence
from flowkit.types import Image


@pytest.fixture(scope="module")
def basenet(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_weights(file, build("basenet-gocor").state_dict(), {"model": "basenet-gocor"})
    return {"model": "basenet-gocor", "weights": file, "device": "cpu"}


def noise(height, width, grain=4):
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 256, (height // grain, width // grain, 3)), np.ones((grain, grain, 1))).astype(
        np.uint8
    )


def near(found, wanted, within):
    assert np.abs(np.array(found) - wanted).max() <= within, (found, wanted)


def test_the_peak_is_where_the_point_went(basenet):
    a = noise(256, 256)
    b = np.roll(a, (16, 48), (0, 1))  # a cell down, three to the right
    found = correspondence(a, b, (100.0, 70.0), **basenet)
    assert (found.level, found.grid) == ("global", (16, 16))
    assert [state.title for state in found.states] == ["correlation", "start", "step 1", "step 2", "step 3"]
    assert found.cell == (103.5, 71.5)
    near(found.states[0].query.peak, (151.5, 87.5), 0.01)
    for state in found.states[:2]:
        near(state.reference.peak, (103.5, 71.5), 0.01)
    assert found.run.options["iterations"] == 3
    assert len(correspondence(a, b, (100.0, 70.0), iterations=1, **basenet).states) == 3


def test_pictures_of_two_sizes_keep_their_own_pixels(basenet):
    a = noise(256, 256)
    b = np.roll(a, (16, 48), (0, 1)).repeat(3, axis=0).repeat(2, axis=1)
    found = correspondence(a, b, (100.0, 70.0), **basenet)
    near(found.states[0].query.peak, ((151.5 + 0.5) * 2 - 0.5, (87.5 + 0.5) * 3 - 0.5), 0.01)
    assert found.query.cell == (32, 48) and found.reference.cell == (16, 16)
    back = correspondence(b, a, (302.0, 262.0), **basenet)
    near(back.states[0].query.peak, (103.5, 71.5), 0.01)


@pytest.mark.parametrize("size", [(40, 60), (130, 131), (20, 300), (64, 500)])
def test_the_cell_holds_the_point_whatever_is_padded(basenet, size):
    picture = noise(*(-(-side // 4) * 4 for side in size))[: size[0], : size[1]]
    for point in ((0.0, 0.0), (size[1] - 1.0, size[0] - 1.0), (size[1] * 0.3, size[0] * 0.6)):
        found = correspondence(picture, picture, point, **basenet)
        for each in (found.states[0].query, found.states[0].reference):
            assert each.value == pytest.approx(1, abs=1e-4)
            assert (np.abs(np.subtract(each.peak, point)) <= np.array(found.reference.cell) / 2 + 1e-3).all()


def test_the_local_level_goes_from_where_the_flow_leads(tmp_path):
    torch.manual_seed(0)
    network = build("pwcnet")
    with torch.no_grad():
        for decoder in network.decoders.values():
            decoder.flow.weight.zero_()
        network.context.flow.weight.zero_()
        network.decoders["3"].up_features.weight.zero_()
        network.decoders["3"].up_flow.bias[0] = 8 / 20  # the finest level is told: 8 pixels to the right
    write_weights(tmp_path / "w.safetensors", network.state_dict(), {"model": "pwcnet"})
    a = noise(128, 192, grain=2)
    b = np.roll(a, (-4, 12), (0, 1))
    found = correspondence(a, b, (81.0, 66.0), model="pwcnet", weights=tmp_path / "w.safetensors", device="cpu")
    assert (found.level, found.grid, len(found.states)) == ("local", (9, 9), 1)
    near(found.cell, (81.5, 65.5), 1e-3)
    near(found.states[0].reference.peak, (81.5, 65.5), 1e-3)
    near(found.states[0].query.peak, (93.5, 61.5), 1e-3)
    assert found.query.cell == (4, 4)
    rim = correspondence(a, b, (1.0, 126.0), model="pwcnet", weights=tmp_path / "w.safetensors", device="cpu")
    assert np.isfinite(rim.reference.points).all(axis=1).sum() == 25


def test_peaks_are_told_apart_on_the_grid():
    places = Places(np.stack([np.arange(20.0) % 5, np.arange(20.0) // 5], axis=1), (1, 1), (4, 5))
    values = np.zeros(20)
    values[[7, 8, 13]] = 1, 0.9, 0.8  # two neighbours of (2, 1): (3, 1) and (3, 2)
    values[[9, 4]] = 0.5, -3
    found = confidence(values, places, (4, 5))
    assert found.peak == (2, 1) and found.second == (4, 1) and found.ratio == 2
    one = np.where(np.arange(20) == 7, 0.5, 0)
    assert confidence(one, places, (4, 5)).entropy == 0
    assert confidence(np.ones(20), places, (4, 5)).entropy == pytest.approx(np.log2(20))
    nowhere = Places(np.full((20, 2), np.nan), (1, 1), (4, 5))
    assert confidence(values, nowhere, (4, 5)).peak is None


def test_the_networks_of_these_files_can_be_asked():
    networks = [build(name) for name in ("basenet", "glunet", "pwcnet")]
    assert tuple(type(network).__module__ for network in networks) == _ARCHITECTURES
    assert all(callable(network.correspondences) for network in networks)


def test_what_cannot_be_shown_is_refused(basenet):
    picture = Image(noise(64, 96), path="a.png")
    for point in ((96.0, 10.0), (-1.0, 10.0), (10.0, 64.0)):
        with pytest.raises(UsageError, match=r"is not in a.png, whose pixels go from 0,0 to 95,63"):
            correspondence(picture, picture, point, **basenet)
    for model in ("dis", "raft"):
        with pytest.raises(UsageError, match="no correspondence volume"):
            correspondence(picture, picture, (1.0, 1.0), model=model)
    with pytest.raises(UsageError, match="no iterations"):
        correspondence(picture, picture, (1.0, 1.0), model="basenet", iterations=2)
