"""Pictures as arrays and as bytes, among them kinds that no library at hand writes."""

import struct
import zlib

import numpy as np
import PIL.Image


def picture(height=24, width=37, channels=3, dtype=np.uint8):
    """Noise: no two rows, columns or channels alike."""
    top = np.iinfo(dtype).max
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(height * width + channels).integers(0, top, shape, dtype, endpoint=True)


def tiff(array, orientation=1, order="<"):
    """A plain TIFF of any number type, which no other writer here offers."""
    array = np.asarray(array)
    height, width, channels = (*array.shape, 1)[:3]
    pixels = array.astype(array.dtype.newbyteorder(order)).tobytes()
    pixels += b"\0" * (len(pixels) % 2)
    bits, kind = array.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    blob = struct.pack(f"{order}{2 * channels}H", *([bits] * channels + [kind] * channels))
    at = 8 + len(pixels)

    def entry(tag, code, value):
        return struct.pack(f"{order}HHIH2x" if code == 3 else f"{order}HHII", tag, code, 1, value)

    def shorts(tag, offset, value):
        return entry(tag, 3, value) if channels == 1 else struct.pack(f"{order}HHII", tag, 3, channels, at + offset)

    entries = [entry(256, 4, width), entry(257, 4, height), shorts(258, 0, bits), entry(259, 3, 1)]
    entries += [entry(262, 3, 2 if channels > 2 else 1), entry(273, 4, 8), entry(274, 3, orientation)]
    entries += [entry(277, 3, channels), entry(278, 4, height), entry(279, 4, array.nbytes)]
    entries += [entry(338, 3, 2)] * (channels == 4) + [shorts(339, 2 * channels, kind)]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + b"\0" * 4
    magic = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", at + len(blob))
    return magic + pixels + blob + directory


def exif(orientation=None, focal=None):
    block = PIL.Image.Exif()
    if orientation:
        block[0x0112] = orientation
    if focal:
        block[0x8769] = {0xA405: focal}
    return block.tobytes()


def over_grey(rgba):
    top = np.iinfo(rgba.dtype).max
    alpha = rgba[..., 3:].astype(float) / top
    return np.rint(rgba[..., :3] * alpha + top * 128 / 255 * (1 - alpha))


def png_chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
