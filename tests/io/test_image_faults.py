"""Every broken, hostile or huge picture ends in one clear line or in the right pixels."""

import io
import struct
import subprocess
import sys
from contextlib import suppress

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import exif, picture, png_chunk, tiff

from flowkit.errors import InputError
from flowkit.io.images import image_header, read_image


def refused(path, words):
    for reader in (read_image, image_header):
        try:
            reader(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            message = str(error)
        else:
            assert reader is image_header, "must be refused"
    with pytest.raises(InputError, match=words):
        read_image(path)
    return message


def test_paths(tmp_path):
    assert "no such file" in refused(tmp_path / "missing.png", "no such file")
    (tmp_path / "folder.png").mkdir()
    refused(tmp_path / "folder.png", "is a folder")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "is empty")
    (tmp_path / "text.png").write_text("this is no picture\n" * 50)
    assert "known format" in refused(tmp_path / "text.png", "known format")
    refused(tmp_path / "empty.png" / "x.png", "no such file")
    with pytest.raises(InputError, match="not a regular file"):
        read_image("/dev/null")


def test_content_decides_not_the_name(tmp_path):
    array = picture()
    PIL.Image.fromarray(array).save(tmp_path / "a.jpg", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").pixels, array)


def test_permission(tmp_path, monkeypatch):
    PIL.Image.fromarray(picture()).save(tmp_path / "a.png")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", forbidden)
    with pytest.raises(InputError, match="permission denied"):
        read_image(tmp_path / "a.png")


def examples():
    """Bytes of one file of every kind, with the pixels they hold."""
    for suffix, options in (
        (".png", {}),
        (".jpg", {"quality": 90}),
        (".jpg", {"progressive": True}),
        (".webp", {}),
        (".tif", {"compression": "tiff_lzw"}),
        (".tif", {}),
        (".bmp", {}),
        (".ppm", {}),
        (".gif", {}),
    ):
        buffer = io.BytesIO()
        PIL.Image.fromarray(picture()).save(buffer, PIL.Image.registered_extensions()[suffix], **options)
        yield f"{suffix}{''.join(options)}", buffer.getvalue()
    for suffix in (".png", ".tif"):
        yield f"{suffix}16", cv2.imencode(suffix, picture(dtype=np.uint16))[1].tobytes()
    yield "float.tif", tiff(picture() / np.float32(255))


EXAMPLES = dict(examples())


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_file_cut_short_is_an_error_never_half_a_picture(tmp_path, capfd, kind):
    data, path = EXAMPLES[kind], tmp_path / "cut.img"
    path.write_bytes(data)
    whole = read_image(path).pixels
    for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        path.write_bytes(data[: int(len(data) * share)])
        try:
            pixels = read_image(path).pixels
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:  # what is missing came after the last pixel
            np.testing.assert_array_equal(pixels, whole)
            assert share > 0.9
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", EXAMPLES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_mutated_files_raise_nothing_but_input_errors(tmp_path, kind, data):
    content, path = bytearray(EXAMPLES[kind]), tmp_path / "m.img"
    for _ in range(data.draw(st.integers(1, 4))):
        place = st.integers(0, min(120, len(content) - 1)) | st.integers(0, len(content) - 1)
        content[data.draw(place)] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    for reader in (read_image, image_header):
        try:
            reader(path)
        except InputError as error:
            assert "\n" not in str(error)


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"GIF89a", b"P6 "]),
)
def test_random_bytes(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "random.img"
    path.write_bytes(start + data)
    try:
        read_image(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_decoders_are_silent(tmp_path, capfd, recwarn):
    for data in EXAMPLES.values():
        broken = bytearray(data)
        broken[len(data) // 2] ^= 0x55
        (tmp_path / "a.img").write_bytes(bytes(broken))
        with suppress(InputError):
            read_image(tmp_path / "a.img")
    bad = bytearray(EXAMPLES[".tif"])
    bad[bad.index(struct.pack("<HHI", 277, 3, 1)) + 8] = 255  # samples per pixel
    (tmp_path / "a.img").write_bytes(bytes(bad))
    refused(tmp_path / "a.img", "a.img")
    print("still there", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "still there\n" and not recwarn.list


def png_header(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", b"\0\0\0\0")


def test_bombs_and_empty_pictures(tmp_path, recwarn):
    path, limit = tmp_path / "bomb.png", PIL.Image.MAX_IMAGE_PIXELS
    path.write_bytes(png_header(60_000, 60_000))
    assert "400 megapixels" in refused(path, "over the limit")
    path.write_bytes(png_header(0, 7))
    refused(path, "no pixels|cannot be decoded|known format")
    bomb = bytearray(tiff(np.zeros((2, 2, 3), np.float32)))
    at = struct.unpack_from("<I", bomb, 4)[0] + 2
    struct.pack_into("<I", bomb, at + 8, 90_000)
    struct.pack_into("<I", bomb, at + 20, 90_000)
    (tmp_path / "bomb.tif").write_bytes(bytes(bomb))
    refused(tmp_path / "bomb.tif", "over the limit")
    assert limit == PIL.Image.MAX_IMAGE_PIXELS and not recwarn.list


def test_a_very_large_photo_is_read_without_a_warning(tmp_path, recwarn):
    PIL.Image.new("RGB", (12000, 8000), (10, 20, 30)).save(tmp_path / "a.jpg")  # Pillow warns from 89 megapixels on
    assert image_header(tmp_path / "a.jpg") == (8000, 12000)
    image = read_image(tmp_path / "a.jpg")
    assert image.size == (8000, 12000) and not recwarn.list
    np.testing.assert_allclose(image.pixels[-1, -1], (10, 20, 30), atol=2)


def test_a_large_photo_needs_little_beside_itself(tmp_path):
    PIL.Image.new("RGB", (8000, 6000), (10, 20, 30)).save(tmp_path / "a.jpg", exif=exif(6))
    code = "import resource, sys; from flowkit.io.images import read_image; read_image(sys.argv[1]) if sys.argv[2:] else 0; "
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"

    def peak(*more):
        return int(subprocess.check_output([sys.executable, "-c", code, str(tmp_path / "a.jpg"), *more]))

    own, pillow = 8000 * 6000 * 3 / 2**20, 8000 * 6000 * 4 / 2**20
    assert peak("read") - peak() < own + pillow + 30
