"""The data engine: photographs and a seed in, a batch of pairs with exact ground truth out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from flowkit.batch import PairBatch, concatenate
from flowkit.errors import UsageError
from flowkit.synth.layer_render import render_layers
from flowkit.synth.layer_render_cpu import render_layers_cpu
from flowkit.synth.layered import LayeredSettings, sample_layers
from flowkit.synth.lighting import relight
from flowkit.synth.lighting_looks import LightingSettings
from flowkit.synth.photos import PhotoStore
from flowkit.types import Size


@dataclass(frozen=True)
class EngineSettings:
    """What the engine makes: how much of each family, how far things move, how much the light changes."""

    layered: float = 1.0
    """Share of layered scenes."""
    max_displacement: float = 60.0
    """Largest displacement of any family, in pixels of the rendered images."""
    lighting: float = 0.25
    """Strongest change of light; each pair's is drawn between 0 and this. 0.25 is usual colour jitter, 1 day against night."""
    both_ways: bool = False
    """Give every pair in both directions: a batch of 8 is 4 scenes, which saves rendering time."""
    scenes: LayeredSettings = field(default_factory=LayeredSettings)
    """What layered scenes look like; their own `max_displacement` is replaced by the one above."""
    light: LightingSettings = field(default_factory=LightingSettings)
    """What strength 1 of each change of light means."""


class Engine:
    """Makes batches of pairs on the device of the photos."""

    def __init__(self, photos: PhotoStore, settings: EngineSettings | None = None) -> None:
        self.photos = photos
        self.settings = settings or EngineSettings()
        if self.settings.layered <= 0:
            raise UsageError("the engine's shares are all 0: nothing to make")

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size`; the same arguments give the same pairs on the same device."""
        settings = self.settings
        generator = torch.Generator(self.photos.device).manual_seed(seed)
        scenes = -(-count // 2) if settings.both_ways else count
        pairs = concatenate([self._layered(scenes, size, generator)])
        if settings.lighting > 0:
            light = torch.Generator().manual_seed(seed)
            strength = settings.lighting * torch.rand(len(pairs), generator=light)
            pairs = relight(pairs, strength, light, settings.light)
        if settings.both_ways:
            pairs = concatenate([pairs, pairs.reversed()])[:count]
        return pairs

    def _layered(self, count: int, size: Size, generator: torch.Generator) -> PairBatch:
        settings = replace(self.settings.scenes, max_displacement=self.settings.max_displacement)
        scenes = sample_layers(count, size, settings, self.photos, generator)
        render = render_layers_cpu if self.photos.device.type == "cpu" else render_layers
        return render(scenes, self.photos)
