"""RANSAC-Flow's coarse stage: which features and which robust fit bring real planes onto each other, and in what time.

    .venv/bin/python benchmarks/coarse.py ROOT [--features sift+xfeat,xfeat-dense] [--feature-weights vgg16=FILE]
        [--fits magsac,ransac,official,whole] [--datasets oxford,hpatches,homogr,evd] [--output coarse.json]

ROOT is laid out as for `flowkit bench pairs`. Each pair is matched once by each feature, at full size, and the same matches
are fitted by OpenCV's USAC_MAGSAC (`magsac`), by the batched RANSAC with its polish (`ransac`) at the same bound, and by the
official rules (`official`: 0.05 where image1 runs from -1 to 1, no refit). `whole` is `flowkit homography`, which matches and
fits anew and refines where matches are few.

The errors are the mean over the four corners and the mean over all pixels of image0 that the true homography lands inside
image1 (AEE), in original pixels of image1. A pair without a homography counts as the identity in the mean AEE, and as wrong
elsewhere. Seconds are those of the clock, CPU seconds those of all threads together: on a busy machine, compare these. The
first pair of each feature is matched twice and the second time counts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reporting import mean, names, run, say, show, write

from flowkit.datasets.catalogue import find_samples
from flowkit.datasets.homography_flow import homography_flow
from flowkit.datasets.samples import HomographySample
from flowkit.estimators.magsac import fit_homography
from flowkit.estimators.ransac import fit_homography_ransac, official_threshold
from flowkit.evaluation.metrics import corner_error
from flowkit.io.images import read_image
from flowkit.pipelines.homography import default_threshold, find
from flowkit.pipelines.match import chosen_features, kept_matcher
from flowkit.types import Image, Matches

Row = dict[str, Any]
DATASETS = "oxford,hpatches,homogr,evd"
NEAR, FAR = 5, 10


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What it gives, seconds, CPU seconds."""
    clock, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - clock, time.process_time() - cpu


def fits(
    features: Any, images: Sequence[Image], matches: Matches, device: str
) -> dict[str, Callable[[], np.ndarray | None]]:
    """Name -> what gives the matrix."""
    sizes = {"size0": images[0].size, "size1": images[1].size}
    bound = default_threshold(*sizes.values(), features=features)
    points = matches.points0, matches.points1
    exact = {"threshold": official_threshold(images[1].size), "polish": False}
    whole = {"effort": "normal", "threshold": bound, "device": device, "seed": 0}
    return {
        "magsac": lambda: fit_homography(*points, threshold=bound).model,
        "ransac": lambda: fit_homography_ransac(*points, threshold=bound, device=device, **sizes).model,
        "official": lambda: fit_homography_ransac(*points, device=device, **exact, **sizes).model,
        "whole": lambda: find(*images, features=features, **whole).matrix,
    }


def errors(matrix: np.ndarray | None, sample: HomographySample, sizes: Sequence[tuple[int, int]]) -> Row:
    """Of one answer."""
    truth = homography_flow(sample.H, *sizes)
    known = np.isfinite(truth).all(axis=0)
    y, x = np.nonzero(known)
    predicted = np.column_stack([x, y, np.ones(len(x))]) @ (np.eye(3) if matrix is None else matrix).T
    moved = predicted[:, :2] / predicted[:, 2:] - np.column_stack([x, y])
    error = np.linalg.norm(moved - truth[:, known].T, axis=1)
    return {
        "found": matrix is not None,
        "corner": corner_error(matrix, sample.H, sizes[0]),
        "aee": float(error.mean()),
        "within": 0.0 if matrix is None else float((error < NEAR).mean()),
    }


def measure(sample: HomographySample, features: Any, wanted: Sequence[str], warm: bool, device: str) -> list[Row]:
    """A row for each fit."""
    images = read_image(sample.image0), read_image(sample.image1)
    matcher = kept_matcher(features, device, None)
    if not warm:
        matcher.match(*images)
    matches, seconds, cpu = timed(lambda: matcher.match(*images))
    rows = []
    for name, fit in fits(features, images, matches, device).items():
        if name in wanted:
            matrix, fit_seconds, fit_cpu = timed(fit)
            row = {"features": features.names, "fit": name, "dataset": sample.dataset, "pair": sample.name}
            row |= errors(matrix, sample, (images[0].size, images[1].size))
            row |= {"matches": len(matches), "match_s": seconds, "match_cpu_s": cpu}
            rows.append(row | {"fit_s": fit_seconds, "fit_cpu_s": fit_cpu})
    return rows


def summary(rows: Sequence[Row], keys: Sequence[str]) -> list[Row]:
    """A row for each combination of `keys`."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    return [
        dict(zip(keys, group, strict=True))
        | {
            "pairs": len(each),
            "found": sum(row["found"] for row in each),
            "near": sum(row["corner"] < NEAR for row in each),
            "far": sum(row["corner"] < FAR for row in each),
            "corner": statistics.median(row["corner"] for row in each),
            "aee": mean([row["aee"] for row in each]),
            "within": 100 * mean([row["within"] for row in each]),
        }
        | {key: statistics.median(row[key] for row in each) for key in ("match_s", "match_cpu_s", "fit_s", "fit_cpu_s")}
        for group, each in groups.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--features", default="sift+xfeat,xfeat-dense")
    parser.add_argument("--feature-weights", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--fits", default="magsac,ransac,official")
    parser.add_argument("--datasets", default=DATASETS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    files = dict(text.split("=", 1) for text in arguments.feature_weights)
    samples = find_samples(arguments.root, ("homography",), names(arguments.datasets))["homography"]
    rows: list[Row] = []
    for text in names(arguments.features):
        own = {name: path for name, path in files.items() if name in text.split("+")}
        features = chosen_features(text, own)
        _, seconds, cpu = timed(lambda chosen=features: kept_matcher(chosen, arguments.device, None))
        say(f"{text}: loaded in {seconds:.2f} s ({cpu:.2f} CPU s)")
        for number, sample in enumerate(samples):
            found = measure(sample, features, names(arguments.fits), number > 0, arguments.device)
            rows += found
            say(f"{text} {sample.name}: " + ", ".join(f"{row['fit']} {row['corner']:.1f} px" for row in found))
    columns = {
        "features": ("features", ""),
        "fit": ("fit", ""),
        "pairs": ("pairs", "d"),
        "found": ("found", "d"),
        "near": (f"<{NEAR} px", "d"),
        "far": (f"<{FAR} px", "d"),
        "corner": ("corner error, median", ".2f"),
        "aee": ("AEE, mean", ".1f"),
        "within": (f"pixels <{NEAR} px, %", ".1f"),
    }
    seconds = {
        "match_s": ("match s", ".2f"),
        "match_cpu_s": ("CPU s", ".2f"),
        "fit_s": ("fit s", ".2f"),
        "fit_cpu_s": ("CPU s", ".2f"),
    }
    by_pair = {"pair": ("pair", ""), "features": ("features", ""), "fit": ("fit", ""), "matches": ("matches", "d")}
    by_pair |= {"corner": ("corner error", ".1f"), "aee": ("AEE", ".1f"), "within": ("pixels <5 px", ".0%")}
    total, by_set = summary(rows, ("features", "fit")), summary(rows, ("dataset", "features", "fit"))
    show("All pairs", total, {**columns, **seconds})
    show("By data set", by_set, {"dataset": ("data set", ""), **columns})
    show("By pair", sorted(rows, key=lambda row: (row["dataset"], row["pair"])), by_pair)
    write(arguments.output, arguments, {"total": total, "by_set": by_set, "pairs": rows})


if __name__ == "__main__":
    run(main)
