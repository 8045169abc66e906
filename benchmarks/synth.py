"""What a pair of the data engine costs: milliseconds on one CPU core at 128x192, and on a GPU in batches of 16 at 384x512.

    .venv/bin/python benchmarks/synth.py --photos DIR [--limit 200] [--repeats 9] [--output synth.json]

Each family alone, without and with a usual change of light (0.25), and the engine's own mixture; medians over batches of
different seeds after a warm-up, the families in turns. The aims are 25 ms a pair on a core and 15 ms a batch on a GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from flowkit.synth.engine import FAMILIES, Engine, EngineSettings
from flowkit.synth.photos import PhotoStore

CPU = {"count": 8, "size": (128, 192)}
GPU = {"count": 16, "size": (384, 512)}


def engines(photos: PhotoStore) -> dict[str, Engine]:
    variants = {}
    for light in (0.0, 0.25):
        name = ", relit" if light else ""
        for family in FAMILIES:
            shares = {other: float(other == family) for other in FAMILIES}
            variants[family + name] = Engine(photos, EngineSettings(**shares, lighting=light))
    variants["mixture"] = Engine(photos)
    return variants


def medians(photos: PhotoStore, count: int, size: tuple[int, int], repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds a batch of each variant: wall clock on a GPU, this core's time on a CPU."""
    cuda = photos.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    spent: dict[str, list[float]] = {}
    for seed in range(repeats + 1):
        for name, engine in engines(photos).items():
            if cuda:
                torch.cuda.synchronize()
            started = clock()
            engine.batch(count, size, seed)
            if cuda:
                torch.cuda.synchronize()
            if seed:
                spent.setdefault(name, []).append(1000 * (clock() - started))
    return {n: {"median": statistics.median(s), "min": min(s), "max": max(s)} for n, s in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", required=True, type=Path)
    parser.add_argument("--cutouts", type=Path)
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = PhotoStore.from_folder(options.photos, options.cutouts, limit=options.limit)
    record: dict[str, object] = {"torch": torch.__version__, "machine": platform.processor() or platform.machine()}
    cpu = medians(photos, repeats=options.repeats, **CPU)
    record["cpu"] = {name: {k: v / CPU["count"] for k, v in value.items()} for name, value in cpu.items()}
    print(f"{'ms a pair, 128x192, one core':32}" + "median    min    max")
    for name, value in record["cpu"].items():
        print(f"{name:32}{value['median']:6.1f} {value['min']:6.1f} {value['max']:6.1f}")
    if torch.cuda.is_available():
        record["gpu"] = medians(photos.to("cuda"), repeats=options.repeats, **GPU)
        print(f"{'ms a batch of 16, 384x512, ' + torch.cuda.get_device_name():48}")
        for name, value in record["gpu"].items():
            print(f"{name:32}{value['median']:6.1f} {value['min']:6.1f} {value['max']:6.1f}")
    else:
        print("no CUDA device: the aim for a GPU was not measured")
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
