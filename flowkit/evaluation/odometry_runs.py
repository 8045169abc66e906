"""Odometry of whole sequences with true poses: each method on each, judged frame by frame and as a trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flowkit.datasets.posed_sequence import PosedSequence
from flowkit.evaluation.odometry import absolute_errors, kitti_errors, scaled_to, step_errors
from flowkit.evaluation.protocols import PairResult, Row

if TYPE_CHECKING:
    from flowkit.pipelines.frame_links import Linker
    from flowkit.pipelines.odometry import Step

TASK = "odometry"
SCALES = ("truth", "chained")


@dataclass(frozen=True)
class OdometryMethod:
    """A feature or a dense model, by name, with what fits the poses; `model` says which of the two the name is."""

    name: str
    estimator: str
    model: bool

    @property
    def label(self) -> str:
        """As tables call it."""
        return f"{self.name} {self.estimator}"


@dataclass(frozen=True)
class Run:
    """One method on one sequence: the row of the table, and every pair."""

    row: Row
    results: tuple[PairResult, ...]


def odometry_methods(names: Sequence[str], estimators: Sequence[str] = ()) -> list[OdometryMethod]:
    """Every name (a dense model's, else features') with every estimator; by default essential for models, else poselib.

    UsageError for a name or an estimator that is unknown.
    """
    from flowkit.errors import UsageError
    from flowkit.models.registry import MODELS
    from flowkit.pipelines.match import chosen_features
    from flowkit.pipelines.odometry import ESTIMATORS

    if unknown := [name for name in estimators if name not in ESTIMATORS]:
        raise UsageError(f"--estimator {unknown[0]}: unknown; use one of {', '.join(ESTIMATORS)}")
    methods = []
    for name in names:
        model = name in MODELS
        if not model:
            chosen_features(name)
        for estimator in estimators or (["essential"] if model else ["poselib"]):
            methods.append(OdometryMethod(name, estimator, model))
    return methods


def measure(
    sequence: PosedSequence,
    method: OdometryMethod,
    *,
    scale: str = "truth",
    device: str = "auto",
    seed: int = 0,
    limit: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Run:
    """Follow the sequence (its first `limit` pairs) and judge it; `advance` is called after every pair.

    With the `scale` of the truth each step is as long as the true one, as in the paper. `chained`: the lengths are relative,
    and the whole trajectory gets the one scale that fits best.
    """
    from flowkit.io.images import read_image
    from flowkit.pipelines.odometry import follow, trajectory

    count = len(sequence.frames) if limit is None else min(len(sequence.frames), limit + 1)
    frames = ((i, path.name, read_image(path)) for i, path in enumerate(sequence.frames[:count]))
    steps: list[Step] = []
    for step in follow(
        frames,
        sequence.K,
        _linker(method, device, seed),
        estimator=method.estimator,
        distortion=sequence.distortion,
        truth=(lambda frame: sequence.poses[frame.place]) if scale == "truth" else None,
        seed=seed,
    ):
        steps.append(step)
        advance()
    truth, estimated = sequence.poses[:count], trajectory(steps)
    if scale != "truth":
        estimated = scaled_to(truth, estimated)
    results = tuple(_results(sequence, method, steps, step_errors(truth, estimated)))
    values = _values(results, truth, estimated)
    return Run(Row(TASK, sequence.dataset, method.label, values, sequence.name), results)


def _linker(method: OdometryMethod, device: str, seed: int) -> Linker:
    from flowkit.pipelines.frame_links import FeatureLinker, FlowLinker

    if method.model:
        return FlowLinker(model=method.name, device=device, seed=seed)
    return FeatureLinker(features=method.name, device=device, seed=seed)


def _results(
    sequence: PosedSequence, method: OdometryMethod, steps: Sequence[Step], errors: Sequence[dict[str, float]]
) -> Iterator[PairResult]:
    for i, (step, error) in enumerate(zip(steps, errors, strict=True)):
        scores = dict(error)
        if not step.failed:
            scores["rotation_error"] = error["rpe_rotation"]
        if step.t is None:
            scores["translation_error"] = float("nan")
        name = f"{sequence.name}/{step.frame0.name}-{step.frame1.name}"
        status = "ok" if not step.failed else str(step.status)
        yield PairResult(TASK, sequence.dataset, name, method.label, status, scores, step.seconds, i == 0, False)


def _values(results: Sequence[PairResult], truth: np.ndarray, estimated: np.ndarray) -> dict[str, float]:
    """What the table shows. Angles of single pairs are means over those with a motion; `failed` counts the others."""

    def mean(key: str) -> float:
        values = [r.scores[key] for r in results if key in r.scores and not np.isnan(r.scores[key])]
        return float(np.mean(values)) if values else float("nan")

    later = [result.seconds for result in results if not result.first]
    return {
        "pairs": len(results),
        "failed": sum(result.status != "ok" for result in results),
        **kitti_errors(truth, estimated),
        "rpe_translation": mean("rpe_translation"),
        "rpe_rotation": mean("rpe_rotation"),
        "rotation_error_mean": mean("rotation_error"),
        "translation_error_mean": mean("translation_error"),
        **absolute_errors(truth, estimated),
        "seconds": float(np.median(later or [results[0].seconds])),
        "seconds_first": results[0].seconds,
    }
