"""The bi-level paper's ablation (Jiang et al. 2020, Table 1) at small scale: what the epipolar term and the student add.

    .venv/bin/python benchmarks/egomotion_ablation.py --photos DIR --output DIR [--first 5000] [--steps 1000] [--seeds 1,2,3]
        [--rows baseline,epipolar,occlusion,both] [--init liteflownetx] [--scenes 96] [--set FIELD=VALUE ...]

Runs of `flowkit train egoflow-cpu`, without labels, on rigid scenes of the engine: a camera drives through them, their faces
are plain (35 %) or repeat a patch (35 %) or neither, and motions are 3 to 12 px (90th percentile), of which the baseline
follows two thirds; of up to 48 px it follows less than half. One of `--first` steps on pictures alone makes the baseline that
all rows begin with, as the paper trains its until it converges (0: they begin with `--init`). Every row is two more, of
`--steps` each:

    baseline    pictures alone, twice
    epipolar    with the epipolar term, twice (the paper's teacher)
    occlusion   pictures alone, then a student of that
    both        with the epipolar term, then a student of that, with the epipolar term, too

A seed's runs see the same scenes in the same order; runs that are there already are not repeated. Then, on scenes of such
faces made from photographs that were held out: the mean end-point error in pixels, of all pixels, of those that are visible,
and of those around which next to nothing is to be seen (grey levels in 9x9 pixels deviate by less than
2 of 255); the part of it that is off the true epipolar line, which is all that the term can say anything about; and by the E of
the flow (`geometry.essential_layer`, of visible pixels) the angles of rotation and
direction of translation that are off, the mean, and the median over scenes. Each row is given for each seed, and as the mean
over seeds with the standard deviation; `change` is the mean over seeds of the difference from that seed's baseline, and
`scene by scene` that of the same scene with the same seed, in percent (geometric mean), with the standard error over scenes.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import mean, names, run, say, show, write

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.geometry.essential_layer import EssentialFit, EssentialSettings, essential_of_flow
from flowkit.geometry.grids import flow_targets, grid_like
from flowkit.geometry.pose import normalise_points, recover_pose, rotation_angle, translation_angle
from flowkit.io.atomic import write_text
from flowkit.io.weights import find_weights, load_checkpoint, load_strictly
from flowkit.losses.census import grey_levels
from flowkit.losses.one_sided_epipolar import epipolar_squares
from flowkit.losses.self_supervision import visible
from flowkit.models.registry import build
from flowkit.synth.engine import Engine
from flowkit.training.loop import WEIGHTS
from flowkit.training.material import read_photos
from flowkit.training.recipes import recipe
from flowkit.training.settings import with_settings

RECIPE = "egoflow-cpu"
FIRST = "first"
ROWS: dict[str, tuple[str, str]] = {
    "baseline": ("baseline", "baseline"),
    "epipolar": ("epipolar", "epipolar"),
    "occlusion": ("baseline", "student-alone"),
    "both": ("epipolar", "student"),
}
"""Row -> its two runs after the first."""
_STUDENT = ['until="student"', "size=128,160", "crop=96,128", "student.consistency=0.1", "student.smoothness=0.1"]
RUNS = {
    FIRST: ['until="baseline"', "learning_rate=3e-4"],
    "baseline": ['until="baseline"'],
    "epipolar": ['until="epipolar"'],
    "student-alone": [*_STUDENT, "student.epipolar=0"],
    "student": [*_STUDENT, "student.epipolar=0.25"],
}
"""Run -> what it is told. The students keep the terms of their teachers: what differs is what the table compares."""
SCENES = [
    "engine.cameras.plain=0.35",
    "engine.cameras.repeating=0.35",
    "engine.cameras.forward=1",
    *(f"engine.cameras.{other}=0" for other in ("handheld", "orbit", "rotation", "lateral", "zooming")),
    "engine.max_displacement=12",
    "engine.cameras.min_displacement=3",
    "engine.lighting=0",
]
COMMON = [
    *("stages=[]", "batch=2", "size=96,128", "validate_every=0", "learning_rate=1.5e-4", "warmup=0.02", "ema=0.998"),
    *("epipolar_form=angle", "teacher.epipolar=0.25", "trust=0.5", "agreement=180", "lower.delta=2e-3"),
]
SIZE = (128, 192)
SEED = 1 << 60
"""Of the held-out scenes; training seeds are below 2^48."""
SETTINGS = EssentialSettings(delta=2e-3, hypotheses=1000)
METRICS = {
    "epe": "EPE",
    "visible": "visible",
    "plain": "plain",
    "line": "off the line",
    "rotation": "rotation",
    "translation": "direction",
    "rotation_median": "median rot.",
    "translation_median": "median dir.",
}
PAIRED = ("epe", "visible", "line", "rotation", "translation")
"""What every scene has, and is compared scene by scene."""
KINDS = {"percent": "%", "error": "+-"}


# --- training --------------------------------------------------------------------------------------------------------


def train(arguments: argparse.Namespace, seed: int, path: tuple[str, ...], init: str) -> Path:
    """The weights at the end of the last run of `path`, each begun with those of the one before."""
    weights = init
    for length, name in enumerate(path, 1):
        folder: Path = arguments.output / (FIRST if name == FIRST else f"seed{seed}/{'-'.join(path[:length])}")
        steps = arguments.first if name == FIRST else arguments.steps
        if not (folder / WEIGHTS).is_file():
            say(f"seed {seed}: {' then '.join(path[:length])}, {steps} steps")
            fields = [*SCENES, *COMMON, *RUNS[name], f"seed={100 * seed + length}", *arguments.set]
            command = [
                sys.executable,
                "-m",
                "flowkit",
                "train",
                RECIPE,
                "--photos",
                str(arguments.photos),
                "--overwrite",
            ]
            command += ["--steps", str(steps), "--init", weights, "--output", str(folder)]
            command += ["--device", arguments.device, *(word for field in fields for word in ("--set", field))]
            code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
            if code:
                raise SystemExit(code)
        weights = str(folder / WEIGHTS)
    return Path(weights)


def require_same(arguments: argparse.Namespace) -> None:
    """UsageError where the folder holds runs of another kind."""
    settings = {name: str(getattr(arguments, name)) for name in ("photos", "first", "steps", "init", "set")}
    path: Path = arguments.output / "settings.json"
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise UsageError(f"{arguments.output}: holds runs with other settings; give another --output")
    write_text(path, json.dumps(settings, indent=1) + "\n")


# --- measuring -------------------------------------------------------------------------------------------------------


def held_out(arguments: argparse.Namespace) -> list[PairBatch]:
    """The scenes that all rows are measured on."""
    engine = with_settings(recipe(RECIPE), SCENES).engine  # type: ignore[attr-defined]
    photos = read_photos(arguments.photos).held_out
    assert photos is not None
    source = Engine(photos, replace(engine, lighting=0.0))
    return [source.batch(1, SIZE, SEED + number) for number in range(arguments.scenes)]


@torch.no_grad()
def measured(weights: Path, scenes: list[PairBatch]) -> list[dict[str, float]]:
    """The figures of one network, scene by scene."""
    network = build(recipe(RECIPE).model)
    load_strictly(network, load_checkpoint(recipe(RECIPE).model, weights), str(weights))
    network.eval()
    return [dict(scores(network, scene)) for scene in scenes]


def summary(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means over scenes, and medians of the angles."""
    columns = {name: [row[name] for row in rows if name in row] for name in METRICS}
    medians = {f"{name}_median": statistics.median(columns[name]) for name in ("rotation", "translation")}
    return {name: mean(values) for name, values in columns.items()} | medians


def scores(network: torch.nn.Module, scene: PairBatch) -> Iterator[tuple[str, float]]:
    """The figures of one scene."""
    there = network(scene.image0, scene.image1).flow
    back = network(scene.image1, scene.image0).flow
    error = (there - scene.flow).norm(dim=1)
    assert scene.occlusion is not None
    masks = {"epe": scene.valid, "visible": scene.valid & ~scene.occlusion, "plain": scene.valid & plain(scene.image0)}
    for name, mask in masks.items():
        if bool(mask.any()):
            yield name, float(error[mask].mean())
    assert scene.E is not None and scene.K0 is not None and scene.K1 is not None
    off = epipolar_squares(there.double(), scene.E, scene.K0, scene.K1).sqrt() * scene.K1[:, 0, 0, None, None]
    yield "line", float(off[scene.valid].mean())
    seen = visible(there, back)
    fit = essential_of_flow(there, scene.K0, scene.K1, seen, SETTINGS)
    yield from pose_errors(fit, there, seen[0], scene)


def plain(images: torch.Tensor) -> torch.Tensor:
    """(B, H, W) bool: where pictures (B, 3, H, W) show next to no texture."""
    grey = grey_levels(images)

    def around(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(values, 9, 1, 4, count_include_pad=False)

    return (around(grey.square()) - around(grey).square())[:, 0] < 2.0**2


def pose_errors(
    fit: EssentialFit, flow: torch.Tensor, seen: torch.Tensor, scene: PairBatch
) -> Iterator[tuple[str, float]]:
    """Degrees; 180 where there is no E."""
    assert scene.K0 is not None and scene.K1 is not None and scene.R is not None and scene.t is not None
    start, end = grid_like(flow).movedim(0, -1)[seen], flow_targets(flow)[0][seen]
    x0, x1 = (normalise_points(x.double(), K[0].double()) for x, K in ((start, scene.K0), (end, scene.K1)))
    R, t, _ = recover_pose(fit.E[0].double(), x0, x1)
    found = bool(fit.found[0])
    yield "rotation", float(rotation_angle(R.mT @ scene.R[0].double())) if found else 180.0
    yield "translation", float(translation_angle(t, scene.t[0].double())) if found else 180.0


Found = Mapping[tuple[str, int], list[dict[str, float]]]
"""(row, seed) -> the figures of each scene."""


def tables(found: Found) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """By seed, and over seeds: mean, standard deviation, and difference from the baseline of the same seed."""
    figures = {key: summary(rows) for key, rows in found.items()}
    each = [{"row": row, "seed": seed, **values} for (row, seed), values in figures.items()]
    over = []
    for row in dict.fromkeys(row for row, _ in found):
        seeds = [seed for name, seed in found if name == row]
        paired = [seed for seed in seeds if ("baseline", seed) in found]
        line: dict[str, Any] = {"row": row, "seeds": len(seeds)}
        for metric in METRICS:
            values = [figures[row, seed][metric] for seed in seeds]
            changes = [figures[row, seed][metric] - figures["baseline", seed][metric] for seed in paired]
            line[metric] = mean(values)
            line[f"{metric}_deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
            line[f"{metric}_change"] = mean(changes)
        for metric in PAIRED if paired else ():
            line[f"{metric}_percent"], line[f"{metric}_error"] = by_scene(found, row, paired, metric)
        over.append(line)
    return each, over


def by_scene(found: Found, row: str, seeds: list[int], metric: str) -> tuple[float, float]:
    """Percent that a scene's figure is above that of its baseline, and the standard error over scenes."""

    def logs(name: str) -> np.ndarray:
        return np.log([[scene[metric] for scene in found[name, seed]] for seed in seeds])

    of_scenes = (logs(row) - logs("baseline")).mean(axis=0)
    return 100 * math.expm1(of_scenes.mean()), 100 * float(of_scenes.std(ddof=1)) / math.sqrt(len(of_scenes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=names, default=names("1,2,3"))
    parser.add_argument("--rows", type=names, default=list(ROWS))
    parser.add_argument("--init", default="liteflownetx")
    parser.add_argument("--scenes", type=int, default=96)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    require_same(arguments)
    scenes = held_out(arguments)
    begun = find_weights(arguments.init) if not Path(arguments.init).exists() else Path(arguments.init)
    found = {("before training", 0): measured(begun, scenes)}
    if arguments.first:
        begun = train(arguments, 0, (FIRST,), str(begun))
        found[FIRST, 0] = measured(begun, scenes)
    for seed in map(int, arguments.seeds):
        for row in arguments.rows:
            found[row, seed] = measured(train(arguments, seed, ROWS[row], str(begun)), scenes)
            report(arguments, found)


def report(arguments: argparse.Namespace, found: Found) -> None:
    """What is known so far."""
    each, over = tables(found)
    columns = {name: (title, ".3f") for name, title in METRICS.items()}
    changes = {f"{name}_change": (title, "+.3f") for name, title in METRICS.items()}
    show("by seed", each, {"row": ("row", ""), "seed": ("seed", "d"), **columns})
    show("mean over seeds", over, {"row": ("row", ""), "seeds": ("seeds", "d"), **columns})
    show("change from the baseline of the same seed", over, {"row": ("row", ""), "seeds": ("seeds", "d"), **changes})
    percent = {f"{name}_{kind}": (f"{METRICS[name]} {sign}", ".1f") for name in PAIRED for kind, sign in KINDS.items()}
    show("scene by scene, percent from its baseline", over, {"row": ("row", ""), "seeds": ("seeds", "d"), **percent})
    scenes = [
        {"row": row, "seed": seed, "scene": number, **figures}
        for (row, seed), rows in found.items()
        for number, figures in enumerate(rows)
    ]
    write(arguments.output / "ablation.json", arguments, {"over": over, "each": each, "scenes": scenes})


if __name__ == "__main__":
    run(main)
