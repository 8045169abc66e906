"""Cycle consistency: there and back again leads to where it began, but for what is hidden.

Huang et al., LIFE (ICCV 2021), "Cycle consistency regularization". The paper gives alpha and beta in a supplement that is not
to be had; 3 px and 0.05 are ours.
"""

from __future__ import annotations

from torch import Tensor

from flowkit.geometry.grids import inside
from flowkit.geometry.sampling import sample
from flowkit.losses.grids import cell_centres, to_cells

_TINY = 1e-8
"""Keeps the square root's slope finite; in squared pixels."""


def cycle_loss(
    flow: Tensor, backward: Tensor, *, stride: int = 1, alpha: float = 3.0, beta: float = 0.05, adaptive: bool = True
) -> Tensor:
    """The mean over the pixels kept of d(x) = |flow(x) + backward(x + flow(x))|; a scalar, in pixels.

    flow (B, 2, h, w) is image0 -> image1 and `backward` image1 -> image0, both in pixels of the input on grids of `stride`
    pixels a cell; both get a gradient, the backward flow also for where it is looked up. A pixel is kept when its target lies
    inside image1 and, if `adaptive`, when d <= max(alpha px, beta |flow(x)|): larger misses are taken for hidden points.
    Without any pixel kept the loss is 0.
    """
    distance, kept = cycle_distances(flow, backward, stride=stride)
    if adaptive:
        length = flow.detach().square().sum(1).sqrt()
        kept = kept & (distance.detach() <= (beta * length).clamp_min(alpha))
    weight = kept.to(flow.dtype)
    return (distance * weight).sum() / weight.sum().clamp_min(1)


def cycle_distances(flow: Tensor, backward: Tensor, *, stride: int = 1) -> tuple[Tensor, Tensor]:
    """(B, h, w) pixels: by how much each pixel misses itself, and whether its target lies inside image1 (bool)."""
    target = to_cells(cell_centres(flow, stride) + flow, stride).movedim(1, -1)
    back = sample(backward, target, padding="border")
    distance = ((flow + back).square().sum(1) + _TINY).sqrt()
    size = int(backward.shape[-2]), int(backward.shape[-1])
    return distance, inside(target.detach(), size)
