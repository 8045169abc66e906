"""The data engine: photographs and a seed in, a batch of pairs with exact ground truth out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace

import torch

from flowkit.batch import PairBatch, concatenate
from flowkit.errors import UsageError
from flowkit.synth.geometric import GeometricSettings, sample_geometric
from flowkit.synth.geometric_render import render_geometric
from flowkit.synth.layer_render import render_layers
from flowkit.synth.layer_render_cpu import render_layers_cpu
from flowkit.synth.layered import LayeredSettings, sample_layers
from flowkit.synth.lighting import relight
from flowkit.synth.lighting_looks import LightingSettings
from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scene3DSettings, sample_scenes3d
from flowkit.synth.scene3d_render import render_scenes3d
from flowkit.types import Size

FAMILIES = ("layered", "scenes3d", "geometric")


@dataclass(frozen=True)
class EngineSettings:
    """What the engine makes: how much of each family, how far things move, how much the light changes."""

    layered: float = 0.6
    """Share of layered scenes: a photo with moving foregrounds."""
    scenes3d: float = 0.3
    """Share of 3-D scenes under a moving camera."""
    geometric: float = 0.1
    """Share of affine, projective and thin-plate warps of one photo."""
    max_displacement: float = 60.0
    """Largest displacement of any family, in pixels of the rendered images."""
    lighting: float = 0.25
    """Strongest change of light; each pair's is drawn between 0 and this. 0.25 is usual colour jitter, 1 day against night."""
    both_ways: bool = False
    """Give every pair in both directions: a batch of 8 is 4 scenes, which saves rendering time."""
    layers: LayeredSettings = field(default_factory=LayeredSettings)
    """What layered scenes look like; its own `max_displacement` is replaced by the one above."""
    cameras: Scene3DSettings = field(default_factory=Scene3DSettings)
    """What 3-D scenes look like; likewise."""
    warps: GeometricSettings = field(default_factory=GeometricSettings)
    """What geometric pairs look like; where they would move by more than `max_displacement`, they are weakened."""
    light: LightingSettings = field(default_factory=LightingSettings)
    """What strength 1 of each change of light means."""

    def __post_init__(self) -> None:
        shares = (self.layered, self.scenes3d, self.geometric)
        if min(shares) < 0 or sum(shares) <= 0:
            raise UsageError(f"the engine's shares {shares} must not be negative, nor all 0")
        if self.max_displacement <= 0 or not 0 <= self.lighting <= 1:
            raise UsageError("the engine's max_displacement must be positive and its lighting between 0 and 1")


class Engine:
    """Makes batches of pairs on the device of the photos."""

    def __init__(self, photos: PhotoStore, settings: EngineSettings | None = None) -> None:
        self.photos = photos
        self.settings = settings or EngineSettings()

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size`; the same arguments give the same pairs on the same device.

        Families are drawn pair by pair and rendered together, so a mixed batch has the fields that all of its families know.
        """
        settings = self.settings
        generator = torch.Generator(self.photos.device).manual_seed(seed)
        host = torch.Generator().manual_seed(seed)  # what is decided on the CPU must not wait for a GPU
        scenes = -(-count // 2) if settings.both_ways else count
        shares = torch.tensor([settings.layered, settings.scenes3d, settings.geometric], dtype=torch.float64)
        drawn = torch.multinomial(shares, scenes, replacement=True, generator=host)
        makers = (self._layered, self._scenes3d, self._geometric)
        counts = torch.bincount(drawn, minlength=len(makers)).tolist()
        families = [name for name, n in zip(FAMILIES, counts, strict=True) for _ in range(n)]
        pairs = concatenate(make(n, size, generator) for make, n in zip(makers, counts, strict=True) if n)
        if settings.lighting > 0:
            pairs = relight(pairs, settings.lighting * torch.rand(len(pairs), generator=host), host, settings.light)
        if settings.both_ways:
            pairs = concatenate([pairs, pairs.reversed()])[:count]
            families = (2 * families)[:count]
        made = {
            "families": families,
            "seed": seed,
            "size": size,
            "settings": asdict(settings),
            "parts": [dict(pairs.made)],
        }
        return replace(pairs, made=made)

    def _layered(self, count: int, size: Size, generator: torch.Generator) -> PairBatch:
        settings = replace(self.settings.layers, max_displacement=self.settings.max_displacement)
        scenes = sample_layers(count, size, settings, self.photos, generator)
        render = render_layers_cpu if self.photos.device.type == "cpu" else render_layers
        return render(scenes, self.photos)

    def _scenes3d(self, count: int, size: Size, generator: torch.Generator) -> PairBatch:
        settings = replace(self.settings.cameras, max_displacement=self.settings.max_displacement)
        return render_scenes3d(sample_scenes3d(count, size, settings, self.photos, generator), self.photos)

    def _geometric(self, count: int, size: Size, generator: torch.Generator) -> PairBatch:
        settings, limit = self.settings.warps, self.settings.max_displacement
        return render_geometric(sample_geometric(count, size, settings, self.photos, generator, limit), self.photos)
