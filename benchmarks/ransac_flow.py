"""RANSAC-Flow's ablation: what the coarse stage, the fine one and several homographies each add, on real pairs.

    .venv/bin/python benchmarks/ransac_flow.py ROOT [--models ransac-flow,dis] [--weights FILE] [--rules official,paper]
        [--features xfeat-dense] [--datasets oxford,hpatches,homogr,evd,middlebury,middlebury-stereo,middlebury-2006,kitti,wxbs]
        [--output FILE.json]

ROOT is laid out as for `flowkit bench pairs`. Each pair is aligned (image0 the target, image1 the source) by each `model` of
the fine stage with one homography and with several, and as `flowkit align --rules` does where rules are given: `--models ""
--features xfeat-dense --rules official` is RANSAC-Flow as its authors run it, but for the features and the weights. "coarse" is
the first homography alone, "coarse, several" the homographies each where it was chosen.

EPE is the mean over pairs of the mean end-point error over all pixels with truth, in original pixels; of homographies over
those pixels that the true one lands inside image1. "5px" is the share of these pixels that err by less than 5 px; of wxbs it
is the share of the hand-labelled points. A pair that is not aligned counts as not moved, and is counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import mean, names, run, say, show, write

from flowkit.datasets.catalogue import find_samples
from flowkit.datasets.homography_flow import homography_flow
from flowkit.datasets.samples import FlowSample, HomographySample, MatchSample, Sample
from flowkit.geometry.sampling import sample_flow
from flowkit.io.images import read_image
from flowkit.pipelines.align import align, coarse_flow
from flowkit.types import Alignment, Image

Row = dict[str, Any]
DATASETS = "oxford,hpatches,homogr,evd,middlebury,middlebury-stereo,middlebury-2006,kitti,wxbs"
CLOSE = 5.0


def variants(
    models: list[str], rules: list[str], weights: Path | None, features: str | None
) -> dict[str, dict[str, Any]]:
    """What is tried, by name: options of `align`."""
    tried: dict[str, dict[str, Any]] = {}
    for model, rule in [*((model, None) for model in models), *(("ransac-flow", rule) for rule in rules)]:
        own: dict[str, Any] = {"model": model, "features": features, "rules": rule}
        if model == "ransac-flow":
            own["weights"] = weights
        tried |= {_named(model, several, rule): {**own, "multi_h": several} for several in (False, True)}
    return tried


def _named(what: str, several: bool, rule: str | None) -> str:
    return ", ".join([what, *(["several"] if several else []), *([rule] if rule else [])])


def judged(sample: Sample, image0: Image, image1: Image, uv: np.ndarray) -> Row:
    """The errors of a flow (2, H, W) on image0's grid; unknown has not moved."""
    uv = np.where(np.isfinite(uv), uv, 0)
    if isinstance(sample, MatchSample):
        points = torch.from_numpy(sample.points0.astype(np.float32))
        moved = sample.points0 + sample_flow(torch.from_numpy(uv), points).numpy().T
        error = np.linalg.norm(np.nan_to_num(moved, nan=1e9) - sample.points1, axis=1)
        return {"epe": float("nan"), "close": float((error < CLOSE).mean())}
    if isinstance(sample, HomographySample):
        truth = homography_flow(sample.H, image0.size, image1.size)
    else:
        assert isinstance(sample, FlowSample)
        truth = sample.flow()
    error = np.linalg.norm(uv - truth, axis=0)
    known = np.isfinite(error)
    found = {"epe": float(error[known].mean()), "close": float((error[known] < CLOSE).mean())}
    if isinstance(sample, FlowSample) and sample.visible is not None:
        found["noc"] = float(error[known & sample.visible()].mean())
    return found


def pairs(sample: Sample, tried: dict[str, dict[str, Any]], device: str) -> Iterator[Row]:
    """One row for each variant, and for its homographies alone."""
    image0, image1 = read_image(sample.image0), read_image(sample.image1)
    coarse: set[str] = set()
    for name, options in tried.items():
        started = time.perf_counter()
        found: Alignment = align(image1, image0, device=device, **options)
        seconds = time.perf_counter() - started
        about = {
            "dataset": sample.dataset,
            "pair": sample.name,
            "failed": not found.homographies,
            "homographies": len(found.homographies),
            "seconds": seconds,
        }
        homographies = _named("coarse", options["multi_h"], options["rules"])
        if homographies not in coarse:
            coarse.add(homographies)
            yield {**about, "method": homographies, **judged(sample, image0, image1, coarse_flow(found))}
        yield {**about, "method": name, **judged(sample, image0, image1, found.flow.uv)}


def summary(rows: list[Row]) -> list[Row]:
    """Means over the pairs of each data set and method."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["method"]), []).append(row)
    return [
        {
            "dataset": dataset,
            "method": method,
            "pairs": len(group),
            "epe": mean([row["epe"] for row in group]),
            "close": 100 * mean([row["close"] for row in group]),
            "noc": mean([row["noc"] for row in group if "noc" in row]) if "noc" in group[0] else None,
            "failed": sum(row["failed"] for row in group),
            "homographies": mean([row["homographies"] for row in group]),
            "seconds": mean([row["seconds"] for row in group]),
        }
        for (dataset, method), group in groups.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--models", type=names, default=names("ransac-flow,dis"))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rules", type=names, default=[])
    parser.add_argument("--features")
    parser.add_argument("--datasets", type=names, default=names(DATASETS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    tried = variants(arguments.models, arguments.rules, arguments.weights, arguments.features)
    found = find_samples(arguments.root, ("flow", "homography", "matching"), arguments.datasets)
    rows: list[Row] = []
    for sample in (each for samples in found.values() for each in samples):
        say(f"{sample.dataset} {sample.name}")
        rows += pairs(sample, tried, arguments.device)
    columns = {
        "dataset": ("", ""),
        "method": ("", ""),
        "pairs": ("pairs", ""),
        "epe": ("EPE", ".2f"),
        "noc": ("EPE noc", ".2f"),
        "close": ("5px %", ".1f"),
        "failed": ("failed", ""),
        "homographies": ("homographies", ".1f"),
        "seconds": ("s", ".1f"),
    }
    table = summary(rows)
    show("RANSAC-Flow's stages", table, columns)
    write(arguments.output, arguments, {"stages": table, "pairs": rows})


if __name__ == "__main__":
    run(main)
