"""GOCor's ablation (Truong et al., NeurIPS 2020, Table 6): train BaseNet's six rows alike, and measure all.

    .venv/bin/python benchmarks/basenet_ablation.py --photos DIR --root ROOT --output DIR [--init FILE] [--steps 600]
        [--rows I,II,III,IV,V,VI] [--set FIELD=VALUE ...]

Each row is `flowkit train basenet --set row=ROW` over the same pairs of the engine, in the same order, for as many steps; rows
that are trained already are not trained again, a row that was interrupted goes on. `--init` has the features to begin with, as
weights of `basenet`: all rows share them, and the stage that teaches features is then left out.

Then the mean end-point errors in pixels on scenes of the engine over photographs that were held out, and on the flow pairs of
ROOT. The paper's figures stand beside them: VGG-16, whole schedules.
"""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reporting import names, run, show, write
from trained_rows import errors, train

from flowkit.io.weights import load_checkpoint, write_weights
from flowkit.models.basenet import ROWS, BaseNet
from flowkit.training.recipes import recipe
from flowkit.training.settings import with_settings

SMALL = ("validate_every=0", "validation_pairs=32")
NO_FEATURES = ("stages.0.share=0.0001", 'stages.0.until="16"')
"""The features are there: the first stage would only be in the way."""
PAPER = {
    "I": (30.94, 4.03, 8.93), "II": (39.15, 4.41, 9.86), "III": (27.02, 4.31, 8.93),
    "IV": (26.27, 3.91, 8.50), "V": (25.30, 3.74, 7.87), "VI": (23.57, 3.45, 7.10),
}  # fmt: skip
"""AEPE on HPatches, KITTI 2012 and KITTI 2015."""


def settings(row: str, arguments: argparse.Namespace) -> list[str]:
    """The fields of the recipe that a row is trained with."""
    return [f"row={row}", *SMALL, *(NO_FEATURES if arguments.init else ()), *arguments.set]


def begun(row: str, arguments: argparse.Namespace) -> Path | None:
    """Weights for the row whose features are those of `--init`."""
    if arguments.init is None:
        return None
    torch.manual_seed(0)
    state = BaseNet(ROWS[row]).state_dict()
    features = load_checkpoint("basenet", arguments.init)
    state |= {name: tensor.float() for name, tensor in features.items() if name.startswith("pyramid.")}
    path = arguments.output / f"{row}-init.safetensors"
    write_weights(path, state, {"model": "basenet"}, half=False)
    return path


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="photographs; val/ is held out, else 5 %% of them")
    parser.add_argument("--root", type=Path, help="real pairs, laid out as for `flowkit bench pairs`")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, ablation.json and ablation.csv")
    parser.add_argument("--init", type=Path, help="weights of basenet, whose features all rows begin with")
    parser.add_argument("--rows", type=names, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="fields of the recipe")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    for row in arguments.rows:
        with_settings(
            recipe("basenet"), [f"row={row}"]
        ).network()  # refuses what there is not before anything is trained
    arguments.output.mkdir(parents=True, exist_ok=True)
    table: list[dict[str, Any]] = []
    for row in arguments.rows:
        weights = train("basenet", row, settings(row, arguments), arguments, partial(begun, row, arguments))
        found = errors("basenet", settings(row, arguments), weights, arguments) if weights else {}
        paper = dict(
            zip(("paper_hpatches", "paper_kitti12", "paper_kitti15"), PAPER.get(row, (math.nan,) * 3), strict=True)
        )
        parameters = sum(p.numel() for p in BaseNet(ROWS[row]).parameters())
        table.append({"row": row, "parameters": parameters, **found, **paper})
    sets = {name: (name, ".2f") for line in table for name in line if name not in {"row", "parameters"}}
    show(f"mean end-point error in px after {arguments.steps} steps", table, {"row": ("row", ""), **sets})
    write(arguments.output / "ablation", arguments, {"rows": table})


if __name__ == "__main__":
    run(main)
