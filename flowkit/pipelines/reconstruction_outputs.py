"""reconstruction.json beside images/ and sparse/: what became of each image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from flowkit.io import results
from flowkit.io.provenance import provenance
from flowkit.io.schema import ReconstructionRecord
from flowkit.pipelines.outputs import Outcome
from flowkit.pipelines.reconstruction import Reconstruction
from flowkit.types import Status

_REASONS = {
    Status.NO_OVERLAP: "COLMAP found no three images that fit together; try other --features, more overlap, a smaller --every",
    Status.TOO_FEW_MATCHES: "no pair of images has enough matches; try other --features or images that overlap more",
}


def write_reconstruction_results(found: Reconstruction, *, command: Sequence[str] = ()) -> Outcome:
    """Write the JSON into the reconstruction's folder; without a model it is all there is."""
    file = found.folder / "reconstruction.json"
    written: list[Path] = []
    if found.status is Status.OK:
        written += [found.folder / "images" / name for name in found.registered]
        written += sorted((found.folder / "sparse").glob("*.bin"))
    record = ReconstructionRecord(
        status=found.status,
        images=len(found.given),
        registered=list(found.registered),
        missing=[name for name in found.given if name not in set(found.registered)],
        pairs=found.pairs,
        verified_pairs=found.verified,
        points=found.points,
        track_length=found.track_length,
        reprojection_error_px=found.reprojection_error,
        files=[path.relative_to(found.folder).as_posix() for path in written],
        provenance=provenance(found.run, command),
    )
    results.write_json(file, record)
    if found.status is Status.OK:
        summary = [
            f"reconstruct: {len(found.registered)} of {len(found.given)} images, {found.points} points seen by "
            f"{found.track_length:.1f} images each, reprojection error {found.reprojection_error:.2f} px"
        ]
        shown = [found.folder / "images", found.folder / "sparse", file]
    else:
        summary, shown = [f"reconstruct: no model: {_REASONS[found.status]} (status {found.status})"], [file]
    return Outcome(found.status, json.loads(results.to_json(record)), tuple(summary), tuple(shown))
