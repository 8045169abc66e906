"""Result folders: for each verb one function that writes its data, its pictures and, last of all, its JSON.

Whoever finds the JSON may rely on the rest being there. When the status is not ok the JSON is all there is: no picture of an
alignment that nobody found.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import OutputError, UsageError
from flowkit.io import results
from flowkit.io.atomic import atomic_path, remove_stale
from flowkit.io.flow_files import write_flow
from flowkit.io.images import write_image
from flowkit.types import Flow, Homography, Image, Matches, RelativePose, Status, Warped
from flowkit.viz import flow_colors, maps
from flowkit.viz import matches as drawings

if TYPE_CHECKING:
    from flowkit.pipelines.point_cloud import PointCloud

FILES = {
    "flow": (
        "flow.flo",
        "flow.png",
        "backward.flo",
        "confidence.png",
        "occlusion.png",
        "epipolar.npy",
        "epipolar.png",
        "flow.json",
    ),
    "match": ("matches.npz", "points.json", "features.h5", "matches.h5", "matches.png", "matches.json"),
    "homography": ("homography.png", "homography.json"),
    "pose": ("pose.png", "two_view.ply", "pose.json"),
    "odometry": ("trajectory.kitti.txt", "trajectory.tum.txt", "trajectory.png", "odometry.json"),
    "align": (
        "aligned.png",
        "blend.png",
        "blink.gif",
        "flow.flo",
        "flow.png",
        "confidence.png",
        "regions.png",
        "transfer.png",
        "align.json",
    ),
    "warp": ("warped.png", "occlusion.png", "warp.json"),
    "group": ("average.png", "average_coarse.png", "average_before.png", "average.gif", "group.json"),
}
"""What each verb writes; the JSON comes last."""
LARGEST_RESIDUAL = 16.0
"""Pixels from the epipolar line at which the scale of epipolar.png ends."""


@dataclass(frozen=True)
class Outcome:
    """What a verb came to: its JSON record, a summary for people, the files written."""

    status: Status
    record: dict[str, Any]
    summary: tuple[str, ...]
    files: tuple[Path, ...]


# --- folders ---------------------------------------------------------------------------------------------------------


def refuse_existing(directory: Path, verb: str) -> None:
    """UsageError when `directory` holds a file that `verb` would write."""
    for name in FILES[verb]:
        if (directory / name).exists():
            raise UsageError(
                f"{directory / name}: is there already; choose another --output, or --overwrite to replace it"
            )


@contextmanager
def result_folder(directory: Path, verb: str, overwrite: bool = True) -> Iterator[None]:
    """Make the folder before the work begins, so that a refusal comes early; if the work fails, take an empty one away.

    Without `overwrite`, UsageError when it holds the results of another verb whose files have the same names.
    """
    if not overwrite:
        for other in _rivals(verb):
            if (directory / FILES[other][-1]).exists():
                raise UsageError(f"{directory}: holds the results of `flowkit {other}`; choose another --output")
    existed = directory.is_dir()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise OutputError(
            f"cannot write {directory}: {(error.strerror or str(error)).lower()}; choose another --output"
        ) from error
    remove_stale(directory)
    try:
        yield
    except BaseException:
        if not any((directory / FILES[each][-1]).exists() for each in (verb, *_rivals(verb))):
            _remove(directory, FILES[verb])  # some were written before, say, the disk was full
        if not existed:
            with suppress(OSError):
                directory.rmdir()
        raise


def _rivals(verb: str) -> list[str]:
    """Other verbs that write files of the same names."""
    return [other for other, files in FILES.items() if other != verb and {*files} & {*FILES[verb]}]


def _clear(directory: Path, verb: str) -> None:
    """Remove what an earlier run left, the JSON first: whoever looks meanwhile finds an unfinished folder."""
    _remove(directory, [FILES[other][-1] for other in (verb, *_rivals(verb))])
    _remove(directory, FILES[verb])


def _remove(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        with suppress(IsADirectoryError, PermissionError):  # the writer will say what is wrong
            (directory / name).unlink(missing_ok=True)


class Writer:
    """Writes the files of one verb into one folder and remembers them."""

    def __init__(self, directory: Path, verb: str, pictures: bool) -> None:
        _clear(directory, verb)
        self.directory, self.verb, self.pictures = directory, verb, pictures
        self.files: list[Path] = []

    def path(self, name: str) -> Path:
        """Where to write the file of that name; it counts as written from now on."""
        self.files.append(self.directory / name)
        return self.files[-1]

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Write a picture, if pictures are wanted."""
        if self.pictures:
            write_image(self.path(name), pixels)

    def finish(self, status: Status, record: Any, *summary: str, besides: str | None = None) -> Outcome:
        """Write the JSON and say what was done; `besides` is said whatever the status."""
        if status is not Status.OK:
            summary = (f"{self.verb}: no reliable geometry: {_REASONS[status]}",)
        if besides is not None:
            summary = (*summary, besides)
        results.write_json(self.path(FILES[self.verb][-1]), record)
        return Outcome(status, json.loads(results.to_json(record)), summary, tuple(self.files))

    @property
    def names(self) -> list[str]:
        """The files written so far that lie in the folder, for the JSON to list."""
        return [file.name for file in self.files if file.parent == self.directory]


_REASONS = {
    Status.DEGENERATE: "the matches do not determine it (status degenerate)",
    Status.TOO_FEW_MATCHES: "too few matches (status too_few_matches)",
    Status.NO_OVERLAP: "the matches agree on nothing; the images do not seem to overlap (status no_overlap)",
}


# --- verbs -----------------------------------------------------------------------------------------------------------


def write_flow_results(
    directory: Path,
    flow: Flow,
    image0: Image,
    image1: Image,
    *,
    command: Sequence[str] = (),
    status: Status = Status.OK,
    pictures: bool = True,
    max_flow: float | None = None,
    legend: bool = False,
) -> Outcome:
    """flow.flo, flow.png, of both directions backward.flo, confidence.png, occlusion.png, with egomotion epipolar.npy and
    epipolar.png; flow.json."""
    write = Writer(directory, "flow", pictures)
    if status is Status.OK:
        write_flow(write.path("flow.flo"), flow.uv)
        if flow.backward is not None:
            write_flow(write.path("backward.flo"), flow.backward.uv)
        write.picture("flow.png", flow_picture(flow.uv, max_flow, legend))
        if flow.confidence is not None:
            write.picture("confidence.png", maps.confidence_picture(flow.confidence))
        if flow.occlusion is not None:
            write.picture("occlusion.png", maps.occlusion_picture(flow.occlusion))
        if flow.egomotion is not None and np.isfinite(flow.egomotion.residual).any():
            with atomic_path(write.path("epipolar.npy")) as path, path.open("wb") as stream:
                np.save(stream, flow.egomotion.residual)
            write.picture("epipolar.png", maps.error_map(flow.egomotion.residual, LARGEST_RESIDUAL))
    record = results.flow_record(flow, image0.name, image1.name, write.names, command).model_copy(
        update={"status": status}
    )
    said = () if record.egomotion is None else _motion_lines(flow, record.egomotion.unexplained_share)
    return write.finish(status, record, f"flow {image0.name} -> {image1.name}: {flow_summary(flow)}", *said)


def write_match_results(
    directory: Path,
    matches: Matches,
    image0: Image,
    image1: Image,
    *,
    command: Sequence[str] = (),
    pictures: bool = True,
    format: str = "npz",
    colmap: Path | None = None,
) -> Outcome:
    """matches.npz (or points.json, or hloc's features.h5 and matches.h5), matches.png, matches.json."""
    write = Writer(directory, "match", pictures)
    status = Status.OK if len(matches) else Status.TOO_FEW_MATCHES
    if status is Status.OK:
        _write_match_data(write, matches, _file_names(image0, image1), format, colmap)
        write.picture("matches.png", drawings.draw_matches(image0.rgb8, image1.rgb8, matches))
    record = results.matches_record(matches, image0.name, image1.name, write.names, command)
    method = f" by {matches.run.method}" if matches.run else ""
    if matches.stage is not None:
        method += f", {int((matches.stage == 1).sum())} of stage 1, near the guide's prediction"
    return write.finish(status, record, f"match {image0.name} - {image1.name}: {len(matches)} matches{method}")


def write_homography_results(
    directory: Path,
    homography: Homography,
    image0: Image,
    image1: Image,
    *,
    command: Sequence[str] = (),
    pictures: bool = True,
) -> Outcome:
    """homography.png, homography.json."""
    write = Writer(directory, "homography", pictures)
    if homography.matrix is not None:
        write.picture("homography.png", drawings.draw_homography(image0.rgb8, image1.rgb8, homography))
    record = results.homography_record(homography, image0.name, image1.name, write.names, command)
    summary = f"homography {image0.name} -> {image1.name}: {_inliers(homography.matches)}"
    return write.finish(homography.status, record, summary, *_matrix_lines(homography.matrix))


def write_pose_results(
    directory: Path,
    pose: RelativePose,
    image0: Image,
    image1: Image,
    *,
    command: Sequence[str] = (),
    pictures: bool = True,
    cloud: PointCloud | None = None,
) -> Outcome:
    """pose.png, two_view.ply if there are points, pose.json."""
    write = Writer(directory, "pose", pictures)
    summary = [f"pose {image0.name} -> {image1.name}: {_inliers(pose.matches)}"]
    if pose.R is not None and pose.t is not None and pose.status is Status.OK:
        write.picture("pose.png", drawings.draw_epipolar(image0.rgb8, image1.rgb8, pose))
        summary.append(_motion(pose))
        if pose.epipolar_error is not None:
            summary.append(f"  median epipolar error {pose.epipolar_error:.2f} px, degeneracy {pose.degeneracy}")
    info = line = None
    if cloud is not None:
        info = results.PointCloudInfo(points=len(cloud), reason=cloud.reason)
        line = f"  {len(cloud)} points" if cloud.reason is None else f"  no two_view.ply: {cloud.reason}"
        if cloud.reason is None:
            cloud.write(write.path("two_view.ply"), image0.name, image1.name)
    record = results.pose_record(pose, image0.name, image1.name, write.names, command, cloud=info)
    return write.finish(pose.status, record, *summary, besides=line)


def write_warp_results(
    directory: Path,
    warped: Warped,
    image: Image,
    *,
    flow: Path | None = None,
    homography: Path | None = None,
    splat: bool = False,
    command: Sequence[str] = (),
) -> Outcome:
    """warped.png, occlusion.png (white where nothing is known), warp.json."""
    write = Writer(directory, "warp", True)
    write_pixels(write.path("warped.png"), warped.pixels)
    write.picture("occlusion.png", maps.occlusion_picture(~warped.valid))
    record = results.warp_record(
        warped,
        image.name,
        image.size,
        write.names,
        command,
        flow=None if flow is None else str(flow),
        homography=None if homography is None else str(homography),
        splat=splat,
    )
    height, width = warped.valid.shape
    return write.finish(Status.OK, record, f"warp {image.name}: {width}x{height}, {warped.valid.mean():.1%} filled")


def _write_match_data(
    write: Writer, matches: Matches, names: tuple[str, str], format: str, colmap: Path | None
) -> None:
    from flowkit.io.colmap import export_database
    from flowkit.io.hloc import write_hloc
    from flowkit.io.matches import write_matches

    if format == "h5":
        write_hloc(write.path("features.h5"), write.path("matches.h5"), *names, matches)
    else:
        write_matches(write.path("points.json" if format == "json" else "matches.npz"), matches)
    if colmap is not None:
        images = {names[0]: (matches.size0, None), names[1]: (matches.size1, None)}
        export_database(colmap, images, [(*names, matches)])
        write.files.append(colmap)


def _file_names(image0: Image, image1: Image) -> tuple[str, str]:
    """How other programs will know the images: by file name; by path when both have the same."""
    names = Path(image0.name).name, Path(image1.name).name
    return names if names[0] != names[1] else (image0.name, image1.name)


# --- pieces ----------------------------------------------------------------------------------------------------------


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """A picture in its own depth; float pictures become 16-bit."""
    if pixels.dtype == np.float32:
        pixels = np.rint(np.clip(pixels, 0, 1) * 65535).astype(np.uint16)
    write_image(path, pixels)


def flow_picture(uv: np.ndarray, max_flow: float | None = None, legend: bool = False) -> np.ndarray:
    """Middlebury colours; `max_flow` is the length that gets the full colour, the longest vector by default."""
    scale = max_flow or flow_colors.max_radius(uv)
    picture = flow_colors.flow_to_rgb(uv, scale)
    return flow_colors.with_legend(picture, scale) if legend else picture


def flow_summary(flow: Flow) -> str:
    """ "640x480, 100% known, median 3.21 px, longest 14.0 px"."""
    height, width = flow.size
    facts = [f"{width}x{height}", f"{flow.valid.mean():.0%} known"]
    lengths = np.hypot(*flow.uv[:, flow.valid])
    if lengths.size:
        facts += [f"median {np.median(lengths):.2f} px", f"longest {lengths.max():.1f} px"]
    if flow.occlusion is not None:
        facts.append(f"{flow.occlusion.mean():.0%} occluded")
    return ", ".join(facts)


def _motion(pose: RelativePose) -> str:
    """ "  rotation 1.20 degrees, translation direction [0. 0. 1.]"; of a pure rotation only the first."""
    assert pose.R is not None
    angle = np.degrees(np.arccos(np.clip((np.trace(pose.R) - 1) / 2, -1, 1)))
    direction = "" if pose.t is None else f", translation direction {np.array2string(pose.t, precision=3)}"
    return f"  rotation {angle:.2f} degrees{direction}"


def _motion_lines(flow: Flow, unexplained: float | None) -> list[str]:
    """What is said of a flow's egomotion."""
    assert flow.egomotion is not None
    pose = flow.egomotion.pose
    if pose.R is None:
        return [f"  no camera motion: {_REASONS[pose.status]}"]
    turned = "" if pose.t is not None else " (it only turned: no translation can be told)"
    share = 0.0 if unexplained is None else unexplained
    return [f"{_motion(pose)}{turned}; {share:.0%} of the flow is more than {pose.threshold:g} px off it"]


def _inliers(matches: Matches) -> str:
    count = 0 if matches.inliers is None else int(matches.inliers.sum())
    return f"{count} inliers of {len(matches)} matches"


def _matrix_lines(matrix: np.ndarray | None) -> list[str]:
    return [] if matrix is None else ["  " + "  ".join(f"{value:14.6g}" for value in row) for row in matrix]
