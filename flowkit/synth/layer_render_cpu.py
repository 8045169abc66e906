"""Drawing layered scenes fast on a CPU: layer by layer, only where the layer is, pictures looked up by OpenCV.

The same scenes as `layer_render.render_layers`, through the same maps (`layer_maps`); only OpenCV's texture lookup rounds
coordinates to 1/32 of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.grids import inside
from flowkit.synth.layer_maps import apply_affine, coverage, dense_field, move, move_back
from flowkit.synth.layer_render import SEEN, motion_blurred, pixel_points
from flowkit.synth.layered import LayeredScenes
from flowkit.synth.photos import PhotoStore
from flowkit.types import Size

ROW = 256
Window = tuple[int, int, int, int]
"""top, bottom, left, right; the last ones not included."""


@dataclass
class _View:
    """One image in the making: colours (H, W, 3), the layer seen (H, W), canonical coordinates of that layer (H * W, 2)."""

    colours: np.ndarray
    top: Tensor
    canonical: Tensor


class _Layer:
    """One layer of one scene; parameters keep a leading dimension of 1."""

    def __init__(self, scenes: LayeredScenes, row: int, k: int, inverse: Tensor, field: Tensor | None) -> None:
        def of(values: Tensor) -> Tensor:
            return values[row, k][None]

        self.motion, self.inverse, self.field = of(scenes.motion), inverse[row, k][None], field
        self.texture = of(scenes.texture)
        self.outline = tuple(
            of(v) for v in (scenes.local, scenes.outline, scenes.sharpness, scenes.hole, scenes.stripe)
        )
        self.cut = scenes.cutout_slots[k]
        self.picture, self.level = int(scenes.picture[row, k]), int(scenes.level[row, k])
        self.centre, self.reach = scenes.centre[row, k], float(scenes.reach[row, k])

    def moved(self, u: Tensor) -> Tensor:
        """(P, 2): canonical points into image1."""
        return move(self.motion, self.field, u[None])[0]

    def canonical(self, points: Tensor) -> Tensor:
        """(P, 2): points of image1 into the canonical frame."""
        return move_back(self.inverse, self.field, points[None])[0]

    def windows(self, size: Size) -> tuple[Window | None, Window | None]:
        """The parts of image0 and of image1 in which the layer may be."""
        turn = torch.linspace(0, 2 * torch.pi, 33)
        rim = self.centre + self.reach * torch.stack([turn.cos(), turn.sin()], -1) * 1.01
        return _window(rim, size), _window(self.moved(rim), size)

    def alpha(self, u: Tensor, photos: PhotoStore) -> Tensor:
        """(P,): alpha at canonical points."""
        if not self.cut:
            return coverage(u[None], *self.outline)[0]
        return torch.from_numpy(self._lookup(photos.cutouts[self.picture].numpy()[..., 3], u, 0)).float() / 255

    def colour(self, u: Tensor, photos: PhotoStore, shape: tuple[int, int]) -> tuple[np.ndarray, Tensor | None]:
        """(h, w, 3) uint8 at canonical points (h * w, 2), and for a cut-out its alpha (h * w,)."""
        if not self.cut:
            return self._lookup(photos.levels[self.level][self.picture].numpy(), u, self.level, shape), None
        found = self._lookup(photos.cutouts[self.picture].numpy(), u, 0, shape)
        return found[..., :3], torch.from_numpy(found[..., 3].astype(np.float32) / 255).flatten()

    def _lookup(self, texture: np.ndarray, u: Tensor, level: int, shape: tuple[int, int] | None = None) -> np.ndarray:
        import cv2

        points = ((apply_affine(self.texture, u[None])[0] + 0.5) * 0.5**level - 0.5).numpy()
        border = cv2.BORDER_CONSTANT if self.cut else cv2.BORDER_REFLECT
        if shape is not None:
            return cv2.remap(texture, points.reshape(*shape, 2), None, cv2.INTER_LINEAR, borderMode=border)
        lines = np.resize(points, (-(-len(points) // ROW), ROW, 2))  # OpenCV's pictures are at most 32767 pixels wide
        found = cv2.remap(texture, lines, None, cv2.INTER_LINEAR, borderMode=border)
        return found.reshape(-1, *found.shape[2:])[: len(points)]


def render_layers_cpu(scenes: LayeredScenes, photos: PhotoStore) -> PairBatch:
    """The scenes as image pairs with exact flow and occlusion in both directions; valid everywhere."""
    size = scenes.size
    count, layers = scenes.present.shape
    inverse = torch.linalg.inv(scenes.motion.double()).float()
    bent = scenes.field.abs().amax((-1, -2, -3)) > 0
    grid = pixel_points(size, "cpu")
    pairs = []
    for row in range(count):
        present = [k for k in range(layers) if scenes.present[row, k]]
        fields = {k: dense_field(scenes.field[row, k][None], size) if bent[row, k] else None for k in present}
        stack = {k: _Layer(scenes, row, k, inverse, fields[k]) for k in present}
        pairs.append(_drawn(stack, photos, size, grid))

    def stacked(name: str) -> Tensor:
        return torch.stack([pair[name] for pair in pairs])

    flow, backward = stacked("flow"), stacked("backward")
    everywhere = torch.ones((count, *size), dtype=torch.bool)
    return PairBatch(
        image0=motion_blurred(stacked("image0"), flow, scenes.shutter),
        image1=motion_blurred(stacked("image1"), backward, scenes.shutter),
        flow=flow,
        valid=everywhere,
        occlusion=stacked("occlusion"),
        backward=backward,
        backward_valid=everywhere.clone(),
        backward_occlusion=stacked("backward_occlusion"),
        made={"scene": "layered", "seed": scenes.seeded},
    )


def _drawn(stack: dict[int, _Layer], photos: PhotoStore, size: Size, grid: Tensor) -> dict[str, Tensor]:
    windows = {k: layer.windows(size) for k, layer in stack.items() if k > 0}
    view0 = _view(stack, photos, size, grid, {k: w[0] for k, w in windows.items()}, moved=False)
    view1 = _view(stack, photos, size, grid, {k: w[1] for k, w in windows.items()}, moved=True)
    target = grid.clone()
    for k, layer in stack.items():
        seen = (view0.top == k).flatten().nonzero()[:, 0]
        if len(seen):
            target[seen] = layer.moved(grid[seen])
    source = view1.canonical
    hidden0, hidden1 = ~inside(target, size), ~inside(source, size)
    for k, layer in stack.items():
        if k == 0:
            continue
        _hide(hidden0, layer, photos, target, view0.top.flatten() < k, windows[k][1], moved=True)
        _hide(hidden1, layer, photos, source, view1.top.flatten() < k, windows[k][0], moved=False)
    return {
        "image0": _as_tensor(view0.colours),
        "image1": _as_tensor(view1.colours),
        "flow": (target - grid).mT.reshape(2, *size),
        "backward": (source - grid).mT.reshape(2, *size),
        "occlusion": hidden0.view(size),
        "backward_occlusion": hidden1.view(size),
    }


def _view(
    stack: dict[int, _Layer],
    photos: PhotoStore,
    size: Size,
    grid: Tensor,
    windows: dict[int, Window | None],
    moved: bool,
) -> _View:
    """Composite the layers from back to front; `moved` for image1."""
    u = stack[0].canonical(grid) if moved else grid
    colours = stack[0].colour(u, photos, size)[0].astype(np.float32)
    view = _View(colours, torch.zeros(size, dtype=torch.int64), u.clone())
    canonical = view.canonical.view(*size, 2)
    for k, window in windows.items():
        if window is None:
            continue
        rows, columns = slice(window[0], window[1]), slice(window[2], window[3])
        points = grid.view(*size, 2)[rows, columns]
        shape = (points.shape[0], points.shape[1])
        u = points.reshape(-1, 2)
        if moved:
            u = stack[k].canonical(u)
        picture, alpha = stack[k].colour(u, photos, shape)
        if alpha is None:
            alpha = stack[k].alpha(u, photos)
        share = alpha.view(shape)
        part = colours[rows, columns]
        part += (picture - part) * share.numpy()[..., None]
        seen = share > SEEN
        view.top[rows, columns][seen] = k
        canonical[rows, columns][seen] = u.view(*shape, 2)[seen]
    return view


def _hide(
    hidden: Tensor,
    layer: _Layer,
    photos: PhotoStore,
    points: Tensor,
    behind: Tensor,
    window: Window | None,
    moved: bool,
) -> None:
    """Mark in `hidden` the `points` of the other image that are behind the layer there; `moved` when that is image1."""
    if window is None:
        return
    x, y = points.unbind(-1)
    near = behind & (y >= window[0] - 1) & (y <= window[1]) & (x >= window[2] - 1) & (x <= window[3])
    index = near.nonzero()[:, 0]
    if len(index) == 0:
        return
    places = points[index]
    u = layer.canonical(places) if moved else places
    hidden[index[layer.alpha(u, photos) > SEEN]] = True


def _window(rim: Tensor, size: Size) -> Window | None:
    low, high = rim.amin(0).floor().tolist(), rim.amax(0).ceil().tolist()
    top, bottom = max(0, int(low[1])), min(size[0], int(high[1]) + 1)
    left, right = max(0, int(low[0])), min(size[1], int(high[0]) + 1)
    return (top, bottom, left, right) if top < bottom and left < right else None


def _as_tensor(colours: np.ndarray) -> Tensor:
    return torch.from_numpy(colours).movedim(-1, 0) / 255
