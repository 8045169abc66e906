"""The five-point solver and the RANSAC around it beside those of PoseLib, OpenCV and kornia: exactness and time in one run.

    .venv/bin/python benchmarks/five_point.py [--problems 2000] [--hypotheses 10000] [--device cpu] [--output F.json]

First, minimal problems of random cameras and points in front of both: how near the nearest solution is to the true E (both of
norm sqrt(2), up to sign), how many of the true ones are found to 1e-8 and to 1e-4, and the time for all of them, in one batch
where the solver takes one (flowkit, kornia), otherwise one after the other. `no polish` is what flowkit's RANSAC uses.

Then essential matrices of 12 000 matches, half of them wrong, the others with noise of 0.5 px at f = 700: flowkit's with the
paper's numbers (10 000 hypotheses, 2 000 matches held out), ended early, and with the least squares that follow; OpenCV's
USAC_MAGSAC and PoseLib's LO-RANSAC as they are used elsewhere in flowkit. Rotation and direction errors in degrees, the
median over the rounds; times are medians, too, and the ratio is to the first row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import poselib
import torch
from reporting import run, show, write
from torch import Tensor

from flowkit.estimators.essential import fit_essential
from flowkit.estimators.poselib import fit_relative_pose
from flowkit.geometry.epipolar import essential_from_pose
from flowkit.geometry.essential_layer import EssentialSettings, essential_of_matches
from flowkit.geometry.essential_ransac import essential_ransac
from flowkit.geometry.five_point import five_point
from flowkit.geometry.homography import homogeneous
from flowkit.geometry.pose import normalise_points, recover_pose, rotation_angle, so3_exp, translation_angle

FOCAL = 700.0
K = np.array([[FOCAL, 0, 639.5], [0, FOCAL, 359.5], [0, 0, 1]])
NOISE, WRONG = 0.5, 0.5
MATCHES, HELD_OUT = 12_000, 2_000
DELTA = 1e-3
SOLVERS = {
    "solver": ("solver", ""),
    "exact": ("within 1e-8", ".2%"),
    "near": ("within 1e-4", ".2%"),
    "median": ("median error", ".1e"),
    "seconds": ("seconds", ".3f"),
    "ratio": ("ratio", ".2f"),
}
WHOLE = {
    "method": ("method", ""),
    "rotation": ("rotation", ".4f"),
    "translation": ("direction", ".4f"),
    "seconds": ("seconds", ".3f"),
    "ratio": ("ratio", ".2f"),
}


# --- minimal problems ------------------------------------------------------------------------------------------------


def two_views(count: int, points: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """R (B, 3, 3), t (B, 3), and normalised matches (B, N, 2) of points in front of both cameras; float64."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.tensor([0.0, 0.0, 7.0], dtype=torch.float64)
    R = so3_exp(0.3 * torch.randn(count, 3, dtype=torch.float64, generator=generator))
    t = torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64, generator=generator), dim=-1)
    X = 4 * torch.rand(count, points, 3, dtype=torch.float64, generator=generator) - 2
    t = t + middle - R @ middle
    X = X + middle
    Y = X @ R.mT + t[:, None]
    return R, t, X[..., :2] / X[..., 2:], Y[..., :2] / Y[..., 2:]


def flowkits(polish: int, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    def solve(x0: Tensor, x1: Tensor) -> Tensor:
        E, found = five_point(x0.to(device), x1.to(device), polish=polish)
        return torch.where(found[..., None, None], E, torch.nan).cpu()

    return solve


def kornias(x0: Tensor, x1: Tensor) -> Tensor:
    from kornia.geometry.epipolar import find_essential

    return find_essential(x0, x1)


def poselibs(x0: Tensor, x1: Tensor) -> Tensor:
    rays0, rays1 = (homogeneous(x) / homogeneous(x).norm(dim=-1, keepdim=True) for x in (x0, x1))
    return padded([poselib.essential_matrix_5pt(a, b) for a, b in zip(rays0.numpy(), rays1.numpy(), strict=True)])


def opencvs(x0: Tensor, x1: Tensor) -> Tensor:
    def solve(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        stacked, _ = cv2.findEssentialMat(a, b, np.eye(3), method=cv2.RANSAC, threshold=1e-9)
        return [] if stacked is None else list(stacked.reshape(-1, 3, 3))

    return padded([solve(a, b) for a, b in zip(x0.numpy(), x1.numpy(), strict=True)])


def padded(solutions: list[list[np.ndarray]]) -> Tensor:
    """(B, 10, 3, 3), NaN where there are fewer."""
    table = np.full((len(solutions), 10, 3, 3), np.nan)
    for row, found in zip(table, solutions, strict=True):
        row[: len(found)] = found[:10]
    return torch.from_numpy(table)


def solver_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    R, t, x0, x1 = two_views(arguments.problems, 5, seed=0)
    E = essential_from_pose(R, t)
    solvers = {
        "flowkit": flowkits(4, arguments.device),
        "flowkit, no polish": flowkits(0, arguments.device),
        "kornia": kornias,
        "PoseLib": poselibs,
        "OpenCV": opencvs,
    }
    rows: list[dict[str, Any]] = []
    for name, solve in solvers.items():
        solutions, seconds = timed(lambda solve=solve: solve(x0, x1), arguments.rounds, arguments.device)
        unit = solutions * (2**0.5 / solutions.norm(dim=(-2, -1), keepdim=True))
        apart = torch.minimum((unit - E[:, None]).norm(dim=(-2, -1)), (unit + E[:, None]).norm(dim=(-2, -1)))
        nearest = apart.nan_to_num(torch.inf).amin(1)
        shares = {"exact": float((nearest < 1e-8).double().mean()), "near": float((nearest < 1e-4).double().mean())}
        rows.append({"solver": name, **shares, "median": float(nearest.median()), "seconds": seconds})
    return with_ratios(rows)


# --- many matches ----------------------------------------------------------------------------------------------------


def noisy(seed: int) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """R, t and matches (N, 2) in pixels, in random order, half of them wrong."""
    rng = np.random.default_rng(seed)
    R, t, x0, x1 = two_views(1, MATCHES, seed)
    pixels0, pixels1 = (x[0].numpy() * FOCAL + K[:2, 2] for x in (x0, x1))
    pixels1 = pixels1 + rng.normal(0, NOISE, pixels1.shape)
    wrong = rng.random(MATCHES) < WRONG
    pixels1[wrong] = rng.uniform(0, [1280, 720], (int(wrong.sum()), 2))
    return R[0], t[0], pixels0, pixels1


def whole_rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    device, hypotheses = arguments.device, arguments.hypotheses

    def normalised(points0: np.ndarray, points1: np.ndarray) -> tuple[Tensor, Tensor]:
        both = (normalise_points(torch.from_numpy(points), torch.from_numpy(K)) for points in (points0, points1))
        x0, x1 = (x.to(device) for x in both)
        return x0, x1

    def ransac(points0: np.ndarray, points1: np.ndarray) -> Tensor:
        x0, x1 = normalised(points0, points1)
        split = MATCHES - HELD_OUT
        candidates, _ = essential_ransac(
            x0[:split], x1[:split], x0[split:], x1[split:], delta=DELTA, hypotheses=hypotheses
        )
        return posed(candidates[0], x0, x1)

    def layer(confidence: float | None) -> Callable[[np.ndarray, np.ndarray], Tensor]:
        settings = EssentialSettings(delta=DELTA, hypotheses=hypotheses, confidence=confidence)

        def solve(points0: np.ndarray, points1: np.ndarray) -> Tensor:
            x0, x1 = normalised(points0, points1)
            return posed(essential_of_matches(x0, x1, settings).E, x0, x1)

        return solve

    def posed(E: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        inliers = (homogeneous(x1) * (homogeneous(x0) @ E.mT)).sum(-1).abs() < DELTA
        R, t, _ = recover_pose(E, x0, x1, inliers)
        return torch.cat([R, t[:, None]], 1).cpu()

    def fitted(fit: Any) -> Callable[[np.ndarray, np.ndarray], Tensor]:
        return lambda points0, points1: torch.from_numpy(fit(points0, points1, K, K, threshold=1.0).model)

    def usac(points0: np.ndarray, points1: np.ndarray) -> Tensor:
        E, mask = cv2.findEssentialMat(points0, points1, K, method=cv2.USAC_MAGSAC, prob=0.9999, threshold=1.0)
        _, R, t, _ = cv2.recoverPose(E, points0, points1, K, mask=mask)
        return torch.from_numpy(np.column_stack([R, t]))

    methods: dict[str, Callable[[np.ndarray, np.ndarray], Tensor]] = {
        f"flowkit, {hypotheses} hypotheses": ransac,
        "flowkit, and least squares (the layer)": layer(None),
        "flowkit, the layer, ended early": layer(0.9999),
        "flowkit, estimators.essential": fitted(fit_essential),
        "PoseLib (estimators.poselib)": fitted(fit_relative_pose),
        "OpenCV USAC_MAGSAC": usac,
    }
    rows: list[dict[str, Any]] = []
    for name, solve in methods.items():
        errors, times = [], []
        for seed in range(arguments.rounds):
            R, t, points0, points1 = noisy(seed)
            pose, seconds = timed(lambda solve=solve, a=points0, b=points1: solve(a, b), 1, device)
            errors.append((float(rotation_angle(pose[:, :3].mT @ R)), float(translation_angle(pose[:, 3], t))))
            times.append(seconds)
        rotation, translation = np.median(errors, axis=0)
        rows.append(
            {"method": name, "rotation": rotation, "translation": translation, "seconds": float(np.median(times))}
        )
    return with_ratios(rows)


# --- time ------------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], Tensor], rounds: int, device: str) -> tuple[Tensor, float]:
    """What it gives, and the median of the seconds it takes."""
    times = []
    for _ in range(rounds):
        synchronise(device)
        started = time.perf_counter()
        result = work()
        synchronise(device)
        times.append(time.perf_counter() - started)
    return result, float(np.median(times))


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "ratio": row["seconds"] / rows[0]["seconds"]} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--hypotheses", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    whole_rows(argparse.Namespace(**{**vars(arguments), "rounds": 1, "hypotheses": 1000}))  # what is loaded first costs
    minimal = solver_rows(arguments)
    show(f"{arguments.problems} minimal problems, {arguments.device}, {arguments.threads} threads", minimal, SOLVERS)
    whole = whole_rows(arguments)
    show(f"{MATCHES} matches, half of them wrong, {arguments.rounds} times", whole, WHOLE)
    write(arguments.output, arguments, {"minimal": minimal, "whole": whole})


if __name__ == "__main__":
    run(main)
