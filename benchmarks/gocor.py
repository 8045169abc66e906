"""GOCor against plain correlation in one table: networks that were trained alike, with and without it.

    .venv/bin/python benchmarks/gocor.py --pairs basenet=FILE,basenet-gocor=FILE [--pairs pwcnet=FILE,pwcnet-gocor=FILE]
        --photos ../shared/photos --root ../shared/data --output DIR [--count N] [--sets static,tiled,...]
        [--iterations 0,1,3,7,15] [--speed 256x256,436x1024] [--threads 2] [--repeats 5] [--device cpu] [--fresh]

The plain network of each pair comes first; without =FILE the shipped weights are taken. Every network sees the same pairs:

static, dynamic   GLU-Net's synthetic pairs (spec.md 6.4: warps; with moving objects) from photographs held out from training
                  (PHOTOS/val, else all of PHOTOS), 256x256, 64 of each; what is hidden in image1 does not count. The objects'
                  cut-outs are those of the training, for there are no others
tiled, facade     what repeats, benchmarks/repetitive.py, 40 of each from the same photographs; "tiled, inside" counts the
                  wallpaper alone, with the share of its pixels that are half a tile or more off
the real ones     oxford, hpatches, homogr, evd (the flow of the homography), middlebury, kitti, pf-willow of ROOT, as
                  `flowkit bench` measures them

EPE is the mean over pairs of the mean error in pixels, PCK-N the share of all pixels within N px; for PF-WILLOW PCK-.05 and
PCK-.1 of the object's extent, the mean over pairs. "EPE: GOCor" says by how much GOCor's mean is smaller (+) or larger (-),
"better on" in how many pairs its error is smaller (in PF-WILLOW, its PCK-.1 larger). With --iterations, the GOCor networks
on the synthetic sets with that many steps in all of their modules (0: what the initialisers give).

Time and memory, as `flowkit bench speed`: a process each, in turns, medians; memory beyond what lay there before.

Every row is kept in DIR/measured as soon as it is there, so that a run goes on where it was interrupted. Rows are measured
anew when weights, counts, the seed or the photographs are others, or with --fresh; rows that other code measured are named.
DIR/gocor.json has everything, gocor.csv every pair of pictures, gocor.md the tables.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gocor_tables import Row, accuracy_table, compared, speed_table, steps_table
from repetitive import repetitive_pairs
from reporting import names, run, say, write

from flowkit.datasets.catalogue import find_samples
from flowkit.errors import UsageError
from flowkit.evaluation import speed
from flowkit.evaluation.cache import Cache, code_digest
from flowkit.evaluation.methods import WeightsFile, build_methods
from flowkit.evaluation.metrics import endpoint_error, flow_errors
from flowkit.evaluation.protocols import ERROR
from flowkit.evaluation.protocols import run as run_bench
from flowkit.io.atomic import write_text
from flowkit.io.weights import card, sha256
from flowkit.models.registry import network_spec
from flowkit.models.weights import load_network, weights_path
from flowkit.pipelines.network import to_tensor
from flowkit.pipelines.prepare import resolve_device
from flowkit.synth.engine import Engine, EngineSettings
from flowkit.synth.geometric import DYNAMIC, STATIC
from flowkit.synth.photos import PhotoStore, pictures

ENGINE = {"static": STATIC, "dynamic": DYNAMIC}
REPETITIVE = ("tiled", "facade")
SYNTHETIC = (*ENGINE, *REPETITIVE)
REAL = {
    "oxford": "homography",
    "hpatches": "homography",
    "homogr": "homography",
    "evd": "homography",
    "middlebury": "flow",
    "kitti": "flow",
    "pf-willow": "matching",
}
"""Data set -> the task under which the catalogue has it; homographies are judged as flow."""
COUNTS = dict.fromkeys(ENGINE, 64) | dict.fromkeys(REPETITIVE, 40)
SIZE = (256, 256)
FARTHEST = 1e4
"""Pixels: the warps are as they are drawn."""
INSIDE = "tiled, inside"


@dataclass(frozen=True)
class Net:
    """A network with the file of its weights; `file` None is the shipped one."""

    model: str
    file: Path | None

    @property
    def weights(self) -> str:
        """The sha256 of its weights."""
        if self.file is None:
            return card(network_spec(self.model).weights or self.model).sha256
        return _hash(self.file)


@cache
def _code() -> str:
    """What was used to measure: flowkit's code, and that of the pairs that repeat."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in ("repetitive.py", "wallpapers.py")]
    return f"{code_digest()}-{hashlib.sha256(b''.join(sources)).hexdigest()[:8]}"


@cache
def _hash(file: Path) -> str:
    return sha256(file)


def network_pair(text: str) -> tuple[Net, Net]:
    """ "basenet=a.pt,basenet-gocor" -> the plain and the GOCor network; UsageError for anything else, and no weights."""
    parts = [item.partition("=") for item in names(text)]
    if len(parts) != 2:
        raise UsageError(f"--pairs {text}: give PLAIN[=FILE],GOCOR[=FILE]")
    nets = [Net(model, Path(file) if file else None) for model, _, file in parts]
    for net in nets:
        weights_path(network_spec(net.model), net.file)
    return nets[0], nets[1]


# --- one network on one set ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Truth:
    """A synthetic pair: pictures (H, W, 3) uint8, flow (2, H, W) with NaN where it does not count."""

    name: str
    image0: np.ndarray
    image1: np.ndarray
    flow: np.ndarray
    repeating: np.ndarray | None = None
    period: float | None = None


class Measuring:
    """What the command line says, and the rows that were measured."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = resolve_device(arguments.device)
        held_out = arguments.photos / "val"
        self.photos: Path = held_out if held_out.is_dir() else arguments.photos
        self.cutouts: Path | None = arguments.photos / "cutouts"
        self.cutouts = self.cutouts if self.cutouts.is_dir() else None
        self.folder: Path = arguments.output / "measured"
        self.others = False
        """Whether a row was measured by other code."""

    def kept(self, what: Mapping[str, Any], measure: Callable[[], Row]) -> Row:
        """The row measured before for all that it depends on, `what`; else it is measured and kept."""
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        label = "-".join(str(what[key]) for key in ("model", "set", "steps") if what.get(key) is not None)
        path = self.folder / f"{label.replace(', ', '-')}-{digest}.json"
        if path.is_file() and not self.arguments.fresh:
            row = json.loads(path.read_text())
            self.others |= row["code"] != _code()
            return row
        say(f"{label}: measured now")
        row = {**measure(), "code": _code(), "of": dict(what)}
        write_text(path, json.dumps(row, indent=1) + "\n")
        return row

    def accuracy(self, net: Net, name: str, steps: int | None = None) -> Row:
        """The scores of a network on a set: {"pairs": [scores by pair]}."""
        arguments, synthetic = self.arguments, name in SYNTHETIC
        count = arguments.count or COUNTS.get(name)
        what = {"model": net.model, "weights": net.weights, "set": name, "steps": steps, "count": count}
        what |= {"device": self.device, "seed": arguments.seed}
        what |= {"photos": self._photo_names()} if synthetic else {"root": str(arguments.root.resolve())}
        measure = self._synthetic if synthetic else self._real
        return self.kept(what, lambda: {"pairs": measure(net, name, count, steps)})

    def _photo_names(self) -> str:
        """One hash of which photographs there are."""
        found = [path.name for path in pictures(self.photos)]
        return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]

    def _synthetic(self, net: Net, name: str, count: int | None, steps: int | None) -> list[Row]:
        module = load_network(net.model, net.file, self.device).module
        options = {} if steps is None else {"iterations": steps}
        rows = []
        for pair in self.truths(name, count or COUNTS[name]):
            images = [to_tensor(pixels, self.device) for pixels in (pair.image0, pair.image1)]
            with torch.inference_mode():
                uv = module(*images, **options).flow[0].float().cpu().numpy()
            rows.append({"pair": pair.name, **flow_errors(uv, pair.flow), **_where_it_repeats(uv, pair)})
        return rows

    def truths(self, name: str, count: int) -> Iterator[Truth]:
        """The pairs of a synthetic set; the first are the same for every count."""
        seed = self.arguments.seed
        if name in REPETITIVE:
            for pair in repetitive_pairs(self.photos, name, count, seed=seed):
                pictured = pair.name, pair.image0, pair.image1, pair.flow
                yield Truth(*pictured, pair.repeating if pair.period else None, pair.period)
            return
        settings = EngineSettings(layered=0, scenes3d=0, geometric=1, warps=ENGINE[name], max_displacement=FARTHEST)
        engine = Engine(self._store, settings)
        for index in range(count):
            drawn = engine.batch(1, SIZE, 1_000_003 * seed + index)
            seen = drawn.valid if drawn.occlusion is None else drawn.valid & ~drawn.occlusion
            flow = torch.where(seen[:, None], drawn.flow, torch.nan)[0].numpy()
            image0, image1 = (
                (255 * image[0]).round().byte().movedim(0, -1).numpy() for image in (drawn.image0, drawn.image1)
            )
            yield Truth(f"{index:03d}", image0, image1, flow)

    @cached_property
    def _store(self) -> PhotoStore:
        return PhotoStore.from_folder(self.photos, self.cutouts)

    def _real(self, net: Net, name: str, count: int | None, _: int | None) -> list[Row]:
        task = "matching" if REAL[name] == "matching" else "flow"
        varied: dict[str, Sequence[object]] = {"model": [net.model]}
        if net.file is not None:
            varied["weights"] = [WeightsFile(net.file, net.weights)]
        samples = find_samples(self.arguments.root, (REAL[name],), (name,))[REAL[name]]
        methods = build_methods(task, ["flow"], varied)
        rows = []
        for result in run_bench(task, samples, methods, cache=Cache(None), device=self.device, limit=count):
            if result.status == ERROR:
                raise UsageError(f"{net.model} on {name}/{result.sample}: {result.message}")
            rows.append({"pair": result.sample, **result.scores})
        return rows

    def speed(self, nets: Sequence[Net], size: str) -> list[Row]:
        """Seconds and memory of both networks at a size, measured in turns; their weights do not matter."""
        arguments = self.arguments
        settings = speed.settings(size, device=self.device, repeats=arguments.repeats, threads=arguments.threads)
        models = [net.model for net in nets]
        what = {"model": "+".join(models), "set": f"speed-{size}", **asdict(settings)}

        def measure() -> Row:
            found = speed.measure(models, settings)
            for each in found:
                if each.error:
                    raise UsageError(f"{each.model} at {size}: {each.error}")
            keys = ("model", "size", "median", "seconds", "peak", "peak_total")
            return {"networks": [{key: getattr(each, key) for key in keys} for each in found]}

        return self.kept(what, measure)["networks"]


def _where_it_repeats(uv: np.ndarray, pair: Truth) -> Row:
    """The errors in the wallpaper, under names of their own, and the share that is half a tile off or more."""
    if pair.repeating is None or pair.period is None:
        return {}
    truth = np.where(pair.repeating, pair.flow, np.nan)
    if not np.isfinite(truth).any():
        return {}
    error = endpoint_error(uv, truth)
    far = float(np.mean(error[np.isfinite(error)] >= pair.period / 2))
    return {f"inside_{key}": value for key, value in {**flow_errors(uv, truth), "off": far}.items()}


# --- all of them -----------------------------------------------------------------------------------------------------


def compare(nets: tuple[Net, Net], measuring: Measuring) -> dict[str, list[Row]]:
    """The rows of a pair of networks: by set, by size, by number of steps, by pair of pictures."""
    arguments, label = measuring.arguments, " against ".join(net.model for net in reversed(nets))
    tables: dict[str, list[Row]] = {"rows": [], "speed": [], "steps": [], "pairs": []}
    for name in arguments.sets:
        plain, gocor = (measuring.accuracy(net, name)["pairs"] for net in nets)
        tables["rows"].append(compared(name, plain, gocor))
        if any("inside_epe" in scores for scores in plain):
            tables["rows"].append(compared(INSIDE, plain, gocor, "inside_"))
        for net, scores in zip(nets, (plain, gocor), strict=True):
            tables["pairs"] += [{"network": net.model, "set": name, **each} for each in scores]
    for size in arguments.speed:
        plain, gocor = measuring.speed(nets, size)
        row = {"size": size, "ratio": gocor["median"] / plain["median"]}
        for who, found in (("plain", plain), ("gocor", gocor)):
            row |= {f"seconds_{who}": found["median"], f"peak_{who}": found["peak"]}
        tables["speed"].append(row)
    tables["steps"] = by_steps(nets, measuring) if arguments.iterations else []
    return {table: [{"comparison": label, **row} for row in rows] for table, rows in tables.items()}


def by_steps(nets: tuple[Net, Net], measuring: Measuring) -> list[Row]:
    """The mean error on the synthetic sets of the plain network, the GOCor one, and that with other numbers of steps."""
    plain, gocor = nets
    if "iterations" not in inspect.signature(load_network(gocor.model, gocor.file).module.forward).parameters:
        raise UsageError(f"--iterations: {gocor.model!r} has none; leave the option out")
    versions = [("plain", plain, None), ("its own", gocor, None)]
    versions += [(str(steps), gocor, steps) for steps in measuring.arguments.iterations]
    rows = []
    for name in (name for name in measuring.arguments.sets if name in SYNTHETIC):
        for label, net, steps in versions:
            pairs = measuring.accuracy(net, name, steps)["pairs"]
            rows.append({"set": name, "steps": label, "epe": float(np.mean([pair["epe"] for pair in pairs]))})
    return rows


def markdown_of(tables: Mapping[str, Sequence[Row]], arguments: argparse.Namespace) -> str:
    """What is printed."""
    text = ""
    for label in dict.fromkeys(row["comparison"] for rows in tables.values() for row in rows):
        mine = {name: [row for row in rows if row["comparison"] == label] for name, rows in tables.items()}
        text += f"\n## {label}\n"
        if mine["rows"]:
            text += f"\nplain / GOCor\n\n{accuracy_table(mine['rows'])}"
        if mine["speed"]:
            text += f"\n{arguments.device}, {arguments.threads} threads\n\n{speed_table(mine['speed'])}"
        if mine["steps"]:
            names_of_sets = list(dict.fromkeys(row["set"] for row in mine["steps"]))
            text += f"\n{steps_table(mine['steps'], names_of_sets)}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", action="append", required=True, help="PLAIN[=FILE],GOCOR[=FILE]; repeatable")
    parser.add_argument("--photos", type=Path, required=True, help="photographs; its val/ was held out from training")
    parser.add_argument("--root", type=Path, required=True, help="real pairs, laid out as for `flowkit bench pairs`")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--sets", type=names, default=[*SYNTHETIC, *REAL], help="of " + ", ".join((*SYNTHETIC, *REAL)))
    parser.add_argument("--count", type=int, help="pairs of every set at most; else 64, 40, and all real ones")
    parser.add_argument("--iterations", type=names, default=[], help="numbers of steps, for example 0,1,3,7,15")
    parser.add_argument("--speed", type=names, default=["256x256", "436x1024"], help="HEIGHTxWIDTH; none: no timing")
    parser.add_argument("--threads", type=int, default=2, help="of the timing")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic pairs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.sets if name not in (*SYNTHETIC, *REAL)]:
        raise UsageError(f"--sets {unknown[0]}: use some of {', '.join((*SYNTHETIC, *REAL))}")
    if unknown := [text for text in arguments.iterations if not text.isdecimal()]:
        raise UsageError(f"--iterations {unknown[0]}: give numbers from 0 up")
    arguments.iterations = [int(text) for text in arguments.iterations]
    arguments.speed = [size for size in arguments.speed if size != "none"]
    measuring = Measuring(arguments)
    tables: dict[str, list[Row]] = {"rows": [], "speed": [], "steps": [], "pairs": []}
    for nets in [network_pair(text) for text in arguments.pairs]:
        for name, rows in compare(nets, measuring).items():
            tables[name] += rows
    text = markdown_of(tables, arguments)
    if measuring.others:
        text += "\nSome rows were measured by another state of the code; --fresh measures them anew.\n"
    print(text, flush=True)
    write_text(arguments.output / "gocor.md", text)
    write(arguments.output / "gocor", arguments, tables)


if __name__ == "__main__":
    run(main)
