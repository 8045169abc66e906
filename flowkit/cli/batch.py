"""Many pairs in one run: names of their folders, resume, shards, workers, progress and the manifest of failures.

A pair is done when its JSON, which is always written last, is whole. So a run that is killed at any moment loses the pairs
in flight, and the same command takes up where it ended.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from flowkit.cli import report
from flowkit.cli.pairwise import Job, Task
from flowkit.cli.progress import Progress
from flowkit.errors import EXIT_NO_GEOMETRY, EXIT_OK, EXIT_PARTIAL_BATCH, UsageError
from flowkit.types import Status

if TYPE_CHECKING:
    from flowkit.io.pairs import Pair

log = logging.getLogger(__name__)

_MAX_NAME = 180
"""Characters; file systems allow 255 bytes a name."""


@dataclass
class Ledger:
    """What became of the pairs of one run; its `record` is the manifest failures.json."""

    verb: str
    shard: tuple[int, int] = (1, 1)
    total: int | None = None
    computed: int = 0
    skipped: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """Name of the manifest; shards that write to one folder have one each."""
        part, parts = self.shard
        return "failures.json" if parts == 1 else f"failures-{part}-of-{parts}.json"

    @property
    def exit_code(self) -> int:
        """0, or 6 when any pair failed or has no reliable geometry."""
        return EXIT_PARTIAL_BATCH if self.failures else EXIT_OK

    @property
    def record(self) -> dict[str, Any]:
        """As JSON."""
        done = self.computed + self.skipped
        return {
            "kind": "batch",
            "version": 1,
            "verb": self.verb,
            "shard": "{}/{}".format(*self.shard),
            "pairs": done if self.total is None else self.total,
            "computed": self.computed,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "failures": self.failures,
        }

    def add(self, task: Task, fault: report.Fault | None, *, skipped: bool = False) -> None:
        """Enter one pair; `fault` None means that all is well."""
        self.computed += not skipped
        self.skipped += skipped
        if fault is not None:
            self.failures.append(
                {
                    "image0": task.name0,
                    "image1": task.name1,
                    "folder": task.directory.name,
                    "kind": fault.kind,
                    "message": fault.message,
                    "exit_code": fault.exit_code,
                }
            )
            log.info("%s: %s", task.directory.name, fault.message)

    def write(self, output: Path) -> None:
        """Write the manifest, sorted, so that the order in which workers finish leaves no trace."""
        from flowkit.io.atomic import write_text

        self.failures.sort(key=lambda failure: failure["folder"])
        write_text(output / self.path, json.dumps(self.record, indent=2, ensure_ascii=False) + "\n")


def run(
    job: Job,
    tasks: Iterable[Task],
    ledger: Ledger,
    output: Path,
    *,
    overwrite: bool,
    jobs: int = 1,
    quiet: bool = False,
) -> None:
    """Work through `tasks` and leave the manifest in `output`, whatever happens.

    Wrong options, missing weights and a disk that refuses end the run at once: they would fail every other pair, too.
    """
    remember_options(job, output, overwrite)
    with Progress(ledger, quiet=quiet) as progress:
        try:
            for task, fault in _results(job, _to_do(tasks, job, ledger, progress, overwrite), jobs):
                ledger.add(task, fault)
                progress.update()
                if fault is not None and fault.kind in ("UsageError", "WeightsError", "OutputError"):
                    raise report.BatchStopped(fault)
        finally:
            ledger.write(output)


def _to_do(tasks: Iterable[Task], job: Job, ledger: Ledger, progress: Progress, overwrite: bool) -> Iterator[Task]:
    """The tasks without those that an earlier run finished, which go into the ledger."""
    for task in tasks:
        status = None if overwrite else finished(task.directory, job.verb)
        if status is None:
            yield task
        else:
            ledger.add(task, status_fault(status), skipped=True)
            progress.update()


def _results(job: Job, tasks: Iterator[Task], jobs: int) -> Iterator[tuple[Task, report.Fault | None]]:
    if jobs == 1:
        for task in tasks:
            yield task, attempt(task, job)
        return
    from flowkit.cli.workers import WorkerDied, run_in_workers

    work, setup = partial(attempt, job=job), partial(report.start, *report.levels())
    for task, result in run_in_workers(work, tasks, jobs, setup):
        if isinstance(result, WorkerDied):
            result = report.Fault(
                "WorkerDied", f"{result}; try fewer --jobs or a smaller --resize", report.EXIT_INTERNAL
            )
        yield task, result


def attempt(task: Task, job: Job) -> report.Fault | None:
    """Solve one pair and say what went wrong, if anything did."""
    try:
        return status_fault(job.solve(task).status)
    except Exception as error:
        log.debug("%s", task.directory.name, exc_info=error)
        return report.explain(error)


def status_fault(status: Status) -> report.Fault | None:
    """How the manifest lists a pair that has its JSON but no geometry."""
    if status is Status.OK:
        return None
    return report.Fault(str(status), f"no reliable geometry: {status.replace('_', ' ')}", EXIT_NO_GEOMETRY)


def finished(directory: Path, verb: str) -> Status | None:
    """The status of a pair whose JSON and files are all there, None if it must be computed (again)."""
    from flowkit.io.results import is_complete, read_record
    from flowkit.pipelines.outputs import FILES

    file = directory / FILES[verb][-1]
    return read_record(file).status if is_complete(file) else None


def remember_options(job: Job, output: Path, overwrite: bool) -> None:
    """Keep the options beside the results, and refuse to fill up a folder made with others."""
    from flowkit.io.atomic import write_text

    file = output / f"batch-{job.verb}.json"
    try:
        before = json.loads(file.read_text("utf-8"))["options"]
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    if before is not None and before != job.plain and not overwrite:
        changed = sorted(key for key in {*before, *job.plain} if before.get(key) != job.plain.get(key))
        name = changed[0]
        raise UsageError(
            f"{output}: holds results made with other options ({name}: {before.get(name)}, now {job.plain.get(name)}); "
            "choose another --output, or --overwrite to compute everything anew"
        )
    if before != job.plain:
        write_text(file, json.dumps({"verb": job.verb, "options": job.plain}, indent=2) + "\n")


def tasks_of(pairs: Iterable[Pair], root: Path, output: Path) -> list[Task]:
    """One task for each different pair of a list; the folders' names depend on the whole list, not on shards."""
    unique: dict[tuple, Pair] = {}
    count = 0
    for pair in pairs:
        unique.setdefault((pair.name0, pair.name1, pair.rotation0, pair.rotation1), pair)
        count += 1
    if len(unique) < count:
        log.warning("%d repeated pairs of the list are computed once", count - len(unique))
    names = folder_names(list(unique))
    return [
        Task(
            name0=pair.name0,
            name1=pair.name1,
            image0=root / pair.name0,
            image1=root / pair.name1,
            directory=output / name,
            rotation0=pair.rotation0,
            rotation1=pair.rotation1,
            K0=pair.K0,
            K1=pair.K1,
        )
        for name, pair in zip(names, unique.values(), strict=True)
    ]


def folder_names(keys: list[tuple]) -> list[str]:
    """A folder name for each pair: "a/1.png", "b/2.png" -> "a-1_b-2".

    Keys begin with the two names. Names that are too long, or would collide (also where case does not count), get a hash of
    their key, all of them, so that it does not matter which comes first.
    """
    plain = [f"{flat_name(name0)}_{flat_name(name1)}" for name0, name1, *_ in keys]
    count = Counter(name.casefold() for name in plain)
    return [
        name
        if count[name.casefold()] == 1 and len(name.encode()) <= _MAX_NAME
        else f"{_shortened(name)}_{_digest(key)}"
        for name, key in zip(plain, keys, strict=True)
    ]


def flat_name(name: str) -> str:
    """ "a/1.png" -> "a-1"."""
    path = PurePath(name)
    parts = [part for part in path.with_suffix("").parts if part not in (path.anchor, "..", ".")]
    return "-".join(parts)


def _shortened(name: str) -> str:
    return name.encode()[:_MAX_NAME].decode(errors="ignore")


def _digest(key: tuple) -> str:
    return hashlib.sha256(repr(key).encode()).hexdigest()[:8]
