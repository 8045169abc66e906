"""How long 3-D scenes take: `OMP_NUM_THREADS=1 python benchmarks/synth_scene3d.py --photos DIR`; `milliseconds` for other benchmarks."""

import argparse
import time
from pathlib import Path

import torch

from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scene3DSettings, sample_scenes3d
from flowkit.synth.scene3d_render import render_scenes3d
from flowkit.types import Size


def milliseconds(photos: PhotoStore, count: int, size: Size, batches: int = 10) -> tuple[float, float]:
    """(median, best) wall time of a batch, description and rendering, on the photos' device after two batches to warm up."""
    generator = torch.Generator(photos.device)
    times = []
    for seed in range(batches + 2):
        generator.manual_seed(seed)
        start = time.perf_counter()
        render_scenes3d(sample_scenes3d(count, size, Scene3DSettings(), photos, generator), photos)
        if photos.device.type == "cuda":
            torch.cuda.synchronize(photos.device)
        times.append((time.perf_counter() - start) * 1000)
    times = sorted(times[2:])
    return times[len(times) // 2], times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--cutouts", type=Path)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    photos = PhotoStore.from_folder(options.photos, options.cutouts, limit=options.limit).to(options.device)
    for count, size in ((8, (128, 192)), (16, (384, 512))):
        median, best = milliseconds(photos, count, size, 10 if options.device != "cpu" else 3)
        each = f"{median / count:.1f} ms a pair (best {best / count:.1f})"
        print(f"{count} x {size[0]}x{size[1]} on {options.device}: {median:.1f} ms a batch, {each}")


if __name__ == "__main__":
    main()
