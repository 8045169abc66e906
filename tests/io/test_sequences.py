"""Folders and videos give the same frames in the right order, one at a time."""

import subprocess
import weakref

import imageio_ffmpeg
import numpy as np
import pytest

from flowkit.errors import InputError
from flowkit.io import images
from flowkit.io.images import write_image
from flowkit.io.sequences import natural_key, open_sequence

SIZE = (48, 80)


def frame(index):
    """Red in the top-left quarter, and brighter in blue with every frame."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[: SIZE[0] // 2, : SIZE[1] // 2, 0] = 240
    pixels[..., 2] = 20 * index
    return pixels


def write_video(path, count=6, fps=12):
    writer = imageio_ffmpeg.write_frames(str(path), SIZE[::-1], fps=fps, ffmpeg_log_level="error")
    writer.send(None)
    for index in range(count):
        writer.send(frame(index))
    writer.close()
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "ein clip:1 ü.mp4")


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(["frame1.png", "frame2.png", "frame10.ppm", "Frame11.PNG"]):
        write_image(tmp_path / "frames ü" / name, frame(index))
    for other in (".hidden.png", "notes.txt", "flow.flo"):
        (tmp_path / "frames ü" / other).write_text("not a picture")
    (tmp_path / "frames ü" / "sub.png").mkdir()
    return tmp_path / "frames ü"


def test_folder(folder):
    sequence = open_sequence(folder)
    assert sequence.length == 4 and sequence.fps is None
    for _ in range(2):
        frames = list(sequence)
        assert [name for name, _ in frames] == ["frame1.png", "frame2.png", "frame10.ppm", "Frame11.PNG"]
        for index, (name, image) in enumerate(frames):
            np.testing.assert_array_equal(image.pixels, frame(index))
            assert image.path == str(folder / name)


def test_natural_order():
    names = ["b", "a10", "a2", "A1", "a02", "a", "10", "9", "1a"]
    assert sorted(names, key=natural_key) == ["1a", "9", "10", "a", "A1", "a02", "a2", "a10", "b"]


def test_pairs_decode_every_frame_once_and_hold_two(folder, monkeypatch):
    read, alive = [], []
    original = images.read_image

    def counting(path):
        image = original(path)
        read.append(path.name)
        alive.append(weakref.ref(image))
        return image

    monkeypatch.setattr(images, "read_image", counting)
    names = []
    for (name0, image0), (name1, image1) in open_sequence(folder).pairs():
        names.append((name0, name1))
        assert image0.pixels[0, 0, 2] + 20 == image1.pixels[0, 0, 2]
        assert sum(reference() is not None for reference in alive) == 2
        del image0, image1
    assert names == [("frame1.png", "frame2.png"), ("frame2.png", "frame10.ppm"), ("frame10.ppm", "Frame11.PNG")]
    assert read == ["frame1.png", "frame2.png", "frame10.ppm", "Frame11.PNG"]


def test_a_broken_frame_is_named(folder):
    (folder / "frame2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"frame2\.png"):
        list(open_sequence(folder))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_pictures(tmp_path, count):
    for index in range(count):
        write_image(tmp_path / f"{index}.png", frame(index))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=f"has {count} picture.*at least two"):
        open_sequence(tmp_path)


def check_video(sequence, count=6):
    frames = list(sequence)
    assert [name for name, _ in frames] == [f"{index:06d}" for index in range(count)]
    for index, (_, image) in enumerate(frames):
        assert image.size == SIZE and image.pixels.dtype == np.uint8
        assert np.abs(image.pixels[4:20, 4:36].astype(int) - [240, 0, 20 * index]).max() < 25
        assert np.abs(image.pixels[28:, 44:].astype(int) - [0, 0, 20 * index]).max() < 25


def test_video(video):
    sequence = open_sequence(video)
    assert sequence.fps == 12 and sequence.length is None
    check_video(sequence)
    names = [(first[0], second[0]) for first, second in sequence.pairs()]
    assert names == [(f"{index:06d}", f"{index + 1:06d}") for index in range(5)]


def test_video_can_be_left_early(video):
    for name, image in open_sequence(video):
        assert name == "000000" and image.path.endswith("#000000")
        break


def test_turned_video(video, tmp_path, caplog):
    turned = tmp_path / "turned.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-display_rotation", "90", "-i", f"file:{video}"]
    subprocess.run([*command, "-c", "copy", str(turned)], check=True)
    _, image = next(iter(open_sequence(turned)))
    assert image.size == SIZE[::-1]
    assert image.pixels[-8:, :8, 0].min() > 200 and image.pixels[:8, :, 0].max() < 50  # red is now bottom-left
    assert not caplog.records


def test_frames_of_uneven_times_come_once_each(video, tmp_path):
    uneven = tmp_path / "uneven.mkv"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", f"file:{video}"]
    subprocess.run([*command, "-vf", "setpts=N*N/(12*TB)", "-fps_mode", "vfr", str(uneven)], check=True)
    check_video(open_sequence(uneven))


def test_broken_videos(video, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video at all" * 100)
    with pytest.raises(InputError, match="cannot be decoded as a video") as caught:
        open_sequence(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    (tmp_path / "a.mp4").write_bytes(video.read_bytes()[:600])
    with pytest.raises(InputError, match=r"a\.mp4"):
        list(open_sequence(tmp_path / "a.mp4"))


def test_video_of_one_frame_has_no_pairs(tmp_path):
    one = write_video(tmp_path / "one.mp4", 1)
    with pytest.raises(InputError, match="has 1 frame, a sequence needs at least two"):
        list(open_sequence(one).pairs())


def test_neither_folder_nor_video(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_sequence(tmp_path / "missing.mp4")
    for name in ("notes.txt", "list.m3u8", "one.png"):
        (tmp_path / name).write_text("#EXTM3U\n")
        with pytest.raises(InputError, match="neither a folder of pictures nor a video"):
            open_sequence(tmp_path / name)
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        open_sequence(tmp_path / "empty.mp4")
