"""The methods that the bench compares, by name: each calls one pipeline and keeps the arrays that are judged.

A dense method answers on image0's grid, pointing into image1; `align` therefore takes image1 as its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from flowkit.datasets.samples import PoseSample, Sample
from flowkit.errors import UsageError
from flowkit.io.images import image_header
from flowkit.types import Flow, Image, Matches

Arrays = dict[str, np.ndarray]
Answer = tuple[Arrays, str]
"""The arrays that are judged, and the pipeline's status."""


@dataclass(frozen=True)
class Entry:
    """A row of the table: how it is called, the options it fixes, the options a user may vary."""

    call: Callable[..., Answer]
    fixed: Mapping[str, object] = field(default_factory=dict)
    varied: tuple[str, ...] = ()
    dense: bool = False


@dataclass(frozen=True)
class Method:
    """A method with all its options set; `label` is what tables call it."""

    label: str
    call: Callable[..., Answer]
    options: Mapping[str, object] = field(default_factory=dict)
    dense: bool = False

    def failure(self, sample: Sample) -> Arrays:
        """What counts as the answer where the method crashed: nothing known."""
        if self.dense:
            return {"uv": np.full((2, *image_header(sample.image0)), np.nan, np.float32)}
        none = np.full((3, 3), np.nan)
        return {"H": none, "R": none, "t": none[0], "F": none, "points0": np.zeros((0, 2)), "points1": np.zeros((0, 2))}

    def predict(self, image0: Image, image1: Image, sample: Sample, *, device: str, seed: int) -> Answer:
        """Run the pipeline on the pair; `sample` gives it what it may know besides the images (the intrinsics)."""
        return self.call(image0, image1, sample, device=device, seed=seed, **self.options)


def _flow(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.flow import flow

    weights = options.get("weights")
    if isinstance(weights, WeightsFile):
        options["weights"] = weights.path
    return _dense(flow(image0, image1, **options)), "ok"  # type: ignore[arg-type]


def _align(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.align import align

    found = align(image1, image0, **options)  # type: ignore[arg-type]
    return _dense(found.flow), str(found.status)


def _homography(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.homography import homography

    found = homography(image0, image1, **options)  # type: ignore[arg-type]
    return {"H": _or_nan(found.matrix, (3, 3))} | _sparse(found.matches), str(found.status)


def _pose(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.pose import pose

    assert isinstance(sample, PoseSample)
    found = pose(image0, image1, sample.K0, sample.K1, **options)  # type: ignore[arg-type]
    arrays = {"R": _or_nan(found.R, (3, 3)), "t": _or_nan(found.t, (3,))}
    return arrays | _sparse(found.matches), str(found.status)


def _match(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.estimators.magsac import fit_fundamental
    from flowkit.pipelines.match import match

    matches = match(image0, image1, **options)  # type: ignore[arg-type]
    fit = fit_fundamental(matches.points0, matches.points1, seed=int(str(options.get("seed", 0))))
    return _sparse(matches) | {"F": _or_nan(fit.model, (3, 3))}, "ok" if len(matches) else "too_few_matches"


def _dense(flow: Flow) -> Arrays:
    arrays = {"uv": flow.uv.astype(np.float32)}
    if flow.confidence is not None:
        arrays["confidence"] = flow.confidence.astype(np.float16)
    return arrays


def _sparse(matches: Matches) -> Arrays:
    return {"points0": matches.points0.astype(np.float32), "points1": matches.points1.astype(np.float32)}


def _or_nan(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if array is None else np.asarray(array, np.float64).reshape(shape)


@dataclass(frozen=True)
class WeightsFile:
    """A weights file by name and content, so that kept predictions of another file under the same name are not used."""

    path: Path
    sha256: str

    def __str__(self) -> str:
        return self.path.name


_NETWORK = ("weights", "iterations", "precision")
_DENSE = {
    "dis": Entry(_flow, {"model": "dis", "preset": "fine"}, dense=True),
    "dis-fast": Entry(_flow, {"model": "dis", "preset": "fast"}, dense=True),
    "dis+matches": Entry(_flow, {"model": "dis", "preset": "fine", "init": "matches"}, ("features",), dense=True),
    "flow": Entry(_flow, {}, ("model", "preset", "init", "features", *_NETWORK), dense=True),
    "align": Entry(_align, {}, ("model", "features", "effort"), dense=True),
    "align-multi-h": Entry(_align, {"multi_h": True}, ("model", "features", "effort"), dense=True),
}
METHODS: dict[str, dict[str, Entry]] = {
    "flow": _DENSE,
    "homography": {"homography": Entry(_homography, {}, ("features", "effort"))},
    "pose": {"pose": Entry(_pose, {}, ("features",))},
    "matching": {"match": Entry(_match, {}, ("features",)), **_DENSE},
}
"""Task -> name -> how it is called. The first of each task is its default."""


def build_methods(
    task: str, names: Sequence[str] = (), varied: Mapping[str, Sequence[object]] | None = None, *, strict: bool = True
) -> list[Method]:
    """Every named method of a task in every combination of the `varied` options (name -> values) that it knows.

    Without names it is the task's first method that knows these options. An option that none knows is a UsageError, unless
    not `strict`: then it is dropped, and only a `model` chooses the method.
    """
    table = METHODS[task]
    varied = {option: values for option, values in (varied or {}).items() if values}
    deciding = set(varied) if strict else {"model"} & set(varied)
    chosen = list(names) or [
        next((name for name, entry in table.items() if deciding <= set(entry.varied)), next(iter(table)))
    ]
    if not strict:
        known = [table[name] for name in chosen if name in table]
        varied = {option: values for option, values in varied.items() if any(option in e.varied for e in known)}
    for name in chosen:
        if name not in table:
            raise UsageError(f"unknown {task} method {name!r}; use one of {', '.join(table)}")
    for option in varied:
        if not any(option in table[name].varied for name in chosen):
            raise UsageError(
                f"--{'iters' if option == 'iterations' else option} means nothing to {', '.join(chosen)}; "
                "leave it out or choose another --method"
            )
    methods = {}
    for name in chosen:
        known_options = [option for option in varied if option in table[name].varied]
        for values in product(*(varied[option] for option in known_options)):
            label = " ".join([name, *map(str, values)])
            options = {**table[name].fixed, **dict(zip(known_options, values, strict=True))}
            methods[label] = Method(label, table[name].call, options, table[name].dense)
    return list(methods.values())
