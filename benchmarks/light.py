"""What a change of light costs: real pairs whose second picture is put into other light by the data engine, and as they are.

    .venv/bin/python benchmarks/light.py ROOT [--models life-small,raft-xfeat,dis] [--draws 5] [--strengths 0.5,1]
        [--pictures DIR] [--output light.json]

ROOT is laid out as for `flowkit bench pairs`. Image1 gets the engine's lighting (`flowkit.synth.lighting.relight`, nothing
erased) at each strength, in the same seeded draws for every model; image0 stays as it is. Strength 1 goes from day to night.
MODEL=FILE takes other weights.

The error is the mean end-point error in pixels over all pixels with truth (Middlebury, Cones, KITTI with hidden pixels), of the
homography where it lands inside image1 (graf 1-2, 1-3), and for neighbouring views of fountain-P11, which have no dense truth,
the mean of the two distances to the epipolar lines of the true F, over the pixels whose prediction lies inside image1.
A ratio is lit to clean: of the means over pairs and draws, and the median over them of each one's own.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from relit import relit_picture, seed_of
from reporting import first_of_each, mean, models, names, numbers, run, say, show, write

from flowkit.datasets.catalogue import find_samples
from flowkit.datasets.samples import FlowSample, HomographySample, PoseSample
from flowkit.evaluation import metrics
from flowkit.evaluation.scores import TASKS
from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential
from flowkit.io.atomic import atomic_path
from flowkit.io.images import read_image
from flowkit.pipelines.flow import flow
from flowkit.training.preview import sheet
from flowkit.types import Flow
from flowkit.viz import canvas

DATASETS = ("middlebury", "middlebury-stereo", "kitti", "oxford", "strecha")
SHARES = ("within_1", "within_3", "within_5")
PANEL = 260


@dataclass(frozen=True)
class Pair:
    """`judge` gives `error` in pixels, shares of pixels within 1, 3 and 5 px, and `covered`, the share that was judged."""

    group: str
    name: str
    image0: Path
    image1: Path
    judge: Callable[[Flow], dict[str, float]]


def pairs(root: Path) -> Iterator[Pair]:
    samples = find_samples(
        root, ("flow", "homography", "pose"), ("middlebury", "middlebury-stereo", "kitti", "oxford", "strecha")
    )
    for sample in (each for found in samples.values() for each in found):
        judge: Callable[[Flow], dict[str, float]]
        if isinstance(sample, PoseSample):
            if not is_next(sample.name):
                continue
            judge = epipolar_judge(sample)
        elif isinstance(sample, HomographySample):
            if sample.name not in ("graf/1-2", "graf/1-3"):
                continue
            judge = dense_judge(TASKS["flow"].adapt[HomographySample](sample))
        else:
            judge = dense_judge(sample)
        group = {"oxford": "graf", "strecha": "fountain", "middlebury-stereo": "cones"}.get(
            sample.dataset, sample.dataset
        )
        yield Pair(group, sample.name, sample.image0, sample.image1, judge)


def is_next(name: str) -> bool:
    """ "fountain-P11/0003-0004" """
    first, second = name.rpartition("/")[2].split("-")
    return int(second) == int(first) + 1


def dense_judge(sample: Any) -> Callable[[Flow], dict[str, float]]:
    assert isinstance(sample, FlowSample)
    truth = sample.flow()

    def judge(found: Flow) -> dict[str, float]:
        scores = metrics.flow_errors(found.uv, truth)
        return {"error": scores["epe"], "covered": scores["coverage"], **{key: scores[key] for key in SHARES}}

    return judge


def epipolar_judge(sample: PoseSample) -> Callable[[Flow], dict[str, float]]:
    K0, K1, T = (torch.from_numpy(matrix) for matrix in (sample.K0, sample.K1, sample.T_0to1))
    F = fundamental_from_essential(essential_from_pose(T[:3, :3], T[:3, 3]), K0, K1).numpy()

    def judge(found: Flow) -> dict[str, float]:
        inside = found.inside
        y, x = np.nonzero(inside)
        points = np.column_stack([x, y]).astype(np.float64)
        errors = metrics.epipolar_errors(F, points, points + found.uv[:, inside].T)
        shares = {f"within_{n}": metrics.pck(errors, n) for n in (1, 3, 5)}
        return {"error": float(errors.mean()), "covered": float(inside.mean()), **shares}

    return judge


def measure(pair: Pair, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each model, strength and draw; strength 0 is the pair as it is."""
    image0, image1 = (read_image(path).rgb8 for path in (pair.image0, pair.image1))
    seen = {(0.0, 0): image1} | {
        (strength, draw): relit_picture(image1, strength, seed_of(arguments.seed, pair.group, pair.name, draw))
        for strength in arguments.strengths
        for draw in range(arguments.draws)
    }
    rows = []
    for label, options in arguments.models.items():
        for (strength, draw), picture in seen.items():
            found = flow(image0, picture, device=arguments.device, **options)
            key = {"set": pair.group, "pair": pair.name, "model": label, "strength": strength, "draw": draw}
            rows.append(key | pair.judge(found))
    if arguments.pictures:
        write_sheet(pair, image0, seen, rows, arguments)
    return rows


def write_sheet(
    pair: Pair,
    image0: np.ndarray,
    seen: dict[tuple[float, int], np.ndarray],
    rows: list[dict[str, Any]],
    arguments: Any,
) -> None:
    """The pair as it is and its draws, one strip for each strength; below each what the models' errors are, in their order."""
    strips = []
    for strength in arguments.strengths:
        chosen = [(0.0, 0), *((strength, draw) for draw in range(arguments.draws))]
        panels = [canvas.fit_within(image0, PANEL)]
        canvas.draw_text(panels[0], "image0")
        for key in chosen:
            panel = canvas.fit_within(seen[key], PANEL)
            panel = canvas.resized(panel, panels[0].shape[:2])
            errors = [row["error"] for row in rows if (row["strength"], row["draw"]) == key]
            canvas.draw_text(panel, f"strength {key[0]:g}")
            canvas.draw_text(panel, " / ".join(f"{error:.2f}" for error in errors), ("bottom", "left"))
            panels.append(panel)
        strips.append(canvas.row(panels))
    path = arguments.pictures / f"{pair.group}-{pair.name.replace('/', '-')}.png"
    with atomic_path(path) as temporary:
        Image.fromarray(sheet(strips)).save(temporary, format="PNG")


def summary(rows: list[dict[str, Any]], strengths: list[float]) -> list[dict[str, Any]]:
    """A row for each set and model, and for each model the geometric mean of its ratios over the sets."""
    groups, labels = (list(dict.fromkeys(row[key] for row in rows)) for key in ("set", "model"))
    table = []
    for group in groups:
        for label in labels:
            mine = [row for row in rows if (row["set"], row["model"]) == (group, label)]
            table.append({"set": group, "model": label, **figures(mine, strengths)})
    for label in labels if len(groups) > 1 else []:
        mine = [row for row in table if row["model"] == label]
        keys = [f"{kind}_{s:g}" for s in strengths for kind in ("ratio", "own_ratio")]
        overall = {key: statistics.geometric_mean(row[key] for row in mine) for key in keys}
        table.append({"set": "all sets", "model": label, "pairs": sum(row["pairs"] for row in mine), **overall})
    return table


def figures(rows: list[dict[str, Any]], strengths: list[float]) -> dict[str, Any]:
    clean = {row["pair"]: row for row in rows if row["strength"] == 0}
    found = {"pairs": len(clean), "clean": mean([row["error"] for row in clean.values()])}
    found |= {"clean_covered": mean([row["covered"] for row in clean.values()])}
    found |= {f"clean_{key}": mean([row[key] for row in clean.values()]) for key in SHARES}
    for strength in strengths:
        lit = [row for row in rows if row["strength"] == strength]
        errors = [row["error"] for row in lit]
        values = {"lit": mean(errors), "median": statistics.median(errors), "ratio": mean(errors) / found["clean"]}
        values["own_ratio"] = statistics.median(row["error"] / clean[row["pair"]]["error"] for row in lit)
        values |= {key: mean([row[key] for row in lit]) for key in (*SHARES, "covered")}
        found |= {f"{key}_{strength:g}": value for key, value in values.items()}
    return found


def columns(strengths: list[float]) -> dict[str, tuple[str, str]]:
    table = {"set": ("set", ""), "model": ("model", ""), "pairs": ("pairs", "d"), "clean": ("clean px", ".2f")}
    table["clean_within_3"] = ("≤3 px", ".1%")
    for s in strengths:
        table |= {
            f"lit_{s:g}": (f"light {s:g}: mean", ".2f"),
            f"median_{s:g}": ("median", ".2f"),
            f"ratio_{s:g}": ("ratio", ".2f"),
            f"own_ratio_{s:g}": ("own", ".2f"),
            f"within_3_{s:g}": ("≤3 px", ".1%"),
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--models", type=models, default="life-small,raft-xfeat,dis")
    parser.add_argument("--sets", type=names, help="only these: middlebury, cones, kitti, graf, fountain")
    parser.add_argument("--draws", type=int, default=5, help="lights for each pair and strength")
    parser.add_argument("--strengths", type=numbers, default="0.5,1")
    parser.add_argument("--limit", type=int, help="at most so many pairs of each set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write a contact sheet for each pair")
    parser.add_argument("--output", type=Path, help="JSON file; every pair and draw goes into the CSV file beside it")
    arguments = parser.parse_args()
    chosen = (pair for pair in pairs(arguments.root) if not arguments.sets or pair.group in arguments.sets)
    rows: list[dict[str, Any]] = []
    for pair in first_of_each(chosen, lambda pair: pair.group, arguments.limit):
        say(f"{pair.group} {pair.name}")
        rows += measure(pair, arguments)
    table = summary(rows, arguments.strengths)
    lights = f"{arguments.draws} lights a pair and strength, seed {arguments.seed}"
    show(f"error in px, image1 relit; {lights}", table, columns(arguments.strengths))
    write(arguments.output, arguments, {"rows": table, "pairs": rows})


if __name__ == "__main__":
    run(main)
