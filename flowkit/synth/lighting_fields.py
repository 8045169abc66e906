"""Light that differs from place to place: smooth unevenness, shadows with soft edges, lamps and light cones, haze.

Fields are (N, H, W). Places are in units of half the longer side of the picture, the middle of the picture being (0, 0).
"""

from __future__ import annotations

import torch
from torch import Tensor

from flowkit.geometry.grids import pixel_grid
from flowkit.types import Size


def places(size: Size, device: torch.device | str | None = None) -> Tensor:
    """(2, H, W): x and y of every pixel centre; the longer side goes from -1 to 1."""
    height, width = size
    centre = torch.tensor([width - 1, height - 1], device=device)[:, None, None] / 2
    return (pixel_grid(height, width, device) - centre) / (max(height, width) / 2)


def smooth_field(knots: Tensor, size: Size) -> Tensor:
    """(..., H, W): the uniform cubic B-spline over a picture whose control values are `knots` (..., h, w), h and w >= 4."""
    rows, columns = (_spline(n, k, knots.device) for n, k in zip(size, knots.shape[-2:], strict=True))
    return rows @ (knots @ columns.T)


def _spline(length: int, knots: int, device: torch.device) -> Tensor:
    """(length, knots): weights of the control values of a uniform cubic B-spline for positions spread over its support."""
    position = (torch.arange(length, device=device) + 0.5) / length * (knots - 3) + 1
    distance = (position[:, None] - torch.arange(knots, device=device)).abs()
    near, far = (1 - distance).clamp_min(0), (2 - distance).clamp_min(0)
    return (far**3 - 4 * near**3) / 6


def shadow(normals: Tensor, offsets: Tensor, wobble: Tensor, softness: Tensor) -> Tensor:
    """The share of the light (N, H, W) in [0, 1] that a shape takes away: 1 inside, 0 outside, soft at the edge.

    The shape is where n . p < offset for all K of normals (N, K, 2) and offsets (N, K), its outline moved outwards by `wobble`
    (N, H, W); `softness` (N,) is the width of the penumbra, all in the units of `places`.
    """
    size = int(wobble.shape[-2]), int(wobble.shape[-1])
    points = places(size, wobble.device).flatten(1)
    outside = torch.baddbmm(-offsets[..., None], normals, points.expand(len(normals), -1, -1)).amax(1)
    outside = outside.view_as(wobble).sub_(wobble)
    return outside.mul_(-4 / softness[:, None, None]).sigmoid_()


def lamp(centre: Tensor, radius: Tensor, direction: Tensor, width: Tensor, size: Size) -> Tensor:
    """Light (N, K, H, W) of K lamps, 1 at the lamp, a quarter at `radius`, falling with the square of the distance beyond.

    centre (N, K, 2), radius (N, K). `direction` (N, K, 2) of length 1 and the cosine `width` (N, K) of the half angle make it a
    cone; a width of -2 or less lets it shine all around.
    """
    x, y = places(size, centre.device)
    dx, dy = x - centre[..., 0, None, None], y - centre[..., 1, None, None]
    squared = dx.square().add_(dy.square())
    falloff = (squared / radius.square()[..., None, None]).add_(1).square_().reciprocal_()
    ahead = dx.mul_(direction[..., 0, None, None]).add_(dy.mul_(direction[..., 1, None, None]))
    cosine = ahead.mul_(squared.add_(1e-6).rsqrt_())
    return falloff.mul_(cosine.sub_(width[..., None, None]).mul_(12).sigmoid_())


def remoteness(depth: Tensor) -> Tensor:
    """Depth (N, H, W) over its median in the picture, at most 6; pixels without a finite positive depth are as far as that."""
    known = torch.isfinite(depth) & (depth > 0)
    middle = torch.where(known, depth, torch.nan).flatten(1).nanmedian(1).values
    relative = depth / middle[:, None, None]
    return torch.where(known, relative, 6).nan_to_num(1.0).clamp(0, 6)


def hazy(light: Tensor, density: Tensor, air: Tensor) -> Tensor:
    """Linear light (N, 3, H, W) seen through haze: light t + air (1 - t), t = exp(-density) (Koschmieder).

    density (N, H, W) is what lies between, air (N, 3) the colour of the haze.
    """
    through = (-density).exp_()[:, None]
    veil = air[:, :, None, None]
    return veil + (light - veil) * through
