"""Photos to train on and photos held out."""

import cv2
import numpy as np
import pytest
from tiny_training import TINY, tiny_photos

from flowkit.errors import InputError
from flowkit.training.material import parted, read_photos


def picture(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())


def test_the_folders_of_a_collection(tmp_path):
    for number in range(3):
        picture(tmp_path / "train" / f"t{number}.png", number)
    picture(tmp_path / "val" / "v.png", 9)
    picture(tmp_path / "cutouts" / "c.png", 5)
    (tmp_path / "val" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "train" / "broken.jpg").write_bytes(b"no picture")
    material = read_photos(tmp_path)
    assert material.photos.names == ("t0.png", "t1.png", "t2.png")
    assert material.held_out.names == ("v.png",)
    assert len(material.photos.cutouts) == len(material.held_out.cutouts) == 1
    assert material.skipped == 2


def test_a_plain_folder_is_parted_the_same_each_time(tmp_path):
    for number in range(40):
        picture(tmp_path / "holiday" / f"{number}.png", number)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    one, other = read_photos(tmp_path), read_photos(tmp_path)
    assert one.photos.names == other.photos.names and one.held_out.names == other.held_out.names
    assert len(one.photos) == 38 and len(one.held_out) == 2
    assert set(one.photos.names).isdisjoint(one.held_out.names)
    assert one.skipped == 1


def test_pictures_stay_with_their_names():
    store = tiny_photos(5)
    material = parted(store)
    for part in (material.photos, material.held_out):
        for index, name in enumerate(part.names):
            for level, whole in zip(part.levels, store.levels, strict=True):
                assert (level[index] == whole[int(name[0])]).all()


def test_a_single_photo_will_do(tmp_path):
    picture(tmp_path / "only.png")
    material = read_photos(tmp_path)
    assert len(material.photos) == len(material.held_out) == 1
    assert len(TINY.batches(TINY.source_from(material), 0)) == 2


def test_a_folder_without_photos(tmp_path):
    with pytest.raises(InputError, match="no picture"):
        read_photos(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_photos(tmp_path / "missing")
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="none of its 1"):
        read_photos(tmp_path)
