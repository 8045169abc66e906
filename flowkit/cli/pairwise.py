"""What all verbs on two images share: one pair given by name, or a list of pairs as a batch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flowkit.cli import report
from flowkit.cli.options import Batch, Output, parse_shard
from flowkit.errors import EXIT_NO_GEOMETRY, EXIT_OK, UsageError

if TYPE_CHECKING:
    import numpy as np

    from flowkit.cli.batch import Ledger
    from flowkit.pipelines.outputs import Outcome
    from flowkit.types import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One pair to work on: where its images are (or they themselves), and where its results go.

    `rotation0` and `rotation1` are SuperGlue's: how many quarter turns counter-clockwise bring the image upright. `K0` and
    `K1` are of the images as stored, before that.
    """

    image0: Path | Image
    image1: Path | Image
    directory: Path
    name0: str = ""
    name1: str = ""
    rotation0: int = 0
    rotation1: int = 0
    K0: np.ndarray | None = None
    K1: np.ndarray | None = None


@dataclass(frozen=True)
class Inputs:
    """A pair as loaded and turned upright, with the intrinsics that came with it (turned along)."""

    image0: Image
    image1: Image
    rotation0: int = 0
    rotation1: int = 0
    K0: np.ndarray | None = None
    K1: np.ndarray | None = None


@dataclass(frozen=True)
class Job:
    """What to do with each pair. `flowkit.cli.<verb>` has `solve(inputs, directory, job) -> Outcome`, which does it."""

    verb: str
    method: Mapping[str, Any]
    """Keyword arguments of the pipeline."""
    writing: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the writer."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """The options that shape results, as JSON: a batch refuses to go on in a folder made with others."""
    arguments: tuple[str, ...] = ()
    """The command line, for provenance."""
    overwrite: bool = False

    def solve(self, task: Task) -> Outcome:
        """Load the pair, do the verb, write the results."""
        from flowkit.pipelines.outputs import result_folder

        inputs = load(task)
        with result_folder(task.directory, self.verb, self.overwrite):
            return import_module(f"flowkit.cli.{self.verb}").solve(inputs, task.directory, self)


def job(verb: str, method: Mapping[str, Any], writing: Mapping[str, Any] | None = None) -> Job:
    """The job of a verb; where it runs is left out of what must stay the same within a batch."""
    writing = writing or {}
    plain = {key: _plain(value) for key, value in {**method, **writing}.items() if key != "device"}
    return Job(verb, dict(method), dict(writing), plain, command_line())


def command_line() -> tuple[str, ...]:
    """The arguments of this run, for provenance."""
    return tuple(sys.argv[1:])


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    return (
        [_plain(item) for item in value] if isinstance(value, tuple | list) or hasattr(value, "tolist") else str(value)
    )


def run(job: Job, image0: Path | None, image1: Path | None, output: Output, batch: Batch) -> None:
    """Do the job for two images or for a list, report, and leave with the exit code."""
    job = replace(job, overwrite=output.overwrite)
    if batch.pairs is not None:
        if image0 is not None:
            raise UsageError("give two images or --pairs FILE, not both")
        run_list(job, batch.pairs, output, batch)
    batch.refuse_alone()
    if image0 is None or image1 is None:
        raise UsageError(f"two images are needed (or --pairs FILE); see `flowkit {job.verb} --help`")
    finish(one_pair(job, image0, image1, output), output)


def one_pair(job: Job, image0: Path, image1: Path, output: Output) -> Outcome:
    """Two images named on the command line."""
    from flowkit.pipelines.outputs import refuse_existing

    directory = output.output or Path(f"{image0.stem}_{image1.stem}")
    if not output.overwrite:
        refuse_existing(directory, job.verb)
    return job.solve(Task(image0, image1, directory))


def finish(outcome: Outcome, output: Output) -> None:
    """Show the outcome and leave with its exit code."""
    from flowkit.types import Status

    report.show(outcome, as_json=output.json, quiet=output.quiet)
    raise typer.Exit(EXIT_OK if outcome.status is Status.OK else EXIT_NO_GEOMETRY)


def run_list(job: Job, pairs: Path, output: Output, batch: Batch) -> None:
    """The pairs of a list, this shard's part of them."""
    if output.output is None:
        raise UsageError("--pairs needs --output DIR, the folder for one folder per pair")
    part, parts = parse_shard(batch.shard)

    from flowkit.cli import batch as batches
    from flowkit.io.pairs import read_pairs

    root = batch.image_root or pairs.parent
    tasks = batches.tasks_of(read_pairs(pairs), root, output.output)[part - 1 :: parts]
    ledger = batches.Ledger(job.verb, (part, parts), len(tasks))
    batches.run(
        job,
        tasks,
        ledger,
        output.output,
        overwrite=output.overwrite,
        jobs=min(batch.jobs, len(tasks) or 1),
        quiet=output.quiet,
    )
    finish_batch(ledger, output.output, output)


def finish_batch(ledger: Ledger, directory: Path, output: Output) -> None:
    """Say what became of a batch, and leave with 0 or 6."""
    if output.json:
        report.print_json(ledger.record)
    elif not output.quiet:
        record = ledger.record
        print(
            f"{ledger.verb}: {record['computed']} computed, {record['skipped']} already there, {record['failed']} failed"
        )
        print(f"  {directory / ledger.path}")
    raise typer.Exit(ledger.exit_code)


def load(task: Task) -> Inputs:
    """Both images, checked and turned upright, and their intrinsics turned along."""
    from flowkit.pipelines.prepare import load_pair

    image0, image1 = load_pair(task.image0, task.image1)
    for image in (image0, image1):
        for note in image.notes:
            log.info("%s: %s", image.name, note)
    K0, K1 = (
        None if K is None else turn_intrinsics(K, image.size, turns)
        for K, image, turns in ((task.K0, image0, task.rotation0), (task.K1, image1, task.rotation1))
    )
    turned0, turned1 = turn_image(image0, task.rotation0), turn_image(image1, task.rotation1)
    return Inputs(turned0, turned1, task.rotation0, task.rotation1, K0, K1)


def turn_image(image: Image, turns: int) -> Image:
    """The image after that many quarter turns counter-clockwise, with a note: results are in the turned image's pixels."""
    import numpy as np

    from flowkit.types import Image

    if turns % 4 == 0:
        return image
    note = f"turned {turns % 4 * 90} degrees counter-clockwise, as the list of pairs says; results are in the turned picture"
    pixels = np.ascontiguousarray(np.rot90(image.pixels, turns % 4))
    return Image(pixels, image.path, (*image.notes, note), image.focal_35mm)


def turn_intrinsics(K: np.ndarray, size: tuple[int, int], turns: int) -> np.ndarray:
    """K of an image of that (height, width) after quarter turns counter-clockwise: (x, y) -> (y, width - 1 - x) each."""
    import numpy as np

    _, width = size
    for _ in range(turns % 4):
        turn = np.array([[0.0, 1, 0], [-1, 0, width - 1], [0, 0, 1]])
        swap = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # the camera turns about its axis along with the picture
        K = turn @ K @ swap
        size = size[::-1]
        _, width = size
    return K
