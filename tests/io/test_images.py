"""Every kind of picture arrives upright, in RGB and in its own depth."""

import struct
import zlib

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from picture_files import exif, over_grey, picture, png_chunk, tiff

from flowkit.errors import InputError
from flowkit.io.images import image_header, read_image, write_image

# What each EXIF orientation does to the stored picture, spelled out: stored [[1, 2, 3], [4, 5, 6]] is seen as ...
SEEN = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[4, 1], [5, 2], [6, 3]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[3, 6], [2, 5], [1, 4]],
}


def saved(path, array, **options):
    PIL.Image.fromarray(array).save(path, **options)
    return read_image(path)


# --- kinds of file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm", ".webp"])
def test_lossless_rgb_and_grey(tmp_path, suffix):
    path = tmp_path / f"ein Bïld{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    for size in ((24, 37), (1, 1), (1, 5), (600, 3)):
        array = picture(*size)
        image = saved(path, array, **options)
        np.testing.assert_array_equal(image.pixels, array)
        assert image.pixels.dtype == np.uint8 and image.path == str(path) and not image.notes
        assert image.pixels.flags.c_contiguous and image_header(path) == image.size == size
        grey = picture(*size, channels=1)
        np.testing.assert_array_equal(saved(path, grey, **options).pixels, np.dstack([grey] * 3))


def test_jpeg(tmp_path):
    smooth = cv2.resize(picture(4, 6), (64, 48), interpolation=cv2.INTER_CUBIC)
    image = saved(tmp_path / "a.jpg", smooth, quality=98, subsampling=0)
    assert np.abs(image.pixels.astype(int) - smooth).max() < 12
    PIL.Image.fromarray(smooth).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").pixels.astype(int) - smooth).mean() < 6
    saved(tmp_path / "grey.jpg", smooth[..., 0])
    saved(tmp_path / "progressive.jpg", smooth, progressive=True)


def test_pictures_in_several_bands(tmp_path):
    array = picture(900, 3000)
    image = saved(tmp_path / "a.png", array, exif=exif(6), compress_level=1)
    np.testing.assert_array_equal(image.pixels, np.rot90(array, -1))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm"])
def test_16_bits_are_kept(tmp_path, suffix):
    array = picture(dtype=np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), array[..., ::-1])
    image = read_image(tmp_path / f"a{suffix}")
    assert image.pixels.dtype == np.uint16
    np.testing.assert_array_equal(image.pixels, array)
    suffix = ".pgm" if suffix == ".ppm" else suffix
    cv2.imwrite(str(tmp_path / f"g{suffix}"), array[..., 0])
    grey = read_image(tmp_path / f"g{suffix}")
    assert grey.pixels.dtype == np.uint16
    np.testing.assert_array_equal(grey.pixels, np.dstack([array[..., 0]] * 3))


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_byte_orders(tmp_path, order):
    for array in (picture(dtype=np.uint16), picture(channels=1, dtype=np.uint16)):
        (tmp_path / "a.tif").write_bytes(tiff(array, order=order))
        pixels = read_image(tmp_path / "a.tif").pixels
        assert pixels.dtype == np.dtype(np.uint16) and pixels.dtype.isnative
        np.testing.assert_array_equal(pixels, array if array.ndim == 3 else np.dstack([array] * 3))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_tiff(tmp_path, dtype, channels):
    unit = (picture(channels=channels) / 255).astype(dtype)
    if channels == 4:
        unit[..., 3] = 1
    colour = unit[..., :3] if channels > 1 else np.dstack([unit] * 3)
    (tmp_path / "a.tif").write_bytes(tiff(unit))
    image = read_image(tmp_path / "a.tif")
    assert image.pixels.dtype == np.float32 and not image.notes and image_header(tmp_path / "a.tif") == (24, 37)
    np.testing.assert_allclose(image.pixels, colour, atol=1e-6)
    scaled = unit * 50 - 7
    if channels == 4:
        scaled[..., 3] = 1
    (tmp_path / "a.tif").write_bytes(tiff(scaled))
    image = read_image(tmp_path / "a.tif")
    low, high = colour.min(), colour.max()
    np.testing.assert_allclose(image.pixels, (colour - low) / (high - low), atol=1e-5)
    assert "scaled to [0, 1]" in image.notes[0]
    unit[3, 4] = np.nan
    (tmp_path / "a.tif").write_bytes(tiff(unit))
    with pytest.raises(InputError, match=r"a\.tif: .*NaN .*nan_to_num"):
        read_image(tmp_path / "a.tif")


def test_palette_one_bit_and_animation(tmp_path):
    array = picture(8, 8) // 128 * 255
    palette = PIL.Image.fromarray(array).convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").pixels, array)
    bits = array[..., 0] > 0
    PIL.Image.fromarray(bits).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png").pixels, np.dstack([bits * np.uint8(255)] * 3))
    frames = [PIL.Image.fromarray(a) for a in (array, array[::-1].copy(), array[:, ::-1].copy())]
    for suffix, options in ((".gif", {}), (".webp", {"lossless": True}), (".tif", {})):
        frames[0].save(tmp_path / f"c{suffix}", save_all=True, append_images=frames[1:], **options)
        image = read_image(tmp_path / f"c{suffix}")
        np.testing.assert_array_equal(image.pixels, array)
        assert image.notes == ("first of 3 frames taken",)


def test_transparency_is_laid_over_grey(tmp_path):
    for dtype in (np.uint8, np.uint16):
        rgba = picture(channels=4, dtype=dtype)
        for suffix in (".png", ".tif", ".webp")[: 3 if dtype == np.uint8 else 2]:
            path = tmp_path / f"a{suffix}"
            write_image(path, rgba)
            image = read_image(path)
            assert image.notes == ("transparency laid over mid-grey",) and image.pixels.dtype == dtype
            difference = np.abs(image.pixels.astype(float) - over_grey(rgba))
            assert difference[rgba[..., 3] > 0].max() <= 1 and difference.max() <= 1
    rgba = picture(channels=4)
    rgba[..., 3] = 255
    assert not saved(tmp_path / "opaque.png", rgba).notes
    grey_alpha = PIL.Image.fromarray(picture(channels=4)).convert("LA")
    grey_alpha.save(tmp_path / "la.png")
    expected = over_grey(np.asarray(grey_alpha.convert("RGBA")))
    np.testing.assert_allclose(read_image(tmp_path / "la.png").pixels, expected, atol=1)
    palette = PIL.Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / "p.png", transparency=1)
    assert read_image(tmp_path / "p.png").pixels.tolist() == [[[255, 0, 0], [128, 128, 128]]]


def test_16_bit_grey_with_alpha(tmp_path):
    grey, alpha = picture(channels=1, dtype=np.uint16), picture(24, 37, 3, np.uint16)[..., 1]
    rows = b"".join(b"\0" + row.tobytes() for row in np.dstack([grey, alpha]).astype(">u2"))

    header = struct.pack(">IIBBBBB", 37, 24, 16, 4, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    pixels = read_image(tmp_path / "a.png").pixels
    np.testing.assert_allclose(pixels, over_grey(np.dstack([grey, grey, grey, alpha])), atol=1)


# --- EXIF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", SEEN)
def test_orientation(tmp_path, orientation):
    stored, seen = np.array(SEEN[1]), np.array(SEEN[orientation])
    note = () if orientation == 1 else (f"turned upright (EXIF orientation {orientation})",)

    def check(path, expected, scale, tolerance=0):
        image = read_image(path)
        np.testing.assert_allclose(image.pixels[..., 0] / scale, expected, atol=tolerance)
        assert image.notes == note and image_header(path) == image.size == expected.shape

    colours = np.dstack([stored * 40, stored * 3, 255 - stored]).astype(np.uint8)
    for suffix, options in ((".png", {}), (".webp", {"lossless": True, "exact": True})):
        PIL.Image.fromarray(colours).save(tmp_path / f"a{suffix}", exif=exif(orientation), **options)
        check(tmp_path / f"a{suffix}", seen, 40)
    blocks = np.kron(stored * 40, np.ones((16, 16))).astype(np.uint8)
    PIL.Image.fromarray(blocks).save(tmp_path / "a.jpg", exif=exif(orientation), quality=98)
    check(tmp_path / "a.jpg", np.kron(seen, np.ones((16, 16))), 40, 0.2)
    for dtype, scale in ((np.uint8, 40), (np.uint16, 9000), (np.float32, 0.125)):
        for array in (stored * scale, np.dstack([stored * scale] * 3)):
            (tmp_path / "a.tif").write_bytes(tiff(array.astype(dtype), orientation))
            check(tmp_path / "a.tif", seen, scale)
    # 16-bit PNG: no writer here adds EXIF, so the block goes in by hand
    data = cv2.imencode(".png", np.dstack([stored * 9000] * 3).astype(np.uint16))[1].tobytes()
    chunk = png_chunk(b"eXIf", exif(orientation).removeprefix(b"Exif\0\0"))
    (tmp_path / "b.png").write_bytes(data[:33] + chunk + data[33:])
    check(tmp_path / "b.png", seen, 9000)
    (tmp_path / "late.png").write_bytes(data[:-12] + chunk + data[-12:])
    assert read_image(tmp_path / "late.png").size == seen.shape  # behind the pixels: only seen by decoding
    rgba = np.dstack([stored * 40] * 3 + [np.full_like(stored, 255)]).astype(np.uint8)
    rgba[0, 0, 3] = 0
    PIL.Image.fromarray(rgba).save(tmp_path / "a.png", exif=exif(orientation))
    assert (read_image(tmp_path / "a.png").pixels[..., 0] == np.where(seen == 1, 128, seen * 40)).all()


def test_focal_length(tmp_path):
    array = picture()
    assert saved(tmp_path / "a.jpg", array, exif=exif(6, 28)).focal_35mm == 28
    assert saved(tmp_path / "a.jpg", array, exif=exif(6)).focal_35mm is None
    assert saved(tmp_path / "a.jpg", array).focal_35mm is None


def test_broken_exif_does_not_matter(tmp_path, recwarn, capfd):
    array = picture()
    for block in (exif(99), b"Exif\0\0garbage", exif(6)[:20], b"Exif\0\0II*\0\xff\xff\xff\xff"):
        assert saved(tmp_path / "a.jpg", array, exif=block).size == array.shape[:2]
    assert not recwarn.list and capfd.readouterr().err == ""
