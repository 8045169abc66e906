"""The camera's motion between two real pictures: rotation and direction of travel, from dense flow and from features.

    .venv/bin/python benchmarks/egomotion_real.py ROOT [--models egoflow,liteflownetx=W.safetensors,dis] [--features sift]
        [--fits essential,poselib,pose] [--datasets kitti-odometry,fountain-p11,tum-fr2-desk] [--output FILE.json]

ROOT is laid out as for `flowkit bench pairs`. KITTI odometry 01 (every second frame) and TUM's fr2_desk: consecutive frames;
Strecha's fountain-P11: neighbouring views. Dense: `--most` matches, evenly spread over what the flow, computed both ways, is
at least so `--confidence` of. Features: mutual matches as `flowkit match` has them. The same matches go to every fit:
"essential" is the lower level of Jiang et al. 2020 (RANSAC on five points, then least squares on the essential manifold),
"poselib" PoseLib's LO-RANSAC, both alone; "pose" is what `flowkit pose` makes of it, which is PoseLib but for scenes that it
finds planar and cameras that it finds to have only turned. TUM's matches are undistorted before; its rotation alone is judged,
its poses being too coarse for its short steps.

Angles in degrees, median and mean over the pairs. "t" is the angle between the directions of travel, t and -t alike (0..90);
"t signed" tells them apart (0..180). A pair without an answer counts with the largest error there is (180, 90, 180), and is
counted as failed; so does the direction of a camera that is said to have only turned. "s" is the median of the fit alone.
Models whose weights are not there are left out; stderr says which.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gocor_tables import markdown
from reporting import mean, models, names, run, say, write

from flowkit.datasets.kitti_odometry import read_kitti_odometry
from flowkit.datasets.samples import PoseSample
from flowkit.datasets.strecha import read_strecha
from flowkit.datasets.tum import tum_sequence
from flowkit.errors import UsageError, WeightsError
from flowkit.estimators.essential import fit_essential
from flowkit.estimators.poselib import fit_relative_pose
from flowkit.evaluation.metrics import rotation_error, translation_error
from flowkit.io.images import read_image
from flowkit.pipelines.dense_matches import CONFIDENT, MOST, spread_matches, usable
from flowkit.pipelines.flow import flow
from flowkit.pipelines.match import match
from flowkit.pipelines.odometry import undistorted_points
from flowkit.pipelines.pose import default_threshold, from_matches
from flowkit.types import Image, Matches

Row = dict[str, Any]
Pose = tuple[np.ndarray | None, np.ndarray | None]
Source = Callable[[Image, Image], Matches]
Fit = Callable[[Matches, np.ndarray, np.ndarray, float, int], Pose]
DATASETS = "kitti-odometry,fountain-p11,tum-fr2-desk"
WORST = {"rotation": 180.0, "translation": 90.0, "signed": 180.0}


def samples_of(root: Path, dataset: str) -> tuple[list[PoseSample], tuple[float, ...]]:
    """The pairs of a data set, and the distortion of their pictures."""
    if dataset == "kitti-odometry":
        return read_kitti_odometry(root / "pose_kitti_odometry", dataset), ()
    if dataset == "fountain-p11":
        pairs = read_strecha(root / "pose_strecha" / "fountain-P11", dataset)
        views = sorted({path for pair in pairs for path in (pair.image0, pair.image1)})
        return [pair for pair in pairs if views.index(pair.image1) == views.index(pair.image0) + 1], ()
    if dataset == "tum-fr2-desk":
        sequence = tum_sequence(root / "pose_tum_fr2_desk", dataset)
        return list(sequence.samples(rotation_only=True)), sequence.distortion
    raise UsageError(f"{dataset!r} is none of {DATASETS}")


def dense(options: dict[str, Any], most: int, confidence: float, device: str) -> Source:
    """Matches spread over the flow of a model; `options` are those of `flowkit.flow`."""

    def matches(image0: Image, image1: Image) -> Matches:
        found = flow(image0, image1, bidirectional=True, device=device, **options)
        return spread_matches(found, usable(found, confidence), most, options["model"])

    return matches


def sparse(feature: str, device: str) -> Source:
    """Mutual matches of a local feature."""
    return lambda image0, image1: match(image0, image1, features=feature, device=device)


def alone(estimator: Callable[..., Any]) -> Fit:
    """An estimator's own answer."""

    def fit(matches: Matches, K0: np.ndarray, K1: np.ndarray, threshold: float, seed: int) -> Pose:
        model = estimator(matches.points0, matches.points1, K0, K1, threshold=threshold, seed=seed).model
        return (None, None) if model is None else (model[:, :3], model[:, 3])

    return fit


def judged(matches: Matches, K0: np.ndarray, K1: np.ndarray, threshold: float, seed: int) -> Pose:
    """The answer of `flowkit pose`."""
    found = from_matches(matches, K0, K1, threshold, seed)
    return found.R, found.t


FITS: dict[str, Fit] = {"essential": alone(fit_essential), "poselib": alone(fit_relative_pose), "pose": judged}


def errors(sample: PoseSample, R: np.ndarray | None, t: np.ndarray | None) -> dict[str, float]:
    """Degrees; those of the translation only where it may be judged."""
    found = {"rotation": rotation_error(R, sample.T_0to1[:3, :3])}
    if not sample.rotation_only:
        t_true = sample.T_0to1[:3, 3]
        found["translation"] = translation_error(t, t_true)
        found["signed"] = translation_error(t, t_true, sign_fold=False)
    return {name: min(error, WORST[name]) for name, error in found.items()}


def measured(
    dataset: str,
    name: str,
    source: Source,
    samples: list[PoseSample],
    lens: tuple[float, ...],
    arguments: argparse.Namespace,
) -> Iterator[Row]:
    """A row for every pair and fit."""
    for sample in samples:
        image0, image1 = read_image(sample.image0), read_image(sample.image1)
        started = time.perf_counter()
        matches = source(image0, image1)
        matching = time.perf_counter() - started
        ends = undistorted_points((matches.keypoints0, matches.keypoints1), sample.K0, lens)
        matches = replace(matches, keypoints0=ends[0], keypoints1=ends[1])
        bound = default_threshold(image0.size, image1.size)
        for fit in arguments.fits:
            started = time.perf_counter()
            R, t = FITS[fit](matches, sample.K0, sample.K1, bound, arguments.seed)
            yield {
                "dataset": dataset,
                "matches": name,
                "fit": fit,
                "pair": sample.name,
                "count": len(matches),
                "failed": R is None,
                "matching_s": matching,
                "fit_s": time.perf_counter() - started,
                **errors(sample, R, t),
            }


def summary(rows: list[Row]) -> list[Row]:
    """Median and mean over the pairs of each data set, source of matches and fit."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["matches"], row["fit"]), []).append(row)
    table = []
    for (dataset, matches, fit), group in groups.items():
        line: Row = {"dataset": dataset, "matches": matches, "fit": fit, "pairs": len(group)}
        for error in WORST:
            if values := [row[error] for row in group if error in row]:
                line |= {f"{error}_median": float(np.median(values)), f"{error}_mean": mean(values)}
        line["failed"] = sum(row["failed"] for row in group)
        line["count"] = float(np.median([row["count"] for row in group]))
        line["fit_s"] = float(np.median([row["fit_s"] for row in group]))
        table.append(line)
    return table


COLUMNS = {
    "dataset": ("data", ""),
    "matches": ("matches", ""),
    "fit": ("fit", ""),
    "pairs": ("pairs", ""),
    "rotation_median": ("R median", ".3f"),
    "rotation_mean": ("R mean", ".3f"),
    "translation_median": ("t median", ".2f"),
    "translation_mean": ("t mean", ".2f"),
    "signed_median": ("t signed median", ".2f"),
    "signed_mean": ("t signed mean", ".2f"),
    "failed": ("failed", ""),
    "count": ("matches a pair", ".0f"),
    "fit_s": ("s", ".2f"),
}


def cells(table: list[Row]) -> list[list[str]]:
    """The table's lines as text, its heading first; blank where nothing is judged."""
    heading = [title for title, _ in COLUMNS.values()]
    return [
        heading,
        *([format(row[key], form) if key in row else "" for key, (_, form) in COLUMNS.items()] for row in table),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--models", type=models, default=models("egoflow,liteflownetx,raft-xfeat,dis"))
    parser.add_argument("--features", type=names, default=names("sift"))
    parser.add_argument("--fits", type=names, default=list(FITS))
    parser.add_argument("--datasets", type=names, default=names(DATASETS))
    parser.add_argument("--most", type=int, default=MOST)
    parser.add_argument("--confidence", type=float, default=CONFIDENT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if unknown := set(arguments.fits) - set(FITS):
        raise UsageError(f"{', '.join(sorted(unknown))}: no such fit; use some of {', '.join(FITS)}")
    sources = {
        name: dense(options, arguments.most, arguments.confidence, arguments.device)
        for name, options in arguments.models.items()
    }
    sources |= {name: sparse(name, arguments.device) for name in arguments.features}
    rows: list[Row] = []
    for dataset in arguments.datasets:
        samples, lens = samples_of(arguments.root, dataset)
        for name, source in list(sources.items()):
            say(f"{dataset}: {name}")
            try:
                rows += measured(dataset, name, source, samples, lens, arguments)
            except WeightsError as error:
                say(f"{name} is left out: {error}")
                del sources[name]
    table = summary(rows)
    print(markdown(cells(table)))
    write(arguments.output, arguments, {"summary": table, "pairs": rows})


if __name__ == "__main__":
    run(main)
