"""The fundamental matrix of two cameras of the tests."""

import numpy as np
import torch

from flowkit.geometry.epipolar import essential_from_pose, fundamental_from_essential


def fundamental(seed=0):
    """F of two cameras with different K, one turned a little."""
    make = np.random.default_rng(seed)
    angle = torch.tensor(make.normal(size=3) * 0.1)
    skew = torch.zeros(3, 3, dtype=torch.float64)
    skew[0, 1], skew[0, 2], skew[1, 2] = -angle[2], angle[1], -angle[0]
    R = torch.linalg.matrix_exp(skew - skew.T)
    t = torch.tensor(make.normal(size=3))
    K0, K1 = (torch.tensor([[f, 0, 5.2], [0, f, 3.9], [0, 0, 1]], dtype=torch.float64) for f in (11.0, 14.0))
    return fundamental_from_essential(essential_from_pose(R, t), K0, K1), (K0, K1, R, t)
