"""What odometry writes: the trajectory in KITTI's and TUM's formats, its picture, and odometry.json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from flowkit.io.provenance import provenance
from flowkit.io.schema import FrameInfo, OdometryRecord, OdometryStep
from flowkit.io.trajectories import write_kitti, write_tum
from flowkit.pipelines.odometry import Frame, Length, Step, is_timestamp, trajectory
from flowkit.pipelines.outputs import Outcome, Writer
from flowkit.types import Run, Size, Status
from flowkit.viz.trajectory import draw_trajectory


@dataclass(frozen=True, eq=False)
class Followed:
    """A sequence as far as it was followed: the steps in order (one at least), and how they were computed.

    `truth` gives a frame's true pose (camera to world) or None. `stopped` says why the end was not reached.
    """

    sequence: str
    steps: tuple[Step, ...]
    size: Size
    K: np.ndarray
    distortion: tuple[float, ...]
    estimator: str
    threshold: float
    fps: float | None = None
    truth: Callable[[Frame], np.ndarray | None] | None = None
    stopped: str | None = None
    run: Run | None = None

    @property
    def frames(self) -> list[Frame]:
        """All frames, the first included."""
        return [self.steps[0].frame0, *(step.frame1 for step in self.steps)]

    @property
    def status(self) -> Status:
        """ok when at least one motion is known, else what most pairs came to."""
        if not all(step.failed for step in self.steps):
            return Status.OK
        return Counter(step.status for step in self.steps).most_common(1)[0][0]


def write_odometry_results(
    directory: Path, found: Followed, *, command: Sequence[str] = (), pictures: bool = True
) -> Outcome:
    """trajectory.kitti.txt, trajectory.tum.txt, trajectory.png; odometry.json, which alone is written where nothing worked."""
    write = Writer(directory, "odometry", pictures)
    status = found.status
    if status is Status.OK:
        poses = trajectory(found.steps)
        write_kitti(write.path("trajectory.kitti.txt"), poses)
        write_tum(write.path("trajectory.tum.txt"), np.array([frame.time for frame in found.frames]), poses)
        failed = np.array([False, *(step.failed for step in found.steps)])
        unit = "first step" if found.truth is None else "m"
        write.picture("trajectory.png", draw_trajectory(poses, true_trajectory(found, poses), failed, unit))
    record = _record(found, write.names, command)
    steps = len(found.steps)
    summary = [f"odometry {found.sequence}: {steps + 1} frames, {steps - len(record.failed)} of {steps} motions found"]
    if record.kept_lengths:
        summary.append(f"  {record.kept_lengths} steps are as long as the one before, for want of common points")
    gaps = f"  pose held at {_some(record.failed)}: no motion found" if record.failed and status is Status.OK else None
    told = [gaps, None if found.stopped is None else f"  stopped: {found.stopped}"]
    return write.finish(status, record, *summary, besides="\n".join(line for line in told if line) or None)


def true_trajectory(found: Followed, poses: np.ndarray) -> np.ndarray | None:
    """(N, 4, 4): the true poses in the world of `poses`, which they share the first frame with that has one; NaN without.

    None where none is known.
    """
    if found.truth is None:
        return None
    true = [found.truth(frame) for frame in found.frames]
    known = [(ours, pose) for ours, pose in zip(poses, true, strict=True) if pose is not None]
    if not known:
        return None
    to_ours = known[0][0] @ np.linalg.inv(known[0][1])
    return np.stack([np.full((4, 4), np.nan) if pose is None else to_ours @ pose for pose in true])


def _record(found: Followed, files: Sequence[str], command: Sequence[str]) -> OdometryRecord:
    seconds = {"steps": sum(step.seconds for step in found.steps)}
    run = None if found.run is None else replace(found.run, seconds={**found.run.seconds, **seconds})
    return OdometryRecord(
        status=found.status,
        sequence=found.sequence,
        image_size=found.size,
        scale="relative (chained)" if found.truth is None else "ground truth",
        kept_lengths=sum(step.length_from is Length.KEPT for step in found.steps),
        times=_times(found),
        frames=len(found.frames),
        failed=[step.frame1.name for step in found.steps if step.failed],
        pure_rotations=sum(step.degeneracy == "pure_rotation" for step in found.steps),
        stopped=found.stopped,
        K=found.K.tolist(),
        distortion=list(found.distortion),
        estimator=found.estimator,
        threshold_px=found.threshold,
        steps=[_step(step) for step in found.steps],
        files=list(files),
        provenance=provenance(run, command),
    )


def _step(step: Step) -> OdometryStep:
    return OdometryStep(
        frame0=_frame(step.frame0),
        frame1=_frame(step.frame1),
        status=step.status,
        degeneracy=step.degeneracy,
        R=None if step.R is None else step.R.tolist(),
        t=None if step.t is None else step.t.tolist(),
        length=step.length,
        length_from=step.length_from.value,
        common_points=step.common,
        matches=step.matches,
        inliers=step.inliers,
        epipolar_error_px=step.epipolar_error,
        seconds=step.seconds,
    )


def _frame(frame: Frame) -> FrameInfo:
    return FrameInfo(name=frame.name, place=frame.place, time=frame.time)


def _times(found: Followed) -> Literal["file names", "place / frame rate", "place"]:
    if all(is_timestamp(frame.name) for frame in found.frames):
        return "file names"
    return "place" if found.fps is None else "place / frame rate"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
