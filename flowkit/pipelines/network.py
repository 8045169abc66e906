"""Running a flow network on any two pictures of one size: device, precision, padding, very small and very large ones.

What a network wants (RGB in [0, 1], sides divisible by its divisor, not too small) is done here and undone again: answers are
in the pixels of the pictures that come in.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowkit.errors import UsageError
from flowkit.models.registry import ModelSpec
from flowkit.pipelines.prepare import resized, resolve_device
from flowkit.pipelines.tiling import MIN_TILE, TILE, affordable_side, tiled_flow
from flowkit.types import Size

if TYPE_CHECKING:
    import torch

    from flowkit.models.weights import LoadedNetwork

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "fp32", "fp16", "bf16")
SMALL = 128
"""Pixels; a shorter side is enlarged to it, for RAFT's coarsest correlation has one cell per 64 pixels."""
COARSEST = 160
"""Pixels; a start from coarse to fine goes down to a longer side of no less."""
SMALL_LONGEST = 512
"""To which longer side a small picture may be enlarged; what is then still too short is padded."""


@dataclass(frozen=True)
class Settings:
    """What a user may say about running a network; None is the network's own, or chosen."""

    weights: str | Path | None = None
    iterations: int | None = None
    precision: str = "auto"
    tile: bool | int | None = None
    """The side of the tiles, True for the usual one, False for none; None: tiles where memory would not do."""
    flip_test: bool = False
    """Look whether the first picture fits better mirrored, and if so match that."""


@dataclass(frozen=True)
class Answer:
    """Flows (2, H, W) float32 in pixels of the pictures as given, and what the provenance says of them.

    `confidence` (H, W) float32 is the network's own of the forward flow, None where it has none.
    """

    forward: np.ndarray
    backward: np.ndarray | None
    options: Mapping[str, object]
    weights: Mapping[str, str]
    device: str
    notes: tuple[str, ...] = ()
    confidence: np.ndarray | None = None


def load_model(name: str, weights: str | Path | None = None, *, device: str = "auto") -> torch.nn.Module:
    """The network of that name with its own weights, or those of a file in flowkit's layout, in eval mode on the device.

    It takes `network(image0, image1)` (RAFT's kin also `iterations=12`), images (B, 3, H, W) in [0, 1] with sides divisible
    by the model's divisor, and gives a FlowPrediction. For pictures of any size: `flowkit.flow(a, b, model=name)`. Raises
    UsageError, WeightsError.
    """
    from flowkit.models.weights import load_network

    return copy.deepcopy(load_network(name, weights, resolve_device(device)).module)


def network_flow(
    pixels0: np.ndarray,
    pixels1: np.ndarray,
    spec: ModelSpec,
    settings: Settings,
    *,
    device: str = "auto",
    bidirectional: bool = False,
    initial: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    coarse: bool = False,
) -> Answer:
    """The flow between two (H, W, 3) pictures of one size, and with `bidirectional` the flow back.

    `initial` are flows (2, H, W) to start from, forward and backward, NaN where unknown; with `coarse` the network starts from
    what it finds at half the size. Raises UsageError, WeightsError.
    """
    check_settings(spec, settings)
    run = Runner.load(spec, settings, resolve_device(device), coarse)
    size = pixels0.shape[0], pixels0.shape[1]
    side, reason = tile_side(size, spec, settings.tile, run.network.device)
    forward = run.flow(pixels0, pixels1, initial[0], side)
    backward = run.flow(pixels1, pixels0, initial[1], side)[:2] if bidirectional else None
    options = {**run.options, "precision": run.precision, "tile": side}
    notes = (*run.notes, *([reason] if reason else []))
    confidence = forward[2].clip(0, 1) if len(forward) > 2 else None
    return Answer(forward[:2], backward, options, run.network.weights, run.network.device, notes, confidence)


def check_settings(spec: ModelSpec, settings: Settings) -> None:
    """UsageError for what no network can do; nothing is loaded."""
    if settings.flip_test and not spec.flip_test:
        raise UsageError(f"--flip-test: {spec.name!r} has none; leave the option out, or use --model glunet-gocor")
    if settings.flip_test and settings.tile not in (None, False):
        raise UsageError("--flip-test: looks at whole pictures; leave --tile out")
    if settings.iterations is not None and spec.iterations is None and not spec.gocor:
        raise UsageError(f"--iters {settings.iterations}: {spec.name!r} has no iterations; leave the option out")
    if settings.iterations is not None and settings.iterations < 1:
        raise UsageError(f"--iters {settings.iterations}: {spec.name!r} takes a number from 1 up")
    if settings.precision not in PRECISIONS:
        raise UsageError(f"--precision {settings.precision}: unknown; use one of {', '.join(PRECISIONS)}")
    if settings.tile is not None and not isinstance(settings.tile, bool) and settings.tile < MIN_TILE:
        raise UsageError(f"--tile-size {settings.tile}: tiles need at least {MIN_TILE} pixels a side")


@dataclass
class Runner:
    """A loaded network with how it is run."""

    network: LoadedNetwork
    iterations: int | None
    """Update iterations; None for a network that has no such thing."""
    precision: str
    coarse: bool = False
    flip_test: bool = False
    notes: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, spec: ModelSpec, settings: Settings, device: str, coarse: bool = False) -> Runner:
        """On a device that exists, with the precision that suits it."""
        from flowkit.models.weights import load_network
        from flowkit.ops.precision import emulates_bf16

        precision = resolve_precision(settings.precision, device)
        network = load_network(spec.name, settings.weights, device)
        run = cls(network, settings.iterations or spec.iterations, precision, coarse, settings.flip_test)
        if precision == "bf16" and emulates_bf16(device):
            run._note("this CPU only emulates bf16, which takes several times as long; --precision fp32 is faster")
        return run

    @property
    def options(self) -> dict[str, int]:
        """What is said to the network beside the pictures."""
        given = {} if self.iterations is None else {"iterations": self.iterations}
        return {**given, "flip_test": True} if self.flip_test else given

    def flow(
        self, pixels0: np.ndarray, pixels1: np.ndarray, initial: np.ndarray | None = None, side: int | None = None
    ) -> np.ndarray:
        """(2, H, W) in pixels, in tiles of `side` where given: first the whole pair at a size of one tile, as their guide.

        Here and in what follows a third channel is the confidence, of networks that know one.
        """
        if side is None:
            return self.from_coarse(pixels0, pixels1, initial)
        height, width = pixels0.shape[:2]
        scale = min(1.0, side / (height * width) ** 0.5)
        small = max(1, round(height * scale)), max(1, round(width * scale))
        start = None if initial is None else _resized_flow(initial, small)
        guide = self.from_coarse(resized(pixels0, small), resized(pixels1, small), start)
        return tiled_flow(pixels0, pixels1, _resized_flow(guide, (height, width)), side, self.whole)

    def from_coarse(self, pixels0: np.ndarray, pixels1: np.ndarray, initial: np.ndarray | None = None) -> np.ndarray:
        """(2, H, W) in pixels; where `coarse`, from what is found at half the size, and so on: a third more work."""
        size = pixels0.shape[0], pixels0.shape[1]
        half = -(-size[0] // 2), -(-size[1] // 2)
        if self.coarse and max(half) >= COARSEST:
            start = None if initial is None else _resized_flow(initial, half)
            found = self.from_coarse(resized(pixels0, half), resized(pixels1, half), start)
            initial = _resized_flow(found[:2], size)
        return self.whole(pixels0, pixels1, initial)

    def whole(self, pixels0: np.ndarray, pixels1: np.ndarray, initial: np.ndarray | None = None) -> np.ndarray:
        """(2, H, W) in pixels, in one pass."""
        import torch

        from flowkit.geometry.grids import resize_flow, resize_image

        device, size = self.network.device, (pixels0.shape[0], pixels0.shape[1])
        images = [to_tensor(pixels, device) for pixels in (pixels0, pixels1)]
        start = None if initial is None else _everywhere(torch.from_numpy(initial).to(device))[None]
        enlarged = enlarged_size(size)
        if enlarged != size:
            images = [resize_image(image, enlarged, mode="bicubic").clamp(0, 1) for image in images]
            start = None if start is None else resize_flow(start, enlarged)
        flow = self._padded(images[0], images[1], start)
        return _resized_flow(flow[0].cpu().numpy(), size)

    def _padded(self, image0: torch.Tensor, image1: torch.Tensor, initial: torch.Tensor | None) -> torch.Tensor:
        """(1, 2 or 3, H, W): sides padded to what the network takes by repeating the border, half on either side."""
        import torch
        from torch.nn import functional as F  # noqa: N812

        spec = self.network.spec
        height, width = image0.shape[-2:]
        left, right, top, bottom = padding((height, width), spec.divisor)
        pads = left, right, top, bottom
        image0, image1 = (F.pad(image, pads, mode="replicate") for image in (image0, image1))
        start = None
        if initial is not None:
            start = F.avg_pool2d(F.pad(initial, pads, mode="replicate"), spec.stride) / spec.stride
        flow = self._forward(image0, image1, start, self.precision)
        if self.precision != "fp32" and not bool(flow.isfinite().all()):
            self._note(f"{self.precision} overflowed, computed again in fp32")
            flow = self._forward(image0, image1, start, "fp32")
        return flow.where(flow.isfinite(), torch.nan)[..., top : top + height, left : left + width]

    def _forward(
        self, image0: torch.Tensor, image1: torch.Tensor, initial: torch.Tensor | None, precision: str
    ) -> torch.Tensor:
        import torch

        dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision)
        kind = torch.device(self.network.device).type
        with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            prediction = self.network.module(image0, image1, initial=initial, **self.options)
        if prediction.mirrored is not None and bool(prediction.mirrored.any()):
            self._note("the first picture fits better mirrored left to right, so its mirror image was matched")
        parts = [prediction.flow] if prediction.confidence is None else [prediction.flow, prediction.confidence]
        return torch.cat([part.float() for part in parts], 1)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            log.warning("%s: %s", self.network.spec.name, text)
            self.notes.append(text)


def resolve_precision(precision: str, device: str) -> str:
    """`auto` becomes what is fast and good on the device; UsageError where the device cannot do what is asked."""
    import torch

    on_gpu = device.startswith("cuda")
    if precision == "auto":
        return ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if on_gpu else "fp32"
    if precision == "fp16" and device == "cpu":
        raise UsageError("--precision fp16: CPUs have no fast fp16; use bf16 or fp32")
    return precision


def tile_side(size: Size, spec: ModelSpec, tile: bool | int | None, device: str) -> tuple[int | None, str | None]:
    """The side of the tiles for pictures of that (height, width), None for no tiles, and a note where memory decided."""
    if tile is False:
        return None, None
    if tile is not None and tile is not True:
        return (tile, None) if tile < max(size) else (None, None)
    affordable = affordable_side(spec.memory, device)
    if tile is True:
        side = min(TILE, affordable or TILE)
        return (side, None) if side < max(size) else (None, None)
    if affordable is None or size[0] * size[1] <= affordable**2:
        return None, None
    side = min(affordable, 2 * TILE)
    return side, f"computed in tiles of {side} pixels, for the whole would not fit into memory"


def to_tensor(pixels: np.ndarray, device: str) -> torch.Tensor:
    """(1, 3, H, W) float32 in [0, 1], channels_last, of (H, W, 3) pixels of any depth; NaN is black."""
    import torch

    if pixels.dtype == np.uint8:
        tensor = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).float() / 255
    elif pixels.dtype == np.uint16:
        tensor = torch.from_numpy(pixels.astype(np.float32)).to(device) / 65535
    else:
        tensor = torch.from_numpy(np.nan_to_num(pixels.astype(np.float32))).to(device).clamp(0, 1)
    return tensor.permute(2, 0, 1)[None]


def enlarged_size(size: Size) -> Size:
    """The size at which pictures of that (height, width) are shown to a network: small ones are enlarged."""
    scale = min(SMALL / min(size), max(1.0, SMALL_LONGEST / max(size)))
    return size if scale <= 1 else (round(size[0] * scale), round(size[1] * scale))


def padding(size: Size, divisor: int) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) pixels that bring (height, width) to multiples of `divisor`, and to SMALL at least."""
    pads = []
    for length in (size[1], size[0]):
        wanted = max(-(-length // divisor), -(-SMALL // divisor)) * divisor
        pads += [(wanted - length) // 2, wanted - length - (wanted - length) // 2]
    left, right, top, bottom = pads
    return left, right, top, bottom


def carried_on(flow: np.ndarray) -> np.ndarray:
    """What a flow (2, H, W) from frame 0 to frame 1 says of the one from frame 1 to frame 2, on frame 1's grid.

    Every pixel goes on as it went: the flow is pushed along itself, at an eighth of the size; what nothing reaches, takes the
    mean of what is near. NaN is unknown (RAFT's warm start, Teed and Deng 2020, section 3.4).
    """
    import torch

    from flowkit.geometry.grids import resize_flow
    from flowkit.geometry.sampling import splat

    known = _everywhere(torch.from_numpy(flow))
    size = flow.shape[1], flow.shape[2]
    small = resize_flow(known, (max(1, size[0] // 8), max(1, size[1] // 8)))
    # Where two meet, what moves otherwise than most is more likely to be the nearer.
    apart = (small - small.flatten(1).median(dim=1).values[:, None, None]).norm(dim=0)
    moved, coverage = splat(small, small, importance=apart)
    return resize_flow(_holes_filled(moved[None], coverage[None, None])[0], size).numpy()


def _everywhere(flow: torch.Tensor) -> torch.Tensor:
    """A flow (2, H, W) whose unknown pixels take the mean of what is near."""
    known = flow.isfinite().all(dim=0, keepdim=True)
    return _holes_filled(flow.where(known, 0)[None], known.to(flow.dtype)[None])[0]


def _holes_filled(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(1, C, h, w) whose cells of weight (1, 1, h, w) 0 take what the coarser levels of a pyramid of weighted means say."""
    from torch.nn import functional as F  # noqa: N812

    height, width = values.shape[-2:]
    if bool((weight > 0).all()) or max(height, width) == 1:
        return values
    coarse_weight = F.avg_pool2d(weight, 2, ceil_mode=True)
    coarse = F.avg_pool2d(values * weight, 2, ceil_mode=True) / coarse_weight.clamp_min(1e-12)
    filling = F.interpolate(
        _holes_filled(coarse, coarse_weight), size=(height, width), mode="bilinear", align_corners=False
    )
    return filling.where(weight <= 0, values)


def _resized_flow(flow: np.ndarray, size: Size) -> np.ndarray:
    """Whatever comes after the flow's two channels keeps its values."""
    import torch

    from flowkit.geometry.grids import resize_flow, resize_image

    given = torch.from_numpy(flow)
    parts = [resize_flow(given[:2], size), *([resize_image(given[2:], size)] if len(given) > 2 else [])]
    return torch.cat(parts).numpy()
