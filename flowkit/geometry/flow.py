"""The algebra of flows: a flow image0 -> image1 is (..., 2, H0, W0) in pixels, p0 + flow(p0) is in image1, NaN is unknown."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.geometry.grids import flow_targets, grid_like
from flowkit.geometry.homography import in_front
from flowkit.geometry.sampling import sample_flow, splat
from flowkit.geometry.shapes import check, check_same, check_size
from flowkit.types import Size


def flow_from_map(points: Tensor) -> Tensor:
    """The flow (..., 2, H, W) of a map (..., 2, H, W): where in image1, in pixels, each pixel of image0 is."""
    check("points", points, 2, "H", "W")
    return points - grid_like(points)


def flow_from_homography(H: Tensor, size0: Size) -> Tensor:
    """The flow (..., 2, H0, W0) of x1 ~ H x0 (..., 3, 3), in H's precision; NaN beyond the horizon (see `same_side`)."""
    check("H", H, 3, 3)
    height, width = check_size("size0", size0)
    x = torch.arange(width, device=H.device, dtype=H.dtype)
    y = torch.arange(height, device=H.device, dtype=H.dtype)[:, None]
    # Three planes rather than (N, 3) points: much faster on a large picture.
    u, v, w = (
        row[..., 0, None, None] * x + row[..., 1, None, None] * y + row[..., 2, None, None] for row in H.unbind(-2)
    )
    known = in_front(w.flatten(-2), H).unflatten(-1, (height, width))
    w = torch.where(known, w, 1)
    return torch.where(known.unsqueeze(-3), torch.stack([u / w - x, v / w - y], dim=-3), torch.nan)


def compose(flow_ab: Tensor, flow_bc: Tensor) -> Tensor:
    """The flow a -> c (..., 2, Ha, Wa) of a -> b (..., 2, Ha, Wa) followed by b -> c (..., 2, Hb, Wb).

    NaN where a -> b is unknown or leaves b, and where b -> c is unknown.
    """
    check("flow_bc", flow_bc, 2, "H", "W")
    return flow_ab + sample_flow(flow_bc, flow_targets(flow_ab))


def endpoint_error(flow: Tensor, truth: Tensor) -> Tensor:
    """(..., H, W) pixels: |flow - truth| of two flows (..., 2, H, W); NaN where either is unknown."""
    check("flow", flow, 2, "H", "W")
    check_same("flow", flow, "truth", truth)
    return (flow - truth).norm(dim=-3)


def forward_backward(flow_ab: Tensor, flow_ba: Tensor, alpha: float = 0.01, beta: float = 0.5) -> tuple[Tensor, Tensor]:
    """How far a point ends from where it started after going a -> b -> a, on a's grid.

    flow_ab (..., 2, Ha, Wa) and flow_ba (..., 2, Hb, Wb) give the error (..., Ha, Wa) in pixels, NaN where it cannot be told,
    and a bool mask, True where the point is occluded: error^2 > alpha (|flow_ab|^2 + |flow_ba|^2) + beta (Meister et al.,
    UnFlow, AAAI 2018, eq. 1), or its way leaves b, or is unknown.
    """
    check("flow_ba", flow_ba, 2, "H", "W")
    back = sample_flow(flow_ba, flow_targets(flow_ab))
    error = (flow_ab + back).norm(dim=-3)
    bound = alpha * (flow_ab.square().sum(-3) + back.square().sum(-3)) + beta
    return error, ~(error.square() <= bound)


def confidence_from_error(error: Tensor, scale: float = 1.0) -> Tensor:
    """exp(-(error / scale)^2 / 2) in [0, 1] of an error in pixels, any shape; 0 where the error is NaN."""
    return torch.nan_to_num((-0.5 * (error / scale).square()).exp(), nan=0.0)


def invert(
    flow: Tensor,
    size1: Size | None = None,
    *,
    importance: Tensor | None = None,
    steps: int = 3,
    tolerance: float = 0.5,
    max_stretch: float = 3.0,
) -> tuple[Tensor, Tensor]:
    """The flow image1 -> image0 (..., 2, H1, W1) of a flow image0 -> image1, and a bool mask (..., H1, W1), True where unknown.

    -flow is splatted onto image1's grid, gaps of one pixel are bridged, and Newton's method (`steps` of it) then solves
    g(q) = -flow(q + g(q)). Unknown, hence NaN: what nothing of image0 reaches, where image0 would be stretched more than
    `max_stretch` times in length (a tear between two surfaces, not a surface), and where going there and back misses by more
    than `tolerance` pixels. Where two surfaces land on one pixel the one of higher `importance` (..., H0, W0; inverse depth,
    say) is seen; without it, whichever the splat's average leads to. `size1` is image0's size unless given.
    """
    check("flow", flow, 2, "H", "W")
    backward, coverage = splat(-flow, flow, importance=importance, size1=size1)
    backward = _bridge(backward, coverage)
    for _ in range(steps):
        residual, jacobian, area = _round_trip(flow, backward)
        (a, b), (c, d) = jacobian
        u, v = residual.unbind(-3)
        solved = torch.stack([d * u - b * v, a * v - c * u], dim=-3) / area.unsqueeze(-3)
        backward = backward - torch.where((area.abs() > 1e-3).unsqueeze(-3), solved, residual)
    residual, _, area = _round_trip(flow, backward)
    known = (residual.square().sum(-3) <= tolerance**2) & (area.abs() <= max_stretch**2)
    return torch.where(known.unsqueeze(-3), backward, torch.nan), ~known


def _round_trip(flow: Tensor, backward: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]], Tensor]:
    """g(q) + flow(q + g(q)) (..., 2, H1, W1); the Jacobian of p + flow(p) there, rows of (..., H1, W1), and its determinant."""
    points = flow_targets(backward)
    residual = backward + sample_flow(flow, points)
    height, width = flow.shape[-2:]
    centre = points.new_tensor([width - 1, height - 1]) / 2
    points = centre + (points - centre).clamp(-(centre - 0.5).clamp_min(0), (centre - 0.5).clamp_min(0))
    half_x, half_y = points.new_tensor([0.5, 0]), points.new_tensor([0, 0.5])
    by_x, by_y = (
        torch.nan_to_num(sample_flow(flow, points + half) - sample_flow(flow, points - half))
        for half in (half_x, half_y)
    )
    a, b = 1 + by_x[..., 0, :, :], by_y[..., 0, :, :]
    c, d = by_x[..., 1, :, :], 1 + by_y[..., 1, :, :]
    return residual, [(a, b), (c, d)], a * d - b * c


def _bridge(flow: Tensor, coverage: Tensor) -> Tensor:
    """Fill what has no coverage (..., H, W) with the mean of its covered neighbours; NaN where there is none."""
    covered = (coverage > 0).to(flow.dtype).unsqueeze(-3)
    total, count = (
        F.avg_pool2d(x.reshape(-1, *x.shape[-3:]), 3, stride=1, padding=1).reshape(x.shape)
        for x in (flow * covered, covered)
    )
    return torch.where(covered > 0, flow, torch.where(count > 0, total / count.clamp_min(1 / 18), torch.nan))
