"""LiteFlowNet's ablations (Hui et al., TPAMI 2020, Tables 6 and 7, and conv_redir) at small scale: train each variant, compare.

    .venv/bin/python benchmarks/liteflownet_ablation.py --photos DIR --root ROOT --output DIR [--steps 1000]
        [--rows M,MS,WM,WSR,WMS,ALL,range-3,range-3-6,range-4,conv-redir] [--width 0.5] [--set FIELD=VALUE ...]

Each row is `flowkit train liteflownet-cpu --set variant=ROW` over the same pairs of the engine, from weights of the same seed,
for as many steps; rows that are trained already are not trained again, a row that was interrupted goes on. A third of the steps
teaches features to match, the others all levels at once, on small crops with motions up to 16 pixels, unless --set says
otherwise; `--width` narrows all channels.

Then the mean end-point errors in pixels on scenes of the engine over photographs that were held out, and on the flow pairs of
ROOT; and the milliseconds of one 436x1024 pair at full width, alone on this machine's threads (medians, the rows in turns).
The paper's figures stand beside them: full networks, whole schedules, FlyingChairs.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from reporting import mean, names, run, show, write
from trained_rows import errors, train

from flowkit.models.liteflownet import LiteFlowNet
from flowkit.models.liteflownet_variants import VARIANTS, variant

RECIPE = "liteflownet-cpu"
SMALL = (
    "batch=4", "stages.0.share=1", *(f"stages.{k}.share=0.5" for k in (1, 2, 3, 4)), "stages.4.batch=4",
    *(f"stages.{k}.size=128,192" for k in (2, 3, 4)), *(f"stages.{k}.max_displacement=16" for k in (2, 3, 4)),
    "engine.max_displacement=16", "validate_every=0", "validation_pairs=32", "validation_size=128,192",
)  # fmt: skip
"""The recipe for two CPU cores, shorter: one stage of features, and four alike of flow."""
PAPER = {
    "M": (3.75, 4.70, 9.22), "MS": (2.70, 4.17, 8.01), "WM": (2.98, 3.54, 6.17), "WSR": (1.63, 3.19, 5.03),
    "WMS": (1.82, 2.90, 4.83), "ALL": (1.57, 2.78, 4.56),
    "range-3": (math.nan, 2.73, 4.26), "range-3-6": (math.nan, 2.78, 4.11), "range-4": (math.nan, 2.71, 4.20),
}  # fmt: skip
"""AEE on FlyingChairs, Sintel clean and KITTI 2012."""
SIZE = (448, 1024)


def settings(row: str, arguments: argparse.Namespace) -> list[str]:
    """The fields of the recipe that a row is trained with."""
    return [f"variant={row}", f"width={arguments.width}", *SMALL, *arguments.set]


def milliseconds(rows: list[str], repeats: int) -> dict[str, float]:
    """Of one pair at full width."""
    networks = {row: LiteFlowNet(variant(row)).eval().to(memory_format=torch.channels_last) for row in rows}
    images = [torch.rand(1, 3, *SIZE).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    spent: dict[str, list[float]] = {row: [] for row in rows}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for row, network in networks.items():
                began = time.perf_counter()
                network(*images)
                if turn:
                    spent[row].append(1000 * (time.perf_counter() - began))
    return {row: statistics.median(times) if times else math.nan for row, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="photographs; val/ is held out, else 5 %% of them")
    parser.add_argument("--root", type=Path, help="real pairs, laid out as for `flowkit bench pairs`")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, ablation.json and ablation.csv")
    parser.add_argument("--rows", type=names, default=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=float, default=0.5, help="channels relative to the paper's, in training")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="fields of the recipe")
    parser.add_argument("--repeats", type=int, default=5, help="of the timing; 0: none")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    for row in arguments.rows:
        variant(row)  # refuses what it does not know before anything is trained
    arguments.output.mkdir(parents=True, exist_ok=True)
    trained = {row: train(RECIPE, row, settings(row, arguments), arguments) for row in arguments.rows}
    spent = milliseconds(arguments.rows, arguments.repeats)
    table: list[dict[str, Any]] = []
    for row, weights in trained.items():
        found = errors(RECIPE, settings(row, arguments), weights, arguments) if weights else {}
        paper = dict(zip(("paper_chairs", "paper_sintel", "paper_kitti"), PAPER.get(row, (math.nan,) * 3), strict=True))
        real = mean([value for name, value in found.items() if name != "held-out"])
        parameters = sum(p.numel() for p in LiteFlowNet(variant(row)).parameters()) / 1e6
        table.append({"row": row, "parameters": parameters, **found, "real": real, "ms": spent[row], **paper})
    sets = {name: (name, ".2f") for line in table for name in line if name not in {"row", "parameters", "real", "ms"}}
    columns = {"row": ("variant", ""), "parameters": ("M params", ".2f"), "ms": ("ms", ".0f"), **sets}
    show(f"mean end-point error in px after {arguments.steps} steps, width {arguments.width}", table, columns)
    write(arguments.output / "ablation", arguments, {"rows": table})


if __name__ == "__main__":
    run(main)
