"""How far a true homography moves when it is measured again on its own pair: what the images themselves determine.

    .venv/bin/python benchmarks/truth_under_refinement.py ROOT

ROOT is laid out as for `flowkit bench pairs`. Each pair is measured from its true homography on in several ways that know
nothing of each other: densely with image1 warped onto image0, and by each of the features in the common view. Where all of
them move the corners by many pixels, the images do not determine them: the surface is not flat, or the corners lie far
outside the overlap, or the truth is rough.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flowkit
from flowkit.datasets.catalogue import find_samples
from flowkit.evaluation.metrics import corner_error
from flowkit.pipelines.match import matcher_name
from flowkit.pipelines.refinement import refine_homography
from flowkit.pipelines.viewpoints import rematch

FEATURES = ("sift", "xfeat", "disk", "aliked")


def main() -> None:
    print(f"{'corners move by, px':27s}" + "".join(f"{name:>9s}" for name in ("dense", *FEATURES)))
    for sample in find_samples(Path(sys.argv[1]), ("homography",))["homography"]:
        image0, image1 = (flowkit.read_image(path) for path in (sample.image0, sample.image1))
        measured = [refine_homography(image0.rgb8, image1.rgb8, sample.H)]
        for features in FEATURES:
            again = rematch(image0, image1, sample.H, matcher_name(features), "cpu", 0)
            measured.append(None if again is None else again.matrix)
        moved = [corner_error(matrix, sample.H, image0.size) for matrix in measured]
        print(f"{sample.dataset:10s} {sample.name:16s}" + "".join(f"{pixels:9.1f}" for pixels in moved), flush=True)


if __name__ == "__main__":
    main()
