"""The photographs' store: levels, lookup, and folders with files that are no photos."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scene_photos import disc, smooth_picture, store

from flowkit.errors import InputError
from flowkit.synth.photos import CUTOUT, PhotoStore, lookup


def test_levels_are_halved_and_share_the_texels() -> None:
    photos = store(3)
    assert [tuple(level.shape) for level in photos.levels] == [(3, 160, 200, 3), (3, 80, 100, 3), (3, 40, 50, 3)]
    assert len(photos.texels) == sum(level.numel() // 3 for level in photos.levels)
    assert photos.levels[1].data_ptr() == photos.texels[3 * 160 * 200 :].data_ptr()
    mean = photos.levels[0][1, :2, :2].float().mean((0, 1))
    assert (photos.levels[1][1, 0, 0].float() - mean).abs().max() <= 1


def test_lookup_is_bilinear_at_every_level_and_mirrors_at_the_edges() -> None:
    photos = store(3)
    points = torch.tensor([[[10.0, 20.0], [10.5, 20.0], [-1.0, 3.0], [200.0, 3.0]]])
    found = 255 * lookup(photos, torch.tensor([2]), torch.tensor([0]), points)[0]
    picture = photos.levels[0][2].float()
    assert torch.allclose(found[0], picture[20, 10], atol=1e-3)
    assert torch.allclose(found[1], (picture[20, 10] + picture[20, 11]) / 2, atol=1e-3)
    assert torch.allclose(
        found[2], picture[3, 0], atol=1e-3
    )  # the pixel before the first is the first one's mirror image
    assert torch.allclose(found[3], picture[3, 199], atol=1e-3)
    # Pixel (5, 7) of level 1 has its centre at (10.5, 14.5) of level 0.
    half = 255 * lookup(photos, torch.tensor([2]), torch.tensor([1]), torch.tensor([[[10.5, 14.5]]]))[0, 0]
    assert torch.allclose(half, photos.levels[1][2, 7, 5].float(), atol=1e-3)


def test_a_folder_is_read_and_what_is_no_photo_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, shapes = tmp_path / "photos" / "trip", tmp_path / "shapes"
    folder.mkdir(parents=True)
    shapes.mkdir()
    for seed in range(3):
        cv2.imwrite(str(folder / f"{seed}.png"), smooth_picture(seed, 90, 120)[..., ::-1])
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    cv2.imwrite(str(shapes / "disc.png"), disc(1)[..., [2, 1, 0, 3]])
    photos = PhotoStore.from_folder(tmp_path / "photos", shapes, size=(60, 80))
    assert len(photos) == 3 and photos.names == ("0.png", "1.png", "2.png") and photos.skipped == 1
    assert "broken.jpg" in caplog.text
    assert photos.cutouts.shape == (1, CUTOUT, CUTOUT, 4)
    assert photos.cutouts[0, CUTOUT // 2, CUTOUT // 2, 3] == 255 and photos.cutouts[0, 0, 0, 3] == 0
    wanted = cv2.resize(smooth_picture(0, 90, 120), (80, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(photos.levels[0][0].numpy().astype(int) - wanted).mean() < 1


@pytest.mark.parametrize("content", [None, {}, {"a.jpg": b"no picture"}])
def test_a_folder_without_photos_is_refused(tmp_path: Path, content: dict[str, bytes] | None) -> None:
    folder = tmp_path / "photos"
    if content is not None:
        folder.mkdir()
        for name, data in content.items():
            (folder / name).write_bytes(data)
    with pytest.raises(InputError, match="photos"):
        PhotoStore.from_folder(folder)
