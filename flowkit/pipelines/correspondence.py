"""How sure a network is, at one point of image0, of every place in image1: by its features, and after each of GOCor's steps.

The paper's Figures 1 and 5 (Truong et al., GOCor, NeurIPS 2020) for images of any size; all places are in original pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowkit.errors import UsageError
from flowkit.io.provenance import provenance
from flowkit.models.registry import MODELS, ModelSpec, model_spec
from flowkit.pipelines.network import enlarged_size, padding, to_tensor
from flowkit.pipelines.prepare import (
    Resize,
    load_pair,
    resized,
    resolve_device,
    scaled_points,
    size_note,
    working_size,
)
from flowkit.types import Image, Run, Size
from flowkit.viz.correspondence import Compared, Heat, close_up, draw_correspondence

if TYPE_CHECKING:
    import torch

    from flowkit.models.correspondences import Correspondences

_ARCHITECTURES = ("flowkit.models.basenet", "flowkit.models.glunet", "flowkit.models.pwcnet")
"""Whose networks have `correspondences(image0, image1, steps)`."""
_DRAWN = 8
"""States that a picture has room for; of more, some are left out evenly."""
_SIDE = 9
"""Displacements of a local level along either axis."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Places:
    """What the cell of the point is compared with in one image: the centres (K, 2) of cells, `cell` (w, h) pixels large.

    They are known row by row on a grid; NaN is a cell that the image does not have.
    """

    points: np.ndarray
    cell: Point
    size: Size
    """(height, width) of the image."""


@dataclass(frozen=True)
class Confidence:
    """Answers (K,), NaN where there is no place, and how distinct their peak is."""

    values: np.ndarray
    peak: Point | None
    value: float | None
    second: Point | None
    """The highest that is not among the peak and the 8 about it ..."""
    second_value: float | None
    entropy: float | None
    """Of the answers above 0 as shares of their sum, in bits: 0 is one place alone, log2 K all alike."""

    @property
    def ratio(self) -> float | None:
        """Peak over second peak; None where there is no second one above 0."""
        if self.value is None or self.second_value is None or self.second_value <= 0:
            return None
        return self.value / self.second_value


@dataclass(frozen=True)
class State:
    """The confidences in image1 and in image0 itself; `step` is None for the plain correlation, 0 before the first step."""

    step: int | None
    query: Confidence
    reference: Confidence

    @property
    def title(self) -> str:
        """ "correlation", "start", "step 1", ..."""
        return {None: "correlation", 0: "start"}.get(self.step, f"step {self.step}")


@dataclass(frozen=True)
class Correspondence:
    """What a network compares the point `at` of image0 with, and the answers."""

    at: Point
    level: str
    """"global": with all of image1; "local": with the 81 places about where the flow so far leads."""
    grid: Size
    """Cells (height, width) that the answers are laid out on."""
    cell: Point
    """Centre of the cell of image0 that holds the point."""
    query: Places
    reference: Places
    states: tuple[State, ...]
    run: Run


def correspondence(
    image0: object,
    image1: object,
    at: Point,
    *,
    model: str,
    weights: str | Path | None = None,
    iterations: int | None = None,
    resize: Resize = None,
    device: str = "auto",
) -> Correspondence:
    """The confidences at the point `at` = (x, y) of image0: cosines of the features, then GOCor's answers after each step.

    BaseNet and GLU-Net show their global level, PWC-Net its finest one. `iterations` are GOCor's steps (None: the module's
    own number). Computed in fp32. Raises InputError, WeightsError; UsageError for a network that has no such volume, for
    iterations of one without GOCor and for a point that is not in the image.
    """
    spec = _checked(model, iterations)
    started = time.perf_counter()
    pair = load_pair(image0, image1)
    _check_point(at, pair[0])
    size = working_size(pair[0].size, resize)
    frame = _Frame.of(size, spec.divisor)

    import torch

    from flowkit.models.weights import load_network

    network = load_network(model, weights, resolve_device(device))
    with torch.inference_mode():
        images = [frame.shown(resized(image.pixels, size), network.device) for image in pair]
        found = network.module.correspondences(*images, iterations)  # type: ignore[operator]
        level = _Level.of(found, frame, at, pair)
        states = tuple(level.states(found))
    if iterations is None and len(states) > 1:
        iterations = len(states) - 2
    run = Run(
        method=model,
        options={"model": model, "iterations": iterations, "at": at, "precision": "fp32"},
        weights=network.weights,
        device=network.device,
        working_size0=size,
        working_size1=size,
        seconds={"total": time.perf_counter() - started},
        notes=tuple(note for image in pair for note in (*image.notes, size_note(image, size)) if note is not None),
    )
    name = "global" if found.flow is None else "local"
    return Correspondence(at, name, level.grid, level.centre, level.query, level.reference, states, run)


def _checked(model: str, iterations: int | None) -> ModelSpec:
    able = [name for name, row in MODELS.items() if row.target.partition(":")[0] in _ARCHITECTURES]
    spec = model_spec(model)
    if model not in able:
        raise UsageError(f"--model {model}: has no correspondence volume to show; use one of {', '.join(able)}")
    if iterations is not None and not spec.gocor:
        raise UsageError(f"--iters {iterations}: {model!r} has no iterations; leave the option out")
    return spec


def _check_point(at: Point, image: Image) -> None:
    height, width = image.size
    if not (-0.5 <= at[0] <= width - 0.5 and -0.5 <= at[1] <= height - 0.5):
        raise UsageError(
            f"--at {at[0]:g},{at[1]:g}: is not in {image.name}, whose pixels go from 0,0 to {width - 1},{height - 1}"
        )


# --- where cells lie -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Frame:
    """How pictures of one size are shown to a network, as `pipelines.network` does: enlarged if small, then padded."""

    working: Size
    enlarged: Size
    pads: tuple[int, int, int, int]
    """(left, right, top, bottom)."""

    @classmethod
    def of(cls, working: Size, divisor: int) -> _Frame:
        enlarged = enlarged_size(working)
        return cls(working, enlarged, padding(enlarged, divisor))

    @property
    def size(self) -> Size:
        """What the network sees."""
        left, right, top, bottom = self.pads
        return self.enlarged[0] + top + bottom, self.enlarged[1] + left + right

    def shown(self, pixels: np.ndarray, device: str) -> torch.Tensor:
        """(1, 3, H, W) of (H, W, 3) pixels at the working size."""
        from torch.nn import functional as F  # noqa: N812

        from flowkit.geometry.grids import resize_image

        image = to_tensor(pixels, device)
        if self.enlarged != self.working:
            image = resize_image(image, self.enlarged, mode="bicubic").clamp(0, 1)
        return F.pad(image, self.pads, mode="replicate")

    def cells(self, points: np.ndarray, size: Size, grid: Size) -> np.ndarray:
        """(N, 2) places on a grid of cells, of points (N, 2) of an original image of that `size`."""
        inner = scaled_points(points, size, self.enlarged) + np.array([self.pads[0], self.pads[2]])
        return scaled_points(inner, self.size, grid)

    def points(self, cells: np.ndarray, size: Size, grid: Size) -> np.ndarray:
        """The inverse."""
        inner = scaled_points(cells, grid, self.size) - np.array([self.pads[0], self.pads[2]])
        return scaled_points(inner, self.enlarged, size)


@dataclass(frozen=True)
class _Level:
    """The cell that holds the point, and the places of both images that it is compared with."""

    row: int
    column: int
    grid: Size
    centre: Point
    query: Places
    reference: Places

    @classmethod
    def of(cls, found: Correspondences, frame: _Frame, at: Point, pair: tuple[Image, Image]) -> _Level:
        cells = int(found.correlation[0].shape[-2]), int(found.correlation[0].shape[-1])
        place = frame.cells(np.array([at]), pair[0].size, cells)[0]
        column, row = np.rint(place).astype(int).clip(0, (cells[1] - 1, cells[0] - 1)).tolist()
        if found.flow is None:
            grid, own = cells, _grid_points(*map(np.arange, cells))
            there = own
        else:
            grid, around = (_SIDE, _SIDE), np.arange(_SIDE) - _SIDE // 2
            own = _grid_points(row + around, column + around)
            own[((own < 0) | (own >= cells[::-1])).any(axis=1)] = np.nan
            there = own + _flow_at(found.flow[0].cpu().numpy(), own)
        reference, query = (
            _places(frame, points, image.size, cells) for points, image in ((own, pair[0]), (there, pair[1]))
        )
        x, y = frame.points(np.array([[column, row]], float), pair[0].size, cells)[0].tolist()
        return cls(row, column, grid, (x, y), query, reference)

    def states(self, found: Correspondences) -> Iterator[State]:
        """As they are computed: of each volume only the answers at the point are kept."""
        yield self._state(None, found.correlation)
        for step, answers in enumerate(found.states):
            yield self._state(step, answers)

    def _state(self, step: int | None, volumes: tuple[torch.Tensor, torch.Tensor]) -> State:
        query, reference = (
            confidence(volume[0, :, self.row, self.column].float().cpu().numpy(), places, self.grid)
            for volume, places in zip(volumes, (self.query, self.reference), strict=True)
        )
        return State(step, query, reference)


def _grid_points(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(K, 2): (x, y) of all, row by row."""
    y, x = np.meshgrid(rows, columns, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float64)


def _flow_at(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(K, 2): a flow (2, H, W) at whole places; NaN at NaN."""
    x, y = np.nan_to_num(points).astype(int).T
    return flow[:, y, x].T


def _places(frame: _Frame, points: np.ndarray, size: Size, cells: Size) -> Places:
    """Places on the grid in pixels of an original image; NaN where a cell lies wholly beyond it."""
    scale = [size[axis] / frame.enlarged[axis] * frame.size[axis] / cells[axis] for axis in (1, 0)]
    found = frame.points(points, size, cells).astype(np.float64)
    half = np.array(scale) / 2
    with np.errstate(invalid="ignore"):
        beyond = (found + half <= -0.5) | (found - half >= np.array(size[::-1]) - 0.5)
    found[beyond.any(axis=1)] = np.nan
    return Places(found, (scale[0], scale[1]), size)


def confidence(values: np.ndarray, places: Places, grid: Size) -> Confidence:
    """What can be said of answers (K,) that are laid out row by row on a grid (height, width) of places."""
    values = np.where(np.isfinite(places.points).all(axis=1), values, np.nan)
    if not np.isfinite(values).any():
        return Confidence(values, None, None, None, None, None)
    best = int(np.nanargmax(values))
    rows, columns = np.divmod(np.arange(len(values)), grid[1])
    near = (abs(rows - rows[best]) <= 1) & (abs(columns - columns[best]) <= 1)
    others = np.where(near, np.nan, values)
    second = int(np.nanargmax(others)) if np.isfinite(others).any() else None
    shares = np.nan_to_num(values).clip(0)
    shares = shares[shares > 0] / shares.sum() if (shares > 0).any() else None
    return Confidence(
        values,
        _point(places, best),
        float(values[best]),
        None if second is None else _point(places, second),
        None if second is None else float(values[second]),
        None if shares is None else float(-(shares * np.log2(shares)).sum()),
    )


def _point(places: Places, index: int) -> Point:
    """Within the image, of which a cell on its rim may have less than half."""
    x, y = places.points[index].clip(0, np.array(places.size[::-1]) - 1).tolist()
    return x, y


# --- results ---------------------------------------------------------------------------------------------------------


def picture(found: Correspondence, image0: Image, image1: Image) -> np.ndarray:
    """(H, W, 3) uint8; see `draw_correspondence`."""
    compared = []
    for image, places in ((image0, found.reference), (image1, found.query)):
        area = close_up(places.points, places.cell, image.size) if found.level == "local" else None
        compared.append(Compared(image.rgb8, places.points, places.cell, area))
    states = _drawn(found.states)
    rows = (
        [_heat(state.title, state.query) for state in states],
        [_heat(state.title, state.reference) for state in states],
    )
    return draw_correspondence(compared[0], compared[1], found.at, rows, found.cell)


def _drawn(states: Sequence[State]) -> list[State]:
    """Of more than a picture has room for, the first, the last and some in between."""
    chosen = np.linspace(0, len(states) - 1, min(len(states), _DRAWN + 1))
    return [states[index] for index in dict.fromkeys(np.rint(chosen).astype(int).tolist())]


def _heat(title: str, found: Confidence) -> Heat:
    return Heat(title, found.values, found.peak, numbers(found).replace("; ", "\n"))


def numbers(found: Confidence) -> str:
    """ "peak 0.93, second 0.41; ratio 2.27, 3.1 bits"."""
    if found.value is None:
        return "nothing of B is there"
    second = "none" if found.second_value is None else f"{found.second_value:.3f}"
    ratio = "-" if found.ratio is None else f"{found.ratio:.2f}"
    bits = "-" if found.entropy is None else f"{found.entropy:.1f} bits"
    return f"peak {found.value:.3f}, second {second}; ratio {ratio}, {bits}"


def record(found: Correspondence, image0: Image, image1: Image, argv: Sequence[str] = ()) -> dict[str, Any]:
    """What the JSON document says; places are [x, y] in pixels, `query` those of image1, `reference` those of image0."""
    return {
        "image0": {"name": image0.name, "size": list(image0.size)},
        "image1": {"name": image1.name, "size": list(image1.size)},
        "at": list(found.at),
        "cell": list(found.cell),
        "level": found.level,
        "grid": list(found.grid),
        "states": [
            {
                "name": state.title,
                "step": state.step,
                "query": _confidence_record(state.query),
                "reference": _confidence_record(state.reference),
            }
            for state in found.states
        ],
        "provenance": provenance(found.run, argv).model_dump(mode="json"),
    }


def _confidence_record(found: Confidence) -> dict[str, Any]:
    return {
        "peak": found.peak and list(found.peak),
        "value": found.value,
        "second_peak": found.second and list(found.second),
        "second_value": found.second_value,
        "ratio": found.ratio,
        "entropy_bits": found.entropy,
    }
