"""Pairs from videos: which frames, what becomes of K, reconstructed scenes, and what is refused."""

import sys
from pathlib import Path

import cv2
import imageio.v3 as iio
import numpy as np
import pytest
import torch

from flowkit.errors import InputError, UsageError
from flowkit.geometry.epipolar import essential_from_pose
from flowkit.training.video_pairs import open_videos

sys.path.append(str(Path(__file__).parents[1] / "datasets"))

SIZE, CROP = (60, 90), (24, 32)
K = "80,82,44.5,29.5"


def frame(number, size=SIZE):
    """Red tells the column, green the row, blue the number of the frame."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([2 * x, 4 * y, np.full(size, 20 * number)], -1).astype(np.uint8)


def frames(folder, count=5):
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"frame{number}.png"), frame(number)[..., ::-1])
    return folder


def numbers(image):
    return (255 * image[:, 2].mean((1, 2)) / 20).round().int().tolist()


def test_frames_are_a_little_apart_in_either_order(tmp_path):
    source = open_videos({"video": frames(tmp_path / "f")}, K, gap=2)
    batch = source.batch(60, CROP, 3)
    first, second = np.array(numbers(batch.image0)), np.array(numbers(batch.image1))
    assert set(np.abs(first - second)) == {1, 2} and (first > second).any() and (first < second).any()
    assert set(first) | set(second) == set(range(5))
    again, other = source.batch(60, CROP, 3), source.batch(60, CROP, 4)
    assert torch.equal(batch.image0, again.image0) and not torch.equal(batch.image0, other.image0)
    assert not batch.valid.any() and not batch.flow.any() and batch.R is None and batch.image0.shape == (60, 3, *CROP)


def test_intrinsics_are_those_of_the_crop(tmp_path):
    """A crop's colours say which pixel of the frame it shows; both K give it the same ray."""
    batch = open_videos({"video": frames(tmp_path / "f")}, K, gap=1).batch(10, CROP, 0)
    whole = torch.tensor([[80, 0, 44.5], [0, 82, 29.5], [0, 0, 1]])
    for image, matrix in zip(batch.image0, batch.K0, strict=True):
        for x, y in ((3, 4), (16, 12), (28, 20)):
            shown = torch.tensor([255 * image[0, y, x] / 2, 255 * image[1, y, x] / 4, 1.0])
            ray = torch.linalg.inv(matrix) @ torch.tensor([x, y, 1.0])
            torch.testing.assert_close(ray, torch.linalg.inv(whole) @ shown, atol=0.5 / 80, rtol=0)
    assert torch.equal(batch.K0, batch.K1)
    scale = batch.K0[:, 0, 0] / 80
    assert scale.min() >= 24 / 60 - 0.01 and scale.max() - scale.min() > 0.05  # from the whole frame to half of it


def test_a_video_file_and_intrinsics_from_a_file(tmp_path):
    iio.imwrite(tmp_path / "v.mp4", np.stack([frame(n, (64, 96)) for n in range(6)]), fps=10)
    np.savetxt(tmp_path / "K.txt", [[80, 0, 47.5], [0, 80, 31.5], [0, 0, 1]])
    source = open_videos({"video": tmp_path / "v.mp4"}, str(tmp_path / "K.txt"), gap=1)
    batch = source.batch(8, CROP, 1)
    assert len(source) == 5
    assert all(abs(a - b) == 1 for a, b in zip(numbers(batch.image0), numbers(batch.image1), strict=True))


def test_reconstructed_scenes_bring_their_cameras(tmp_path):
    pytest.importorskip("pycolmap")
    from test_colmap_model import synthesise

    from flowkit.datasets.colmap_model import read_colmap_views

    for name in ("a", "b"):
        synthesise(tmp_path / name)
    views = read_colmap_views(tmp_path)
    assert sorted(views) == ["a/sparse", "b/sparse"]
    for scene in views.values():
        for view in scene:
            height, width = view.size
            cv2.imwrite(str(view.image), np.full((height, width, 3), 90, np.uint8))
    batch = open_videos({"video": tmp_path}, "", gap=2).batch(6, CROP, 2)
    torch.testing.assert_close(batch.t.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(batch.R @ batch.R.mT, torch.eye(3).expand(6, 3, 3), atol=1e-5, rtol=0)
    assert torch.isfinite(essential_from_pose(batch.R, batch.t)).all()
    with pytest.raises(UsageError, match="leave --K out"):
        open_videos({"video": tmp_path}, K, gap=2)


def test_what_is_refused(tmp_path):
    folder = frames(tmp_path / "f")
    cases = [
        (UsageError, "K is not known", {"video": folder}, ""),
        (UsageError, "2 numbers where four belong", {"video": folder}, "80,80"),
        (UsageError, "principal point", {"video": folder}, "80,80,4000,30"),
        (UsageError, "--data colmap", {"colmap": folder}, K),
        (InputError, "no such file", {"video": tmp_path / "no.mp4"}, K),
        (InputError, "has 1 picture", {"video": frames(tmp_path / "one", 1)}, K),
    ]
    for error, words, folders, matrix in cases:
        with pytest.raises(error, match=words):
            open_videos(folders, matrix, 1)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"bad\.mp4"):
        open_videos({"video": tmp_path / "bad.mp4"}, K, 1)
    iio.imwrite(tmp_path / "still.mp4", frame(0, (64, 96))[None], fps=10)
    with pytest.raises(InputError, match="has 1 frame"):
        open_videos({"video": tmp_path / "still.mp4"}, K, 1)


def test_frames_of_different_sizes_are_named(tmp_path):
    folder = frames(tmp_path / "f", 2)
    cv2.imwrite(str(folder / "frame1.png"), frame(1, (50, 90)))
    with pytest.raises(InputError, match=r"f [01] [01]: frames of different sizes"):
        open_videos({"video": folder}, K, 1).batch(1, CROP, 0)
