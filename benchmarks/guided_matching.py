"""Time of guided matching beside plain mutual nearest neighbours, on made-up keypoints: 5000 x 5000 with 128 dimensions.

    .venv/bin/python benchmarks/guided_matching.py [--keypoints 5000] [--threads 2] [--repeats 7] [--output guided.json]

Half of the keypoints have a counterpart about 1 px from where the flow leads, with a similar descriptor; all others
are random. `no flow` is guided matching whose flow is unknown everywhere, the slowest case: all is left to stage 2. Figures are
milliseconds: median, smallest and largest over the repeats, of the clock and of the processor (which other programs on the
machine do not lengthen); methods run in turns after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flowkit.features.guided import match_guided
from flowkit.features.matching import match_descriptors
from flowkit.types import Features, Matches

SIZE = (768, 1024)
SHIFT = np.array([7.3, -4.1])


def scene(count: int, dimensions: int, seed: int = 0) -> tuple[Features, Features, np.ndarray]:
    """Keypoints of both images, and the flow between them; the flow back is its negative."""
    rng = np.random.default_rng(seed)

    def unit(vectors: np.ndarray) -> np.ndarray:
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    corner = np.array(SIZE[::-1]) - 1
    points0 = rng.uniform(0, corner, (count, 2))
    points1 = rng.uniform(0, corner, (count, 2))
    descriptors0, descriptors1 = (unit(rng.normal(size=(count, dimensions))) for _ in range(2))
    half = count // 2
    points1[:half] = np.clip(points0[:half] + SHIFT + rng.normal(0, 1, (half, 2)), 0, corner)
    descriptors1[:half] = unit(descriptors0[:half] + 0.3 * unit(rng.normal(size=(half, dimensions))))
    order = rng.permutation(count)
    scores = np.ones(count, np.float32)
    flow = np.broadcast_to(SHIFT[:, None, None], (2, *SIZE)).astype(np.float32)
    return (
        Features(points0.astype(np.float32), descriptors0, scores, SIZE, "made up"),
        Features(points1[order].astype(np.float32), descriptors1[order], scores, SIZE, "made up"),
        flow,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keypoints", type=int, default=5000)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    left, right, flow = scene(arguments.keypoints, arguments.dimensions)
    unknown = np.full_like(flow, np.nan)
    methods: dict[str, Callable[[], Matches]] = {
        "mutual nearest neighbours": lambda: match_descriptors(left, right),
        "guided": lambda: match_guided(left, right, flow, -flow),
        "guided, no flow": lambda: match_guided(left, right, unknown, unknown),
        "mutual nearest neighbours, ratio 0.9": lambda: match_descriptors(left, right, ratio=0.9),
        "guided, ratio 0.9": lambda: match_guided(left, right, flow, -flow, ratio=0.9),
        "guided, no flow, ratio 0.9": lambda: match_guided(left, right, unknown, unknown, ratio=0.9),
    }
    counts = {name: method() for name, method in methods.items()}
    clock: dict[str, list[float]] = {name: [] for name in methods}
    processor: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(arguments.repeats):
        for name, method in methods.items():
            started = time.perf_counter(), time.process_time()
            method()
            clock[name].append(1e3 * (time.perf_counter() - started[0]))
            processor[name].append(1e3 * (time.process_time() - started[1]))
    rows = {
        name: {
            "matches": len(counts[name]),
            "stage_1": None if (stage := counts[name].stage) is None else int((stage == 1).sum()),
            "clock_ms": [statistics.median(clock[name]), min(clock[name]), max(clock[name])],
            "processor_ms": [statistics.median(processor[name]), min(processor[name]), max(processor[name])],
        }
        for name in methods
    }
    size = f"{arguments.keypoints} x {arguments.keypoints} keypoints, {arguments.dimensions} dimensions"
    print(f"{size}, {arguments.threads} threads, torch {torch.__version__}")
    for name, row in rows.items():
        times = ["{:6.0f} ({:.0f} - {:.0f})".format(*row[key]) for key in ("clock_ms", "processor_ms")]
        print(f"  {name:38s} {row['matches']:5d} matches   clock {times[0]:22s} processor {times[1]}")
    if arguments.output:
        arguments.output.write_text(
            json.dumps({"size": size, "threads": arguments.threads, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
