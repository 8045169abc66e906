"""How good the network is meanwhile: on scenes made from photos it never sees, and on real pairs with ground truth."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.grids import resize_flow, resize_image
from flowkit.losses.sequence import flow_metrics, pixel_weights
from flowkit.training.recipe import Recipe

if TYPE_CHECKING:
    from flowkit.datasets.samples import FlowSample
    from flowkit.training.material import Material

log = logging.getLogger(__name__)

HELD_OUT = "held-out"
_AT_ONCE = 4
"""Pairs in one forward pass."""
_LONGEST = 1024
"""Real pictures are shrunk to this longer side before they are looked at; their error is still in their own pixels."""
_SEED = 1 << 60
"""Held-out scenes have seeds that no training batch has (those are below 2^48)."""


@dataclass
class Validator:
    """What a network is validated on; the scenes are made once."""

    recipe: Recipe
    scenes: list[PairBatch] = field(default_factory=list)
    pairs: list[FlowSample] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.scenes or self.pairs)

    def scores(self, network: torch.nn.Module, device: torch.device, until: str | None = None) -> dict[str, float]:
        """By "set/metric": `epe`, the mean Euclidean error in pixels, and on held-out scenes `1px` and `3px`, shares below.

        The network is left in evaluation mode. `until`: the last unit that is trained already (`Stage.until`).
        """
        if until != self.recipe.until:
            return replace(self, recipe=replace(self.recipe, until=until)).scores(network, device, until)
        network.eval()
        with torch.no_grad():
            return self._on_scenes(network, device) | self._on_pairs(network, device)

    def _on_scenes(self, network: torch.nn.Module, device: torch.device) -> dict[str, float]:
        sums: dict[str, float] = defaultdict(float)
        pixels = 0.0
        for batch in self.scenes:
            flow = self._flow(network, batch.image0.to(device), batch.image1.to(device)).cpu()
            count = float((pixel_weights(batch, self.recipe.max_flow) > 0).sum())
            pixels += count
            for name, value in flow_metrics(flow, batch, self.recipe.max_flow).items():
                sums[name] += float(value) * count
        return {f"{HELD_OUT}/{name}": total / max(pixels, 1) for name, total in sums.items()}

    def _on_pairs(self, network: torch.nn.Module, device: torch.device) -> dict[str, float]:
        from flowkit.evaluation.metrics import flow_errors
        from flowkit.io.images import read_image

        errors: dict[str, list[float]] = defaultdict(list)
        for sample in self.pairs:
            image0, image1 = (_tensor(read_image(path).rgb8) for path in (sample.image0, sample.image1))
            size = int(image0.shape[-2]), int(image0.shape[-1])
            scale = min(1.0, _LONGEST / max(*size, *image1.shape[-2:]))
            small0, small1 = (_scaled(image, scale).to(device) for image in (image0, image1))
            flow = self._flow(network, small0, small1)[0].float().cpu()
            sizes = (_size(small1), _size(image1))
            flow = resize_flow(flow, size, *sizes)
            errors[sample.dataset].append(flow_errors(flow.numpy(), sample.flow())["epe"])
        return {f"{name}/epe": float(np.mean(values)) for name, values in errors.items()}

    def _flow(self, network: torch.nn.Module, image0: Tensor, image1: Tensor) -> Tensor:
        """(B, 2, H, W) of images of any size: padded to what the network divides by, at most by repeating their borders."""
        height, width = _size(image0)
        divisor = self.recipe.divisor()
        rows = max(height, int(image1.shape[-2]))
        columns = max(width, int(image1.shape[-1]))
        padded = (
            _padded(image, -(-rows // divisor) * divisor, -(-columns // divisor) * divisor)
            for image in (image0, image1)
        )
        with self.recipe.autocast(image0.device):
            prediction = self.recipe.predict(network, *(self.recipe.laid_out(image) for image in padded))
        return prediction.flow[..., :height, :width].float()


def make_validator(recipe: Recipe, material: Material, pairs: Path | None = None) -> Validator:
    """The validator of a recipe: its last stage's scenes over the photos held out, and the flow pairs of a collection.

    `pairs` is laid out as `flowkit bench pairs` reads it. InputError when it has no pairs with flow.
    """
    final = recipe.at_stage(recipe.stage_at(1.0))
    final = final.with_iterations(recipe.validation_iterations)
    return Validator(final, list(_scenes(final, material)), _flow_pairs(pairs) if pairs is not None else [])


def _scenes(recipe: Recipe, material: Material) -> Iterator[PairBatch]:
    if material.held_out is None or recipe.validate_every == 0:
        return
    source = recipe.engine_source(material.held_out)
    for first in range(0, recipe.validation_pairs, _AT_ONCE):
        count = min(_AT_ONCE, recipe.validation_pairs - first)
        yield source.batch(count, recipe.validation_size, _SEED + first)


def _flow_pairs(folder: Path) -> list[FlowSample]:
    from flowkit.datasets.catalogue import find_samples
    from flowkit.datasets.samples import FlowSample

    found = find_samples(folder, ("flow",))["flow"]
    return [sample for sample in found if isinstance(sample, FlowSample)]


def line(scores: Mapping[str, float]) -> str:
    """ "held-out 2.31, middlebury 0.98" of the end-point errors."""
    return ", ".join(
        f"{name.removesuffix('/epe')} {value:.3f}" for name, value in scores.items() if name.endswith("/epe")
    )


def _tensor(rgb: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rgb)).movedim(-1, 0)[None].float() / 255


def _size(image: Tensor) -> tuple[int, int]:
    return int(image.shape[-2]), int(image.shape[-1])


def _scaled(image: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return image
    height, width = (max(16, round(side * scale)) for side in image.shape[-2:])
    return resize_image(image, (height, width)).clamp(0, 1)


def _padded(image: Tensor, height: int, width: int) -> Tensor:
    """Rows below and columns to the right repeat the border."""
    return F.pad(image, (0, width - int(image.shape[-1]), 0, height - int(image.shape[-2])), mode="replicate")
