"""How far an estimated trajectory is from the true one: KITTI's drift, the error from frame to frame, the absolute error.

Trajectories are (N, 4, 4) camera to world, frame by frame the same, in metres; where the worlds lie does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flowkit.evaluation.metrics import rotation_error, translation_error

LENGTHS = tuple(range(100, 801, 100))
"""Metres of way that KITTI's sub-sequences have."""
EVERY = 10
"""KITTI's sub-sequences begin at every so many-th frame."""


def kitti_errors(truth: np.ndarray, estimated: np.ndarray, lengths: Sequence[float] = LENGTHS) -> dict[str, float]:
    """KITTI odometry's `t_err` (a share: 0.01 is 1 %) and `r_err` (degrees per 100 m); NaN where the way is too short.

    As the benchmark's devkit defines them (Geiger et al., CVPR 2012): sub-sequences of 100, 200 ... 800 m of true way that
    begin at every 10th frame and end at the first frame beyond that length. Of each the error (motion estimated)^-1 (true
    motion), its translation's length and its rotation's angle divided by the length of the way; the means over all of them.
    """
    steps = np.linalg.norm(np.diff(truth[:, :3, 3], axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    shares, angles = [], []
    for first in range(0, len(truth), EVERY):
        for length in lengths:
            beyond = np.flatnonzero(way[first:] > way[first] + length)
            if len(beyond):
                error = _difference(truth, estimated, first, first + int(beyond[0]))
                shares.append(float(np.linalg.norm(error[:3, 3])) / length)
                angles.append(100 * rotation_error(error[:3, :3], np.eye(3)) / length)
    return {"t_err": _mean(shares), "r_err": _mean(angles)}


def step_errors(truth: np.ndarray, estimated: np.ndarray) -> list[dict[str, float]]:
    """The relative pose error of each step from a frame to the next ("Joint Unsupervised Learning ...", Jiang et al. 2020).

    With dT = (motion estimated)^-1 (true motion): `rpe_translation` |trans(dT)| and `rpe_rotation`, dT's angle in degrees.
    `translation_error` is the angle between both directions of translation in degrees, NaN where either stands still.
    """
    errors = []
    for i in range(len(truth) - 1):
        dT = _difference(truth, estimated, i, i + 1)
        t, t_true = (_motion(each, i + 1, i)[:3, 3] for each in (estimated, truth))  # of X1 = R X0 + t
        still = min(np.linalg.norm(t), np.linalg.norm(t_true)) < 1e-9
        errors.append(
            {
                "rpe_translation": float(np.linalg.norm(dT[:3, 3])),
                "rpe_rotation": rotation_error(dT[:3, :3], np.eye(3)),
                "translation_error": float("nan") if still else translation_error(t, t_true, sign_fold=False),
            }
        )
    return errors


def absolute_errors(truth: np.ndarray, estimated: np.ndarray) -> dict[str, float]:
    """The absolute trajectory error: RMSE of the positions after the best alignment of the estimate to the truth.

    `ate` is after a rigid motion (SE(3)), `ate_scaled` after a similarity (Sim(3)), each by Umeyama (PAMI 1991); metres.
    """
    positions, true = estimated[:, :3, 3], truth[:, :3, 3]
    found = {}
    for name, scaled in (("ate", False), ("ate_scaled", True)):
        scale, R, t = umeyama(positions, true, scaled)
        moved = scale * positions @ R.T + t
        found[name] = float(np.sqrt(((moved - true) ** 2).sum(axis=1).mean()))
    return found


def umeyama(points: np.ndarray, targets: np.ndarray, scaled: bool) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale s, R and t that minimise sum |s R p + t - q|^2 over points p and targets q (N, 3) (Umeyama, PAMI 1991, eq. 40-43).

    s is 1 unless `scaled`, and where all points are one.
    """
    centre, goal = points.mean(axis=0), targets.mean(axis=0)
    U, values, Vt = np.linalg.svd((targets - goal).T @ (points - centre))
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U @ Vt)) or 1.0])
    R = U @ np.diag(signs) @ Vt
    spread = float(((points - centre) ** 2).sum())
    s = float((values * signs).sum() / spread) if scaled and spread > 0 else 1.0
    return s, R, goal - s * R @ centre


def scaled_to(truth: np.ndarray, estimated: np.ndarray) -> np.ndarray:
    """The estimate with the one scale that fits it best to the truth, for trajectories whose unit is arbitrary."""
    scale, *_ = umeyama(estimated[:, :3, 3], truth[:, :3, 3], True)
    scaled = estimated.copy()
    scaled[:, :3, 3] *= scale
    return scaled


def _motion(poses: np.ndarray, i: int, j: int) -> np.ndarray:
    """Camera j in camera i's frame, 4x4: X_i = R X_j + t."""
    return np.linalg.inv(poses[i]) @ poses[j]


def _difference(truth: np.ndarray, estimated: np.ndarray, i: int, j: int) -> np.ndarray:
    return np.linalg.inv(_motion(estimated, i, j)) @ _motion(truth, i, j)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
