"""A picture resampled by a flow or a homography, in strips of rows so that large pictures need little beside themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

import numpy as np

from flowkit.errors import InputError, UsageError
from flowkit.io.images import as_image
from flowkit.types import Flow, Homography, Image, Run, Size, Warped

_STRIP = 1 << 20
"""Pixels worked on at once."""
_REMAP_LIMIT = 32766
"""OpenCV's remap counts pixels of a side in 16 bits."""

Places = Callable[[slice], tuple[np.ndarray, np.ndarray]]
"""Rows of the output -> x and y in the input, each (rows, width)."""


def warp(
    image: object,
    *,
    flow: np.ndarray | Flow | None = None,
    homography: np.ndarray | Homography | None = None,
    size: Size | None = None,
    splat: bool = False,
    occlusion: np.ndarray | None = None,
) -> Warped:
    """Resample `image` (anything `as_image` takes), bilinearly, in its own dtype.

    - `flow` (2, H, W) on the output's grid, pointing into `image`: out(p) = image(p + flow(p)). The output is (H, W).
    - `flow` with `splat`: on `image`'s grid, pointing into the output; pixels are pushed forward, and those that meet are
      averaged. The output is `size`, else image's.
    - `homography` 3x3, x_out ~ H x_image (pixels, (0, 0) the centre of the top-left one). The output is `size`, else image's.

    `occlusion` (H, W) bool on the output's grid marks pixels that must stay empty although the flow is known there: without
    it, what is hidden in `image` shows a double of what hides it. `valid` is False, and the picture black, where nothing is
    known.
    """
    image = as_image(image)
    flow = flow.uv if isinstance(flow, Flow) else flow
    homography = homography.matrix if isinstance(homography, Homography) else homography
    if (flow is None) == (homography is None):
        raise UsageError("warp needs either a flow or a homography")
    if splat and flow is None:
        raise UsageError("splat needs a flow; a homography is always sampled backwards")
    started = perf_counter()
    out = size or image.size
    if homography is not None:
        places = _places_by_homography(_checked_homography(homography), image.size, out[1])
        pixels, valid = _remap(image, out, places)
    elif flow is not None and splat:
        pixels, valid = _splat(image, _checked_flow(flow, image.size, image.name), out)
    elif flow is not None:
        flow = _checked_flow(flow, size, None)
        pixels, valid = _remap(image, (flow.shape[1], flow.shape[2]), _places_by_flow(flow))
    if occlusion is not None:
        if occlusion.shape != valid.shape:
            raise InputError(f"the occlusion mask is {_text(occlusion.shape)}, the warped picture {_text(valid.shape)}")
        valid &= ~occlusion
        pixels[occlusion] = 0
    method = "splat" if splat else "backward_flow" if flow is not None else "homography"
    run = Run(method, {"size": size}, working_size0=image.size, working_size1=valid.shape, notes=image.notes)
    return Warped(pixels, valid, _with_seconds(run, started))


def _checked_flow(flow: np.ndarray, size: Size | None, name: str | None) -> np.ndarray:
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[0] != 2:
        raise InputError(f"a flow is (2, H, W), not {flow.shape}")
    if size is not None and flow.shape[1:] != tuple(size):
        wanted = (
            f"{name} is {_text(size)}: a flow that is splatted lives on the image's own grid"
            if name
            else f"--size says {_text(size)}"
        )
        raise InputError(f"the flow is {_text(flow.shape[1:])}, {wanted}")
    return flow


def _checked_homography(homography: np.ndarray) -> np.ndarray:
    homography = np.asarray(homography, np.float64)
    if homography.shape != (3, 3) or not np.isfinite(homography).all():
        raise InputError("a homography is a 3x3 matrix of finite numbers")
    norms = np.linalg.norm(homography, axis=0)
    # Pixels make the columns differ by orders of magnitude; brought to one length they say whether the matrix is singular.
    if norms.min() == 0 or abs(np.linalg.det(homography / norms)) < 1e-12:
        raise InputError("the homography is singular: it maps the image onto a line or a point")
    return homography


def _strips(size: Size) -> Iterator[slice]:
    height, width = size
    rows = max(1, _STRIP // width)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _places_by_flow(flow: np.ndarray) -> Places:
    columns = np.arange(flow.shape[2], dtype=np.float32)

    def places(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        lines = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
        return flow[0, rows] + columns, flow[1, rows] + lines

    return places


def _places_by_homography(homography: np.ndarray, image_size: Size, width: int) -> Places:
    """Where the image's part that lies on its centre's side of the horizon comes from; NaN elsewhere."""
    columns = np.arange(width, dtype=np.float64)
    inverse = np.linalg.inv(homography)
    centre = np.array([(image_size[1] - 1) / 2, (image_size[0] - 1) / 2, 1.0])
    inverse *= np.sign(homography[2] @ centre)  # now the third coordinate is positive in front of the horizon

    def places(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        lines = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None]
        x, y, w = (a * columns + b * lines + c for a, b, c in inverse)
        w = np.where(w > 1e-12 * np.abs(inverse).max(), w, np.nan)
        return x / w, y / w

    return places


def _remap(image: Image, size: Size, places: Places) -> tuple[np.ndarray, np.ndarray]:
    import cv2

    height, width = image.size
    if max(height, width, *size) > _REMAP_LIMIT:
        raise InputError(f"{image.name}: a side over {_REMAP_LIMIT} pixels cannot be warped; make it smaller first")
    pixels = np.empty((*size, 3), image.pixels.dtype)
    valid = np.empty(size, bool)
    for rows in _strips(size):
        x, y = places(rows)
        with np.errstate(invalid="ignore"):
            inside = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
        x, y = (np.where(inside, place, 0).astype(np.float32) for place in (x, y))
        strip = cv2.remap(image.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        strip[~inside] = 0
        pixels[rows], valid[rows] = strip, inside
    return pixels, valid


def _splat(image: Image, flow: np.ndarray, size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Strips of the image are splatted one by one into sums over the output; their quotient is the picture."""
    import torch

    from flowkit.geometry.sampling import splat

    height, width = size
    total = torch.zeros(3, height, width)
    weight = torch.zeros(height, width)
    for rows in _strips(image.size):
        strip = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image.pixels[rows].astype(np.float32), -1, 0)))
        part = torch.from_numpy(np.array(flow[:, rows], np.float32))
        # Only the rows of the output that this strip reaches, so that the work does not grow with their number.
        part[1] += rows.start
        reached = part[1] + torch.arange(part.shape[1])[:, None]
        reached = reached[torch.isfinite(part).all(dim=0)]
        if not len(reached):
            continue
        top, bottom = max(0, int(reached.min().floor())), min(height, int(reached.max().floor()) + 2)
        if top >= bottom:
            continue
        part[1] -= top
        picture, coverage = splat(strip, part, size1=(bottom - top, width))
        total[:, top:bottom] += picture * coverage
        weight[top:bottom] += coverage
    covered = weight >= 0.5  # less is the rim of a hole: one neighbour's share of a corner
    pixels = torch.where(covered, total / weight.clamp_min(1e-6), 0).movedim(0, -1).numpy()
    if image.pixels.dtype != np.float32:
        pixels = np.rint(pixels).clip(0, np.iinfo(image.pixels.dtype).max)
    return pixels.astype(image.pixels.dtype), covered.numpy()


def _with_seconds(run: Run, started: float) -> Run:
    from dataclasses import replace

    return replace(run, seconds={"total": perf_counter() - started})


def _text(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"
