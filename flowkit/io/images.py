"""Pictures in and out: whatever a camera, an editor or a notebook produced becomes an upright RGB `Image`.

Pillow reads, because it is strict about damaged files in every version; it is asked for its result in bands, so that a
large picture needs little beside itself. It would cut 16-bit colour to 8 bits and refuses some TIFFs: OpenCV reads those.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.TiffImagePlugin

from flowkit.errors import InputError, OutputError
from flowkit.io.atomic import write_bytes
from flowkit.io.inputs import check_input, decoding, quiet_stderr
from flowkit.types import Image, Size

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pnm", ".gif")
"""What a folder of pictures is searched for; a single file is recognised by its content, whatever its name."""
MAX_PIXELS = 400_000_000
"""A header that promises more than this is taken for damaged or hostile."""

_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "PPM", "BMP", "GIF")  # not EPS and the like, which start programs
_BAND_PIXELS = 1 << 20
_ORIENTATION, _EXIF_IFD, _FOCAL_35MM = 0x0112, 0x8769, 0xA405
_opening = threading.Lock()
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)  # it logs what it then raises


# --- reading files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Header:
    """What a file says of itself before it is decoded. `picture` is None for a TIFF that Pillow refuses."""

    size: Size  # upright
    orientation: int
    picture: PIL.ImageFile.ImageFile | None = None
    focal_35mm: float | None = None
    deep: bool = True  # holds more than Pillow would give


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read a picture file as an upright RGB `Image`; everything that was done to it on the way is in `notes`.

    8-bit files give uint8, 16-bit ones uint16, float ones float32 in [0, 1]. `focal_35mm` refers to a frame whose longer
    side is 36 mm, whichever way the picture is turned.
    """
    file = check_input(path, "an image")
    with _opened(file) as header:
        notes = [] if header.orientation == 1 else [f"turned upright (EXIF orientation {header.orientation})"]
        if (frames := _frames(header.picture)) > 1:
            notes.append(f"first of {frames} frames taken")
        array = _deep_pixels(file, header) if header.deep else _shallow_pixels(header)
        pixels, more = _as_rgb(array, str(path), scale_floats=True)
    return Image(pixels, str(path), (*notes, *more), header.focal_35mm)


def image_header(path: str | os.PathLike[str]) -> Size:
    """The (height, width) that `read_image` would give, without decoding the picture."""
    with _opened(check_input(path, "an image"), decode_for_exif=False) as header:
        return header.size


@contextmanager
def _opened(file: Path, decode_for_exif: bool = True) -> Iterator[_Header]:
    """Open a picture up to its header; errors of any decoder inside the block become InputErrors."""
    with decoding(file, "an image"), file.open("rb") as stream, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            with _opening:  # Pillow's own limit is a global that warns about ordinary large photos; ours follows below
                limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
                try:
                    picture = PIL.Image.open(stream, formats=_FORMATS)
                finally:
                    PIL.Image.MAX_IMAGE_PIXELS = limit
        except PIL.UnidentifiedImageError:
            header = _tiff_header(file, stream)
        else:
            header = _pillow_header(picture, decode_for_exif)
        height, width = header.size
        if height * width > MAX_PIXELS:
            raise InputError(
                f"{file}: its header says {width} x {height} pixels, over the limit of {MAX_PIXELS // 10**6} megapixels; "
                "if it really is that large, make it smaller first"
            )
        if not height * width:
            raise InputError(f"{file}: has no pixels ({width} x {height}); save it again")
        yield header


def _pillow_header(picture: PIL.ImageFile.ImageFile, decode_for_exif: bool) -> _Header:
    width, height = picture.size
    if width * height > MAX_PIXELS:  # before EXIF, which a PNG may have behind its pixels
        return _Header((height, width), 1)
    deep = _is_deep(picture)  # asked first: looking for the EXIF of a PNG may decode it
    orientation, focal = 1, None
    with suppress(ValueError, TypeError, SyntaxError, KeyError, ArithmeticError):  # broken EXIF is no reason to refuse
        exif = picture.getexif() if decode_for_exif else PIL.Image.Image.getexif(picture)
        orientation = exif.get(_ORIENTATION, 1)
        focal = float(exif.get_ifd(_EXIF_IFD).get(_FOCAL_35MM) or 0)
    orientation = orientation if orientation in range(2, 9) else 1
    focal = focal if focal and 0 < focal < float("inf") else None
    swapped = orientation >= 5 and picture.format != "TIFF"  # Pillow turns a TIFF by itself, its size too
    return _Header((width, height) if swapped else (height, width), orientation, picture, focal, deep)


def _tiff_header(file: Path, stream: IO[bytes]) -> _Header:
    """The header of a TIFF whose kind of pixel (float colour, 32 bits) Pillow does not know."""
    stream.seek(0)
    start = stream.read(16)
    if start[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise InputError(f"{file}: is not an image of a known format ({' '.join(_FORMATS)}); convert it to PNG")
    tags = PIL.TiffImagePlugin.ImageFileDirectory_v2(start if b"+" in start[2:4] else start[:8])
    stream.seek(tags.next)
    tags.load(stream)
    orientation = tags.get(_ORIENTATION, 1)
    orientation = orientation if orientation in range(2, 9) else 1
    width, height = tags[256], tags[257]
    return _Header((width, height) if orientation >= 5 else (height, width), orientation)


def _frames(picture: PIL.Image.Image | None) -> int:
    if picture is None or picture.format == "MPO":  # its other frames are depth or gain maps, not pictures
        return 1
    return getattr(picture, "n_frames", 1)


def _is_deep(picture: PIL.ImageFile.ImageFile) -> bool:
    """Whether the file holds colour of 16 bits, of which Pillow would keep 8."""
    arguments = picture.tile[0][3] if picture.tile else ()
    raw = arguments if isinstance(arguments, str) else str(arguments[0]) if arguments else ""
    wide_ppm = picture.format == "PPM" and arguments == ("RGB", 65535)
    return picture.mode in ("RGB", "RGBA", "LA") and (";16" in raw or wide_ppm)


def _deep_pixels(file: Path, header: _Header) -> np.ndarray:
    array = decode_unchanged(file.read_bytes())
    by_decoder = header.picture is None or header.picture.format == "TIFF"
    return array if by_decoder else np.ascontiguousarray(_turned(array, header.orientation))


def decode_unchanged(data: bytes) -> np.ndarray:
    """Decode to (H, W[, 3 or 4]) RGB(A) as stored, 16-bit and float kept, not turned upright (except TIFF).

    For files that Pillow cannot give in full depth. Raises ValueError if OpenCV cannot decode them.
    """
    import cv2

    if data.startswith(b"\x89PNG"):
        _check_chunks(data)
    with quiet_stderr():
        array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("damaged, cut short or of an unknown kind")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    return array


def _check_chunks(data: bytes) -> None:
    """Refuse a PNG whose parts run past its end: OpenCV would ask for as much memory as they promise."""
    offset, name = 8, b""
    while name != b"IEND" and offset + 12 <= len(data):
        name = data[offset + 4 : offset + 8]
        offset += 12 + int.from_bytes(data[offset : offset + 4], "big")
    if name != b"IEND" or offset > len(data):
        raise ValueError("cut short or damaged")


def _shallow_pixels(header: _Header) -> np.ndarray:
    """(H, W), or (H, W, 3 or 4) 8-bit, upright, fetched band by band: Pillow's own conversions would copy the whole."""
    picture = header.picture
    assert picture is not None  # where there is none the header says deep
    is_tiff = picture.format == "TIFF"
    with quiet_stderr() if is_tiff else nullcontext():
        picture.load()
    width, height = picture.size
    mode: str | None = None
    shape: tuple[int, ...] = ()
    dtype: type[np.generic]
    if picture.mode.startswith("I;16") or (picture.mode == "I" and not is_tiff):  # PGM: scaled to 16 bits by Pillow
        dtype = np.uint16
    elif picture.mode in ("I", "F"):
        dtype = np.int32 if picture.mode == "I" else np.float32
    else:
        mode = "RGBA" if picture.has_transparency_data else "RGB"
        shape, dtype = (len(mode),), np.uint8
    upright = np.empty((*header.size, *shape), dtype)
    stored = upright if is_tiff else _turned(upright, {6: 8, 8: 6}.get(header.orientation, header.orientation))
    for rows in _bands(height, width):
        band = picture.crop((0, rows.start, width, rows.stop))
        stored[rows] = np.asarray(band.convert(mode) if mode else band)
    return upright


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """A view of `array`, stored with this EXIF orientation, as it should be seen."""
    flips = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}.get(orientation, ())
    array = np.flip(array, flips)
    return array.swapaxes(0, 1) if orientation >= 5 else array


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // max(width, 1))
    return (slice(top, min(top + step, height)) for top in range(0, height, step))


# --- arrays and tensors ----------------------------------------------------------------------------------------------


def as_image(x: object) -> Image:
    """Make an `Image` of a path, an array or a tensor; an `Image` passes through.

    Arrays are (H, W) or (H, W, 1 | 3 | 4), tensors (H, W), ([1,] 1 | 3 | 4, H, W); both RGB, uint8, uint16, bool or float
    in [0, 1]. The pixels may share memory with what was given.
    """
    if isinstance(x, Image):
        return x
    if isinstance(x, (str, os.PathLike)):
        return read_image(x)
    if type(x).__module__.partition(".")[0] == "torch" and hasattr(x, "detach"):
        return _from_array(_from_tensor(x), "<tensor>")
    if isinstance(x, np.ndarray):
        return _from_array(x, "<array>")
    raise InputError(
        f"cannot use a {type(x).__name__} as an image; give a path, a numpy array (H, W[, 3]) or a torch tensor"
    )


def _from_tensor(tensor: Any) -> np.ndarray:
    shape = tuple(tensor.shape)
    if tensor.ndim == 4 and shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim not in (2, 3) or (tensor.ndim == 3 and tensor.shape[0] not in (1, 3, 4)):
        raise InputError(
            f"<tensor>: has the shape {shape}, an image tensor is (3, H, W) or (1, 3, H, W); give one image"
        )
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array = tensor.numpy()
    return array if array.ndim == 2 else np.moveaxis(array, 0, -1)


def _from_array(array: np.ndarray, name: str) -> Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        hint = (
            "; channels come last, use array.transpose(1, 2, 0)"
            if array.ndim == 3 and array.shape[0] in (1, 3, 4)
            else ""
        )
        raise InputError(f"{name}: has the shape {array.shape}, an image array is (H, W) or (H, W, 1, 3 or 4){hint}")
    if array.size == 0:
        raise InputError(f"{name}: has no pixels (shape {array.shape}); give a non-empty image")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind != "f" and array.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{name}: holds {array.dtype} values; convert it to uint8, uint16 or float in [0, 1]")
    pixels, notes = _as_rgb(array, name, scale_floats=False)
    return Image(pixels, None, tuple(notes))


def _as_rgb(array: np.ndarray, name: str, *, scale_floats: bool) -> tuple[np.ndarray, list[str]]:
    """(H, W[, 1 | 3 | 4]) -> contiguous (H, W, 3) uint8, uint16 or float32 in [0, 1], and what was done to it."""
    notes: list[str] = []
    if array.ndim == 2:
        array = array[..., None]
    if array.dtype not in (np.uint8, np.uint16):
        array = _unit_floats(array, name, notes, scale_floats)
    if array.shape[2] == 4:
        array = _over_grey(array, notes)
    if array.shape[2] == 1:
        array = np.broadcast_to(array, (*array.shape[:2], 3))  # becomes a copy below
    if array.shape[2] != 3:
        raise InputError(f"{name}: has {array.shape[2]} channels; convert it to grey, RGB or RGBA")
    return np.ascontiguousarray(array), notes


def _unit_floats(array: np.ndarray, name: str, notes: list[str], scale: bool) -> np.ndarray:
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise InputError(
            f"{name}: {bad} values are NaN or infinite; replace them first, for example by numpy.nan_to_num"
        )
    colour = array[..., :3]
    low, high = float(colour.min()), float(colour.max())
    if scale and (low < 0 or high > 1 or array.dtype.kind != "f"):
        notes.append(f"values [{low:g}, {high:g}] scaled to [0, 1]")
        array = array.astype(np.float64)
        array[..., :3] = (array[..., :3] - low) / ((high - low) or 1)
    elif low < -0.01 or high > 1.01:  # resampling overshoots by less
        raise InputError(
            f"{name}: float values run from {low:g} to {high:g}; an image's are in [0, 1], divide by its maximum"
        )
    return np.clip(array, 0, 1).astype(np.float32)


def _over_grey(rgba: np.ndarray, notes: list[str]) -> np.ndarray:
    """Lay an RGBA picture over mid-grey, as a viewer would over a neutral page."""
    top = 1.0 if rgba.dtype.kind == "f" else float(np.iinfo(rgba.dtype).max)
    if rgba[..., 3].min() == top:  # opaque: nothing to say
        return rgba[..., :3]
    notes.append("transparency laid over mid-grey")
    grey = np.float32(top * 128 / 255)
    rgb = np.empty((*rgba.shape[:2], 3), rgba.dtype)
    for rows in _bands(*rgba.shape[:2]):
        band = rgba[rows].astype(np.float32)
        mixed = grey + (band[..., :3] - grey) * (band[..., 3:] / np.float32(top))
        rgb[rows] = mixed if rgba.dtype.kind == "f" else np.rint(mixed)
    return rgb


# --- writing ---------------------------------------------------------------------------------------------------------

_ANY = (1, 3, 4)
_WRITABLE = {  # suffix: (channels, bits)
    ".png": (_ANY, (8, 16)),
    ".tif": (_ANY, (8, 16)),
    ".tiff": (_ANY, (8, 16)),
    ".jpg": ((1, 3), (8,)),
    ".jpeg": ((1, 3), (8,)),
    ".webp": ((3, 4), (8,)),
    ".bmp": ((1, 3), (8,)),
    ".ppm": ((3,), (8, 16)),
    ".pgm": ((1,), (8, 16)),
}


def write_image(path: str | os.PathLike[str], pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 1 | 3 | 4) RGB(A) uint8 or uint16 `pixels`, the format chosen by the suffix.

    Never leaves half a file; the same pixels give the same bytes. JPEG has quality 95, WebP is lossless. What a format
    cannot hold (transparency in JPEG, 16 bits in BMP) is an OutputError rather than a silent loss.
    """
    import cv2

    pixels = np.asarray(pixels)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in _ANY or pixels.size == 0 or pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"pixels must be (H, W[, 1 | 3 | 4]) uint8 or uint16, not {pixels.shape} {pixels.dtype}")
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITABLE:
        raise OutputError(
            f"cannot write {path}: {suffix or 'no suffix'} is no picture format; use {' '.join(_WRITABLE)}"
        )
    channels, depths = _WRITABLE[suffix]
    if pixels.shape[2] == 1 and 1 not in channels:
        pixels = np.repeat(pixels, 3, axis=2)
    bits = 8 * pixels.dtype.itemsize
    if pixels.shape[2] not in channels or bits not in depths:
        kind = {1: "grey", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
        raise OutputError(f"cannot write {path}: {suffix} cannot hold {bits}-bit {kind}; use .png")
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix.startswith(".jp") else []
    options = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else options  # above 100 means lossless
    try:
        done, encoded = cv2.imencode(suffix, np.ascontiguousarray(pixels[..., order]), options)
    except cv2.error as error:
        done, fault = False, f" ({error.err})"
    else:
        fault = ""
    if not done:
        raise OutputError(f"cannot write {path}: {pixels.shape} does not fit into {suffix}{fault}; use .png")
    write_bytes(path, encoded.data)
