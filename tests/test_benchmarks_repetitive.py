"""benchmarks/repetitive.py: the flow is that of its pictures, exactly; the tiles repeat; pair k is always the same pair."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SIZES = ((96, 96), (96, 128))


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("repetitive", BENCHMARKS / "repetitive.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop("repetitive", None)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Smooth noise of its own colours each; one is named like a photograph of a facade."""
    import cv2

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c_samuel-zeller"):
        noise = rng.uniform(0, 255, (20, 30, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(noise, (300, 200), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.mark.parametrize("kind", ["tiled", "facade"])
def test_flow_brings_image1_onto_image0_to_less_than_half_a_pixel(script, photos, kind):
    for pair in script.repetitive_pairs(photos, kind, 4, sizes=SIZES, light=0.0):
        assert np.isfinite(pair.flow).all(0).mean() > 0.3
        best = script.misfit(pair)
        for aside in ((0.4, 0), (-0.4, 0), (0, 0.4), (0, -0.4)):
            assert best < 0.8 * script.misfit(pair, aside), (pair.name, aside)


@pytest.mark.parametrize("kind", ["tiled", "facade"])
def test_flow_is_that_of_the_stated_homography_and_ends_at_image1s_border(script, photos, kind):
    for pair in script.repetitive_pairs(photos, kind, 2, sizes=SIZES):
        height, width = pair.flow.shape[1:]
        y, x = np.mgrid[:height, :width]
        u, v, w = np.einsum("ij,jhw->ihw", pair.H, np.stack([x, y, np.ones_like(x)]))
        there = np.stack([u / w, v / w])
        known = np.isfinite(pair.flow).all(0)
        assert np.abs((there - [x, y] - pair.flow)[:, known]).max() < 1e-3
        inside = (there > -0.5).all(0) & (there[0] < width - 0.5) & (there[1] < height - 0.5)
        assert (inside == known).mean() > 0.999


def test_displacements_are_from_half_a_period_and_tiles_cover_much_of_the_picture(script, photos):
    for pair in script.repetitive_pairs(photos, "tiled", 6, sizes=SIZES):
        assert 0.3 < pair.made["covered"] < 0.85
        assert 0.5 * pair.period * 0.99 < pair.made["reach"] + 0.1
        assert np.linalg.norm(pair.flow, axis=0)[np.isfinite(pair.flow[0])].max() <= pair.made["reach"] + 0.1


@pytest.mark.parametrize("bricks", [False, True])
def test_wallpaper_repeats_with_its_period(script, bricks):
    walls = sys.modules["wallpapers"]
    rng = np.random.default_rng(0)
    paper = walls.Wallpaper(np.array([40.0, 40.0]), np.array([30.0, 30.0]), 0.2, 12.0, bricks, False)
    tile = rng.uniform(0, 255, (24, 24, 3)).astype(np.float32)
    at = rng.uniform(-20, 20, (2, 50))

    def colour(dx, dy):
        return walls.papered(tile, paper, at + np.array([[dx], [dy]]), 0.0, 0.0, rng)

    assert np.abs(colour(12, 0) - colour(0, 0)).max() < 0.5
    down = (6, 12) if bricks else (0, 12)
    assert np.abs(colour(*down) - colour(0, 0)).max() < 0.5
    assert np.abs(colour(3, 0) - colour(0, 0)).mean() > 10


def test_pair_k_does_not_depend_on_how_many_are_asked_for(script, photos):
    few = [*script.repetitive_pairs(photos, "tiled", 2, sizes=SIZES)][1]
    many = [*script.repetitive_pairs(photos, "tiled", 3, sizes=SIZES)][1]
    assert (few.image0 == many.image0).all()
    assert np.array_equal(few.flow, many.flow, equal_nan=True)


def test_a_folder_without_facades_is_named(script, photos, tmp_path):
    from flowkit.errors import InputError

    (tmp_path / "a.png").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(InputError, match="facade"):
        next(script.repetitive_pairs(tmp_path, "facade", 1))
