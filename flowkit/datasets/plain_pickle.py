"""Pickles that others wrote, read as plain data: containers, strings, numbers, numpy arrays. Nothing of theirs is ever run.

An ordinary unpickler calls whatever a file names. This one knows a handful of names, each of which stands for a function
below that checks what it is given; not even numpy's own are called, since a dtype or an array in a made-up state can
corrupt memory. Files of Python 2 and of any numpy are understood.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError
from flowkit.io.inputs import check_input, one_line

_KINDS = "biufUS"
"""numpy's kinds of dtypes that hold nothing but their bytes."""


def read_plain_pickle(path: Path, what: str) -> Any:
    """The object in the pickle at `path`; arrays come as a subclass of `numpy.ndarray`. `what` it is completes messages.

    An InputError if the file is no pickle, is damaged, or names anything besides plain data.
    """
    file = check_input(path, what)
    try:
        with file.open("rb") as stream:
            return _PlainUnpickler(stream, encoding="latin1").load()  # latin1: the bytes of Python 2's strings
    except _NotPlainError as error:
        raise InputError(
            f"{path}: asks Python to call {error}, as {what} never needs to; it was not read: do not trust its source"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: is not {what} ({one_line(error)}); check the copy") from error


class _NotPlainError(Exception):
    """A name that plain data has no need of."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _NAMES.get((module.replace("numpy._core", "numpy.core").replace("__builtin__", "builtins"), name))
        if known is None:
            raise _NotPlainError(f"{module}.{name}")
        return known


class _DType:
    """What a pickle says of a dtype. Of its state only the byte order is looked at."""

    def __init__(self, code: str, align: object = False, copy: object = True) -> None:
        self.plain = np.dtype(str(code))
        if self.plain.kind not in _KINDS or not self.plain.itemsize:
            raise ValueError(f"arrays of dtype {code} are not read")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.plain = self.plain.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array that its state has to fit."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, raw = state
        plain, data = _plain(dtype), _bytes(raw)
        if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) * plain.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} and {plain} cannot have {len(data)} bytes")
        super().__setstate__((1, tuple(shape), plain, bool(fortran), data))  # type: ignore[arg-type]


def _empty_array(subtype: object, shape: object, code: object) -> _Array:
    """numpy's _reconstruct: an array whose state is still to come."""
    return np.empty(0).view(_Array)


def _array_of(buffer: object, dtype: object, shape: Any, order: Any) -> np.ndarray:
    """numpy's _frombuffer (pickle protocol 5)."""
    return np.frombuffer(_bytes(buffer), _plain(dtype)).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: object, raw: object) -> Any:
    return np.frombuffer(_bytes(raw), _plain(dtype), count=1)[0]


def _encode(text: object, codec: object) -> bytes:
    """_codecs.encode, with which older protocols write bytes."""
    if codec != "latin1":
        raise _NotPlainError(f"_codecs.encode to {codec}")
    return _bytes(text)


def _bytes(raw: object) -> bytes:
    return raw.encode("latin1") if isinstance(raw, str) else bytes(memoryview(raw))  # type: ignore[arg-type]


def _plain(dtype: object) -> np.dtype:
    if not isinstance(dtype, _DType):
        raise ValueError("an array without a dtype")
    return dtype.plain


_NAMES: dict[tuple[str, str], object] = {
    **{("builtins", kind.__name__): kind for kind in (list, tuple, dict, set, frozenset)},
    ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _array_of,
    ("_codecs", "encode"): _encode,
}
"""(module, name) in a file -> what stands for it."""
