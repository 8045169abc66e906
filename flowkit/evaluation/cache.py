"""Predictions on disk: made once per method, options, code, seed and pair of images, judged as often as one likes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

import flowkit
from flowkit.datasets.samples import PoseSample, Sample
from flowkit.evaluation.methods import Arrays, Method
from flowkit.evaluation.preparation import preparation_key
from flowkit.io.atomic import atomic_path
from flowkit.io.weights import weights_folder

_NOT_PART_OF_A_PREDICTION = ("cli", "datasets", "evaluation", "viz")


@dataclass(frozen=True)
class Prediction:
    """What a method answered: arrays, status, the seconds it took, whether it was the first pair of its process."""

    arrays: Arrays
    status: str
    seconds: float
    first: bool


class Cache:
    """A folder of predictions; without a folder nothing is kept."""

    def __init__(self, directory: Path | None) -> None:
        """Keep predictions in `directory`, which is made when the first one is stored."""
        self.directory = directory

    def load(self, key: str) -> Prediction | None:
        """The prediction stored under `key`; None when there is none or its file is damaged."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                arrays = {name: file[name] for name in file.files if name != "meta"}
            return Prediction(arrays, meta["status"], meta["seconds"], meta["first"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def store(self, key: str, prediction: Prediction) -> None:
        """Keep a prediction."""
        path = self._path(key)
        if path is not None:
            meta = {"status": prediction.status, "seconds": prediction.seconds, "first": prediction.first}
            with atomic_path(path) as temporary, temporary.open("wb") as stream:
                np.savez(stream, meta=np.array(json.dumps(meta)), **prediction.arrays)  # type: ignore[arg-type]

    def _path(self, key: str) -> Path | None:
        return None if self.directory is None else self.directory / key[:2] / f"{key}.npz"


def prediction_key(method: Method, sample: Sample, *, device: str, seed: int) -> str:
    """What a prediction depends on, as one hash: method, options, code, device, seed, the images' bytes, intrinsics."""
    ingredients: dict[str, object] = {
        "method": f"{method.call.__module__}.{method.call.__qualname__}",
        "options": _plain(method.options),
        "flowkit": flowkit.__version__,
        "code": code_digest(),
        "device": device,
        "seed": seed,
        "images": [_file_digest(sample.image0), _file_digest(sample.image1)],
    }
    if preparation := preparation_key(sample):
        ingredients["preparation"] = preparation
    if isinstance(sample, PoseSample):
        ingredients["K"] = [np.asarray(K, np.float64).tolist() for K in (sample.K0, sample.K1)]
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Hash of flowkit's own code below the bench and of the weights' cards: whatever is edited is predicted anew."""
    root = Path(flowkit.__file__).parent
    sources = [p for p in root.rglob("*.py") if p.relative_to(root).parts[0] not in _NOT_PART_OF_A_PREDICTION]
    digest = hashlib.sha256()
    for path in [*sorted(sources), weights_folder() / "models.toml"]:
        if path.is_file():
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain(options: Mapping[str, object]) -> dict[str, str]:
    return {name: repr(value) for name, value in sorted(options.items())}
