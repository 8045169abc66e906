"""Relative pose: X1 = R X0 + t takes image0's camera frame to image1's (x right, y down, z forward).

Points named `normalised` are K^-1 (x, y, 1) without the 1. Quaternions are (w, x, y, z), Hamilton's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.epipolar import skew
from flowkit.geometry.homography import homogeneous, normalise
from flowkit.geometry.shapes import check, check_same


def normalise_points(points: Tensor, K: Tensor) -> Tensor:
    """(..., N, 2): pixels (..., N, 2) as normalised coordinates of a camera K (..., 3, 3)."""
    check("points", points, "N", 2)
    check("K", K, 3, 3)
    return (homogeneous(points) @ torch.linalg.inv(K).mT)[..., :2]


def decompose_essential(E: Tensor) -> tuple[Tensor, Tensor]:
    """The four poses behind an essential matrix (..., 3, 3): R (..., 4, 3, 3) and t (..., 4, 3), |t| = 1.

    They come as (R, t), (R, -t), (R', t), (R', -t) (Hartley and Zisserman, 2nd ed., result 9.19).
    """
    check("E", E, 3, 3)
    U, _, Vh = torch.linalg.svd(E)
    # The third columns are free in sign; this makes both proper rotations.
    U = torch.cat([U[..., :2], U[..., 2:] * torch.linalg.det(U)[..., None, None]], dim=-1)
    Vh = torch.cat([Vh[..., :2, :], Vh[..., 2:, :] * torch.linalg.det(Vh)[..., None, None]], dim=-2)
    W = E.new_tensor([[0, -1, 0], [1, 0, 0], [0, 0, 1]])
    R, twisted, t = U @ W @ Vh, U @ W.T @ Vh, U[..., 2]
    return torch.stack([R, R, twisted, twisted], dim=-3), torch.stack([t, -t, t, -t], dim=-2)


def recover_pose(
    E: Tensor, normalised0: Tensor, normalised1: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the four poses behind E (..., 3, 3), the one with the most points in front of both cameras (cheirality).

    From matches (..., N, 2) in normalised coordinates, of which `mask` (..., N) bool are to vote: R (..., 3, 3), t (..., 3) and
    a bool mask (..., N), True for voters in front of both.
    """
    rotations, translations = decompose_essential(E)
    depth0, depth1 = _depths(rotations, translations, normalised0.unsqueeze(-3), normalised1.unsqueeze(-3))
    front = (depth0 > 0) & (depth1 > 0)
    if mask is not None:
        front = front & mask.unsqueeze(-2)
    best = front.sum(-1).argmax(-1)[..., None]
    R = rotations.take_along_dim(best[..., None, None], dim=-3).squeeze(-3)
    t = translations.take_along_dim(best[..., None], dim=-2).squeeze(-2)
    return R, t, front.take_along_dim(best[..., None], dim=-2).squeeze(-2)


def triangulate(R: Tensor, t: Tensor, normalised0: Tensor, normalised1: Tensor) -> Tensor:
    """(..., N, 3): points in image0's camera frame, midway between the viewing rays of matches (..., N, 2), in units of |t|.

    A negative z is behind the camera; NaN where the rays are parallel.
    """
    depth0, depth1 = _depths(R, t, normalised0, normalised1)
    X0 = depth0.unsqueeze(-1) * homogeneous(normalised0)
    X1 = depth1.unsqueeze(-1) * homogeneous(normalised1)
    return (X0 + (X1 - t.unsqueeze(-2)) @ R) / 2


def rotation_angle(R: Tensor) -> Tensor:
    """(...,) degrees, 0 to 180: how far R (..., 3, 3) turns; the error of an estimate is `rotation_angle(R_est.mT @ R)`."""
    check("R", R, 3, 3)
    sine = torch.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1)
    cosine = R.diagonal(dim1=-2, dim2=-1).sum(-1) - 1
    return torch.rad2deg(torch.atan2(sine.norm(dim=-1), cosine))


def translation_angle(t0: Tensor, t1: Tensor, sign_free: bool = False) -> Tensor:
    """(...,) degrees between the directions of t0 and t1 (..., 3); `sign_free` takes t and -t for the same (0 to 90)."""
    check("t0", t0, 3)
    check("t1", t1, 3)
    cosine = (t0 * t1).sum(-1)
    sine = torch.linalg.cross(*torch.broadcast_tensors(t0, t1)).norm(dim=-1)
    return torch.rad2deg(torch.atan2(sine, cosine.abs() if sign_free else cosine))


def relative_pose(T0: Tensor, T1: Tensor) -> Tensor:
    """T_0to1 = T1 T0^-1 (..., 4, 4) of two world-to-camera poses [R t; 0 1] (..., 4, 4)."""
    check("T0", T0, 4, 4)
    check("T1", T1, 4, 4)
    R = T1[..., :3, :3] @ T0[..., :3, :3].mT
    t = T1[..., :3, 3:] - R @ T0[..., :3, 3:]
    last = T0.new_tensor([0, 0, 0, 1]).expand(*R.shape[:-2], 1, 4)
    return torch.cat([torch.cat([R, t], -1), last], -2)


def rotation_homography(K0: Tensor, R: Tensor, K1: Tensor) -> Tensor:
    """H = K1 R K0^-1 (..., 3, 3), H[2][2] = 1: image0 -> image1 when the camera only turned (or all is far away)."""
    for name, matrix in (("K0", K0), ("R", R), ("K1", K1)):
        check(name, matrix, 3, 3)
    return normalise(K1 @ R @ torch.linalg.inv(K0))


def matrix_from_quaternion(q: Tensor) -> Tensor:
    """R (..., 3, 3) of a quaternion (w, x, y, z) (..., 4) of any length but 0; q and -q are the same rotation."""
    check("q", q, 4)
    q = q / q.norm(dim=-1, keepdim=True)
    w, v = q[..., :1, None], q[..., 1:]
    eye = torch.eye(3, dtype=q.dtype, device=q.device)
    return (2 * w * w - 1) * eye + 2 * v[..., :, None] * v[..., None, :] + 2 * w * skew(v)


def quaternion_from_matrix(R: Tensor) -> Tensor:
    """(..., 4): the unit quaternion (w, x, y, z) with w >= 0 of a rotation (..., 3, 3)."""
    check("R", R, 3, 3)
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in R.unbind(-2))
    # The rows of 4 q q': each is a multiple of q, and the one with the largest diagonal is free of cancellation.
    outer = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], -1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], -1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], -1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], -1),
        ],
        -2,
    )
    best = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)[..., None, None]
    q = outer.take_along_dim(best, dim=-2).squeeze(-2)
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def so3_exp(rotation: Tensor) -> Tensor:
    """R (..., 3, 3) that turns by |rotation| radians about the axis `rotation` (..., 3)."""
    return torch.linalg.matrix_exp(skew(rotation))


def so3_log(R: Tensor) -> Tensor:
    """(..., 3): axis times angle in radians, angle 0 to pi, of a rotation (..., 3, 3); the inverse of `so3_exp`."""
    q = quaternion_from_matrix(R)
    w, v = q[..., :1], q[..., 1:]
    small = (v * v).sum(-1, keepdim=True) < torch.finfo(R.dtype).eps
    length = torch.where(small, 1, v).norm(dim=-1, keepdim=True)
    return torch.where(small, 2 / w, 2 * torch.atan2(length, w) / length) * v


def _depths(R: Tensor, t: Tensor, normalised0: Tensor, normalised1: Tensor) -> tuple[Tensor, Tensor]:
    """(..., N) and (..., N): z in either camera of the points where the two rays come nearest to each other.

    On the rays, depth1 x1 = depth0 R x0 + t; the cross products with x1 and R x0 leave one unknown each. NaN for parallel rays.
    """
    check("R", R, 3, 3)
    check("t", t, 3)
    check("normalised0", normalised0, "N", 2)
    check_same("normalised0", normalised0, "normalised1", normalised1)
    ray0, ray1, t = torch.broadcast_tensors(homogeneous(normalised0) @ R.mT, homogeneous(normalised1), t.unsqueeze(-2))
    normal = torch.linalg.cross(ray0, ray1)
    area = (normal * normal).sum(-1)
    parallel = area <= (8 * torch.finfo(area.dtype).eps) ** 2 * (ray0 * ray0).sum(-1) * (ray1 * ray1).sum(-1)
    area = torch.where(parallel, torch.nan, area)
    depth0 = -(torch.linalg.cross(t, ray1) * normal).sum(-1) / area
    depth1 = -(torch.linalg.cross(t, ray0) * normal).sum(-1) / area
    return depth0, depth1
