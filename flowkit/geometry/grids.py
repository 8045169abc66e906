"""Pixel grids, and what resizing, turning and flipping a picture does to points, flows, homographies and intrinsics.

A point is (x, y) in pixels and the centre of the top-left pixel is (0, 0), so a picture covers -0.5 <= x <= width - 0.5.
Resizing maps that area onto the new one: x' = (x + 0.5) s - 0.5 per axis, which is what `cv2.resize` and
`F.interpolate(align_corners=False)` do to the pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.geometry.homography import normalise
from flowkit.geometry.shapes import check, check_size
from flowkit.types import Size

KNOWN = 1 - 1e-3
"""An interpolated value is known when its known neighbours hold at least this share of the weight (rounding aside: all)."""


def pixel_grid(
    height: int, width: int, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(2, H, W): x and y of every pixel centre, starting at (0, 0). ValueError for half precision."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"a pixel grid needs float32 or float64, got {dtype}")
    y = torch.arange(height, device=device, dtype=dtype)
    x = torch.arange(width, device=device, dtype=dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def grid_like(tensor: Tensor) -> Tensor:
    """(2, H, W): the pixel grid of a tensor (..., H, W), on its device and in its precision."""
    height, width = tensor.shape[-2:]
    return pixel_grid(height, width, device=tensor.device, dtype=tensor.dtype)


def flow_targets(flow: Tensor) -> Tensor:
    """(..., H, W, 2): the points of image1 that a flow (..., 2, H, W) points at; NaN where it is unknown."""
    check("flow", flow, 2, "H", "W")
    return (flow + grid_like(flow)).movedim(-3, -1)


def inside(points: Tensor, size: Size) -> Tensor:
    """(...,) bool: which points (..., 2) lie in the area of a picture, half a pixel of rim included; NaN is outside."""
    check("points", points, 2)
    x, y = points.unbind(-1)
    return (x >= -0.5) & (x <= size[1] - 0.5) & (y >= -0.5) & (y <= size[0] - 0.5)


def resize_points(points: Tensor, size_from: Size, size_to: Size) -> Tensor:
    """Points (..., 2) of a picture of `size_from` (height, width), once it is resized to `size_to`."""
    check("points", points, 2)
    scale = points.new_tensor(_scale(size_from, size_to))
    return (points + 0.5) * scale - 0.5


def resize_matrix(size_from: Size, size_to: Size, dtype: torch.dtype = torch.float64) -> Tensor:
    """(3, 3): what `resize_points` does, as an affine matrix on homogeneous (x, y, 1)."""
    sx, sy = _scale(size_from, size_to)
    return torch.tensor([[sx, 0, sx / 2 - 0.5], [0, sy, sy / 2 - 0.5], [0, 0, 1]], dtype=dtype)


def resize_homography(H: Tensor, size0_from: Size, size0_to: Size, size1_from: Size, size1_to: Size) -> Tensor:
    """H (..., 3, 3), x1 ~ H x0, once image0 and image1 are resized: S1 H S0^-1 with H[2][2] = 1."""
    check("H", H, 3, 3)
    unresize0 = resize_matrix(size0_to, size0_from).to(H)
    return normalise(resize_matrix(size1_from, size1_to).to(H) @ H @ unresize0)


def resize_intrinsics(K: Tensor, size_from: Size, size_to: Size) -> Tensor:
    """K (..., 3, 3) of a picture once it is resized; the principal point moves by the half-pixel rule."""
    check("K", K, 3, 3)
    return resize_matrix(size_from, size_to).to(K) @ K


def resize_flow(flow: Tensor, size_to: Size, size1_from: Size | None = None, size1_to: Size | None = None) -> Tensor:
    """A flow (..., 2, H, W) in pixels once image0 is resized to `size_to` and image1 from `size1_from` to `size1_to`.

    Without sizes of image1, it has image0's size before and after. The answer is flow'(p') = resize1(p + flow(p)) - p' with
    p = unresize0(p'), which comes to s1 flow(p) + (s1 / s0 - 1)(p' + 0.5): vectors scale with the picture they point into.
    Bilinear; NaN where an unknown neighbour has a share. ValueError when only one size of image1 is given.
    """
    check("flow", flow, 2, "H", "W")
    if (size1_from is None) != (size1_to is None):
        raise ValueError("give both size1_from and size1_to, or neither")
    size_from = int(flow.shape[-2]), int(flow.shape[-1])
    size_to = check_size("size_to", size_to)
    sx, sy = _scale(size_from, size_to)
    s1x, s1y = _scale(size1_from, size1_to) if size1_from and size1_to else (sx, sy)
    scaled = _interpolate_known(flow, size_to) * flow.new_tensor([s1x, s1y])[:, None, None]
    if (s1x, s1y) == (sx, sy):
        return scaled
    x = (torch.arange(size_to[1], device=flow.device, dtype=flow.dtype) + 0.5) * (s1x / sx - 1)
    y = (torch.arange(size_to[0], device=flow.device, dtype=flow.dtype) + 0.5) * (s1y / sy - 1)
    return torch.stack([scaled[..., 0, :, :] + x, scaled[..., 1, :, :] + y[:, None]], dim=-3)


def resize_image(image: Tensor, size: Size, antialias: bool = True, mode: str = "bilinear") -> Tensor:
    """A picture (..., C, H, W) at `size` (height, width), by the half-pixel rule; `mode` bilinear or bicubic.

    `antialias` widens the filter when shrinking, as Pillow does; cv2's INTER_LINEAR is `antialias=False`.
    """
    check("image", image, "C", "H", "W")
    size = check_size("size", size)
    if size == tuple(image.shape[-2:]):
        return image
    flat = image.reshape(-1, *image.shape[-3:])
    resized = F.interpolate(flat, size=size, mode=mode, align_corners=False, antialias=antialias)
    return resized.reshape(*image.shape[:-2], *size)


def rotate90_size(size: Size, k: int) -> Size:
    """The (height, width) of a picture turned by k * 90 degrees."""
    return (size[1], size[0]) if k % 2 else size


def rotation90_homography(size: Size, k: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """(3, 3): where a picture's pixels go when it is turned by k * 90 degrees counter-clockwise, as `np.rot90` does.

    `size` is that of the picture before the turn. The way back is `rotation90_homography(rotate90_size(size, k), -k)`.
    """
    right, bottom = size[1] - 1, size[0] - 1
    rows = [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0, 1, 0], [-1, 0, right], [0, 0, 1]],
        [[-1, 0, right], [0, -1, bottom], [0, 0, 1]],
        [[0, -1, bottom], [1, 0, 0], [0, 0, 1]],
    ][k % 4]
    return torch.tensor(rows, dtype=dtype)


def rotate90_points(points: Tensor, size: Size, k: int) -> Tensor:
    """Points (..., 2) of a picture of `size` once it is turned by k * 90 degrees counter-clockwise, as `np.rot90` does.

    The way back is `rotate90_points(points, rotate90_size(size, k), -k)`.
    """
    check("points", points, 2)
    matrix = rotation90_homography(size, k).to(points)
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def flip_points(points: Tensor, size: Size, horizontal: bool = True) -> Tensor:
    """Points (..., 2) of a picture of `size` once it is mirrored left-right (`horizontal`) or top-bottom; its own inverse."""
    check("points", points, 2)
    x, y = points.unbind(-1)
    return torch.stack([size[1] - 1 - x, y] if horizontal else [x, size[0] - 1 - y], dim=-1)


def _scale(size_from: Size, size_to: Size) -> tuple[float, float]:
    """(sx, sy) of a resize."""
    size_from, size_to = check_size("size_from", size_from), check_size("size_to", size_to)
    return size_to[1] / size_from[1], size_to[0] / size_from[0]


def _interpolate_known(flow: Tensor, size: Size) -> Tensor:
    """Bilinear interpolation of (..., C, H, W) that keeps unknown pixels from leaking: they make NaN, not wrong numbers."""
    if size == tuple(flow.shape[-2:]):
        return flow
    batch = flow.shape[:-2]
    flow = flow.reshape(-1, *flow.shape[-3:])
    known = torch.isfinite(flow).all(dim=1, keepdim=True)
    if known.all():
        return F.interpolate(flow, size=size, mode="bilinear", align_corners=False).reshape(*batch, *size)
    flow = F.interpolate(torch.where(known, flow, 0), size=size, mode="bilinear", align_corners=False)
    share = F.interpolate(known.to(flow.dtype), size=size, mode="bilinear", align_corners=False)
    return torch.where(share >= KNOWN, flow / share.clamp_min(KNOWN), torch.nan).reshape(*batch, *size)
