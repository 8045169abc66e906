"""Networks in the fine stage of an alignment: RANSAC-Flow's own, and any other that finds flow between two pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np

from flowkit.models.registry import ModelSpec
from flowkit.pipelines.fine import Motion
from flowkit.pipelines.network import Runner, Settings, check_settings, network_flow
from flowkit.pipelines.prepare import resolve_device

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.models.finealign import FineAlign

HALVES = {"fp16": "float16", "bf16": "bfloat16"}


class FineNetwork:
    """A network as the fine stage's `PairFlow`; afterwards it knows what the provenance says of it."""

    scales: tuple[float, ...] = (1.0,)
    """The shares of the working size at which it goes over a pair, in turn."""

    def __init__(self, spec: ModelSpec, settings: Settings, device: str) -> None:
        check_settings(spec, settings)
        self._spec, self._settings, self._device = spec, settings, device
        self.weights: Mapping[str, str] = {}
        self.options: Mapping[str, object] = {}
        self.notes: tuple[str, ...] = ()

    def __call__(self, frame: np.ndarray, warped: np.ndarray, valid: np.ndarray) -> Motion:
        """Flows there and back."""
        answer = network_flow(frame, warped, self._spec, self._settings, device=self._device, bidirectional=True)
        self.weights, self.options, self.notes = answer.weights, answer.options, answer.notes
        assert answer.backward is not None
        return Motion(_last(answer.forward), _last(answer.backward))


class FineAligner(FineNetwork):
    """RANSAC-Flow's network: both directions and their matchability at once; the target's features are kept."""

    scales = (0.5, 1.0)

    def __init__(self, spec: ModelSpec, settings: Settings, device: str) -> None:
        super().__init__(spec, settings, device)
        if settings.precision == "auto":
            settings = replace(settings, precision="fp32")
        run = Runner.load(spec, settings, resolve_device(device))
        self._module = _folded(cast("FineAlign", run.network.module))
        self._device, self.weights = run.network.device, run.network.weights
        self._half = HALVES.get(run.precision)
        self.options, self.notes = {"precision": run.precision}, tuple(run.notes)
        self._kept: dict[tuple[int, ...], tuple[np.ndarray, Tensor]] = {}

    def __call__(self, frame: np.ndarray, warped: np.ndarray, valid: np.ndarray) -> Motion:
        """Flows there and back, and the matchability that both pictures agree on."""
        import torch

        height, width = frame.shape[:2]
        half = None if self._half is None else getattr(torch, self._half)
        kind = torch.device(self._device).type
        with torch.inference_mode(), torch.autocast(kind, half, enabled=half is not None):
            found = self._module.between(self._of_target(frame), self._describe(warped))
        assert found.backward is not None
        assert found.confidence is not None
        forward, backward = (_last(flow[0, :, :height, :width].cpu().numpy()) for flow in (found.flow, found.backward))
        sure = found.confidence[0, 0, :height, :width].cpu().numpy()
        return Motion(forward, backward, sure)

    def _of_target(self, frame: np.ndarray) -> Tensor:
        """Its features at each size are computed once."""
        known = self._kept.get(frame.shape)
        if known is None or not np.array_equal(known[0], frame):
            known = self._kept[frame.shape] = frame, self._describe(frame)
        return known[1]

    def _describe(self, picture: np.ndarray) -> Tensor:
        """Features of a picture (H, W, 3) uint8, its last row and column repeated up to multiples of 8."""
        import torch

        divisor = self._spec.divisor
        height, width = picture.shape[:2]
        padded = np.pad(picture, ((0, -height % divisor), (0, -width % divisor), (0, 0)), mode="edge")
        image = torch.from_numpy(padded).to(self._device).movedim(-1, 0)[None].float().div_(255)
        return self._module.described(image.contiguous(memory_format=torch.channels_last))


@lru_cache(maxsize=2)
def _folded(network: FineAlign) -> FineAlign:
    """Once for all pairs of a batch: a network is loaded once a process."""
    from flowkit.models.finealign import folded

    return folded(network)


def _last(flow: np.ndarray) -> np.ndarray:
    """(2, H, W) -> (H, W, 2)."""
    return np.ascontiguousarray(flow.transpose(1, 2, 0))
