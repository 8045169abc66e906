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
from flowkit.evaluation.preparation import prepared_sizes
from flowkit.types import Flow, Image, Matches

Arrays = dict[str, np.ndarray]
Answer = tuple[Arrays, str]
"""The arrays that are judged, and the pipeline's status."""


@dataclass(frozen=True)
class Entry:
    """A row of the table: how it is called, the options it fixes, those a user may vary, those without which it is nothing.

    `select` picks from the answer what is judged; the kept prediction is the whole answer.
    """

    call: Callable[..., Answer]
    fixed: Mapping[str, object] = field(default_factory=dict)
    varied: tuple[str, ...] = ()
    dense: bool = False
    needs: tuple[str, ...] = ()
    select: Callable[[Arrays], Arrays] | None = None


@dataclass(frozen=True)
class Method:
    """A method with all its options set; `label` is what tables call it."""

    label: str
    call: Callable[..., Answer]
    options: Mapping[str, object] = field(default_factory=dict)
    dense: bool = False
    select: Callable[[Arrays], Arrays] | None = None

    def judged(self, arrays: Arrays) -> Arrays:
        """What of an answer is judged."""
        return arrays if self.select is None else self.select(arrays)

    def failure(self, sample: Sample) -> Arrays:
        """What counts as the answer where the method crashed: nothing known."""
        if self.dense:
            return {"uv": np.full((2, *prepared_sizes(sample)[0]), np.nan, np.float32)}
        none = np.full((3, 3), np.nan)
        return {"H": none, "R": none, "t": none[0], "F": none, "points0": np.zeros((0, 2)), "points1": np.zeros((0, 2))}

    def predict(self, image0: Image, image1: Image, sample: Sample, *, device: str, seed: int) -> Answer:
        """Run the pipeline on the pair; `sample` gives it what it may know besides the images (the intrinsics)."""
        return self.call(image0, image1, sample, device=device, seed=seed, **self.options)


def _flow(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.flow import flow

    return _dense(flow(image0, image1, **_for_pipelines(options))), "ok"  # type: ignore[arg-type]


def _farneback(image0: Image, image1: Image, sample: Sample, **_: object) -> Answer:
    """OpenCV's Farneback with the parameters of its documentation's example; image1 is brought to image0's size for it."""
    import cv2
    import torch

    from flowkit.geometry.grids import resize_flow
    from flowkit.pipelines.prepare import resized

    size, size1 = image0.grey8.shape, image1.grey8.shape
    found = cv2.calcOpticalFlowFarneback(image0.grey8, resized(image1.grey8, size), None, 0.5, 3, 15, 3, 5, 1.2, 0)
    uv = resize_flow(torch.from_numpy(found).permute(2, 0, 1), size, size, size1)
    return {"uv": uv.numpy().astype(np.float32)}, "ok"


def _align(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.align import align

    found = align(image1, image0, **_for_pipelines(options))  # type: ignore[arg-type]
    return _dense(found.flow), str(found.status)


def _homography(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.homography import homography

    found = homography(image0, image1, **_for_pipelines(options))  # type: ignore[arg-type]
    return {"H": _or_nan(found.matrix, (3, 3))} | _sparse(found.matches), str(found.status)


def _pose(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.pipelines.pose import pose

    assert isinstance(sample, PoseSample)
    found = pose(image0, image1, sample.K0, sample.K1, **_for_pipelines(options))  # type: ignore[arg-type]
    arrays = {"R": _or_nan(found.R, (3, 3)), "t": _or_nan(found.t, (3,))}
    return arrays | _sparse(found.matches), str(found.status)


def _pose_opencv(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    """E as in the protocol of CAPS: OpenCV's RANSAC with its defaults, and one camera, the mean of both, for both images.

    Both rotations that E stands for are answered; the better one counts.
    """
    import cv2

    from flowkit.pipelines.match import match

    assert isinstance(sample, PoseSample)
    matches = match(image0, image1, **_for_pipelines(options))  # type: ignore[arg-type]
    K = (sample.K0 + sample.K1) / 2
    points0, points1 = matches.points0.astype(np.float64), matches.points1.astype(np.float64)
    arrays = {"R": np.full((3, 3), np.nan), "R_other": np.full((3, 3), np.nan), "t": np.full(3, np.nan)}
    if len(matches) < _FEWEST_FOR_E:
        return arrays | _sparse(matches), "too_few_matches"
    cv2.setRNGSeed(int(str(options.get("seed", 0))))
    focal, centre = (K[0, 0] + K[1, 1]) / 2, (float(K[0, 2]), float(K[1, 2]))
    E, _ = cv2.findEssentialMat(points0, points1, focal=focal, pp=centre, method=cv2.RANSAC)
    if E is None or E.shape != (3, 3):
        return arrays | _sparse(matches), "degenerate"
    R, R_other, t = cv2.decomposeEssentialMat(E)
    return {"R": R, "R_other": R_other, "t": t.ravel()} | _sparse(matches), "ok"


def _two_view(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.evaluation.two_view import two_view

    assert isinstance(sample, PoseSample)
    found, status = two_view(image0, image1, sample, **_for_pipelines(options))  # type: ignore[arg-type]
    R, t = found or (None, None)
    return {"R": _or_nan(R, (3, 3)), "t": _or_nan(t, (3,))}, status


def _match(image0: Image, image1: Image, sample: Sample, **options: object) -> Answer:
    from flowkit.estimators.magsac import fit_fundamental
    from flowkit.pipelines.match import match

    matches = match(image0, image1, **_for_pipelines(options))  # type: ignore[arg-type]
    fit = fit_fundamental(matches.points0, matches.points1, seed=int(str(options.get("seed", 0))))
    return _sparse(matches) | {"F": _or_nan(fit.model, (3, 3))}, "ok" if len(matches) else "too_few_matches"


def _dense(flow: Flow) -> Arrays:
    arrays = {"uv": flow.uv.astype(np.float32)}
    if flow.confidence is not None:
        arrays["confidence"] = flow.confidence.astype(np.float16)
    return arrays


def _sparse(matches: Matches) -> Arrays:
    arrays = {"points0": matches.points0.astype(np.float32), "points1": matches.points1.astype(np.float32)}
    arrays["features"] = np.array([len(matches.keypoints0), len(matches.keypoints1)])
    return arrays if matches.stage is None else arrays | {"stage": matches.stage}


def _first_stage(arrays: Arrays) -> Arrays:
    """The matches that guided matching found near the flow's prediction."""
    if "stage" not in arrays:  # a failure has none
        return arrays
    first = arrays["stage"] == 1
    return arrays | {name: arrays[name][first] for name in ("points0", "points1")}


def _for_pipelines(options: dict[str, object]) -> dict[str, object]:
    """Options as the pipelines want them: files by their paths; the guide "none", for comparison, is none."""
    options = {name: value for name, value in options.items() if (name, value) != ("guide", UNGUIDED)}
    if isinstance(guide := options.get("guide"), NamedFiles):
        options["guide"] = "=".join(map(str, (guide.files[0][0], guide.files[0][1].path)))
    if isinstance(files := options.get("feature_weights"), NamedFiles):
        options["feature_weights"] = {name: file.path for name, file in files.files}
    if isinstance(weights := options.get("weights"), WeightsFile):
        options["weights"] = weights.path
    return options


def _or_nan(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan) if array is None else np.asarray(array, np.float64).reshape(shape)


@dataclass(frozen=True)
class WeightsFile:
    """A weights file by name and content, so that kept predictions of another file under the same name are not used."""

    path: Path
    sha256: str

    def __str__(self) -> str:
        return self.path.name


@dataclass(frozen=True)
class NamedFiles:
    """Weights files by what they are for: features, or a guide."""

    files: tuple[tuple[str, WeightsFile], ...]

    def __str__(self) -> str:
        return "+".join(f"{name}={file}" for name, file in self.files)


UNGUIDED = "none"
_FEWEST_FOR_E = 5
_NETWORK = ("weights", "iterations", "precision")
_MATCHER = ("features", "feature_weights", "max_keypoints", "guide")
_ALIGN = ("model", "features", "feature_weights", "effort", *_NETWORK)
_TWO_VIEW_DENSE = ("model", "features", "feature_weights", *_NETWORK)
_DENSE = {
    "dis": Entry(_flow, {"model": "dis", "preset": "fine"}, dense=True),
    "dis-fast": Entry(_flow, {"model": "dis", "preset": "fast"}, dense=True),
    "farneback": Entry(_farneback, dense=True),
    "dis+matches": Entry(_flow, {"model": "dis", "preset": "fine", "init": "matches"}, ("features",), dense=True),
    "flow": Entry(_flow, {}, ("model", "preset", "init", "features", *_NETWORK), dense=True),
    "align": Entry(_align, {}, _ALIGN, dense=True),
    "align-multi-h": Entry(_align, {"multi_h": True}, (*_ALIGN, "rules"), dense=True),
}
METHODS: dict[str, dict[str, Entry]] = {
    "flow": _DENSE,
    "homography": {"homography": Entry(_homography, {}, ("features", "feature_weights", "effort", "guide"))},
    "pose": {
        "pose": Entry(_pose, {}, ("features", "feature_weights", "guide")),
        "pose-dense": Entry(_pose, {"dense": True}, ("model", "features", *_NETWORK)),
        "pose-opencv": Entry(_pose_opencv, {}, _MATCHER),
        "two-view": Entry(_two_view, {}, _MATCHER),
        "two-view-opencv": Entry(_two_view, {"opencv": True}, _MATCHER),
        "two-view-dense": Entry(_two_view, {"dense": True}, _TWO_VIEW_DENSE),
        "two-view-dense-opencv": Entry(_two_view, {"dense": True, "opencv": True}, _TWO_VIEW_DENSE),
    },
    "matching": {
        "match": Entry(_match, {}, _MATCHER),
        "match-stage-1": Entry(_match, {}, _MATCHER, needs=("guide",), select=_first_stage),
        **_DENSE,
    },
}
"""Task -> name -> how it is called. The first of each task is its default."""
_FLAGS = {"iterations": "iters", "max_keypoints": "max-keypoints", "feature_weights": "feature-weights"}


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
                f"--{_FLAGS.get(option, option)} means nothing to {', '.join(chosen)}; "
                "leave it out or choose another --method"
            )
    methods = {}
    for name in chosen:
        entry = table[name]
        known_options = [option for option in varied if option in entry.varied]
        for values in product(*(varied[option] for option in known_options)):
            label = " ".join([name, *map(str, values)])
            options = {**entry.fixed, **dict(zip(known_options, values, strict=True))}
            if all(options.get(option, UNGUIDED) != UNGUIDED for option in entry.needs):
                methods[label] = Method(label, entry.call, options, entry.dense, entry.select)
        if not any(label.split()[0] == name for label in methods):
            raise UsageError(f"--method {name}: needs {' and '.join('--' + option for option in entry.needs)}")
    return list(methods.values())
