"""YFCC100M in the layouts of RANSAC-Flow's and OANet's trees, written here."""

import os
import pickle

import cv2
import h5py
import numpy as np
import pytest

from flowkit.datasets.catalogue import missing_parts, read_dataset
from flowkit.errors import InputError
from flowkit.evaluation.preparation import prepared_images, prepared_sizes


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


VIEWS = (((600, 1000), 10, (1, 0.5, 2)), ((1024, 683), 35, (0, 0, 1)), ((600, 1000), -20, (3, 0, 0)))
"""Size (height, width), rotation and t of each camera."""


def scene(root, name, pairs, images="images"):
    base = root / images / name / "test"
    for folder in ("images", "calibration"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    for i, ((height, width), degrees, t) in enumerate(VIEWS):
        assert cv2.imwrite(str(base / f"images/{i}.jpg"), np.full((height, width, 3), 90, np.uint8))
        with h5py.File(base / f"calibration/calibration_{i:06d}.h5", "w") as file:
            file["K"] = np.array([[800.0, 0, 7], [0, 820, -3], [0, 0, 1]])
            file["R"], file["T"] = turn(degrees), np.array([t], float)
            file["imsize"] = np.array([[width, height]])
    (base / "images.txt").write_text("".join(f"images/{i}.jpg\n" for i in range(len(VIEWS))))
    (base / "calibration.txt").write_text("".join(f"calibration/calibration_{i:06d}.h5\n" for i in range(len(VIEWS))))
    (root / "pairs").mkdir(exist_ok=True)
    (root / "pairs" / f"{name}-te-1000-pairs.pkl").write_bytes(
        pairs if isinstance(pairs, bytes) else pickle.dumps(pairs)
    )
    return root


def test_poses_and_intrinsics(tmp_path):
    scene(tmp_path, "reichstag", [(0, 1), (2, 0)])
    first, second = samples = read_dataset("yfcc100m", tmp_path)
    assert (first.image0.name, first.image1.name, first.name) == ("0.jpg", "1.jpg", "reichstag: 0 1")
    assert (second.image0.name, second.image1.name) == ("2.jpg", "0.jpg")
    assert first.signed and first.group.name == "reichstag" and first.group.equal
    np.testing.assert_allclose(first.K0, [[800, 0, 499.5 + 7], [0, 820, 299.5 - 3], [0, 0, 1]])
    R = turn(25)
    np.testing.assert_allclose(first.T_0to1[:3, :3], R, atol=1e-12)
    np.testing.assert_allclose(first.T_0to1[:3, 3], np.array([0, 0, 1]) - R @ [1, 0.5, 2], atol=1e-12)
    assert prepared_sizes(first) == ((600, 1000), (1024, 683))
    assert missing_parts(samples) == {"yfcc100m": "2 of 4000 pairs"}


def test_at_a_short_side_of_480(tmp_path):
    scene(tmp_path, "reichstag", [(0, 1)])
    (sample,) = read_dataset("yfcc100m-ransac-flow", tmp_path)
    assert prepared_sizes(sample) == ((480, 800), (720, 480))
    assert [image.size for image in prepared_images(sample)] == [(480, 800), (720, 480)]
    np.testing.assert_allclose(sample.K0, np.diag([0.8, 0.8, 1]) @ [[800, 0, 506.5], [0, 820, 296.5], [0, 0, 1]])
    sx, sy = 480 / 683, 720 / 1024
    np.testing.assert_allclose(sample.K1, [[800 * sx, 0, 348 * sx], [0, 820 * sy, 508.5 * sy], [0, 0, 1]])


@pytest.mark.parametrize(
    "pairs", [[[0, 1]], ((0, 1),), np.array([[0, 1]]), [(np.int64(0), np.int64(1))], [np.array([0, 1])]]
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pair_lists_of_any_kind(tmp_path, pairs, protocol):
    scene(tmp_path, "reichstag", pickle.dumps(pairs, protocol), images="yfcc100m")  # OANet's name of the folder
    assert [sample.name for sample in read_dataset("yfcc100m", tmp_path)] == ["reichstag: 0 1"]


def test_scenes_come_in_the_order_of_the_papers(tmp_path):
    for name in ("another", "sacre_coeur", "notre_dame_front_facade", "buckingham_palace"):
        scene(tmp_path, name, [(0, 2)])
    assert [sample.group.name for sample in read_dataset("yfcc100m", tmp_path)] == [
        "notre_dame_front_facade", "buckingham_palace", "sacre_coeur", "another"
    ]  # fmt: skip


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("never",)


def test_mistakes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no SCENE-te-1000-pairs\.pkl"):
        read_dataset("yfcc100m", tmp_path)
    for pairs, message in (
        ([(0, 3)], "not among the 3"),
        ([(-1, 0)], "not among the 3"),
        ([(0, 1, 2)], "no list of pairs"),
        ([(0, 1), (2,)], "no list of pairs"),
        ([(0.5, 1)], "no list of pairs"),
        ([], "no list of pairs"),
        ([_Runs()], "asks Python to call"),
    ):
        scene(tmp_path, "reichstag", pairs)
        with pytest.raises(InputError, match=message):
            read_dataset("yfcc100m", tmp_path)
    assert not (tmp_path / "never").exists()
    base = scene(tmp_path, "reichstag", [(0, 1)]) / "images/reichstag/test"
    with h5py.File(base / "calibration/calibration_000001.h5", "a") as file:
        del file["R"]
    with pytest.raises(InputError, match=r"calibration_000001\.h5: has no R of 3 x 3"):
        read_dataset("yfcc100m", tmp_path)
    (base / "calibration/calibration_000001.h5").write_bytes(b"no HDF5 file")
    with pytest.raises(InputError, match="cannot be decoded as a calibration"):
        read_dataset("yfcc100m", tmp_path)
    (base / "images.txt").write_text("images/0.jpg\nimages/1.jpg\n")
    with pytest.raises(InputError, match=r"images.txt has 2 lines, calibration.txt 3"):
        read_dataset("yfcc100m", tmp_path)
