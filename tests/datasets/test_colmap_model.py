"""Pairs from COLMAP models that pycolmap synthesises, against its own projections."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowkit.datasets.colmap_model import PairLimits, read_colmap_pairs
from flowkit.datasets.posed_views import rotation_degrees
from flowkit.errors import InputError, UsageError
from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential, symmetric_epipolar_distance

pycolmap = pytest.importorskip("pycolmap")

SIZE = (240, 320)
ALL = PairLimits(covisibility=(0, 1), min_parallax=0, max_rotation=180)
CAMERAS = {
    "SIMPLE_PINHOLE": [300, 165, 118],
    "PINHOLE": [300, 310, 165, 118],
    "SIMPLE_RADIAL": [300, 165, 118, 0.3],
    "RADIAL": [300, 165, 118, -0.4, 0.1],
    "OPENCV": [300, 310, 165, 118, -0.4, 0.1, 0.004, -0.003],
    "FULL_OPENCV": [300, 310, 165, 118, -0.4, 0.1, 0.004, -0.003, 0.01, 0.02, -0.01, 0.01],
}


def synthesise(folder: Path, model="PINHOLE", points=120, place="sparse", binary=True, pictures=True):
    """Write a model with black pictures beside it, and return it."""
    pycolmap.set_random_seed(3)
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 6, points
    options.camera_height, options.camera_width = SIZE
    options.camera_model_id = getattr(pycolmap.CameraModelId, model)
    options.camera_params = CAMERAS[model]
    reconstruction = pycolmap.synthesize_dataset(options)
    write(reconstruction, folder, place, binary, pictures)
    return reconstruction


def write(reconstruction, folder: Path, place="sparse", binary=True, pictures=True):
    (folder / place).mkdir(parents=True, exist_ok=True)
    (reconstruction.write_binary if binary else reconstruction.write_text)(str(folder / place))
    (folder / "images").mkdir(exist_ok=True)
    for image in reconstruction.images.values():
        if pictures:
            cv2.imwrite(str(folder / "images" / image.name), np.zeros((*SIZE, 3), np.uint8))


def distances(pair, points0, points1, K0=None, K1=None, transposed=False):
    """Symmetric epipolar distances of points under the pair's F, or under wrong ones."""
    K0, K1 = torch.from_numpy(pair.K0 if K0 is None else K0), torch.from_numpy(pair.K1 if K1 is None else K1)
    T = torch.from_numpy(pair.T_0to1)
    F = fundamental_from_essential(essential_from_pose(T[:3, :3], T[:3, 3]), K0, K1)
    F = F.mT if transposed else F
    return symmetric_epipolar_distance(F, torch.from_numpy(points0), torch.from_numpy(points1)).numpy()


def projected(reconstruction, pair):
    """The model's points in both pictures, as pycolmap projects them (origin at the corner)."""
    images = [reconstruction.find_image_with_name(path.name) for path in (pair.image0, pair.image1)]
    points = reconstruction.points3D.values()
    return [np.array([image.project_point(point.xyz) for point in points]) for image in images]


@pytest.mark.parametrize("model", ["SIMPLE_PINHOLE", "PINHOLE"])
def test_fundamental_annihilates_what_pycolmap_projects(tmp_path, model):
    reconstruction = synthesise(tmp_path, model)
    pairs = read_colmap_pairs(tmp_path, limits=ALL)
    assert len(pairs) == 15
    for pair in pairs:
        points0, points1 = (points - 0.5 for points in projected(reconstruction, pair))
        assert distances(pair, points0, points1).max() < 1e-6
        assert pair.view0.lens is None
        # What the bound is worth: each error that could be made exceeds it by far.
        assert np.median(distances(pair, points0 + 0.5, points1 + 0.5)) > 1e-3
        assert np.median(distances(pair, points0, points1, transposed=True)) > 1
        assert np.median(distances(pair.reversed(), points0, points1)) > 1


@pytest.mark.parametrize("model", CAMERAS)
def test_common_points_fit_the_undistorted_pictures(tmp_path, model):
    reconstruction = synthesise(tmp_path, model)
    for pair in read_colmap_pairs(tmp_path, limits=ALL):
        points0, points1 = pair.common_points()
        assert len(points0) == 120
        assert distances(pair, points0, points1).max() < 1e-6
        if pair.view0.lens is not None:
            stored = pair.view0.lens.stored(points0, pair.K0)
            camera = projected(reconstruction, pair)[0] - 0.5
            assert np.abs(np.sort(stored, axis=0) - np.sort(camera, axis=0)).max() < 1e-6  # the order is another
            assert np.abs(stored - points0).max() > 0.5
    assert (pair.view0.lens is None) == ("PINHOLE" in model)


def test_pictures_are_undistorted_on_reading(tmp_path):
    reconstruction = synthesise(tmp_path, "OPENCV")
    pair = read_colmap_pairs(tmp_path, limits=ALL)[0]
    stored = [points - 0.5 for points in projected(reconstruction, pair)]
    worst = int(distances(pair, *stored).argmax())
    assert distances(pair, *stored)[worst] > 0.5  # the stored pictures do not obey F
    places = [points[worst] for points in stored]
    x, y = np.meshgrid(np.arange(SIZE[1]), np.arange(SIZE[0]))
    centres = []
    for view, place in zip((pair.view0, pair.view1), places, strict=True):
        blob = 255 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * 3**2))
        cv2.imwrite(str(view.image), np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, 2))
        seen = view.read()[..., 0].astype(float)
        assert seen.sum() > 1000
        centres.append(np.array([[(seen * x).sum(), (seen * y).sum()]]) / seen.sum())
    assert distances(pair, *centres).max() < 0.1


def test_limits_hold(tmp_path):
    reconstruction = synthesise(tmp_path, points=200)
    for number, image in enumerate(sorted(reconstruction.images.values(), key=lambda image: image.name)):
        for index in image.get_observation_point2D_idxs()[: 40 * number]:  # the later a picture, the less it sees
            reconstruction.delete_observation(image.image_id, index)
    write(reconstruction, tmp_path, pictures=False)
    every = {pair.name: pair for pair in read_colmap_pairs(tmp_path, limits=PairLimits((180), 0, (0, 1), 1, 0))}

    def measured(pair):
        shared = np.intersect1d(pair.view0.tracks, pair.view1.tracks)
        share = len(shared) / min(len(pair.view0.tracks), len(pair.view1.tracks))
        return share, len(shared), float(rotation_degrees(np.eye(3), pair.T_0to1[:3, :3]))

    shares, counts, angles = np.array([measured(pair) for pair in every.values()]).T
    assert len(every) >= 10 and len(np.unique(shares)) > 3
    limits = PairLimits(
        max_rotation=float(np.quantile(angles, 0.8)),
        min_rotation=float(np.quantile(angles, 0.2)),
        covisibility=(float(np.quantile(shares, 0.2)), float(np.quantile(shares, 0.8))),
        min_common=int(np.quantile(counts, 0.2)),
        min_parallax=0,
    )
    kept = {pair.name for pair in read_colmap_pairs(tmp_path, limits=limits)}
    low, high = limits.covisibility
    expected = (shares >= low) & (shares <= high) & (counts >= limits.min_common)
    expected &= (angles >= limits.min_rotation) & (angles <= limits.max_rotation)
    assert kept == {name for name, good in zip(every, expected, strict=True) if good}
    assert 0 < len(kept) < len(every)


def test_parallax_limit(tmp_path):
    reconstruction = synthesise(tmp_path)
    every = read_colmap_pairs(tmp_path, limits=ALL)

    def parallax(pair):
        shared = np.intersect1d(pair.view0.tracks, pair.view1.tracks)
        xyz = np.array([reconstruction.points3D[index].xyz for index in sorted(reconstruction.point3D_ids())])[shared]
        rays = [xyz - np.linalg.inv(view.T)[:3, 3] for view in (pair.view0, pair.view1)]
        cosine = (rays[0] * rays[1]).sum(1) / np.linalg.norm(rays[0], axis=1) / np.linalg.norm(rays[1], axis=1)
        return np.median(np.degrees(np.arccos(cosine)))

    angles = {pair.name: parallax(pair) for pair in every}
    limit = float(np.median(list(angles.values()))) + 1e-6
    kept = read_colmap_pairs(tmp_path, limits=PairLimits(180, 0, (0, 1), min_parallax=limit))
    assert {pair.name for pair in kept} == {name for name, angle in angles.items() if angle >= limit}


def test_subsampling_is_seeded(tmp_path):
    synthesise(tmp_path)
    few = PairLimits(180, 0, (0, 1), min_parallax=0, max_pairs=5)
    first, same, other = ([pair.name for pair in read_colmap_pairs(tmp_path, limits=few, seed=s)] for s in (1, 1, 2))
    assert len(first) == 5 and first == same and first == sorted(first)
    assert first != other


def test_folder_of_scenes_text_models_and_sparse_0(tmp_path):
    synthesise(tmp_path / "a", binary=False)
    synthesise(tmp_path / "b", place="sparse/0")
    synthesise(tmp_path / ".c.half written")
    (tmp_path / "no scene").mkdir()
    (tmp_path / "a file").touch()
    pairs = read_colmap_pairs(tmp_path, "mine", ALL)
    assert [pair.name.split("/")[0] for pair in pairs] == ["a"] * 15 + ["b"] * 15
    assert {pair.dataset for pair in pairs} == {"mine"}
    for a, b in zip(pairs[:15], pairs[15:], strict=True):
        np.testing.assert_allclose(a.T_0to1, b.T_0to1, atol=1e-9)


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no such folder"):
        read_colmap_pairs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no COLMAP model"):
        read_colmap_pairs(tmp_path)
    synthesise(tmp_path)
    with pytest.raises(InputError, match="no two pictures share"):
        read_colmap_pairs(tmp_path, limits=PairLimits(max_rotation=0.01))
    next((tmp_path / "images").iterdir()).unlink()
    with pytest.raises(InputError, match=r"images.*png: no such file"):
        read_colmap_pairs(tmp_path, limits=ALL)
    (tmp_path / "sparse" / "images.bin").write_bytes(b"\x05\0\0\0\0\0\0\0abc")
    with pytest.raises(InputError, match="cannot be decoded as a COLMAP model"):
        read_colmap_pairs(tmp_path)
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UsageError, match="colmap"):
        read_colmap_pairs(tmp_path)


def test_other_camera_models_are_refused(tmp_path):
    reconstruction = synthesise(tmp_path)
    text = tmp_path / "sparse"
    reconstruction.write_text(str(text))
    for file in text.glob("*.bin"):
        file.unlink()
    cameras = (text / "cameras.txt").read_text()
    (text / "cameras.txt").write_text(
        cameras.replace(" PINHOLE 320 240 300 310 165 118", " FOV 320 240 300 310 165 118 0.1")
    )
    with pytest.raises(InputError, match="model FOV"):
        read_colmap_pairs(tmp_path, limits=ALL)


def test_limits_that_leave_nothing_are_refused():
    with pytest.raises(UsageError):
        PairLimits(covisibility=(0.9, 0.1))
