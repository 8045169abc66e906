"""How far a true homography moves when it is refined densely on its own pair: what the images themselves determine.

    .venv/bin/python benchmarks/truth_under_refinement.py ROOT

ROOT is laid out as for `flowkit bench pairs`. A pair whose truth moves by many pixels at the corners cannot be told apart from
its neighbours by its pictures: the surface is not flat, or the corners lie far outside the overlap, or the truth is rough.
"""

from __future__ import annotations

import sys
from pathlib import Path

import flowkit
from flowkit.datasets.catalogue import find_samples
from flowkit.evaluation.metrics import corner_error
from flowkit.pipelines.refinement import refine_homography


def main() -> None:
    for sample in find_samples(Path(sys.argv[1]), ("homography",))["homography"]:
        image0, image1 = (flowkit.read_image(path) for path in (sample.image0, sample.image1))
        refined = refine_homography(image0.rgb8, image1.rgb8, sample.H)
        moved = "nothing to refine on" if refined is None else f"{corner_error(refined, sample.H, image0.size):6.2f} px"
        print(f"{sample.dataset:10s} {sample.name:16s} {moved}")


if __name__ == "__main__":
    main()
