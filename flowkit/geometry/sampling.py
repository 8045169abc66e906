"""Looking pictures and flows up at points (backward warping), and scattering them along a flow (forward warping).

All coordinates are pixels, (0, 0) the centre of the top-left pixel. A picture ends half a pixel beyond its outermost pixel
centres; in that rim the border value holds.
"""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.geometry.grids import KNOWN, flow_targets, inside
from flowkit.geometry.shapes import check, check_size
from flowkit.types import Size


def sample(image: Tensor, points: Tensor, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """(..., C, *P): the values of `image` (..., C, H, W) at `points` (..., *P, 2), which share its batch dimensions.

    `mode` is bilinear, nearest or bicubic. `padding` says what lies outside: "zeros" (black pixels, which blend with the
    outermost ones), "border" (the nearest pixel) or "nan" (unknown beyond the rim). A NaN point is outside everything: 0, or
    NaN with "nan". ValueError when shapes or names do not fit.
    """
    check("image", image, "C", "H", "W")
    check("points", points, 2)
    if padding not in ("zeros", "border", "nan"):
        raise ValueError(f"padding must be zeros, border or nan, got {padding!r}")
    batch, (channels, height, width) = image.shape[:-3], image.shape[-3:]
    if points.shape[: len(batch)] != batch or points.ndim <= len(batch):
        raise ValueError(
            f"points {tuple(points.shape)} must start with the batch dimensions of image {tuple(image.shape)}"
        )
    places = points.shape[len(batch) : -1]
    known = torch.isfinite(points).all(dim=-1, keepdim=True)
    # With align_corners=False, -1 and 1 are the outer edges of the outermost pixels: no special case for a width of 1.
    size = points.new_tensor([width, height])
    normalised = (2 * torch.where(known, points, -2) + 1) / size - 1
    values = F.grid_sample(
        image.reshape(-1, channels, height, width),
        normalised.reshape(prod(batch), -1, 1, 2).to(image.dtype),
        mode=mode,
        padding_mode="zeros" if padding == "zeros" else "border",
        align_corners=False,
    ).reshape(*batch, channels, *places)
    if padding == "nan":
        usable, outside = inside(points, (height, width)), torch.nan
    else:
        usable, outside = known[..., 0], 0.0
    if usable.all():
        return values
    return torch.where(usable.reshape(*batch, 1, *places), values, outside)


def sample_flow(flow: Tensor, points: Tensor) -> Tensor:
    """(..., C, *P): a flow (..., C, H, W) with NaN for unknown, at `points` (..., *P, 2); bilinear.

    NaN outside the picture and where an unknown pixel has a share; unknown pixels never leak into known ones.
    """
    known = torch.isfinite(flow).all(dim=-3, keepdim=True)
    if known.all():
        return sample(flow, points, padding="nan")
    values = sample(torch.where(known, flow, 0), points, padding="nan")
    share = sample(known.to(flow.dtype), points, padding="nan")
    return torch.where(share >= KNOWN, values / share.clamp_min(KNOWN), torch.nan)


def warp(image1: Tensor, flow: Tensor, mode: str = "bilinear", fill: float = 0.0) -> tuple[Tensor, Tensor]:
    """Bring image1 onto image0 by the flow image0 -> image1: image0(p) is image1(p + flow(p)) (backward warping).

    image1 (..., C, H1, W1) and flow (..., 2, H0, W0) give (..., C, H0, W0) and a bool mask (..., H0, W0), False where the
    flow is unknown or leaves image1; there the picture is `fill`.
    """
    points = flow_targets(flow)
    valid = inside(points, (int(image1.shape[-2]), int(image1.shape[-1])))
    warped = sample(image1, points, mode=mode, padding="border")
    return torch.where(valid.unsqueeze(-3), warped, fill), valid


def splat(
    image0: Tensor,
    flow: Tensor,
    *,
    weight: Tensor | None = None,
    importance: Tensor | None = None,
    size1: Size | None = None,
) -> tuple[Tensor, Tensor]:
    """Push image0 along the flow image0 -> image1 onto image1's grid (forward warping).

    image0 (..., C, H0, W0) and flow (..., 2, H0, W0) give the picture (..., C, H1, W1) and its coverage (..., H1, W1), the sum
    of the weights that arrived. Each pixel is spread bilinearly over four neighbours; what meets is averaged by `weight`
    (..., H0, W0) >= 0 and, where given, by exp(importance) (..., H0, W0): the more important wins (softmax splatting, Niklaus
    and Liu, CVPR 2020). Coverage 0 is a hole, and black. Pixels with a NaN in value or flow are left out. `size1` is image0's
    size unless given. On CUDA the order of additions, hence the last bit, is not fixed.
    """
    check("image0", image0, "C", "H", "W")
    check("flow", flow, 2, *image0.shape[-2:])
    batch, (channels, height, width) = image0.shape[:-3], image0.shape[-3:]
    if flow.shape[:-3] != batch:
        raise ValueError(
            f"image0 {tuple(image0.shape)} and flow {tuple(flow.shape)} must have the same batch dimensions"
        )
    for name, extra in (("weight", weight), ("importance", importance)):
        if extra is not None and extra.shape != (*batch, height, width):
            raise ValueError(f"{name} must be {(*batch, height, width)}, got {tuple(extra.shape)}")
    height1, width1 = check_size("size1", size1 or (height, width))
    cells = prod(batch) * height1 * width1

    values = image0.movedim(-3, -1).reshape(-1, channels)
    points = flow_targets(flow).reshape(-1, 2)
    usable = torch.isfinite(points).all(-1) & torch.isfinite(values).all(-1)
    values = torch.where(usable[:, None], values, 0)
    points = torch.where(usable[:, None], points, -2)  # outside: no corner of it is in the picture
    offset = torch.arange(prod(batch), device=flow.device).repeat_interleave(height * width) * (height1 * width1)

    corners = []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = points.detach().floor() + points.new_tensor([dx, dy])
        share = (1 - (points - corner).abs()).prod(-1)
        x, y = corner.unbind(-1)
        arrives = (x >= 0) & (x < width1) & (y >= 0) & (y < height1) & (share > 0)
        index = torch.where(arrives, y * width1 + x, 0).long() + offset
        corners.append((index, torch.where(arrives, share, 0)))

    factor = torch.ones_like(points[:, 0]) if weight is None else weight.reshape(-1)
    if importance is not None:
        importance = importance.reshape(-1)
        highest = importance.new_full((cells,), -torch.inf)
        for index, share in corners:
            arriving = torch.where(share > 0, importance.detach(), -torch.inf)
            highest = highest.scatter_reduce(0, index, arriving, "amax")
    total = values.new_zeros(cells, channels)
    norm = values.new_zeros(cells)
    coverage = values.new_zeros(cells)
    for index, share in corners:
        share = (share * factor).to(values.dtype)
        coverage = coverage.index_add(0, index, share)
        if importance is not None:  # relative to the cell's highest, so that exp neither overflows nor leaves nothing
            share = share * torch.where(share > 0, importance - highest[index], 0).exp()
        norm = norm.index_add(0, index, share)
        total = total.index_add(0, index, share[:, None] * values)
    covered = norm > 0
    picture = torch.where(covered[:, None], total / torch.where(covered, norm, 1)[:, None], 0)
    picture = picture.reshape(*batch, height1, width1, channels).movedim(-1, -3)
    return picture, coverage.reshape(*batch, height1, width1)
