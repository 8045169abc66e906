"""Variants of LiteFlowNet and LiteFlowNet2 for the paper's ablations (Hui et al., TPAMI 2020, section 6.5, Tables 6 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flowkit.errors import UsageError
from flowkit.models.liteflownet import LITEFLOWNET, LITEFLOWNET2, SPARSE, CostVolume, LiteFlowNetConfig

VARIANTS: Mapping[str, LiteFlowNetConfig] = {
    "M": replace(LITEFLOWNET, warping=False, subpixel=False, regularised=False),
    "MS": replace(LITEFLOWNET, warping=False, regularised=False),
    "WM": replace(LITEFLOWNET, subpixel=False, regularised=False),
    "WSR": replace(LITEFLOWNET, matching=False, inference=(128, 128, 128, 64, 64, 32, 32)),
    "WMS": replace(LITEFLOWNET, regularised=False),
    "ALL": LITEFLOWNET,
    "range-3": replace(LITEFLOWNET2, costs={}),
    "range-3-6": replace(LITEFLOWNET2, costs={3: SPARSE}),
    "range-4": replace(LITEFLOWNET2, costs={}, default_cost=CostVolume(4)),
    "conv-redir": replace(LITEFLOWNET2, redirected=32),
}
"""Table 6, of LiteFlowNet: feature Warping, descriptor Matching, Sub-pixel refinement, Regularisation; WSR's S is as deep as M
and S are together. Table 7, of LiteFlowNet2: the searching range, 6 with a stride of 2 at level 3. And LiteFlowNet2 with
features beside the costs, as FlowNetC has them."""


def variant(name: str, width: float = 1.0) -> LiteFlowNetConfig:
    """The variant of that name with all hidden channels multiplied by `width`; UsageError naming the known ones."""
    if name not in VARIANTS:
        raise UsageError(f"no variant is called {name!r}; known: {', '.join(VARIANTS)}")
    config = VARIANTS[name]

    def scaled(channels: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(max(4, round(width * each)) for each in channels)

    return replace(
        config,
        features=scaled(config.features),
        inference=scaled(config.inference),
        regularisation=scaled(config.regularisation),
        redirected=round(width * config.redirected),
    )
