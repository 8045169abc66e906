"""SuperPoint on weights in the official layout: random ones, and some set by hand so that one bright pixel is a corner."""

import numpy as np
import pytest
import torch

from flowkit.errors import WeightsError
from flowkit.features import registry
from flowkit.features.superpoint import BORDER, Network, corners, describe, pixel_scores
from flowkit.types import Image


def write(path, state):
    torch.save(state, path)
    return str(path)


def random_state(seed=0):
    torch.manual_seed(seed)
    return Network().state_dict()


def impulse_state():
    """Weights that answer one bright pixel with a corner exactly there.

    Where in each 2x2 block it is, which pooling would forget, is read off the blocks that its copies fall into, shifted by
    one to the right, and by one down. Three times that is the pixel of the cell, as 64 channels.
    """
    network = Network()
    state = {name: torch.zeros_like(tensor) for name, tensor in network.state_dict().items()}

    def copy(layer, source, target, dx=0, dy=0):
        centre = state[f"{layer}.weight"].shape[-1] // 2
        state[f"{layer}.weight"][target, source, centre - dy, centre - dx] = 1

    def shifts(layer, count):  # channel -> itself, itself moved right, itself moved down
        for c in range(count):
            copy(layer, c, 3 * c)
            copy(layer, c, 3 * c + 1, dx=1)
            copy(layer, c, 3 * c + 2, dy=1)

    def decide(layer, order):  # from the three of each channel: which of the block's four pixels
        for c, targets in enumerate(order):
            for (row, column), target in targets.items():
                weights = torch.tensor([1.0, 1 - 2 * column, 1 - 2 * row])  # a copy that left the block says no
                centre = 1
                state[f"{layer}.weight"][target, 3 * c : 3 * c + 3, centre, centre] = weights
                state[f"{layer}.bias"][target] = -float((weights > 0).sum() - 1)

    def names(count, bits):  # channel c holds a position of `bits` bits a side; finer bits are appended below
        side = 2**bits
        return [
            {
                (row, column): (row * side + c // side) * 2 * side + column * side + c % side
                for row in (0, 1)
                for column in (0, 1)
            }
            for c in range(count)
        ]

    shifts("conv1a", 1)
    for c in range(3):
        copy("conv1b", c, c)
    decide("conv2a", names(1, 0))
    shifts("conv2b", 4)
    decide("conv3a", names(4, 1))
    shifts("conv3b", 16)
    decide("conv4a", names(16, 2))
    for c in range(64):
        copy("conv4b", c, c)
        copy("convPa", c, c)
        state["convPb.weight"][c, c] = 100
    state["convPb.bias"][64] = 10
    state["convDb.bias"][:] = 1
    return state


def test_the_layout_is_the_official_one():
    state = Network().state_dict()
    names = [f"conv{name}" for name in ("1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "Pa", "Pb", "Da", "Db")]
    assert list(state) == [f"{name}.{kind}" for name in names for kind in ("weight", "bias")]
    assert sum(tensor.numel() for tensor in state.values()) == 1_300_865
    assert state["convPb.weight"].shape == (65, 256, 1, 1) and state["convDa.weight"].shape == (256, 128, 3, 3)


@pytest.mark.parametrize("pixel", [(8, 8), (37, 21), (46, 31), (23, 16), (9, 34), (20, 27), (31, 47)])
def test_a_corner_comes_out_at_its_pixel(tmp_path, pixel):
    grey = np.zeros((60, 76), np.uint8)
    grey[pixel[1], pixel[0]] = 255
    extractor = registry.extractor("superpoint", weights=write(tmp_path / "hand.pth", impulse_state()))
    found = extractor.extract(Image(np.repeat(grey[..., None], 3, axis=2)))
    assert found.keypoints.tolist() == [list(pixel)]


def test_channels_are_rows_of_pixels():
    logits = torch.zeros(1, 65, 3, 4)
    logits[0, 8 * 5 + 2, 1, 3] = 20  # row 5, column 2 of the cell in row 1, column 3
    scores = pixel_scores(logits)[0]
    assert scores.shape == (24, 32) and divmod(int(scores.argmax()), 32) == (8 + 5, 24 + 2)
    logits[0, 64, 0, 0] = 20  # no corner
    assert pixel_scores(logits)[0, :8, :8].max() < 1e-6


def test_the_best_corner_suppresses_its_neighbours_and_no_others():
    scores = torch.zeros(40, 60)
    for x, score in ((20, 0.9), (23, 0.8), (26, 0.7), (31, 0.5)):  # 26 is near 23, which is not a corner itself
        scores[20, x] = score
    scores[20, 50] = 0.01
    scores[2, 30] = scores[20, BORDER - 1] = 0.9
    y, x = corners(scores)
    assert x.tolist() == [20, 26, 31] and y.tolist() == [20, 20, 20]


def test_descriptors_are_read_between_the_centres_of_cells():
    """Along x the unit vectors turn by 0.1 a cell, so a pixel is 0.0125: the angle tells the place."""
    angle = 0.1 * torch.arange(12.0)
    coarse = torch.stack([angle.cos(), angle.sin()])[:, None, :].expand(2, 5, 12)
    pixels = torch.tensor([[3.5, 10.0], [4, 20], [11.5, 3], [50.25, 30]])
    found = describe(coarse, pixels)
    expected = (pixels[:, 0] + 0.5) / 80 - 0.05
    np.testing.assert_allclose(torch.atan2(found[:, 1], found[:, 0]), expected, atol=1e-4)
    np.testing.assert_allclose(found.norm(dim=1), 1, atol=1e-6)


def test_random_weights_any_size(tmp_path):
    state = random_state()
    state["convPb.weight"] *= 30
    file = write(tmp_path / "random.pth", state)
    rng = np.random.default_rng(0)
    image = Image(rng.integers(0, 256, (67, 93, 3), dtype=np.uint8))
    extractor = registry.extractor("superpoint", weights=file, max_keypoints=20)
    found = extractor.extract(image)
    assert found.descriptors.shape == (20, 256) and found.size == (67, 93)
    np.testing.assert_allclose(np.linalg.norm(found.descriptors, axis=1), 1, atol=1e-5)
    assert (np.diff(found.scores) <= 0).all() and (found.keypoints <= [92 - BORDER, 66 - BORDER]).all()
    assert extractor.weights.keys() == {"random.pth"} and "non-commercial" in extractor.notes[0]
    mask = np.zeros(image.size, bool)
    mask[:, :40] = True
    assert extractor.extract(image, mask).keypoints[:, 0].max() < 40
    matches = registry.matcher(registry.FeatureSet("superpoint", (("superpoint", file),))).match(image, image)
    assert len(matches) > 10
    assert matches.origins == ("superpoint",)
    for size in ((8, 300), (48, 64)):
        assert len(extractor.extract(Image(np.zeros((*size, 3), np.uint8))).keypoints) == 0


def test_where_the_weights_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"superpoint_v1\.pth: .*magicleap.*--feature-weights superpoint=FILE"):
        registry.extractor("superpoint")
    with pytest.raises(WeightsError, match=r"none\.pth: no such weights file"):
        registry.extractor("superpoint", weights=str(tmp_path / "none.pth"))
    write(tmp_path / "superpoint_v1.pth", random_state())
    assert registry.extractor("superpoint").weights.keys() == {"superpoint_v1.pth"}
    bad = write(tmp_path / "bad.pth", {"conv1a.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"bad\.pth"):
        registry.extractor("superpoint", weights=bad)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match=r"text\.pth"):
        registry.extractor("superpoint", weights=str(tmp_path / "text.pth"))
