"""Random tensors from one generator: what every sampler of the data engine draws with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_BLOCK = 1 << 14


class Random:
    """Random numbers of one dtype from one generator, on its device."""

    def __init__(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> None:
        self.generator, self.device, self.dtype = generator, generator.device, dtype
        self._pool = torch.empty(0)

    @classmethod
    def on_host(cls, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Random:
        """On the CPU wherever the generator is: what is known there decides what is drawn without waiting for a GPU."""
        return cls(generator_on("cpu", generator), dtype)

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1); drawn in blocks, so that a GPU has fewer kernels to start."""
        count = math.prod(shape)
        if count > len(self._pool):
            size = max(count, _BLOCK)
            self._pool = torch.rand(size, generator=self.generator, device=self.device, dtype=self.dtype)
        drawn, self._pool = self._pool[:count], self._pool[count:]
        return drawn.reshape(shape)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """In [low, high)."""
        return torch.mul(self.uniform(*shape), high - low).add_(low)

    def signed(self, *shape: int) -> Tensor:
        """In [-1, 1)."""
        return self.between(-1, 1, *shape)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """In [low, high), uniform in the logarithm."""
        return self.between(math.log(low), math.log(high), *shape).exp_()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=self.dtype)

    def direction(self, *shape: int) -> Tensor:
        """(*shape, 3): unit vectors, all directions alike."""
        return torch.nn.functional.normalize(self.normal(*shape, 3), dim=-1)

    def chance(self, probability: float, *shape: int) -> Tensor:
        """True with that probability."""
        return self.uniform(*shape) < probability

    def sign(self, *shape: int) -> Tensor:
        """-1 or 1."""
        return self.chance(0.5, *shape).to(self.dtype) * 2 - 1

    def below(self, count: int, *shape: int) -> Tensor:
        """Integers in [0, count)."""
        return torch.randint(count, shape, generator=self.generator, device=self.device)

    def choice(self, weights: tuple[float, ...], *shape: int) -> Tensor:
        """Integers, k with a probability proportional to weights[k]."""
        bounds = torch.tensor(weights, dtype=self.dtype, device=self.device).cumsum(0)
        return torch.searchsorted(bounds, self.uniform(*shape) * bounds[-1], right=True).clamp_max(len(weights) - 1)


def generator_on(device: torch.device | str, generator: torch.Generator) -> torch.Generator:
    """The generator itself if it lives on that type of device, else one there, seeded by it (one wait for a CUDA device)."""
    device = torch.device(device)
    if generator.device.type == device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)
