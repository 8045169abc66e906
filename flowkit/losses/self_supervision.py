"""What a pair of flows, there and back, and the pictures alone say of them: consistency, smoothness, and a teacher's lesson.

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion, section 4. Flows are (B, 2, H, W) in pixels of
their own grid, weights (B, H, W); a mean without any weight is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.flow import forward_backward
from flowkit.geometry.grids import flow_targets
from flowkit.geometry.sampling import sample
from flowkit.losses.census import EPSILON, GAMMA


def robust(values: Tensor) -> Tensor:
    """(B, H, W): rho_c of (B, C, H, W), the mean over C of (z^2 + 0.001^2)^0.45 (below equation 13)."""
    return rho(values.square()).mean(1)


def rho(squares: Tensor) -> Tensor:
    """rho_c of each value by itself, of its square: that has a slope at 0, which a distance itself has not."""
    return (squares + EPSILON**2).pow(GAMMA)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """The mean of values (B, H, W), a scalar; a weight's sum below one pixel counts as one."""
    return (values * weight).sum() / weight.sum().clamp_min(1)


@torch.no_grad()
def visible(flow: Tensor, backward: Tensor, alpha: float = 0.01, beta: float = 0.5) -> Tensor:
    """(B, H, W) bool, M: the pixels of image0 that image1 shows, by UnFlow's test, which has no gradient.

    Hidden is where |f + b(x + f)|^2 > alpha (|f|^2 + |b|^2) + beta, or x + f lies outside of image1.
    """
    return ~forward_backward(flow.detach(), backward.detach(), alpha, beta)[1]


def consistency_loss(flow: Tensor, backward: Tensor, weight: Tensor) -> Tensor:
    """L_c: rho_c of what there and back again misses by, averaged with `weight`; a scalar (equation 13).

    Both flows learn, the backward one also by where it is looked up.
    """
    back = sample(backward, flow_targets(flow), padding="border")
    return weighted_mean(robust(flow + back), weight)


def smoothness_loss(flow: Tensor, image: Tensor, alpha: float = 10.0) -> Tensor:
    """L_s: half the mean of the flow's first differences |dx| + |dy| along either axis; a scalar (equation 14).

    Each is weighed with exp(-alpha / 3 |dI|_1), dI being the same difference of the image (B, 3, H, W) in [0, 1]: flow may
    change where the picture does. The paper does not say what alpha is; 10 is what UFlow and ARFlow take.
    """
    total = flow.new_zeros(())
    for axis in (-1, -2):
        if flow.shape[axis] > 1:
            edges = image.detach().diff(dim=axis).abs().sum(1)
            steps = flow.diff(dim=axis).abs().sum(1)
            total = total + (steps * (-alpha / 3 * edges).exp()).mean()
    return total / 2


def occlusion_loss(flow: Tensor, taught: Tensor, weight: Tensor) -> Tensor:
    """L_o: rho_c of how far a student's flow is from its teacher's, which is given, averaged with `weight` (equation 15).

    `weight`, O, is 1 where the student's pictures hide what the teacher's show.
    """
    return weighted_mean(robust(flow - taught.detach()), weight)
