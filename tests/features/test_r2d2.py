"""R2D2 on random weights in the official layout, and on the official file where it is at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from flowkit.errors import WeightsError
from flowkit.features import registry
from flowkit.features.matching import match_descriptors
from flowkit.features.r2d2 import DILATIONS, KERNELS, Network, load_network, peaks
from flowkit.types import Image

OFFICIAL = Path("/work/shared/official/r2d2_WASF_N16.pt")
HOMOGRAPHY = np.array([[0.94, 0.12, 3.3], [-0.1, 0.97, 12.7], [1e-4, -8e-5, 1.0]])


def photo(side: int = 192) -> Image:
    return Image(cv2.resize(skimage.data.astronaut(), (side, side), interpolation=cv2.INTER_AREA))


def checkpoint(path, seed=0, widths=None):
    """A file in the authors' layout with random weights."""
    torch.manual_seed(seed)
    state = (Network() if widths is None else Network(widths)).state_dict()
    state = {name: torch.rand_like(t) + 0.5 if "running" in name else t for name, t in state.items()}
    torch.save({"net": "Quad_L2Net_ConfCFS()", "state_dict": {f"module.{n}": t for n, t in state.items()}}, path)
    return path


def test_the_layout_is_the_official_one():
    network = Network()
    assert sum(parameter.numel() for parameter in network.parameters()) == 484_387
    convolutions = [f"ops.{index}" for index in (0, 3, 6, 9, 12, 15, 18, 20, 22)]
    norms = [f"ops.{index}" for index in (1, 4, 7, 10, 13, 16, 19, 21)]
    names = {f"{name}.{kind}" for name in (*convolutions, "clf", "sal") for kind in ("weight", "bias")}
    names |= {f"{name}.{kind}" for name in norms for kind in ("running_mean", "running_var", "num_batches_tracked")}
    assert set(network.state_dict()) == names
    assert not any("ReLU" in str(layer) for layer in network.ops[18:])


def test_the_maps_are_those_of_plain_operations(tmp_path):
    """Every convolution as a sum over shifted copies, batch norms and the two maps by their formulas, in float64."""
    path = checkpoint(tmp_path / "r.pt")
    state = {n.removeprefix("module."): t.double() for n, t in torch.load(path)["state_dict"].items()}
    image = torch.randn(1, 3, 33, 38)
    x = image[0].double()
    places = (0, 3, 6, 9, 12, 15, 18, 20, 22)
    for place, kernel, dilation in zip(places, KERNELS, DILATIONS, strict=True):
        weight, pad = state[f"ops.{place}.weight"], (kernel - 1) * dilation // 2
        padded = torch.nn.functional.pad(x, (pad,) * 4)
        height, width = x.shape[1:]
        x = state[f"ops.{place}.bias"][:, None, None] + sum(
            torch.einsum(
                "oc,chw->ohw",
                weight[:, :, i, j],
                padded[:, i * dilation : i * dilation + height, j * dilation : j * dilation + width],
            )
            for i in range(kernel)
            for j in range(kernel)
        )
        if place < 22:
            mean, var = (state[f"ops.{place + 1}.running_{kind}"][:, None, None] for kind in ("mean", "var"))
            x = (x - mean) / (var + 1e-5).sqrt()
        if kernel == 3:
            x = x.clamp(min=0)
    clf, sal = (
        torch.einsum("oc,chw->ohw", state[f"{n}.weight"][:, :, 0, 0], x**2) + state[f"{n}.bias"][:, None, None]
        for n in ("clf", "sal")
    )
    softplus = (1 + sal[0].exp()).log()
    found, reliability, repeatability = load_network(path, 0, "cpu")(image)
    torch.testing.assert_close(found[0].double(), x, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(reliability[0].double(), clf[1].exp() / clf.exp().sum(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(repeatability[0].double(), softplus / (1 + softplus), rtol=1e-3, atol=1e-4)


def test_peaks_are_high_in_both_maps():
    reliability, repeatability = torch.full((9, 12), 0.9), torch.zeros(9, 12)
    repeatability[2, 3], repeatability[2, 5], repeatability[6, 6], repeatability[7, 7] = 0.9, 0.8, 0.69, 0.68
    repeatability[3, 4], repeatability[4, 10] = 0.75, 0.95  # the first is beside a higher one
    reliability[4, 10] = 0.6
    y, x = peaks(reliability, repeatability)
    assert list(zip(x.tolist(), y.tolist(), strict=True)) == [(3, 2), (5, 2)]


def test_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"r2d2_WASF_N16\.pt: .*naver/r2d2.*BY-NC-SA.*--feature-weights r2d2=FILE"):
        registry.extractor("r2d2")
    checkpoint(tmp_path / "r2d2_WAF_N16.pt")
    assert registry.extractor("r2d2").weights.keys() == {"r2d2_WAF_N16.pt"}
    checkpoint(tmp_path / "r2d2_WASF_N16.pt")
    extractor = registry.extractor("r2d2")
    assert extractor.weights.keys() == {"r2d2_WASF_N16.pt"} and "CC BY-NC-SA 3.0" in extractor.notes[0]
    for name, held in (("a", {"x": torch.zeros(1)}), ("b", {"state_dict": {"x": torch.zeros(1)}}), ("c", [1])):
        torch.save(held, tmp_path / name)
        with pytest.raises(WeightsError, match=name):
            registry.extractor("r2d2", weights=str(tmp_path / name))
    torch.save({"net": Network, "state_dict": {}}, tmp_path / "code.pt")  # what is not plain data is never run
    with pytest.raises(WeightsError, match=r"code\.pt: not a checkpoint that can be read safely"):
        registry.extractor("r2d2", weights=str(tmp_path / "code.pt"))


def test_the_big_network_and_nothing_to_see(tmp_path):
    path = checkpoint(tmp_path / "big.pt", widths=(48, 48, 96, 96, 192, 192, 192, 192, 128))
    extractor = registry.extractor("r2d2", weights=str(path), max_keypoints=50, max_side=64)
    for size in ((1, 1), (20, 200), (64, 80)):
        found = extractor.extract(Image(np.zeros((*size, 3), np.uint8)))
        assert found.descriptors.shape == (0, 128) and found.size == size
    found = extractor.extract(photo(96))
    assert found.descriptors.shape[1] == 128 and len(found.keypoints) <= 50


class Brightness:
    """In place of the network: repeatable is what is bright."""

    clf = torch.nn.Conv2d(3, 2, 1)

    def __call__(self, image):
        grey = image.mean(dim=1)
        return image, torch.ones_like(grey), 0.75 + 0.05 * grey.clamp(0, 4)


@pytest.mark.parametrize("max_side", [128, 51])
def test_keypoints_of_all_scales_are_in_original_pixels(tmp_path, monkeypatch, max_side):
    """The brightest pixel of a blob, to half a pixel of the scale, without bias; x = x' / s would be 0.75 px off at 51."""
    extractor = registry.extractor("r2d2", weights=str(checkpoint(tmp_path / "r.pt")), max_side=max_side)
    monkeypatch.setattr(extractor, "network", Brightness())
    monkeypatch.setattr("flowkit.features.r2d2.SMALLEST_SIDE", 40)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:96, :128]
    offsets, radii = [], []
    for centre in rng.uniform(30, 66, (40, 2)):
        blob = 100 + 150 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 128)
        found = extractor.extract(Image(np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, axis=2)))
        near = np.abs(found.keypoints - centre).max(axis=1) < 4
        offsets.append(found.keypoints[near] - centre)
        radii.append(found.scales[near])
    scales = np.unique(np.concatenate(radii).round(1))
    assert len(scales) == (7 if max_side == 128 else 2) and scales.min() == pytest.approx(16 * 128 / max_side, rel=0.02)
    assert np.abs(np.concatenate(offsets).mean(axis=0)).max() < 0.2


@pytest.fixture(scope="module")
def official():
    if not OFFICIAL.is_file():
        pytest.skip("the official R2D2 weights are not here")
    return registry.extractor("r2d2", weights=str(OFFICIAL))


def test_official_weights_match_a_warped_photo(official):
    image = photo()
    warped = cv2.warpPerspective(
        image.pixels, HOMOGRAPHY, (192, 192), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    features = official.extract(image), official.extract(Image(warped))
    matches = match_descriptors(*features, ratio=0.95)
    points = np.c_[matches.points0, np.ones(len(matches))] @ HOMOGRAPHY.T
    error = matches.points1 - points[:, :2] / points[:, 2:]
    good = np.linalg.norm(error, axis=1) < 3
    assert good.sum() > 100 and good.mean() > 0.9
    assert np.abs(error[good].mean(axis=0)).max() < 0.15


def test_official_weights_follow_a_shift_exactly(official):
    image = photo()
    crop = official.extract(Image(np.ascontiguousarray(image.pixels[17:, 23:])))
    matches = match_descriptors(official.extract(image), crop)
    error = matches.points1 + np.array([23, 17]) - matches.points0
    assert len(matches) > 100 and (np.abs(error).max(axis=1) == 0).mean() > 0.8
