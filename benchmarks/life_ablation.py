"""LIFE's ablation of training losses (Huang et al., 2021, Table 6) at small scale: one network trained with each row's terms.

    .venv/bin/python benchmarks/life_ablation.py --photos DIR --root ROOT --output DIR [--steps 500]
        [--init raft-xfeat | backbone | W.safetensors] [--rows T,BiT,SED,SED+FC,SED+AC,SED+BiT+AC] [--set FIELD=VALUE ...]

Each row is `flowkit train life-small --set terms=ROW` from the same weights, over the same pairs, for as many steps; rows that
are trained already are not trained again, a row that was interrupted goes on. B' keeps B's light, as in the paper
(--warp-lighting 0). `backbone` begins with XFeat's features and nothing else.

Then the mean end-point errors in pixels: K, the KITTI pairs of ROOT, all pixels; V, viewpoint, HPatches' v_ sequences and
Oxford's graf of ROOT at 480x640, the flow of the homography; I(T), the photographs that were held out, put into other light
at full strength by the engine and warped by a homography whose corners move by up to a quarter of the sides; 3-D, rigid scenes
of the engine over the same photographs, both pictures in full-strength light, the pixels that are not hidden. Without
ROOT there is no K and no V. The paper's figures stand beside them; they are of another network, on whole data sets.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from relit import relit_picture, seed_of, to_uint8
from reporting import mean, names, run, say, show, write

from flowkit.datasets.catalogue import find_samples, read_dataset
from flowkit.datasets.homography_flow import homography_flow
from flowkit.datasets.hpatches_flow import random_homography
from flowkit.datasets.samples import FlowSample, HomographySample, Preparation
from flowkit.errors import EXIT_PARTIAL_BATCH, UsageError
from flowkit.evaluation.metrics import flow_errors
from flowkit.evaluation.preparation import prepared_images
from flowkit.geometry.grids import resize_homography
from flowkit.io.atomic import write_text
from flowkit.io.images import image_header
from flowkit.io.weights import find_weights, write_weights
from flowkit.losses.life import Row
from flowkit.pipelines.flow import flow
from flowkit.synth.engine import Engine
from flowkit.synth.lighting import relight
from flowkit.synth.photos import PhotoStore
from flowkit.training.checkpoints import INDEX, read_index
from flowkit.training.loop import LAST, WEIGHTS
from flowkit.training.material import read_photos
from flowkit.training.recipes import recipe
from flowkit.types import Size

RECIPE = "life-small"
ROWS: tuple[str, ...] = get_args(Row)
PAPER = {
    "T": (9.03, 27.94, 61.03, 48.15),
    "BiT": (3.71, 11.83, 16.03, 37.6),
    "SED": (5.62, 16.26, 11.69, 15.17),
    "SED+FC": (6.48, 16.83, 17.79, 23.64),
    "SED+AC": (4.89, 14.99, 12.57, 15.47),
    "SED+BiT+AC": (2.59, 8.30, 5.90, 9.19),
}
"""AEPE on KITTI 2012, KITTI 2015, HPatches viewpoint and illumination (trans); the paper's Table 6."""
SIZE = (480, 640)
SCENE_SIZE = (256, 384)
COLUMNS = {
    "row": ("terms", ""),
    "kitti": ("K", ".2f"),
    "viewpoint": ("V", ".2f"),
    "illumination": ("I(T)", ".2f"),
    "scenes": ("3-D", ".2f"),
    "paper_k12": ("| paper: K-12", ".2f"),
    "paper_k15": ("K-15", ".2f"),
    "paper_v": ("HP-V", ".2f"),
    "paper_i": ("HP-I(T)", ".2f"),
}


@dataclass(frozen=True)
class Pair:
    """Pictures (H, W, 3) or Image, truth (2, H, W) with NaN where it is unknown or not asked for."""

    group: str
    name: str
    image0: Any
    image1: Any
    truth: np.ndarray


# --- training --------------------------------------------------------------------------------------------------------


def train(row: str, arguments: argparse.Namespace, init: Path) -> Path | None:
    """The averaged weights at the end of the row's run; None where it diverged."""
    folder = arguments.output / row
    weights = folder / WEIGHTS
    step = read_index(folder / LAST)["step"] if (folder / LAST / INDEX).is_file() else 0
    if step >= arguments.steps and weights.is_file():
        say(f"{row}: trained already")
        return weights
    say(f"{row}: {arguments.steps - step} steps")
    begin = ["--resume"] if step else ["--overwrite", "--init", str(init)]
    fields = [f"terms={row}", f"warp_lighting={arguments.warp_lighting}", "validate_every=0", *arguments.set]
    command = [sys.executable, "-m", "flowkit", "train", RECIPE, "--photos", str(arguments.photos), *begin]
    command += ["--steps", str(arguments.steps), "--output", str(folder), "--device", arguments.device]
    command += [word for field in fields for word in ("--set", field)]
    command += [word for data in arguments.data for word in ("--data", data)]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code not in (0, EXIT_PARTIAL_BATCH):
        raise SystemExit(code)
    return weights if code == 0 else None


def initial(arguments: argparse.Namespace) -> Path:
    """The weights that all rows begin with."""
    if arguments.init != "backbone":
        given = Path(arguments.init)
        return given if given.exists() else find_weights(arguments.init)
    path: Path = arguments.output / "backbone.safetensors"
    if not path.is_file():
        begun = recipe("raft-xfeat")
        torch.manual_seed(0)
        network = begun.network()
        begun.begin(network)
        write_weights(path, network.state_dict(), {"model": begun.model})
    return path


def require_same(arguments: argparse.Namespace) -> None:
    """UsageError where the folder holds rows that were trained otherwise: a table is of one kind of run."""
    kept = ("photos", "data", "steps", "init", "set", "warp_lighting")
    settings = {name: str(getattr(arguments, name)) for name in kept}
    path: Path = arguments.output / "settings.json"
    if path.is_file() and (found := json.loads(path.read_text())) != settings:
        other = ", ".join(f"{name} {found.get(name)}" for name in kept if found.get(name) != settings[name])
        raise UsageError(f"{arguments.output}: its rows were trained with {other}; give these or another --output")
    write_text(path, json.dumps(settings, indent=1) + "\n")


# --- what they are measured on ---------------------------------------------------------------------------------------


def real_pairs(root: Path) -> Iterator[Pair]:
    samples = {group: list(found) for group, found in (("kitti", kitti(root)), ("viewpoint", viewpoint(root)))}
    for group, found in samples.items():
        for sample in found:
            yield Pair(group, sample.name, *prepared_images(sample), sample.flow())


def kitti(root: Path) -> Iterator[FlowSample]:
    for sample in find_samples(root, ("flow",), ("kitti",))["flow"]:
        assert isinstance(sample, FlowSample)
        yield sample


def viewpoint(root: Path) -> Iterator[FlowSample]:
    """From image k to image 1, as HPatches' flow is measured."""
    for sample in read_dataset("hpatches-flow-v", root / "homography_hpatches"):
        assert isinstance(sample, FlowSample)
        yield sample
    for pair in find_samples(root, ("homography",), ("oxford",))["homography"]:
        assert isinstance(pair, HomographySample)
        first, other = image_header(pair.image0), image_header(pair.image1)
        H = resize_homography(torch.from_numpy(pair.H), first, SIZE, other, SIZE).numpy()
        truth = partial(homography_flow, np.linalg.inv(H), SIZE, SIZE)
        same = Preparation(SIZE)
        reversed_pair = pair.dataset, pair.name, pair.image1, pair.image0
        yield FlowSample(*reversed_pair, truth, preparation0=same, preparation1=same)


def lit_and_warped(photos: PhotoStore, count: int, seed: int) -> Iterator[Pair]:
    """HPatches' illumination (trans) made of photographs: the flow is on the lit and warped picture, into the photograph."""
    import cv2

    for index in range(min(count, len(photos))):
        name, photo = photos.names[index], photos.levels[0][index].numpy()
        size: Size = (photo.shape[0], photo.shape[1])
        H = random_homography(f"{seed}/{name}", size)
        lit = cv2.warpPerspective(relit_picture(photo, 1.0, seed_of(seed, name)), H, size[::-1], flags=cv2.INTER_LINEAR)
        yield Pair("illumination", name, lit, photo, homography_flow(np.linalg.inv(H), size, size))


def scenes(photos: PhotoStore, count: int, seed: int) -> Iterator[Pair]:
    """Rigid 3-D scenes as in the last part of the training, in full light each; hidden pixels have no truth."""
    settings = recipe(RECIPE).at_stage(recipe(RECIPE).stage_at(1.0)).engine
    engine = Engine(photos, replace(settings, lighting=0.0))
    for index in range(count):
        pair = engine.batch(1, SCENE_SIZE, seed_of(seed, "scene", index))
        pair = relight(pair, 1.0, torch.Generator().manual_seed(seed_of(seed, "light", index)))
        known = pair.valid if pair.occlusion is None else pair.valid & ~pair.occlusion
        truth = torch.where(known[:, None], pair.flow, torch.nan)[0].numpy()
        yield Pair("scenes", str(index), to_uint8(pair.image0[0]), to_uint8(pair.image1[0]), truth)


def measure(row: str, weights: Path, pairs: list[Pair], device: str) -> list[dict[str, Any]]:
    say(f"{row}: {len(pairs)} pairs")
    scores = []
    for pair in pairs:
        uv = flow(pair.image0, pair.image1, model=RECIPE, weights=weights, device=device).uv
        scores.append({"row": row, "set": pair.group, "pair": pair.name, **flow_errors(uv, pair.truth)})
    return scores


def table_row(row: str, scores: list[dict[str, Any]]) -> dict[str, Any]:
    groups = ("kitti", "viewpoint", "illumination", "scenes")
    found = {
        group: [score["epe"] for score in scores if (score["row"], score["set"]) == (row, group)] for group in groups
    }
    paper = PAPER.get(row, (math.nan,) * 4)
    published = dict(zip(("paper_k12", "paper_k15", "paper_v", "paper_i"), paper, strict=True))
    counts = {f"{group}_pairs": len(errors) for group, errors in found.items()}
    return {"row": row, **{group: mean(errors) for group, errors in found.items()}, **counts, **published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="photographs; val/ is held out, else 5 %% of them")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DIR", help="posed photographs, repeatable")
    parser.add_argument("--root", type=Path, help="real pairs, laid out as for `flowkit bench pairs`")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder of the runs and of ablation.json, ablation.csv"
    )
    parser.add_argument("--rows", type=names, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--init", default="raft-xfeat", help="a model, `backbone`, or a file")
    parser.add_argument("--warp-lighting", type=float, default=0.0, help="strongest change of light of B'")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="further fields of the recipe"
    )
    parser.add_argument("--lit", type=int, default=16, help="how many photographs I(T) has")
    parser.add_argument("--scenes", type=int, default=16, help="how many scenes 3-D has")
    parser.add_argument("--seed", type=int, default=0, help="of the pairs that are measured on")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    if unknown := [row for row in arguments.rows if row not in ROWS]:
        raise UsageError(f"--rows {unknown[0]}: known: {', '.join(ROWS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    require_same(arguments)
    init = initial(arguments)
    trained = {"(before)": init} | {row: train(row, arguments, init) for row in arguments.rows}
    photos = read_photos(arguments.photos).held_out
    assert photos is not None
    pairs = list(real_pairs(arguments.root)) if arguments.root else []
    pairs += [*lit_and_warped(photos, arguments.lit, arguments.seed), *scenes(photos, arguments.scenes, arguments.seed)]
    scores: list[dict[str, Any]] = []
    for row, weights in trained.items():
        scores += measure(row, weights, pairs, arguments.device) if weights else []
    table = [table_row(row, scores) for row in trained]
    show(f"mean end-point error in px after {arguments.steps} steps from {arguments.init}", table, COLUMNS)
    write(arguments.output / "ablation", arguments, {"rows": table, "pairs": scores})


if __name__ == "__main__":
    run(main)
