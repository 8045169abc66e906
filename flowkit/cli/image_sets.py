"""What `flowkit match` does with whole sets of images: `--reconstruct` and `--localize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from flowkit.cli import pairwise, report
from flowkit.cli.options import Batch, Output
from flowkit.errors import EXIT_NO_GEOMETRY, EXIT_OK, UsageError

_PANEL = "Sets of images (COLMAP, hloc)"


@dataclass(frozen=True)
class ImageSets:
    """A reconstruction, or files for visual localisation."""

    reconstruct: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="A COLMAP model of --sequence: DIR/images, DIR/sparse. Needs pycolmap.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    localize: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="hloc's features.h5 and matches.h5 of --pairs; --colmap also a database. With --model its dense flow matches.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    sequence: Annotated[
        Path | None,
        Option(metavar="VIDEO|FOLDER", help="What to reconstruct: a video or photographs.", rich_help_panel=_PANEL),
    ] = None
    every: Annotated[int, Option(min=1, metavar="N", help="Only every N-th frame.", rich_help_panel=_PANEL)] = 1
    max_frames: Annotated[
        int | None, Option(min=3, metavar="N", help="So many frames at most.", rich_help_panel=_PANEL)
    ] = None
    neighbours: Annotated[
        str | None,
        Option(
            metavar="1,2,3|all",
            help="Match each frame with those so many frames later; by default 1,2,3,5,8,13, and all of up to 30 photos.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    K: Annotated[
        str | None,
        Option("--K", metavar="fx,fy,cx,cy|FILE", help="Known intrinsics of all images.", rich_help_panel=_PANEL),
    ] = None
    distortion: Annotated[
        str | None,
        Option(metavar="k1,k2[,p1,p2]", help="Known distortion with --K, as OpenCV's.", rich_help_panel=_PANEL),
    ] = None
    one_camera: Annotated[
        bool,
        Option("--one-camera", help="One camera took all photos (a video's frames: always).", rich_help_panel=_PANEL),
    ] = False

    def refuse_alone(self) -> None:
        """UsageError when an option that needs --reconstruct is given without it."""
        given = {
            "--sequence": self.sequence,
            "--every": self.every if self.every > 1 else None,
            "--max-frames": self.max_frames,
            "--neighbours": self.neighbours,
            "--K": self.K,
            "--distortion": self.distortion,
            "--one-camera": self.one_camera or None,
        }
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} {value}: only together with --reconstruct DIR")


def run_reconstruction(sets: ImageSets, method: dict[str, Any], output: Output, batch: Batch) -> None:
    """Reconstruct, report, and leave with 0 or 5."""
    from flowkit.io.cameras import parse_intrinsics
    from flowkit.io.pairs import read_pairs
    from flowkit.io.sequences import VIDEO_SUFFIXES, open_sequence
    from flowkit.pipelines.reconstruction import chosen_frames, reconstruct
    from flowkit.pipelines.reconstruction_outputs import write_reconstruction_results
    from flowkit.types import Status

    assert sets.reconstruct is not None
    if sets.sequence is None:
        raise UsageError("--reconstruct needs --sequence VIDEO or FOLDER, the images")
    if sets.distortion is not None and sets.K is None:
        raise UsageError(f"--distortion {sets.distortion}: only together with --K; without K both are found")
    sequence = open_sequence(sets.sequence)
    is_video = sets.sequence.suffix.lower() in VIDEO_SUFFIXES and sets.sequence.is_file()
    pairs = None if batch.pairs is None else [(pair.name0, pair.name1) for pair in read_pairs(batch.pairs)]
    found = reconstruct(
        chosen_frames(sequence, sets.every, sets.max_frames),
        sets.reconstruct,
        pairs=pairs,
        offsets=_offsets(sets.neighbours, is_video, sequence.length),
        K=None if sets.K is None else parse_intrinsics(sets.K),
        distortion=None if sets.distortion is None else _distortion(sets.distortion),
        shared_camera=is_video or sets.one_camera,
        overwrite=output.overwrite,
        **method,
    )
    outcome = write_reconstruction_results(found, command=pairwise.command_line())
    report.show(outcome, as_json=output.json, quiet=output.quiet)
    raise typer.Exit(EXIT_OK if found.status is Status.OK else EXIT_NO_GEOMETRY)


def run_localization(
    sets: ImageSets, method: dict[str, Any], database: Path | None, output: Output, batch: Batch
) -> None:
    """Match a list of pairs into hloc's files, go on where an earlier run was stopped, and leave with 0 or 6."""
    from flowkit.cli.batch import Ledger
    from flowkit.cli.progress import Progress
    from flowkit.io.colmap import require_pycolmap
    from flowkit.io.pairs import read_pairs
    from flowkit.pipelines.image_set import unique_pairs
    from flowkit.pipelines.localization import LocalizationExport, export_matches, write_database

    directory = sets.localize
    assert directory is not None
    if batch.pairs is None:
        raise UsageError("--localize needs --pairs FILE, a line for each pair: query_name db_name")
    if batch.shard is not None or batch.jobs > 1:
        raise UsageError("--localize: writes two files for all pairs in one process; leave --shard and --jobs out")
    if database is not None:
        require_pycolmap("--colmap")
    pairs = unique_pairs((pair.name0, pair.name1) for pair in read_pairs(batch.pairs))
    options = {
        key: str(value) if isinstance(value, Path) else value for key, value in method.items() if key != "device"
    }
    root = batch.image_root or batch.pairs.parent
    export = LocalizationExport(directory, root, options, overwrite=output.overwrite)
    matcher = export.matcher(**method)
    ledger = Ledger("match", total=len(pairs))
    with Progress(ledger, quiet=output.quiet) as progress:
        try:
            for (name0, name1), fault in export_matches(pairs, export, matcher):
                task = pairwise.Task(root / name0, root / name1, directory, name0, name1)
                skipped = (name0, name1) in export.done or (name1, name0) in export.done
                ledger.add(task, None if fault is None else report.explain(fault), skipped=skipped)
                progress.update()
        finally:
            ledger.write(directory)
    if database is not None:
        write_database(database, export)
    pairwise.finish_batch(ledger, directory, output)


def _offsets(text: str | None, is_video: bool, count: int | None) -> tuple[int, ...] | None:
    """The frames to match each frame with, by how much later they come; None for all."""
    from flowkit.pipelines.reconstruction import ALL_PAIRS, OFFSETS

    if text is None:
        return OFFSETS if is_video or count is None or count > ALL_PAIRS else None
    if text.strip() == "all":
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise UsageError(f"--neighbours {text}: give whole numbers like 1,2,3,5, or all")
    return tuple(int(word) for word in words)


def _distortion(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    if len(values) not in (2, 4):
        raise UsageError(f"--distortion {text}: give two or four numbers, k1,k2 or k1,k2,p1,p2")
    return values
