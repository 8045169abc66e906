"""Homographies: x1 ~ H x0, 3x3, H[2][2] = 1, pixels of both pictures; composition is the matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.shapes import check, check_same
from flowkit.types import Size


def homogeneous(points: Tensor) -> Tensor:
    """(..., 3): points (..., 2) with a 1 appended."""
    check("points", points, 2)
    return torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)


def normalise(H: Tensor) -> Tensor:
    """H (..., 3, 3) scaled to H[2][2] = 1; NaN where that is impossible (H[2][2] = 0: the origin goes to infinity)."""
    check("H", H, 3, 3)
    last = H[..., 2:, 2:]
    tiny = last.abs() <= torch.finfo(H.dtype).eps * H.detach().abs().amax((-2, -1), keepdim=True)
    return H / torch.where(tiny, torch.nan, last)


def transform_points(H: Tensor, points: Tensor) -> Tensor:
    """(..., N, 2): H (..., 3, 3) applied to points (..., N, 2), batch dimensions broadcast.

    NaN for points sent to infinity. Points beyond the line that goes to infinity are mapped all the same, to where they are
    never seen; `same_side` tells which.
    """
    check("H", H, 3, 3)
    check("points", points, "N", 2)
    moved = homogeneous(points) @ H.mT
    w = moved[..., 2:]
    scale = homogeneous(points.detach()).abs() @ H.detach()[..., 2:, :].abs().mT
    infinite = w.abs() <= torch.finfo(w.dtype).eps * scale
    return torch.where(infinite, torch.nan, moved[..., :2] / torch.where(infinite, 1, w))


def same_side(H: Tensor, points: Tensor) -> Tensor:
    """(..., N) bool: which points (..., N, 2) of image0 can be seen in image1 through H (..., 3, 3), at any scale or sign of H.

    Where the line that H sends to infinity (the horizon of a ground plane) splits the points, these are the ones on the side
    where H keeps orientation, det(H) w > 0, as a plane seen from one side does. Otherwise all of them are.
    """
    check("H", H, 3, 3)
    check("points", points, "N", 2)
    return in_front((homogeneous(points) @ H[..., 2:, :].mT).squeeze(-1), H)


def in_front(w: Tensor, H: Tensor) -> Tensor:
    """(..., N) bool: `same_side` of points whose third homogeneous coordinate after H (..., 3, 3) is `w` (..., N)."""
    front = w * torch.linalg.det(H).sign().unsqueeze(-1) > 0
    return torch.where(front.any(-1, keepdim=True), front, w.abs() > 0)


def fit_dlt(points0: Tensor, points1: Tensor, weights: Tensor | None = None) -> Tensor:
    """H (..., 3, 3) by least squares from points (..., N, 2) of both pictures, N >= 4, optionally weighted (..., N) >= 0.

    The normalised direct linear transform (Hartley and Zisserman, 2nd ed., algorithm 4.2), solved in float64. NaN where the
    points do not determine H (fewer than four distinct, or collinear ones). ValueError for shapes and for N < 4.
    """
    check("points0", points0, "N", 2)
    check_same("points0", points0, "points1", points1)
    if points0.shape[-2] < 4:
        raise ValueError(f"a homography needs at least 4 points, got {points0.shape[-2]}")
    weights = torch.ones_like(points0[..., 0]) if weights is None else weights
    if weights.shape != points0.shape[:-1]:
        raise ValueError(f"weights must be {tuple(points0.shape[:-1])}, got {tuple(weights.shape)}")
    weights = weights.double()
    T0, T1 = _conditioner(points0.double(), weights), _conditioner(points1.double(), weights)
    p0, p1 = homogeneous(points0.double()) @ T0.mT, homogeneous(points1.double()) @ T1.mT
    zero = torch.zeros_like(p0)
    x1, y1 = p1[..., 0:1], p1[..., 1:2]
    rows = torch.cat([torch.cat([p0, zero, -x1 * p0], -1), torch.cat([zero, p0, -y1 * p0], -1)], dim=-2)
    weighted = rows * torch.cat([weights, weights], -1).unsqueeze(-1)
    moments = rows.mT @ weighted
    usable = torch.isfinite(moments).all(-1).all(-1)
    values, vectors = torch.linalg.eigh(torch.where(usable[..., None, None], moments, torch.eye(9).to(moments)))
    H = torch.linalg.solve(T1, vectors[..., 0].unflatten(-1, (3, 3)) @ T0)
    determined = usable & (values[..., 1] > 1e-12 * values[..., -1])
    return normalise(torch.where(determined[..., None, None], H, torch.nan)).to(points0.dtype)


def symmetric_transfer_error(H: Tensor, points0: Tensor, points1: Tensor) -> Tensor:
    """(..., N) pixels: the larger of |H x0 - x1| and |H^-1 x1 - x0|; inf at infinity and where H has no inverse."""
    check_same("points0", points0, "points1", points1)
    inverse, info = torch.linalg.inv_ex(H)
    there = (transform_points(H, points0) - points1).norm(dim=-1)
    back = (transform_points(inverse, points1) - points0).norm(dim=-1)
    error = torch.maximum(there, back)
    return torch.where(torch.isfinite(error) & (info == 0).unsqueeze(-1), error, torch.inf)


def corners(size: Size, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None) -> Tensor:
    """(4, 2): the centres of a picture's corner pixels, clockwise from the top left."""
    right, bottom = size[1] - 1, size[0] - 1
    return torch.tensor([[0, 0], [right, 0], [right, bottom], [0, bottom]], dtype=dtype, device=device)


def corner_error(H: Tensor, H_true: Tensor, size0: Size) -> Tensor:
    """(...,) pixels of image1: mean distance between where H and H_true (..., 3, 3) take image0's four corners.

    The measure of HPatches evaluations (DeTone et al., SuperPoint, 2018); inf when a corner goes to infinity.
    """
    points = corners(size0, H.dtype, H.device)
    error = (transform_points(H, points) - transform_points(H_true, points)).norm(dim=-1).mean(-1)
    return torch.where(torch.isfinite(error), error, torch.inf)


def jacobian(H: Tensor, points: Tensor) -> Tensor:
    """(..., N, 2, 2): d x1 / d x0 of x1 ~ H x0 at points (..., N, 2); its determinant is det(H) / w^3."""
    w = (homogeneous(points) @ H[..., 2:, :].mT).unsqueeze(-1)
    moved = transform_points(H, points).unsqueeze(-1)
    return (H[..., None, :2, :2] - moved * H[..., None, 2:, :2]) / w


def is_plausible(H: Tensor, size0: Size, size1: Size, max_scale: float = 50.0) -> Tensor:
    """(...,) bool: whether H (..., 3, 3) could relate two pictures of these sizes.

    It is finite, sends no point of image0 through infinity and does not mirror it (then the outline of image0 stays convex),
    nowhere stretches or shrinks it more than `max_scale` times in any direction, and leaves the pictures some overlap.
    """
    check("H", H, 3, 3)
    finite = torch.isfinite(H).all(-1).all(-1)
    H = torch.where(finite[..., None, None], H, torch.eye(3).to(H))
    points0, points1 = _lattice(size0).to(H), _lattice(size1).to(H)
    corners0 = corners(size0, H.dtype, H.device)
    w = (homogeneous(corners0) @ H[..., 2:, :].mT).squeeze(-1)
    keeps_orientation = (w * torch.linalg.det(H).unsqueeze(-1) > 0).all(-1)
    stretch = torch.linalg.svdvals(torch.nan_to_num(jacobian(H, corners0), 0, 0, 0))
    keeps_scale = (stretch.amax((-2, -1)) <= max_scale) & (stretch.amin((-2, -1)) >= 1 / max_scale)
    there = _any_inside(transform_points(H, points0), size1)
    back = _any_inside(transform_points(torch.linalg.inv_ex(H).inverse, points1), size0)
    return finite & keeps_orientation & keeps_scale & (there | back)


def _conditioner(points: Tensor, weights: Tensor) -> Tensor:
    """(..., 3, 3): moves the weighted centroid to 0 and scales the mean distance from it to sqrt(2)."""
    share = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    centre = (share * points).sum(-2)
    radius = (share[..., 0] * (points - centre.unsqueeze(-2)).norm(dim=-1)).sum(-1)
    scale = 2**0.5 / radius
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    rows = [scale, zero, -scale * centre[..., 0], zero, scale, -scale * centre[..., 1], zero, zero, one]
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _lattice(size: Size, steps: int = 9) -> Tensor:
    """(steps * steps, 2): points spread evenly over a picture, corners included."""
    x, y = torch.linspace(0, size[1] - 1, steps), torch.linspace(0, size[0] - 1, steps)
    return torch.cartesian_prod(x, y)


def _any_inside(points: Tensor, size: Size) -> Tensor:
    limit = points.new_tensor([size[1] - 0.5, size[0] - 0.5])
    return ((points >= -0.5) & (points <= limit)).all(-1).any(-1)
