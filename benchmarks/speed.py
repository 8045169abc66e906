"""Time and memory of flowkit's methods and of what people would use instead, in one run on one machine.

    .venv/bin/python benchmarks/speed.py [--repeats 5] [--output speed.json]

Dense flow (against OpenCV's Farneback), matching, homographies (against cv2.RANSAC and PoseLib), whole commands. The images
are the pictures of examples/. Every figure is a median over the repeats after a warm-up; what is compared runs in turns.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import poselib
import torch

import flowkit
from flowkit.estimators.magsac import fit_homography

EXAMPLES = Path(__file__).parents[1] / "examples"


def in_turns(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Median, smallest and largest seconds of each, A B C A B C ... after one warm-up of each."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
    return {n: {"median": statistics.median(s), "min": min(s), "max": max(s)} for n, s in seconds.items()}


def dense(repeats: int) -> dict[str, dict[str, float]]:
    a, b = (flowkit.read_image(EXAMPLES / f"chelsea_{i}.png") for i in (0, 1))

    def farneback() -> np.ndarray:
        return cv2.calcOpticalFlowFarneback(a.grey8, b.grey8, None, 0.5, 5, 15, 10, 7, 1.5, 0)

    return in_turns(
        {
            "dis fast": lambda: flowkit.flow(a, b, model="dis", preset="fast"),
            "dis fine": lambda: flowkit.flow(a, b, model="dis"),
            "dis fine, both directions": lambda: flowkit.flow(a, b, model="dis", bidirectional=True),
            "dis fine --init matches": lambda: flowkit.flow(a, b, model="dis", init="matches"),
            "raft-xfeat": lambda: flowkit.flow(a, b, model="raft-xfeat"),
            "raft-xfeat, bf16": lambda: flowkit.flow(a, b, model="raft-xfeat", precision="bf16"),
            "peer: OpenCV Farneback": farneback,
        },
        repeats,
    )


def matching(repeats: int) -> dict[str, dict[str, float]]:
    a, b = (flowkit.read_image(EXAMPLES / f"coffee_{i}.jpg") for i in (0, 1))
    names = ["sift", "xfeat", "sift+xfeat", "xfeat*"]
    return in_turns({name: lambda name=name: flowkit.match(a, b, features=name) for name in names}, repeats)


def homographies(repeats: int) -> dict[str, dict[str, float]]:
    """2000 matches, 1 px noise, 50 % and 80 % outliers."""
    matrix = np.array([[1.1, 0.05, 10.0], [-0.04, 0.95, -5.0], [1e-4, 2e-5, 1.0]])
    rows: dict[str, dict[str, float]] = {}
    for share in (0.5, 0.8):
        rng = np.random.default_rng(0)
        p0 = rng.uniform(0, 1000, (2000, 2))
        mapped = np.column_stack([p0, np.ones(2000)]) @ matrix.T
        p1 = mapped[:, :2] / mapped[:, 2:] + rng.normal(0, 1, p0.shape)
        p1[: int(share * 2000)] = rng.uniform(0, 1000, (int(share * 2000), 2))
        functions: dict[str, Callable[[], object]] = {
            "flowkit (USAC_MAGSAC, judged)": lambda p0=p0, p1=p1: fit_homography(p0, p1),
            "peer: cv2.RANSAC": lambda p0=p0, p1=p1: cv2.findHomography(p0, p1, cv2.RANSAC, 3.0, maxIters=10_000),
            "peer: PoseLib": lambda p0=p0, p1=p1: poselib.estimate_homography(p0, p1, {"max_reproj_error": 3.0}),
        }
        found = in_turns(functions, repeats)
        rows |= {f"{name}, {share:.0%} outliers": values for name, values in found.items()}
    return rows


def commands(repeats: int) -> dict[str, dict[str, float]]:
    """Whole commands, start of Python included, with the peak memory of the process."""
    two = [str(EXAMPLES / f"two_planes_{k}.jpg") for k in ("source", "target")]
    lines = {
        "flowkit --help": ["--help"],
        "flowkit flow": ["flow", *two],
        "flowkit homography": ["homography", *two],
        "flowkit align --multi-h": ["align", "--multi-h", *two],
    }
    rows = {}
    for name, line in lines.items():
        seconds, memory = [], 0.0
        for _ in range(max(2, repeats // 2)):
            started = time.perf_counter()
            output = [] if line == ["--help"] else ["--output", "/tmp/flowkit-speed", "--overwrite", "-q"]
            script = (
                "import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r.returncode)"
            )
            command = [sys.executable, "-c", script, sys.executable, "-m", "flowkit", *line, *output]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(time.perf_counter() - started)
            memory = max(memory, int(done.stdout.split()[-1]) / 1e6)
        rows[name] = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "peak_gb": memory}
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()},
            "versions": {
                "flowkit": flowkit.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "opencv": cv2.__version__,
            },
        },
        "dense flow, 384x256": dense(arguments.repeats),
        "matching, 480x320": matching(arguments.repeats),
        "homography, 2000 matches": homographies(arguments.repeats),
        "whole commands, 480x360": commands(arguments.repeats),
    }
    for title, rows in result.items():
        if title == "machine":
            print(json.dumps(rows))
            continue
        print(f"\n{title}")
        for name, row in rows.items():
            extra = f"  peak {row['peak_gb']:.2f} GB" if "peak_gb" in row else ""
            print(
                f"  {name:40s} {row['median'] * 1e3:9.1f} ms  ({row['min'] * 1e3:.1f} - {row['max'] * 1e3:.1f}){extra}"
            )
    print(f"\npeak of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
