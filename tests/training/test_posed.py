"""Crops of pairs with known cameras: F, pixels and windows, on pictures so small that half pixels show."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from flowkit.datasets.colmap_model import PairLimits
from flowkit.datasets.posed_views import PosedPair, View
from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError, UsageError
from flowkit.geometry.epipolar import epipolar_distance, symmetric_epipolar_distance
from flowkit.training import posed
from flowkit.training.posed import PosedPairs, open_posed
from flowkit.training.posed_windows import PosedSettings

CROP = (16, 24)
PLAIN = PosedSettings(lighting=0)
SIZES = ((40, 57), (45, 50))


def pair(folder: Path, tracked=True, name="pair", count=60) -> PosedPair:
    """Two cameras before a cloud of points, and noise for their pictures."""
    rng = np.random.default_rng(5)
    world = np.column_stack([rng.uniform(-1.2, 1.2, (count, 2)), rng.uniform(3, 6, count)])
    views = []
    for number, (size, turn) in enumerate(zip(SIZES, [(0.02, -0.1, 0.05), (-0.05, 0.15, -0.1)], strict=True)):
        K = np.array([[60.0 + 7 * number, 0, size[1] / 2 - 2], [0, 62, size[0] / 2 + 1], [0, 0, 1]])
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(np.array(turn))[0], [0.4 - 0.9 * number, 0.1, 0.2 * number]
        seen = (world @ T[:3, :3].T + T[:3, 3]) @ K.T
        points, path = seen[:, :2] / seen[:, 2:], folder / f"{name}{number}.png"
        cv2.imwrite(str(path), cv2.GaussianBlur(rng.integers(0, 256, (*size, 3)).astype(np.uint8), (0, 0), 1.5))
        tracks = {"tracks": np.arange(count), "points": points} if tracked else {}
        views.append(View(path, K, T, size, **tracks))
    return PosedPair.of("made", name, *views)


def to_crop(batch, index, which, K):
    """(scale, shift) per axis of what was done to the original picture, from the crop's K alone."""
    matrix = (batch.K0, batch.K1)[which][index].double().numpy() @ np.linalg.inv(K)
    return matrix[[0, 1], [0, 1]], matrix[:2, 2]


def in_crops(batch, index, truth):
    """The pair's common points in the pixels of both crops."""
    turned = truth.reversed() if batch.made["turned"][index] else truth
    result = []
    for which, (points, K) in enumerate(zip(turned.common_points(), (turned.K0, turned.K1), strict=True)):
        scale, shift = to_crop(batch, index, which, K)
        result.append(torch.from_numpy(points * scale + shift))
    return result


def test_fundamental_annihilates_common_points_in_the_crops(tmp_path):
    truth = pair(tmp_path)
    batch = PosedPairs([truth], PLAIN).batch(12, CROP, 3)
    assert len(set(batch.made["turned"])) == 2
    for index in range(12):
        points0, points1 = in_crops(batch, index, truth)
        F = batch.F[index].double()
        assert symmetric_epipolar_distance(F, points0, points1).max() < 1e-3
        # What the bound is worth: F turned round, and a principal point that is half a pixel off, exceed it.
        assert symmetric_epipolar_distance(F.mT, points0, points1).median() > 0.3
        assert symmetric_epipolar_distance(F, points0 + 0.5, points1).median() > 0.01


def test_crops_follow_the_rule_of_half_pixels(tmp_path):
    """The corner of the original picture is (-0.5, -0.5) before the cut, whatever the scale: x' = (x + 0.5) s - 0.5."""
    truth = pair(tmp_path)
    batch = PosedPairs([truth], PLAIN).batch(12, CROP, 3)
    for index, turned in enumerate(batch.made["turned"]):
        for which, view in enumerate([truth.view1, truth.view0] if turned else [truth.view0, truth.view1]):
            scale, shift = to_crop(batch, index, which, view.K)
            resized = scale * np.array(view.size[::-1])
            corner = -(-0.5 * scale + shift + 0.5)
            np.testing.assert_allclose(resized, np.rint(resized), atol=1e-3)
            np.testing.assert_allclose(corner, np.rint(corner), atol=1e-3)
            assert (corner > -0.01).all() and (corner + CROP[::-1] < resized + 0.01).all()
            assert (np.abs(scale / 2 % 1) > 0.01).any()  # otherwise this shows nothing


@pytest.mark.parametrize("large", [1, 4])
def test_pixels_are_where_intrinsics_say(tmp_path, large):
    """A blob's centre in the crop is the place that the crop's K gives it, also of pictures that are shrunk in two steps."""
    truth, size, views = pair(tmp_path), (CROP[0] * 2, CROP[1] * 2), []
    points0, points1 = truth.common_points()
    chosen = int(np.linalg.norm(points0 - np.array(SIZES[0][::-1]) / 2, axis=1).argmin())  # well inside
    for view, point in zip((truth.view0, truth.view1), (points0[chosen], points1[chosen]), strict=True):
        height, width = view.size[0] * large, view.size[1] * large
        place = (point + 0.5) * large - 0.5
        x, y = np.meshgrid(np.arange(width), np.arange(height))
        blob = 250 * np.exp(-((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * (2 * large) ** 2))
        cv2.imwrite(str(view.image), np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, 2))
        K = np.diag([large, large, 1.0]) @ view.K
        K[:2, 2] += large / 2 - 0.5
        points = (view.points + 0.5) * large - 0.5
        views.append(replace(view, K=K, size=(height, width), points=points))
    truth = PosedPair.of("made", "blob", *views)
    batch, checked = PosedPairs([truth], PLAIN).batch(16, size, 1), 0
    y, x = np.mgrid[: size[0], : size[1]]
    for index in range(16):
        for image, points in zip((batch.image0, batch.image1), in_crops(batch, index, truth), strict=True):
            place, seen = points[chosen].numpy(), image[index, 0].double().numpy()
            if (place > 12).all() and (place < np.array(size[::-1]) - 13).all():
                centre = np.array([(seen * x).sum(), (seen * y).sum()]) / seen.sum()
                np.testing.assert_allclose(centre, place, atol=0.05)
                checked += 1
    assert checked >= 4


def test_batch_says_that_flow_is_unknown_and_cameras_known(tmp_path):
    batch = PosedPairs([pair(tmp_path)], PLAIN).batch(3, CROP, 0)
    assert batch.size == CROP and len(batch) == 3
    assert not batch.valid.any() and not batch.flow.any()
    for name, shape in {
        "K0": (3, 3, 3),
        "K1": (3, 3, 3),
        "R": (3, 3, 3),
        "t": (3, 3),
        "E": (3, 3, 3),
        "F": (3, 3, 3),
    }.items():
        tensor = getattr(batch, name)
        assert tensor.shape == shape and tensor.dtype == torch.float32
    torch.testing.assert_close(batch.t.norm(dim=1), torch.ones(3))
    assert batch.image0.min() >= 0 and 0.3 < batch.image0.max() <= 1
    assert batch.made["names"] == ["made/pair"] * 3
    X0 = torch.tensor([0.1, -0.2, 4.0])
    for R, t, E in zip(batch.R, batch.t, batch.E, strict=True):
        X1 = R @ X0 + t
        assert abs(X1 @ E @ X0) < 1e-5 < abs(X0 @ E @ X1)


def test_batches_depend_on_their_arguments_alone(tmp_path):
    pairs = [pair(tmp_path, name=name) for name in "abc"]
    source, other = PosedPairs(pairs), PosedPairs(pairs, PosedSettings(cache=1))
    first = source.batch(4, CROP, 7)
    source.batch(4, (20, 20), 8)
    for again in (source.batch(4, CROP, 7), other.batch(4, CROP, 7)):
        assert again.made["names"] == first.made["names"]
        for name, tensor in first.tensors().items():
            assert torch.equal(tensor, again.tensors()[name]), name
    assert not torch.equal(source.batch(4, CROP, 9).image0, first.image0)
    assert len(other._pictures) == 1 < len(source._pictures)


def test_light_changes_the_pictures_only(tmp_path):
    dark, plain = (PosedPairs([pair(tmp_path)], PosedSettings(lighting=x)).batch(4, CROP, 2) for x in (1, 0))
    for name, tensor in plain.tensors().items():
        assert torch.equal(tensor, dark.tensors()[name]) == (not name.startswith("image")), name


def test_crops_show_the_same_part_of_the_scene(tmp_path):
    truth = pair(tmp_path)
    batch = PosedPairs([truth], PLAIN).batch(40, CROP, 11)
    shares = []
    for index in range(40):
        points0, points1 = in_crops(batch, index, truth)
        inside = [((p > -0.5) & (p < torch.tensor(CROP[::-1]) - 0.5)).all(1) for p in (points0, points1)]
        shares.append(float((inside[0] & inside[1]).sum() / inside[0].sum()))
    assert np.median(shares) > 0.7 and min(shares) > 0.2


def test_crops_without_tracks_lie_on_each_others_epipolar_lines(tmp_path):
    truth = pair(tmp_path, tracked=False)
    settings = replace(PLAIN, shift=0, least_share=0.15)
    batch = PosedPairs([truth], settings).batch(40, CROP, 11)
    centre = (torch.tensor(CROP[::-1]) - 1.0) / 2
    away = torch.stack([epipolar_distance(F, centre[None], centre[None])[0] for F in batch.F])
    assert away.median() < 1 and away.max() < 12  # near the rim the window cannot go where it should


def test_plain_pose_samples_will_do(tmp_path):
    made = pair(tmp_path)
    sample = PoseSample("d", "n", made.image0, made.image1, made.K0, made.K1, made.T_0to1)
    batch = PosedPairs([sample], PLAIN).batch(2, CROP, 0)
    for index in range(2):
        points = in_crops(batch, index, made)
        assert symmetric_epipolar_distance(batch.F[index].double(), *points).max() < 1e-3


def test_pictures_smaller_than_the_crop_are_enlarged(tmp_path):
    truth = pair(tmp_path)
    batch = PosedPairs([truth], PLAIN).batch(2, (96, 128), 0)
    assert batch.image0.shape == (2, 3, 96, 128)
    assert symmetric_epipolar_distance(batch.F[0].double(), *in_crops(batch, 0, truth)).max() < 1e-3


def test_unreadable_picture(tmp_path):
    made = pair(tmp_path)
    made.image1.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"pair1\.png"):
        PosedPairs([made]).batch(1, CROP, 0)


def test_pairs_without_a_baseline_are_left_out(tmp_path):
    made = pair(tmp_path)
    still = PoseSample("d", "still", made.image0, made.image1, made.K0, made.K1, np.eye(4))
    assert len(PosedPairs([made, still, replace(made, rotation_only=True)])) == 1
    with pytest.raises(UsageError, match="cameras stand apart"):
        PosedPairs([still])


def test_collections_are_joined_by_name(tmp_path, monkeypatch):
    made = pair(tmp_path)
    asked = []

    def reader(folder, name, limits):
        asked.append((folder, name, limits.max_rotation))
        return [replace(made, dataset=name)]

    monkeypatch.setattr(posed, "READERS", {"colmap": reader, "megadepth-caps": reader})
    source = open_posed(
        {"colmap": tmp_path / "a", "megadepth-caps": str(tmp_path / "b")},
        settings=PosedSettings(lighting=0.5),
        limits=PairLimits(max_rotation=30),
    )
    assert asked == [(tmp_path / "a", "colmap", 30), (tmp_path / "b", "megadepth-caps", 30)]
    assert len(source) == 2 and source.settings.lighting == 0.5
    assert {name.split("/")[0] for name in source.batch(8, CROP, 0).made["names"]} == {"colmap", "megadepth-caps"}
    with pytest.raises(UsageError, match="'sintel' has no poses; use one of colmap, megadepth-caps"):
        open_posed({"sintel": tmp_path})
    with pytest.raises(UsageError, match="--data NAME=DIR"):
        open_posed({})


@pytest.mark.parametrize("wrong", [{"lighting": 2}, {"least_share": 0}, {"overlap": 1.5}, {"shift": -1}])
def test_settings_are_checked(wrong):
    with pytest.raises(UsageError, match="posed pairs"):
        PosedSettings(**wrong)
