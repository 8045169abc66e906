"""Running methods over samples: predict once (or take it from the cache), judge, gather rows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flowkit.datasets.samples import Group, Sample
from flowkit.errors import FlowkitError, GeometryError, UsageError
from flowkit.evaluation.cache import Cache, Prediction, prediction_key
from flowkit.evaluation.methods import Method
from flowkit.evaluation.preparation import prepared_images
from flowkit.evaluation.scores import TASKS

ERROR = "error"
"""The status of a pair on which the method raised an exception."""
ALL = "all"
"""The name of the row over every data set of a task."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PairResult:
    """One method on one pair. `seconds` exclude reading the images; `first` pairs include loading the method."""

    task: str
    dataset: str
    sample: str
    method: str
    status: str
    scores: Mapping[str, float]
    seconds: float
    first: bool
    cached: bool
    message: str = ""
    group: Group | None = None
    part: str = ""


@dataclass(frozen=True)
class Row:
    """One method on one data set, on a group of its pairs, or on `all` data sets: what the table shows."""

    task: str
    dataset: str
    method: str
    values: Mapping[str, float]
    group: str = ""


def run(
    task: str,
    samples: Sequence[Sample],
    methods: Sequence[Method],
    *,
    cache: Cache,
    device: str = "auto",
    seed: int = 0,
    limit: int | None = None,
) -> Iterator[PairResult]:
    """Every method on every sample, one method after the other; at most `limit` samples of each data set.

    A pair on which a method gives up or crashes scores a failure. What concerns every pair alike (weights that are missing,
    options that contradict each other, an unreadable image) is raised.
    """
    adapted = [_adapt(task, sample) for sample in _first_of_each(samples, limit)]
    for method in methods:
        first = True
        for sample in adapted:
            key = prediction_key(method, sample, device=device, seed=seed)
            prediction, message = cache.load(key), ""
            cached = prediction is not None
            if prediction is None:
                prediction, message = _predict(method, sample, device, seed, first)
                first = False
                if prediction.status != ERROR:
                    cache.store(key, prediction)
            scores = TASKS[task].judge(sample, method.judged(prediction.arrays))
            yield PairResult(
                task,
                sample.dataset,
                sample.name,
                method.label,
                prediction.status,
                scores,
                prediction.seconds,
                prediction.first,
                cached,
                message,
                sample.group,
                sample.part,
            )


def count(samples: Sequence[Sample], methods: Sequence[Method], limit: int | None = None) -> int:
    """How many results `run` will yield."""
    return len(methods) * len(_first_of_each(samples, limit))


def summarise(task: str, results: Sequence[PairResult]) -> list[Row]:
    """Rows in the order the results came: for each data set the groups of its pairs and the whole of it, by method.

    With several data sets there is one over all of them. A data set with one group only has no row for it.
    """
    datasets = list(dict.fromkeys(result.dataset for result in results))
    rows = []
    for dataset in datasets:
        mine = [result for result in results if result.dataset == dataset]
        groups = list(dict.fromkeys(result.group for result in mine if result.group is not None))
        if len(groups) > 1:
            for group in groups:
                rows += _rows(task, dataset, [result for result in mine if result.group == group], group.name)
        rows += _rows(task, dataset, mine)
    return rows + _rows(task, ALL, results) if len(datasets) > 1 else rows


def _rows(task: str, dataset: str, results: Sequence[PairResult], group: str = "") -> list[Row]:
    """A row for each method."""
    rows = []
    for method in dict.fromkeys(result.method for result in results):
        mine = [result for result in results if result.method == method]
        rows.append(Row(task, dataset, method, _counts(mine) | _values(task, mine), group))
    return rows


def _values(task: str, results: Sequence[PairResult]) -> dict[str, float]:
    """What the pairs amount to; where all are in equal groups or parts, a mean over pairs is the mean over those' means."""
    values = TASKS[task].summarise([result.scores for result in results])
    if divided := _divided(results):
        parts = [_values(task, part) for part in divided]
        values |= {key: float(np.mean([part[key] for part in parts])) for key in TASKS[task].means if key in values}
    return values


def _divided(results: Sequence[PairResult]) -> list[list[PairResult]]:
    """The results of each equal group, or of each part of the one group that all are in; empty where nothing is divided."""
    groups = dict.fromkeys((result.dataset, result.group) for result in results)
    if len(groups) > 1 and not all(group is not None and group.equal for _, group in groups):
        return []
    divided: dict[object, list[PairResult]] = {}
    for result in results:
        divided.setdefault((result.dataset, result.group) if len(groups) > 1 else result.part, []).append(result)
    return list(divided.values()) if len(divided) > 1 else []


def _counts(results: Sequence[PairResult]) -> dict[str, float]:
    later = [result.seconds for result in results if not result.first]
    first = [result.seconds for result in results if result.first]
    return {
        "pairs": len(results),
        "failed": sum(result.status != "ok" for result in results),
        "seconds": float(np.median(later or first)),
        "seconds_first": max(first, default=float("nan")),
    }


def _predict(method: Method, sample: Sample, device: str, seed: int, first: bool) -> tuple[Prediction, str]:
    images = prepared_images(sample)
    started = time.perf_counter()
    try:
        arrays, status = method.predict(*images, sample, device=device, seed=seed)
    except FlowkitError as error:
        if not isinstance(error, GeometryError):
            raise
        arrays, status, message = method.failure(sample), "no_geometry", str(error)
    except Exception as error:
        _log.exception("%s on %s/%s", method.label, sample.dataset, sample.name)
        arrays, status, message = method.failure(sample), ERROR, f"{type(error).__name__}: {error}"
    else:
        message = ""
    return Prediction(arrays, status, time.perf_counter() - started, first), message


def _adapt(task: str, sample: Sample) -> Sample:
    adapt = TASKS[task].adapt.get(type(sample))
    if adapt is None:
        raise UsageError(f"{sample.dataset}: has no ground truth for {task}; choose another --dataset or another task")
    return adapt(sample)


def _first_of_each(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    if limit is None:
        return list(samples)
    taken: dict[str, int] = {}
    kept = []
    for sample in samples:
        taken[sample.dataset] = taken.get(sample.dataset, 0) + 1
        if taken[sample.dataset] <= limit:
            kept.append(sample)
    return kept
