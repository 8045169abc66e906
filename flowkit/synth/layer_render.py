"""Drawing layered scenes in batches with torch, on any device."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.grids import inside, pixel_grid
from flowkit.synth.layer_maps import apply_affine, coverage, dense_field, move, move_back
from flowkit.synth.layered import LayeredScenes
from flowkit.synth.photos import CUTOUT, PhotoStore, lookup
from flowkit.types import Size

SEEN = 0.5
"""A layer hides what is behind it, and owns the flow, where its alpha is above this."""
BLUR_TAPS = 5


def pixel_points(size: Size, device: torch.device | str) -> Tensor:
    """(H * W, 2): the pixel centres, row by row."""
    return pixel_grid(*size, device=device).flatten(1).mT.contiguous()


class LayerStack:
    """The layers of B scenes, flattened scene by scene, ready to be asked about points of either image."""

    def __init__(self, scenes: LayeredScenes, photos: PhotoStore) -> None:
        self.scenes, self.photos = scenes, photos
        self.count, self.layers = scenes.present.shape
        self.field = dense_field(scenes.field.flatten(0, 1), scenes.size)
        self.inverse = torch.linalg.inv(scenes.motion.double()).float()

    def canonical(self, points: Tensor) -> Tensor:
        """(B, L, P, 2): points (B, L, P, 2) of image1, in every layer's canonical frame."""
        flat = points.flatten(0, 1)
        return move_back(self.inverse.flatten(0, 1), self.field, flat).view_as(points)

    def moved(self, points: Tensor) -> Tensor:
        """(B, L, P, 2): canonical points moved into image1."""
        return move(self.scenes.motion.flatten(0, 1), self.field, points.flatten(0, 1)).view_as(points)

    def alpha(self, u: Tensor) -> Tensor:
        """(B, L, P): alpha of every layer at its canonical points u (B, L, P, 2)."""
        s = self.scenes
        alpha = coverage(u, s.local, s.outline, s.sharpness, s.hole, s.stripe)
        for k, cut in enumerate(s.cutout_slots):
            if cut:
                alpha[:, k] = self.figure(k, u[:, k], channels=slice(3, 4))[:, 0]
        alpha = alpha * s.present[..., None]
        alpha[:, 0] = 1
        return alpha

    def figure(self, k: int, u: Tensor, channels: slice) -> Tensor:
        """(B, C, P): the cut-outs of slot k at canonical points (B, P, 2); transparent outside."""
        s = self.scenes
        pixels = self.photos.cutouts[s.picture[:, k]][..., channels].movedim(-1, 1).float() / 255
        points = apply_affine(s.texture[:, k], u)
        grid = ((2 * points + 1) / CUTOUT - 1)[:, None]
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]

    def colour(self, k: int, u: Tensor) -> Tensor:
        """(B, 3, P): the picture of slot k at canonical points (B, P, 2)."""
        s = self.scenes
        if s.cutout_slots[k]:
            return self.figure(k, u, channels=slice(0, 3))
        return lookup(self.photos, s.picture[:, k], s.level[:, k], apply_affine(s.texture[:, k], u)).mT

    def picture(self, u: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, P) composited colours and (B, P) int64, the layer that is seen."""
        picture = self.colour(0, u[:, 0])
        for k in range(1, self.layers):
            picture = picture.lerp(self.colour(k, u[:, k]), alpha[:, k, None])
        order = torch.arange(self.layers, device=alpha.device)[:, None]
        return picture, torch.where(alpha > SEEN, order, 0).amax(1)


def render_layers(scenes: LayeredScenes, photos: PhotoStore) -> PairBatch:
    """The scenes as image pairs with exact flow and occlusion in both directions; valid everywhere."""
    size = scenes.size
    count, layers = scenes.present.shape
    stack = LayerStack(scenes, photos)
    grid = pixel_points(size, photos.device).expand(count, layers, -1, 2)

    u1 = stack.canonical(grid)
    alpha0, alpha1 = stack.alpha(grid), stack.alpha(u1)
    picture0, top0 = stack.picture(grid, alpha0)
    picture1, top1 = stack.picture(u1, alpha1)
    target = _of_layer(stack.moved(grid), top0)
    source = _of_layer(u1, top1)
    hidden0 = _covered(stack.alpha(stack.canonical(target[:, None].expand_as(grid))), top0) | ~inside(target, size)
    hidden1 = _covered(stack.alpha(source[:, None].expand_as(grid)), top1) | ~inside(source, size)

    def plane(values: Tensor) -> Tensor:
        return values.unflatten(-1, size).contiguous()

    flow, backward = plane((target - grid[:, 0]).mT), plane((source - grid[:, 0]).mT)
    everywhere = torch.ones((count, *size), dtype=torch.bool, device=photos.device)
    return PairBatch(
        image0=motion_blurred(plane(picture0), flow, scenes.shutter),
        image1=motion_blurred(plane(picture1), backward, scenes.shutter),
        flow=flow,
        valid=everywhere,
        occlusion=plane(hidden0),
        backward=backward,
        backward_valid=everywhere.clone(),
        backward_occlusion=plane(hidden1),
        made={"scene": "layered", "seed": scenes.seeded},
    )


def _of_layer(points: Tensor, layer: Tensor) -> Tensor:
    """(B, P, 2): of points (B, L, P, 2), those of the layer (B, P)."""
    return points.gather(1, layer[:, None, :, None].expand(-1, 1, -1, 2))[:, 0]


def _covered(alpha: Tensor, layer: Tensor) -> Tensor:
    """(B, P): does any layer in front of `layer` hide it, with alphas (B, L, P)?"""
    order = torch.arange(alpha.shape[1], device=alpha.device)[:, None]
    return ((alpha > SEEN) & (order > layer[:, None])).any(1)


def motion_blurred(image: Tensor, flow: Tensor, shutter: Tensor) -> Tensor:
    """(B, 3, H, W): the image averaged along each pixel's own flow over `shutter` (B,) of its length."""
    blurred = shutter.nonzero()[:, 0]
    if len(blurred) == 0:
        return image
    size = (int(image.shape[-2]), int(image.shape[-1]))
    grid = pixel_points(size, image.device).view(*size, 2)
    unit = grid.new_tensor([2 / size[1], 2 / size[0]])
    length = (flow[blurred] * shutter[blurred, None, None, None]).movedim(1, -1)
    sharp = image[blurred]
    total = torch.zeros_like(sharp)
    for tap in range(BLUR_TAPS):
        points = grid + length * (tap / (BLUR_TAPS - 1) - 0.5)
        total += F.grid_sample(
            sharp, (points + 0.5) * unit - 1, mode="bilinear", padding_mode="border", align_corners=False
        )
    return image.index_copy(0, blurred, total / BLUR_TAPS)
