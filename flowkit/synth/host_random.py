"""Random numbers on the CPU from a generator anywhere: what is known there decides what is drawn without waiting for a GPU."""

from __future__ import annotations

import torch
from torch import Tensor


def generator_on(device: torch.device | str, generator: torch.Generator) -> torch.Generator:
    """The generator itself if it lives on that type of device, else one there, seeded by it (one wait for a CUDA device)."""
    device = torch.device(device)
    if generator.device.type == device.type:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


class HostDraw:
    """Tensors of random numbers on the CPU."""

    def __init__(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> None:
        self.generator, self.dtype = generator_on("cpu", generator), dtype

    def uniform(self, *shape: int) -> Tensor:
        """In [0, 1)."""
        return torch.rand(shape, generator=self.generator, dtype=self.dtype)

    def signed(self, *shape: int) -> Tensor:
        """In [-1, 1)."""
        return 2 * self.uniform(*shape) - 1

    def below(self, count: int, *shape: int) -> Tensor:
        """Integers in [0, count)."""
        return torch.randint(count, shape, generator=self.generator)
