"""Dense multi-scale matching: sizes, scales, where cells lie; then the networks that the user brings, on random weights."""

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.backbones.resnet50 import ResNet50Conv4
from flowkit.backbones.vgg16 import VGG16
from flowkit.errors import UsageError, WeightsError
from flowkit.features import registry
from flowkit.features.dense import SCALES, DenseMatcher, seen_size
from flowkit.features.registry import CELLS, FeatureSet
from flowkit.features.remembered import remember
from flowkit.types import Image


class Pooled:
    """A dense network that can be computed by hand: `matrix` (D, 3) times the mean colour of each 8 x 8 cell, less `grey`."""

    weights, notes, device = {}, (), "cpu"
    divisor, centre = 8, 0.5

    def __init__(self, matrix=None, grey=0.0, share=1.0, moves=None, confidence=None):
        self.matrix, self.grey = torch.eye(3) if matrix is None else matrix, grey
        self.share, self.moves, self.confidence = share, moves, confidence

    def describe(self, image):
        cells = F.avg_pool2d(image, 8)[0]
        return torch.einsum("dc,chw->dhw", self.matrix, cells - self.grey), cells[0]

    def refine(self, features0, features1):
        if self.moves is None:
            return None
        return torch.tensor(self.moves).expand(len(features0), 2), self.confidence(features0)


def noise(height, width, seed=0):
    return Image(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def coordinates(height, width):
    """An image whose red is x and green is y, in steps that leave room for resampling."""
    y, x = np.mgrid[:height, :width]
    return Image(np.stack([20 + x / width * 200, 20 + y / height * 200, 0 * x], -1).astype(np.float32) / 255)


def test_the_scales_are_those_of_the_official_code():
    np.testing.assert_allclose(SCALES, [*np.linspace(2, 1, 4), *np.linspace(1, 0.5, 4)[1:]])


@pytest.mark.parametrize(
    ("size", "scale", "seen"),
    [
        ((480, 640), 1, (480, 640)),
        ((1200, 1600), 1, (480, 640)),
        ((333, 500), 1, (480, 720)),  # 720.7 is rounded to 721, then cut
        ((640, 480), 2, (1280, 960)),
        ((480, 640), 5 / 6, (400, 528)),  # int(480 * 5/6) = 400; 533 is cut
        ((40, 30), 0.5, (320, 240)),
        ((100, 10_000), 1, (96, 9600)),  # seen smaller: 480 * 48_000 pixels would be too many
    ],
)
def test_the_size_that_the_network_sees(size, scale, seen):
    assert seen_size(size, scale) == seen


def test_no_shape_has_more_pixels_than_an_aspect_of_four():
    most = 480 * 480 * 4
    assert all(np.prod(seen_size((100, round(100 * aspect)))) <= 1.02 * most for aspect in (1, 2, 4, 6, 15, 80))


@pytest.mark.parametrize("size", [(300, 421), (97, 64)])
@pytest.mark.parametrize("scale", [2.0, 1.0, 0.5])
def test_points_are_the_centres_of_cells_in_original_pixels(size, scale):
    """A ramp stays a ramp whatever it is resampled to, so the mean colour of a cell tells where its centre lies."""
    cells = DenseMatcher("pooled", Pooled(), min_side=80).cells(coordinates(*size), scale)
    height, width = size
    found = (cells.features[:, :2].numpy() * 255 - 20) / 200 * [width, height]
    inner = ((cells.points > 12) & (cells.points < np.array([width, height]) - 13)).all(axis=1)
    seen = seen_size(size, scale, 8, 80)
    assert len(cells.points) == seen[0] * seen[1] / 64 and inner.sum() > 10
    assert np.abs(found - cells.points)[inner].max() < 1.1  # a step of 1/255 is up to 2.1 pixels wide
    assert np.abs((found - cells.points)[inner].mean(axis=0)).max() < 0.4  # half a pixel of what is seen is 0.9 or more


def test_matches_are_the_mutual_nearest_of_all_scales():
    """Against every cosine, in plain numpy."""
    matrix = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    matcher = DenseMatcher("pooled", Pooled(matrix, grey=0.5), scales=(1.5, 1.0, 0.7), min_side=64)
    image0, image1 = noise(70, 90), noise(80, 60, seed=1)
    found = matcher.match(image0, image1)
    cells0, parts = matcher.cells(image0, 1.0), [matcher.cells(image1, scale) for scale in (1.5, 1.0, 0.7)]
    a, b = cells0.features.numpy().astype(np.float64), np.concatenate([p.features.numpy() for p in parts])
    points1 = np.concatenate([p.points for p in parts])
    cosine = (a / np.linalg.norm(a, axis=1)[:, None]) @ (b / np.linalg.norm(b, axis=1)[:, None]).T
    expected = {
        (*cells0.points[i], *points1[j])
        for i, j in enumerate(cosine.argmax(axis=1))
        if cosine[:, j].argmax() == i and cosine[i, j] > 0
    }
    pairs = set(map(tuple, np.concatenate([found.points0, found.points1], axis=1).round(3).tolist()))
    wanted = {tuple(np.float32(each).round(3).tolist()) for each in expected}
    assert len(wanted) > 10 and pairs == wanted
    assert found.origins == ("pooled",) and found.size0 == (70, 90) and found.size1 == (80, 60)
    assert ((found.scores > 0) & (found.scores <= 1)).all()


def test_only_the_most_reliable_cells_are_matched():
    image = noise(64, 64)
    every, half = (DenseMatcher("pooled", Pooled(share=share), min_side=64).cells(image, 1.0) for share in (1.0, 0.5))
    red = every.features[:, 0]
    assert len(half.points) == 32 and half.features[:, 0].min() >= red.sort().values[32]


def test_refined_points_move_in_original_pixels_and_unsure_ones_go():
    image = noise(128, 192)
    plain = DenseMatcher("pooled", Pooled(), min_side=64, scales=(1.0,)).match(image, image)
    sure = Pooled(moves=[1.0, -0.5], confidence=lambda features: (features[:, 0] > 0.5).float())
    moved = DenseMatcher("pooled", sure, min_side=64, scales=(1.0,)).match(image, image)
    place = {tuple(there): here for here, there in zip(plain.points0, plain.points1, strict=True)}
    assert 10 < len(moved) < len(plain)
    for here, there in zip(moved.points0, moved.points1, strict=True):
        np.testing.assert_allclose(here - place[tuple(there)], [2, -1], atol=1e-4)  # half as many pixels were seen
    out = Pooled(moves=[-500.0, 0.0], confidence=lambda features: torch.ones(len(features)))
    assert len(DenseMatcher("pooled", out, min_side=64).match(image, image)) == 0


def test_of_too_many_the_best_are_kept():
    image0, image1 = noise(96, 96), noise(96, 96, seed=1)
    every, few = (
        DenseMatcher("pooled", Pooled(), min_side=96, max_keypoints=most).match(image0, image1) for most in (None, 7)
    )
    assert len(few) == len(few.keypoints0) == 7 < len(every)
    np.testing.assert_array_equal(np.sort(few.scores), np.sort(every.scores)[-7:])


# --- the networks that the user brings ------------------------------------------------------------------------------------


def resnet50(seed=0):
    torch.manual_seed(seed)
    return ResNet50Conv4().state_dict()


def vgg16(seed=0):
    """torchvision's names: a ReLU after each convolution and a pool after each level have numbers, too."""
    generator, state, number, before = torch.Generator().manual_seed(seed), {}, 0, 3
    for widths in VGG16.values():
        for width in widths:
            weight = torch.randn(width, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
            state |= {f"features.{number}.weight": weight, f"features.{number}.bias": torch.zeros(width)}
            number, before = number + 2, width
        number += 1
    return state | {"classifier.0.bias": torch.zeros(1)}


def moco():
    return {"arch": "resnet50", "state_dict": {f"module.encoder_q.{name}": t for name, t in resnet50().items()}}


@pytest.fixture
def small(monkeypatch):
    """Seen at 64 pixels and three scales: the real ones take minutes on random weights."""
    monkeypatch.setitem(DenseMatcher.__init__.__kwdefaults__, "min_side", 64)
    monkeypatch.setitem(DenseMatcher.__init__.__kwdefaults__, "scales", (1.5, 1.0, 0.5))


def matcher(name, tmp_path, held):
    path = tmp_path / "file.pth"
    torch.save(held, path)
    return registry.matcher(FeatureSet(name, ((name, str(path)),)))


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("vgg16", vgg16),
        ("resnet50", resnet50),
        ("moco", moco),
        ("conv4", vgg16),
        ("conv4", resnet50),
        ("conv4", moco),
    ],
)
def test_every_cell_finds_itself(tmp_path, small, name, held):
    made = matcher(name, tmp_path, held())
    image = Image(skimage.data.astronaut()[:192, 100:356])
    found = made.match(image, image)
    assert len(found) == 4 * 5  # 64 x 80 pixels in cells of 16: 85 are cut
    np.testing.assert_allclose(found.points0, found.points1, atol=1e-4)
    np.testing.assert_allclose(found.points0[0], [256 / 5 / 2 - 0.5, 192 / 4 / 2 - 0.5], atol=1e-4)
    np.testing.assert_allclose(found.scores, 1, atol=1e-5)
    assert list(made.weights) == ["file.pth"] and "licence" in made.notes[0]
    black = Image(np.zeros((96, 128, 3), np.uint8))
    assert len(made.match(image, black)) == len(made.match(black, image)) == 0


@pytest.mark.parametrize(
    ("name", "held", "words"),
    [
        ("vgg16", resnet50, r"file\.pth: not a file that 'vgg16' reads \(.*features\.0\.weight is missing"),
        ("resnet50", vgg16, r"not a file that 'resnet50' reads \(has no layer3\.5\.conv3\.weight"),
        ("conv4", lambda: {"some.weight": torch.zeros(2)}, r"not a file that 'conv4' reads .* get it from"),
        ("moco", lambda: [1, 2], "holds no tensors by name"),
        ("resnet50", lambda: resnet50() | {"bn1.bias": torch.zeros(3)}, "another architecture.*bn1.bias"),
        ("resnet50", lambda: {k: v for k, v in resnet50().items() if k != "conv1.weight"}, "conv1.weight"),
    ],
)
def test_files_of_another_layout_are_refused(tmp_path, name, held, words):
    with pytest.raises(WeightsError, match=words):
        matcher(name, tmp_path, held())


@pytest.mark.parametrize("name", CELLS)
def test_missing_files_say_where_to_get_them(tmp_path, monkeypatch, name):
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=rf"weights of '{name}' are not here; get .*--feature-weights {name}=FILE"):
        registry.matcher(name)


def test_official_names_are_found_in_the_cache(tmp_path, monkeypatch, small):
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path))
    torch.save(resnet50(), tmp_path / "resnet50-19c8e357.pth")
    assert list(registry.matcher("conv4").weights) == list(registry.matcher("resnet50").weights)


@pytest.mark.parametrize("name", ["xfeat*", "xfeat-dense", *CELLS])
def test_points_that_are_made_for_a_pair_are_refused_where_each_image_has_its_own(name):
    with pytest.raises(UsageError, match="use --features xfeat"):
        registry.descriptor_matchers(f"sift+{name}")
    with pytest.raises(UsageError, match="makes other keypoints"):
        remember(DenseMatcher(name, Pooled()), {})
