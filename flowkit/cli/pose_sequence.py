"""`flowkit pose --sequence`: frame-to-frame odometry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from flowkit.cli import pairwise, report
from flowkit.cli.cameras import Cameras
from flowkit.cli.cameras import intrinsics as intrinsics_of
from flowkit.cli.options import Output
from flowkit.errors import EXIT_NO_GEOMETRY, EXIT_OK, InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from flowkit.io.sequences import Sequence
    from flowkit.pipelines.frame_links import Linker
    from flowkit.pipelines.odometry import Frame

_PANEL = "Odometry (a sequence)"


class Estimator(StrEnum):
    """What fits a relative pose to matches."""

    ESSENTIAL = "essential"
    POSELIB = "poselib"


@dataclass(frozen=True)
class Odometry:
    """A sequence whose consecutive frames are chained to a trajectory."""

    sequence: Annotated[
        Path | None,
        Option(metavar="FOLDER|VIDEO", help="The trajectory through consecutive frames.", rich_help_panel=_PANEL),
    ] = None
    ground_truth: Annotated[
        Path | None,
        Option(metavar="FILE", help="True poses (KITTI, TUM): scale, picture.", rich_help_panel=_PANEL),
    ] = None
    every: Annotated[int, Option(min=1, metavar="N", help="Only every N-th frame.", rich_help_panel=_PANEL)] = 1
    frames: Annotated[
        str | None,
        Option(metavar="A:B", help="Only frames A to before B, the first is 0.", rich_help_panel=_PANEL),
    ] = None
    estimator: Annotated[
        Estimator | None,
        Option(help="Of the pose; essential for --model, else poselib.", rich_help_panel=_PANEL),
    ] = None
    distortion: Annotated[
        str | None,
        Option(metavar="k1,k2[,p1,p2[,k3]]", help="Of the lens, as OpenCV's.", rich_help_panel=_PANEL),
    ] = None

    def refuse_alone(self) -> None:
        """UsageError when an option that needs --sequence is given without it."""
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default and self.sequence is None:
                raise UsageError(f"--{each.name.replace('_', '-')} {value}: only together with --sequence")


def run(
    odometry: Odometry,
    cameras: Cameras,
    threshold: float | None,
    linking: Mapping[str, Any],
    output: Output,
) -> None:
    """Follow the sequence, write what was found, also when it was interrupted, and leave with 0 or 5.

    `linking` are the options of a `FlowLinker`, if a "model" is among them, else of a `FeatureLinker`.
    """
    from flowkit.cli.batch import Ledger
    from flowkit.cli.progress import Progress
    from flowkit.io.sequences import open_sequence
    from flowkit.io.trajectories import read_trajectory
    from flowkit.pipelines import odometry as pipeline
    from flowkit.pipelines.odometry_outputs import Followed, write_odometry_results
    from flowkit.pipelines.outputs import refuse_existing, result_folder
    from flowkit.pipelines.pose import default_threshold
    from flowkit.types import Status

    assert odometry.sequence is not None
    start, stop = _range(odometry.frames)
    distortion = distortion_of(odometry.distortion)
    sequence = open_sequence(odometry.sequence)
    directory = output.output or Path(f"{odometry.sequence.resolve().stem}_odometry")
    if not output.overwrite:
        refuse_existing(directory, "odometry")
    truth = None
    if odometry.ground_truth is not None:
        truth = pipeline.truth_of(read_trajectory(odometry.ground_truth), sequence.length)
        _check_truth(truth, sequence, (start, stop, odometry.every), odometry.ground_truth)
    frames = sequence.chosen(start, stop, odometry.every)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{sequence.path}: has no frame {start}; give --frames within the sequence")
    size = first[2].size
    intrinsics = intrinsics_of(first[2], cameras.K, 0, None, cameras.fov)
    estimator = odometry.estimator or (Estimator.ESSENTIAL if "model" in linking else Estimator.POSELIB)
    bound = threshold if threshold is not None else default_threshold(size)
    linker = _linker(linking)
    steps: list[pipeline.Step] = []

    def followed(stopped: str | None = None) -> Followed:
        return Followed(
            str(odometry.sequence),
            tuple(steps),
            size,
            intrinsics,
            distortion,
            estimator.value,
            bound,
            sequence.fps,
            truth,
            stopped,
            linker.run,
        )

    command = pairwise.command_line()
    ledger = Ledger("odometry", total=_count(sequence.length, start, stop, odometry.every))
    with result_folder(directory, "odometry", output.overwrite):
        try:
            with Progress(ledger, quiet=output.quiet) as progress:
                for step in pipeline.follow(
                    chain([first], frames),
                    intrinsics,
                    linker,
                    estimator=estimator.value,
                    distortion=distortion,
                    threshold=bound,
                    truth=truth,
                    fps=sequence.fps,
                    seed=linking["seed"],
                ):
                    steps.append(step)
                    ledger.computed += 1
                    if step.failed:
                        ledger.failures.append({"image0": step.frame0.name, "image1": step.frame1.name})
                    progress.update()
        except (KeyboardInterrupt, InputError) as error:
            if steps:  # what is finished stays
                fault = report.explain(error)
                outcome = write_odometry_results(
                    directory, followed(fault.message), command=command, pictures=output.pictures
                )
                report.show(outcome, as_json=output.json, quiet=output.quiet)
            raise
        outcome = write_odometry_results(directory, followed(), command=command, pictures=output.pictures)
    report.show(outcome, as_json=output.json, quiet=output.quiet)
    raise typer.Exit(EXIT_OK if outcome.status is Status.OK else EXIT_NO_GEOMETRY)


def _linker(linking: Mapping[str, Any]) -> Linker:
    from flowkit.pipelines.frame_links import FeatureLinker, FlowLinker

    return FlowLinker(**linking) if "model" in linking else FeatureLinker(**linking)


def _range(text: str | None) -> tuple[int, int | None]:
    """ "10:200" -> (10, 200); either end may be left out."""
    if text is None:
        return 0, None
    start, colon, stop = text.partition(":")
    if not colon or not all(word == "" or word.isdecimal() for word in (start, stop)):
        raise UsageError(f"--frames {text}: give A:B, for example 0:100, 100: or :100")
    first, last = int(start or 0), int(stop) if stop else None
    if last is not None and last - first < 2:
        raise UsageError(f"--frames {text}: two frames are needed at least")
    return first, last


def distortion_of(text: str | None) -> tuple[float, ...]:
    """ "k1,k2,p1,p2,k3" as numbers, with p1 = p2 = 0 where there are only two; empty without."""
    if text is None:
        return ()
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (2, 4, 5):
        raise UsageError(f"--distortion {text}: give 2, 4 or 5 numbers, k1,k2[,p1,p2[,k3]]")
    return (*values, 0.0, 0.0)[:4] if len(values) == 2 else values


def _count(length: int | None, start: int, stop: int | None, every: int) -> int | None:
    """How many steps there will be."""
    return None if length is None else max(0, len(range(length)[start:stop:every]) - 1)


def _check_truth(
    truth: Callable[[Frame], np.ndarray | None],
    sequence: Sequence,
    chosen: tuple[int, int | None, int],
    file: Path,
) -> None:
    """InputError where the names of the frames show already that no two of them have a true pose."""
    from flowkit.io.sequences import Folder
    from flowkit.pipelines.odometry import Frame, time_of

    if not isinstance(sequence, Folder):
        return
    start, stop, every = chosen
    frames = [Frame(i, file.name, time_of(file.name, i, None)) for i, file in enumerate(sequence.files)]
    known = [frame for frame in frames[start:stop:every] if truth(frame) is not None]
    if len(known) < 2:
        raise InputError(
            f"{file}: has poses of {len(known)} of the frames; KITTI's go by the frame's number, TUM's by the time in its name"
        )
