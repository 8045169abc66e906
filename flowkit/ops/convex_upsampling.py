"""RAFT's learned upsampling (Teed and Deng, ECCV 2020, section 3.3): fine pixels are convex combinations of coarse cells."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def convex_upsample(
    flow: Tensor, mask: Tensor, factor: int, rim: Literal["constant", "replicate"] = "constant"
) -> Tensor:
    """(B, 2, f h, f w) of a flow (B, 2, h, w): each pixel a weighted mean of its cell's and the 8 neighbouring cells' flows.

    `mask` (B, 9 f f, h, w) are logits: their softmax over the 9 neighbours (row by row) weighs them for the f x f pixels of a
    cell (row by row). Beyond the rim lies 0, as in RAFT, or, with "replicate", the nearest cell. Values are not scaled:
    multiply by `factor` to turn cells into pixels.
    """
    batch, _, height, width = flow.shape
    share = mask.float().view(batch, 1, 9, factor, factor, height, width).softmax(2)
    neighbours = F.unfold(F.pad(flow, (1, 1, 1, 1), mode=rim), 3).view(batch, 2, 9, 1, 1, height, width)
    fine = (share * neighbours).sum(2)  # (B, 2, f, f, h, w)
    return fine.permute(0, 1, 4, 2, 5, 3).reshape(batch, 2, factor * height, factor * width)
