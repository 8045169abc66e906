"""How a result was made, as every JSON document ends: method, options, weights, seed, device, timings, versions."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from flowkit._version import __version__
from flowkit.io.schema import Provenance
from flowkit.types import Run

_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")


def provenance(run: Run | None, argv: Iterable[str] = ()) -> Provenance:
    """How a result was made; without a `run` only the versions are known."""
    return Provenance(
        flowkit=__version__,
        arguments=[str(argument) for argument in argv],
        method=run.method if run else None,
        options=_plain(run.options) if run else {},
        weights=_plain(run.weights) if run else {},
        seed=run.seed if run else None,
        device=run.device if run else None,
        working_size0=run.working_size0 if run else None,
        working_size1=run.working_size1 if run else None,
        seconds=_plain(run.seconds) if run else {},
        notes=list(run.notes) if run else [],
        libraries=_libraries(),
    )


def _plain(value: Any) -> Any:
    """What JSON can hold in place of numpy's numbers, paths, tuples, and of NaN; keys in order."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@cache
def _libraries() -> dict[str, str]:
    """Versions as installed; read from the metadata, so that nothing is imported for it."""
    found = {"python": platform.python_version()}
    for name, packages in (("numpy", ("numpy",)), ("opencv", _OPENCV), ("torch", ("torch",))):
        for package in packages:
            try:
                found[name] = version(package)
                break
            except PackageNotFoundError:
                continue
    return found
