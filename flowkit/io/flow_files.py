"""Flow files, each format chosen by its suffix. In memory a flow is (2, H, W) float32, channel 0 = x, NaN = unknown.

| suffix | format | unknown is written as | exact |
|---|---|---|---|
| `.flo` | Middlebury: `PIEH`, width, height, then u, v interleaved row by row | 1e10 | yes |
| `.pfm` | `PF`, three channels (the third 0), rows bottom to top, little endian | NaN | yes |
| `.png` | KITTI: 16-bit RGB, R = 64 u + 32768, G the same of v, B = valid | B = 0 | to 1/128 px, within [-512, 511.98] |
| `.flo5` | Spring: HDF5 dataset "flow" (H, W, 2), gzip | NaN | yes |
| `.npy` | (2, H, W); (H, W, 2) is read too | NaN | yes |
| `.npz` | key "flow" as in `.npy`; VIPER's keys "u" and "v" are read too | NaN (VIPER: beyond 512) | yes |

Whatever the format, a vector with a component that is not finite or beyond 1e9 is read as unknown, both components NaN.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from flowkit.errors import InputError, OutputError
from flowkit.io.atomic import atomic_path, write_bytes
from flowkit.io.inputs import check_input, decoding

UNKNOWN_BEYOND = 1e9
"""A component larger than this means "unknown" (the Middlebury rule)."""
MAX_SIDE = 100_000
MAX_PIXELS = 400_000_000

_FLO_MAGIC = b"PIEH"
_FLO_UNKNOWN = 1e10
_VIPER_INVALID_BEYOND = 512
_KITTI_SCALE, _KITTI_OFFSET = 64.0, 32768.0
_PFM_HEADER = re.compile(rb"(PF|Pf)\s+(\d{1,9})\s+(\d{1,9})\s+([-+.\deE]{1,40})\r?\n")
_PNG_HEADER = re.compile(rb"\x89PNG\r\n\x1a\n....IHDR(....)(....)(.)(.)", re.DOTALL)


def read_flow(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a flow file, its format chosen by the suffix, as (2, H, W) float32 with NaN where the flow is unknown."""
    suffix = Path(path).suffix.lower()
    if suffix not in _READERS:
        raise InputError(f"{path}: {suffix or 'no suffix'} is not a flow format; use one of {' '.join(_READERS)}")
    file = check_input(path, "a flow file")
    with decoding(path, f"a {suffix} flow"):
        return _with_nan(_READERS[suffix](file))


def write_flow(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    """Write (2, H, W) `uv` to `path`, its format chosen by the suffix; never leaves half a file.

    A KITTI `.png` rounds to 1/64 px and clips to its range; every other format gives back exactly what was written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _WRITERS:
        raise OutputError(f"{path}: {suffix or 'no suffix'} is not a flow format; use one of {' '.join(_WRITERS)}")
    uv = np.asarray(uv)
    if uv.ndim != 3 or uv.shape[0] != 2 or uv.size == 0 or uv.dtype.kind not in "fiu":
        raise ValueError(f"a flow is (2, H, W) numbers, not {uv.shape} {uv.dtype}")
    _WRITERS[suffix](path, _with_nan(_channels_first(np.moveaxis(uv, 0, -1))))


def _with_nan(uv: np.ndarray) -> np.ndarray:
    """Set both components to NaN, in place, wherever one of them says unknown."""
    with np.errstate(invalid="ignore"):
        unknown = ~(np.abs(uv) <= UNKNOWN_BEYOND).all(axis=0)
    uv[:, unknown] = np.nan
    return uv


def _check_size(file: Path, width: int, height: int) -> None:
    """Refuse absurd dimensions before anything of that size is allocated."""
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise InputError(f"{file}: its header says {width} x {height} pixels, which cannot be; the file is damaged")


def _check_length(file: Path, expected: int) -> None:
    actual = file.stat().st_size
    if actual != expected:
        fault = "is cut short" if actual < expected else "has bytes too many"
        raise InputError(
            f"{file}: {fault}, {actual} bytes where its header means {expected}; copy or download it again"
        )


def _channels_first(array: np.ndarray) -> np.ndarray:
    """(H, W, 2 or 3) -> contiguous (2, H, W) float32, always a copy; float64 beyond float32 becomes inf, thus unknown."""
    with np.errstate(over="ignore"):
        return np.array(np.moveaxis(array[..., :2], -1, 0), np.float32, order="C")


# --- .flo ------------------------------------------------------------------------------------------------------------


def _read_flo(file: Path) -> np.ndarray:
    with file.open("rb") as stream:
        header = stream.read(12)
        if header[:4] != _FLO_MAGIC:
            raise InputError(f"{file}: is not a .flo file (it does not begin with PIEH); check what wrote it")
        if len(header) < 12:
            raise InputError(f"{file}: is cut short inside its header; copy or download it again")
        width, height = (int(value) for value in np.frombuffer(header, "<i4", offset=4))
        _check_size(file, width, height)
        _check_length(file, 12 + 8 * width * height)
        return _channels_first(np.fromfile(stream, "<f4").reshape(height, width, 2))


def _write_flo(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    _, height, width = uv.shape
    body = np.nan_to_num(np.moveaxis(uv, 0, -1), nan=_FLO_UNKNOWN).astype("<f4", order="C")
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(_FLO_MAGIC + np.array([width, height], "<i4").tobytes())
        stream.write(body.data)


# --- .pfm ------------------------------------------------------------------------------------------------------------


def _read_pfm(file: Path) -> np.ndarray:
    with file.open("rb") as stream:
        header = _PFM_HEADER.match(stream.read(256))
        if header is None:
            raise InputError(
                f"{file}: is not a .pfm file (it does not begin with PF, a size and a scale); check what wrote it"
            )
        if header[1] == b"Pf":
            raise InputError(
                f"{file}: holds one channel (a disparity or depth map); a flow needs a three-channel PF file"
            )
        width, height, scale = int(header[2]), int(header[3]), float(header[4])
        _check_size(file, width, height)
        if scale == 0 or not np.isfinite(scale):
            raise InputError(f"{file}: its scale {scale:g} says neither byte order; write it as -1 (little endian)")
        _check_length(file, header.end() + 12 * width * height)
        stream.seek(header.end())
        body = np.fromfile(stream, "<f4" if scale < 0 else ">f4").reshape(height, width, 3)
    return _channels_first(body[::-1])


def _write_pfm(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    _, height, width = uv.shape
    body = np.zeros((height, width, 3), "<f4")
    body[..., :2] = np.moveaxis(uv, 0, -1)[::-1]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(f"PF\n{width} {height}\n-1.0\n".encode("ascii"))
        stream.write(body.data)


# --- KITTI .png ------------------------------------------------------------------------------------------------------


def _read_kitti(file: Path) -> np.ndarray:
    from flowkit.io.images import decode_unchanged

    data = file.read_bytes()
    header = _PNG_HEADER.match(data)
    if header is None:
        raise InputError(f"{file}: is not a PNG file; check what wrote it")
    width, height, depth, colour = (int.from_bytes(field, "big") for field in header.groups())
    if (depth, colour) != (16, 2):  # colour type 2 is RGB
        raise InputError(
            f"{file}: is an ordinary picture, not a KITTI flow (which is a 16-bit RGB PNG, this one has {depth} bits "
            f"and colour type {colour}); give the flow itself, not its drawing"
        )
    _check_size(file, width, height)
    if height * (6 * width + 1) > 1040 * len(data):  # deflate shrinks to 1/1032 at best
        raise InputError(f"{file}: is cut short, {len(data)} bytes for {width} x {height} pixels; download it again")
    rgb = decode_unchanged(data)
    uv = (_channels_first(rgb) - np.float32(_KITTI_OFFSET)) / np.float32(_KITTI_SCALE)
    uv[:, rgb[..., 2] == 0] = np.nan
    return uv


def _write_kitti(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    import cv2

    valid = np.isfinite(uv).all(axis=0)
    levels = np.rint(np.nan_to_num(uv).astype(np.float64) * _KITTI_SCALE + _KITTI_OFFSET).clip(0, 65535)
    u, v = np.where(valid, levels, 0).astype(np.uint16)
    _, encoded = cv2.imencode(".png", np.dstack([valid.astype(np.uint16), v, u]))  # OpenCV takes BGR
    write_bytes(path, encoded.data)


# --- .flo5 -----------------------------------------------------------------------------------------------------------


def _read_flo5(file: Path) -> np.ndarray:
    import h5py

    with h5py.File(file, "r") as store:
        data = store.get("flow")
        if not isinstance(data, h5py.Dataset):
            raise InputError(f'{file}: has no dataset "flow"; check what wrote it')
        _check_array(file, data.shape, data.dtype, layouts=("HW2",))
        return _channels_first(data[()])


def _write_flo5(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    import h5py

    with atomic_path(path) as temporary, h5py.File(temporary, "w") as store:
        store.create_dataset("flow", data=np.moveaxis(uv, 0, -1), compression="gzip", compression_opts=5)


# --- .npy, .npz ------------------------------------------------------------------------------------------------------


def _read_npy(file: Path) -> np.ndarray:
    with file.open("rb") as stream:
        if stream.read(6) != np.lib.format.MAGIC_PREFIX:
            raise InputError(f"{file}: is not a .npy file; check what wrote it")
    # Mapped, not loaded: the header is checked before memory is asked for.
    array = np.load(file, mmap_mode="r", allow_pickle=False)
    layout = _check_array(file, array.shape, array.dtype)
    _check_length(file, array.offset + array.nbytes)
    return _channels_first(array if layout == "HW2" else np.moveaxis(array, 0, -1))


def _write_npy(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.save(temporary, uv, allow_pickle=False)


def _read_npz(file: Path) -> np.ndarray:
    with np.load(file, allow_pickle=False) as store:
        if not isinstance(store, np.lib.npyio.NpzFile):
            raise InputError(f"{file}: is not a .npz archive; check what wrote it")
        assert store.zip is not None  # it is only once the archive is closed
        for member in store.zip.infolist():
            if member.file_size > 2 * 8 * MAX_PIXELS + 10_000:
                raise InputError(f"{file}: {member.filename} would unpack to {member.file_size} bytes; it is damaged")
        if "flow" in store:
            array = store["flow"]
            layout = _check_array(file, array.shape, array.dtype)
            return _channels_first(array if layout == "HW2" else np.moveaxis(array, 0, -1))
        if "u" in store and "v" in store:
            u, v = store["u"], store["v"]
            if u.shape != v.shape:
                raise InputError(f"{file}: u is {u.shape} but v is {v.shape}; both must be (H, W)")
            uv = np.stack([u, v])
            _check_array(file, uv.shape, uv.dtype, layouts=("2HW",))
            uv = _channels_first(np.moveaxis(uv, 0, -1))
            uv[np.abs(uv) > _VIPER_INVALID_BEYOND] = np.nan
            return uv
        raise InputError(f'{file}: has neither "flow" nor "u" and "v" but {list(store)}; check what wrote it')


def _write_npz(path: str | os.PathLike[str], uv: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, flow=uv)


def _check_array(file: Path, shape: tuple[int, ...], dtype: np.dtype, layouts: tuple[str, ...] = ("2HW", "HW2")) -> str:
    """Return which of `layouts` the array has ((2, H, 2) counts as 2HW), or say why it cannot be a flow."""
    if dtype.kind not in "fiu":
        raise InputError(f"{file}: holds {dtype} values, a flow needs real numbers; save it as float32")
    if len(shape) == 3:
        sizes = {"2HW": (shape[0], shape[1:]), "HW2": (shape[2], shape[:2])}
        for layout in layouts:
            channels, (height, width) = sizes[layout]
            if channels == 2:
                _check_size(file, width, height)
                return layout
    wanted = " or ".join(f"({', '.join(layout)})" for layout in layouts)
    raise InputError(f"{file}: has the shape {tuple(shape)}, a flow is {wanted}; check what wrote it")


_READERS = {
    ".flo": _read_flo,
    ".pfm": _read_pfm,
    ".png": _read_kitti,
    ".flo5": _read_flo5,
    ".npy": _read_npy,
    ".npz": _read_npz,
}
_WRITERS = {
    ".flo": _write_flo,
    ".pfm": _write_pfm,
    ".png": _write_kitti,
    ".flo5": _write_flo5,
    ".npy": _write_npy,
    ".npz": _write_npz,
}
