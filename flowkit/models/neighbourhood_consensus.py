"""Neighbourhood consensus: a 4-D correlation filtered by 4-D convolutions (Rocco et al., NC-Net, NeurIPS 2018).

The rival of GOCor's paper (Table 6, II). Of the two published forms that with kernels of 3^4, and layers of 16 and 1 channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WIDTHS = (16, 1)


class NeighbourhoodConsensus(nn.Module):
    """Mutual matching, 4-D convolutions that do not care which image is which, mutual matching."""

    def __init__(self) -> None:
        super().__init__()
        inputs, kernels, biases = 1, [], []
        for outputs in WIDTHS:
            kernel = torch.randn(3, outputs, inputs, 3, 3, 3) * (2 / (inputs * 81)) ** 0.5
            kernels.append(nn.Parameter(kernel))  # first the offset along the volume's first axis
            biases.append(nn.Parameter(torch.zeros(outputs)))
            inputs = outputs
        self.kernels, self.biases = nn.ParameterList(kernels), nn.ParameterList(biases)

    def forward(self, volume: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, Q, H, W), as it comes; `grid` is the height and width of the query's Q cells."""
        volume = mutual_matching(volume).unflatten(1, grid)[:, None]
        turned = volume.permute(0, 1, 4, 5, 2, 3)
        both = self._filtered(volume) + self._filtered(turned).permute(0, 1, 4, 5, 2, 3)
        return mutual_matching(both[:, 0].flatten(1, 2))

    def _filtered(self, volume: Tensor) -> Tensor:
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            volume = F.relu(_conv4d(volume, kernel.to(volume.dtype), bias.to(volume.dtype)))
        return volume


def mutual_matching(volume: Tensor) -> Tensor:
    """Scores (B, Q, H, W) times how close each is to the best of its cell of the query and of the reference."""
    best_of_query = volume.flatten(2).amax(2)[:, :, None, None]
    best_of_reference = volume.amax(1, keepdim=True)
    return volume * (volume / (best_of_reference + 1e-5)) * (volume / (best_of_query + 1e-5))


def _conv4d(volume: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """(B, K, h, w, H, W) of (B, C, h, w, H, W): a sum of 3-D convolutions over what lies before, at and after along h."""
    batch, _, rows = volume.shape[:3]
    around = F.pad(volume, (0, 0, 0, 0, 0, 0, 1, 1))
    total = None
    for offset in range(3):
        part = around[:, :, offset : offset + rows].transpose(1, 2).flatten(0, 1)
        found = F.conv3d(part, kernel[offset], bias if offset == 1 else None, padding=1)
        total = found if total is None else total + found
    assert total is not None
    return total.unflatten(0, (batch, rows)).transpose(1, 2)
