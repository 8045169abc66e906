"""GOCor's modules against the plain correlations that they replace: time, and the memory that a pass takes at most.

    .venv/bin/python benchmarks/gocor_modules.py [--threads 2] [--repeats 9] [--output gocor_modules]

The global module on 16x16 cells of 512 channels (VGG-16's at 256x256), the local one on 109x256 cells of 32 channels (PWC-Net's
at a quarter of 436x1024), channels last, fp32: forward in evaluation (3 and 7 steps), and with backward in training (3).
Medians in milliseconds, the rivals in turns. Each figure of memory is of a process of its own: the peak of its resident size
less what it was before the pass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from reporting import show, write
from torch import Tensor

from flowkit.models.glunet_parts import GlobalCorrelation, LocalCorrelation, unit
from flowkit.models.gocor import GlobalGOCor, LocalGOCor

SHAPES = {"global": (1, 512, 16, 16), "local": (1, 32, 109, 256)}
COLUMNS = {
    "module": ("module", ""),
    "pass": ("pass", ""),
    "plain_ms": ("plain ms", ".1f"),
    "gocor_ms": ("GOCor ms", ".1f"),
    "plain_mib": ("plain MiB", ".0f"),
    "gocor_mib": ("GOCor MiB", ".0f"),
}


def once(module: str, gocor: bool, training: bool) -> Callable[[], None]:
    """A pass over random features."""
    torch.manual_seed(0)
    layer: torch.nn.Module
    if module == "global":
        layer = GlobalGOCor(SHAPES[module][1]) if gocor else GlobalCorrelation("mutual")
    else:
        layer = LocalGOCor() if gocor else LocalCorrelation()
    layer.train(training)
    maps = [torch.randn(SHAPES[module]).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    reference, query = (unit(each) for each in maps) if module == "global" else maps
    reference, query = (each.requires_grad_(training) for each in (reference, query))

    def run() -> None:
        if training:
            volume: Tensor = layer(reference, query)
            volume.sum().backward()
        else:
            with torch.inference_mode():
                layer(reference, query)

    return run


def milliseconds(module: str, training: bool, repeats: int) -> tuple[float, float]:
    """Medians of plain and GOCor, in turns after a warm-up."""
    rivals = [once(module, gocor, training) for gocor in (False, True)]
    times: list[list[float]] = [[], []]
    for turn in range(repeats + 2):
        for run, found in zip(rivals, times, strict=True):
            began = time.perf_counter()
            run()
            if turn > 1:
                found.append(1000 * (time.perf_counter() - began))
    plain, gocor = (statistics.median(found) for found in times)
    return plain, gocor


def mebibytes(module: str, gocor: bool, training: bool, threads: int) -> float:
    """What one pass takes, in a fresh process."""
    arguments = [sys.executable, __file__, "--memory", json.dumps([module, gocor, training]), "--threads", str(threads)]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def peak_of(module: str, gocor: bool, training: bool) -> float:
    """The peak of this process over what it has before the pass, MiB; a tiny pass has loaded what is loaded lazily."""
    shape = SHAPES[module]
    SHAPES[module] = (1, shape[1], 8, 8)
    once(module, gocor, training)()
    SHAPES[module] = shape
    run = once(module, gocor, training)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of what came before
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    """KiB, as Linux has it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        print(peak_of(*json.loads(options.memory)))
        return
    rows = []
    for module in SHAPES:
        for training in (False, True):
            plain, gocor = milliseconds(module, training, options.repeats)
            memory = [mebibytes(module, each, training, options.threads) for each in (False, True)]
            row = {"module": module, "pass": "with backward" if training else "forward"}
            figures = {"plain_ms": plain, "gocor_ms": gocor, "plain_mib": memory[0], "gocor_mib": memory[1]}
            rows.append({**row, **figures})
    show(f"GOCor's modules, {options.threads} threads", rows, COLUMNS)
    write(options.output, options, {"rows": rows})


if __name__ == "__main__":
    main()
