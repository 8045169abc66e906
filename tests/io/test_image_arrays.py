"""Arrays and tensors become images, and arrays become files that others read."""

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from picture_files import over_grey, picture

from flowkit.errors import InputError, OutputError
from flowkit.io.images import as_image, read_image, write_image
from flowkit.types import Image


def test_as_image_of_arrays():
    rgb = picture()
    image = as_image(rgb)
    assert image.pixels is rgb or np.shares_memory(image.pixels, rgb)
    assert image.path is None and as_image(image) is image
    grey = rgb[..., 0]
    for form in (grey, grey[..., None]):
        np.testing.assert_array_equal(as_image(form).pixels, np.dstack([grey] * 3))
    np.testing.assert_array_equal(as_image(rgb[::-1, ::2]).pixels, rgb[::-1, ::2])
    wide = as_image(picture(dtype=np.uint16).astype(">u2")).pixels
    assert wide.dtype == np.uint16 and (wide == picture(dtype=np.uint16)).all()
    for dtype in (np.float16, np.float32, np.float64):
        unit = (rgb / 255).astype(dtype)
        assert as_image(unit).pixels.dtype == np.float32
        np.testing.assert_allclose(as_image(unit).pixels, unit)
    assert as_image(grey > 99).pixels.max() == 255
    rgba = picture(channels=4)
    np.testing.assert_allclose(as_image(rgba).pixels, over_grey(rgba), atol=1)
    np.testing.assert_allclose(as_image(rgba / 255).pixels, over_grey(rgba) / 255, atol=0.003)
    assert as_image(rgba).notes


def test_as_image_of_tensors():
    torch = pytest.importorskip("torch")
    rgb = picture()
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for form in (tensor, tensor[None]):
        np.testing.assert_array_equal(as_image(form).pixels, rgb)
    np.testing.assert_array_equal(as_image(tensor[:1]).pixels, np.dstack([rgb[..., 0]] * 3))
    np.testing.assert_array_equal(as_image(tensor[0]).pixels, np.dstack([rgb[..., 0]] * 3))
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        unit = (tensor.double() / 255).to(dtype).requires_grad_()
        np.testing.assert_allclose(as_image(unit).pixels, rgb / 255, atol=0.01)
    for wrong in (torch.zeros(2, 3, 4, 5), torch.zeros(24, 37, 3), torch.zeros(5), torch.zeros(0, 0)):
        with pytest.raises(InputError, match="<tensor>"):
            as_image(wrong)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 2)), "shape"),
        (np.zeros((3, 40, 50)), "transpose"),
        (np.zeros((2, 4, 5, 3)), "shape"),
        (np.zeros((0, 5, 3)), "no pixels"),
        (np.zeros((4, 5), np.int32), "int32"),
        (np.zeros((4, 5), complex), "complex"),
        (np.array([[None]]), "object"),
        (np.full((4, 5, 3), 200.0), "divide"),
        (np.full((4, 5, 3), -1.0), "divide"),
        (np.full((4, 5, 3), np.nan), "NaN"),
        ([[1, 2]], "list"),
        (None, "NoneType"),
    ],
)
def test_as_image_refuses(array, words):
    with pytest.raises(InputError, match=words):
        as_image(array)


def test_as_image_of_paths(tmp_path):
    write_image(tmp_path / "a.png", picture())
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        image = as_image(path)
        assert isinstance(image, Image) and image.path == str(path)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".webp", ".bmp", ".ppm", ".PNG"])
def test_written_pictures_are_what_pillow_reads(tmp_path, suffix):
    path = tmp_path / "bïld 1" / f"a{suffix}"
    array = picture()
    write_image(path, array)
    with PIL.Image.open(path) as other:
        np.testing.assert_array_equal(np.asarray(other), array)
    first = path.read_bytes()
    write_image(path, array)
    assert path.read_bytes() == first and len(list(path.parent.iterdir())) == 1
    write_image(path, array[..., 0])
    np.testing.assert_array_equal(read_image(path).pixels, np.dstack([array[..., 0]] * 3))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_written_16_bits(tmp_path, suffix):
    array = picture(dtype=np.uint16)
    write_image(tmp_path / f"a{suffix}", array)
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").pixels, array)
    write_image(tmp_path / f"a{suffix}", array[..., :1])
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}").pixels, np.dstack([array[..., 0]] * 3))


def test_written_alpha(tmp_path):
    rgba = picture(channels=4)
    for suffix in (".png", ".webp"):
        write_image(tmp_path / f"a{suffix}", rgba)
        with PIL.Image.open(tmp_path / f"a{suffix}") as other:
            back = np.asarray(other)
        seen = rgba[..., 3] > 0  # lossless WebP may drop the colour of what is wholly transparent
        np.testing.assert_array_equal(back[seen], rgba[seen])


def test_written_jpeg(tmp_path):
    smooth = cv2.resize(picture(4, 6), (64, 48), interpolation=cv2.INTER_CUBIC)
    write_image(tmp_path / "a.jpg", smooth)
    assert np.abs(read_image(tmp_path / "a.jpg").pixels.astype(int) - smooth).mean() < 8


def test_what_cannot_be_written(tmp_path):
    for suffix, array in ((".jpg", picture(channels=4)), (".jpg", picture(dtype=np.uint16)), (".pgm", picture())):
        with pytest.raises(OutputError, match=r"cannot hold .*use \.png"):
            write_image(tmp_path / f"a{suffix}", array)
    with pytest.raises(OutputError, match="no picture format"):
        write_image(tmp_path / "a.xyz", picture())
    with pytest.raises(OutputError, match="does not fit"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 70_000, 3), np.uint8))
    for wrong in (np.zeros((4, 5, 3)), np.zeros((4, 5, 2), np.uint8), np.zeros((0, 5), np.uint8)):
        with pytest.raises(ValueError, match="pixels must be"):
            write_image(tmp_path / "a.png", wrong)
    assert list(tmp_path.iterdir()) == []
