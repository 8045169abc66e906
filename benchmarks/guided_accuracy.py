"""What a guide flow does to sparse matching: matches, right matches and their share, raw, in stage 1, and in both stages.

    .venv/bin/python benchmarks/guided_accuracy.py ROOT [--features sift,xfeat] [--guide life] [--output guided.json]

ROOT is laid out as for `flowkit bench pairs`; the pairs are those of its homography_* folders and of hard_wxbs. `raw` is
`flowkit match`, `stage 1` the matches found near the flow's prediction, `all` those of both stages (LIFE's Figure 6).

A match is right within t px: where a homography relates the pictures, when image0's point through the true H is at most t px
from image1's. On WxBS, when the mean of its distances to the two epipolar lines is at most t px; F is the least-squares fit
(normalised eight points) to all hand-labelled correspondences, as in `flowkit bench matching`. P@t is the share of right
matches, a pair's own first and then the mean over pairs (MMA; a pair without matches has 0); the numbers of keypoints, of
matches and of right ones at 3 px are means over pairs, too. "labels" is the share of WxBS' labels within 5 px of the
epipolar geometry that is fitted to the matches.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from reporting import first_of_each, mean, names, run, say, show, write

from flowkit.datasets.catalogue import DATASETS, find_samples
from flowkit.datasets.samples import MatchSample, Sample
from flowkit.errors import InputError
from flowkit.estimators.magsac import fit_fundamental
from flowkit.evaluation.scores import TASKS
from flowkit.io.images import read_image
from flowkit.pipelines.match import match
from flowkit.types import Matches

COLUMNS = {
    "dataset": ("data set", ""),
    "features": ("features", ""),
    "which": ("", ""),
    "pairs": ("pairs", "d"),
    "keypoints": ("keypoints", ".0f"),
    "matches": ("matches", ".0f"),
    "right_3": ("right @3", ".1f"),
    **{f"precision_{t}": (f"P@{t}", ".1%") for t in (1, 3, 5, 10)},
    "labels_within_5": ("labels", ".1%"),
}


def pairs(root: Path, datasets: list[str]) -> Iterator[Sample]:
    """Of every homography data set and WxBS, as samples of the matching task."""
    task = TASKS["matching"]
    chosen = datasets or [name for name, each in DATASETS.items() if each.task == "homography" and each.folder] + [
        "wxbs"
    ]
    for found in find_samples(root, ("homography", "matching"), chosen).values():
        for sample in found:
            yield task.adapt[type(sample)](sample)


def answers(sample: Sample, features: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Matches]]:
    options = {"features": features, "device": arguments.device, "max_keypoints": arguments.max_keypoints}
    image0, image1 = (read_image(path) for path in (sample.image0, sample.image1))
    yield "raw", match(image0, image1, **options)
    guided = match(image0, image1, guide=arguments.guide, **options)
    if guided.stage is None:
        raise InputError(f"{features}: its matches have no stages; it cannot be guided")
    first = guided.stage == 1
    yield "stage 1", replace(guided, **{name: getattr(guided, name)[first] for name in ("pairs", "scores", "stage")})
    yield "all", guided


def judge(sample: Sample, matches: Matches) -> dict[str, float]:
    assert isinstance(sample, MatchSample)
    F = fit_fundamental(matches.points0, matches.points1).model if sample.H is None else None
    arrays = {"points0": matches.points0, "points1": matches.points1, "F": np.full((3, 3), np.nan) if F is None else F}
    scores = TASKS["matching"].judge(sample, arrays)
    keypoints = (len(matches.keypoints0) + len(matches.keypoints1)) / 2
    return {"keypoints": keypoints, "right_3": scores["precision_3"] * len(matches), **scores}


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each data set, feature and kind of matches; homographies also all together."""
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    together = [name for name in sets if DATASETS[name].task == "homography"]
    groups = {name: [name] for name in sets} | ({"homographies": together} if len(together) > 1 else {})
    kinds = list(dict.fromkeys((row["features"], row["which"]) for row in rows))
    table = []
    for group, members in groups.items():
        for features, which in kinds:
            mine = [r for r in rows if r["dataset"] in members and (r["features"], r["which"]) == (features, which)]
            keys = dict.fromkeys(key for row in mine for key, value in row.items() if isinstance(value, int | float))
            means = {key: mean([row[key] for row in mine if key in row]) for key in keys}
            table.append({"dataset": group, "features": features, "which": which, "pairs": len(mine), **means})
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--features", type=names, default="sift,xfeat")
    parser.add_argument("--guide", default="life", help="a flow model")
    parser.add_argument("--datasets", type=names, default=[], help="only these, such as hpatches,wxbs")
    parser.add_argument("--limit", type=int, help="at most so many pairs of each data set")
    parser.add_argument("--max-keypoints", type=int, help="by default the feature's own")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="JSON file; every pair goes into the CSV file beside it")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    found = pairs(arguments.root, arguments.datasets)
    for sample in first_of_each(found, lambda sample: sample.dataset, arguments.limit):
        say(f"{sample.dataset} {sample.name}")
        for features in arguments.features:
            for which, matches in answers(sample, features, arguments):
                key = {"dataset": sample.dataset, "pair": sample.name, "features": features, "which": which}
                rows.append(key | judge(sample, matches))
    table = summary(rows)
    show(f"matches guided by {arguments.guide}", table, COLUMNS)
    write(arguments.output, arguments, {"rows": table, "pairs": rows})


if __name__ == "__main__":
    run(main)
