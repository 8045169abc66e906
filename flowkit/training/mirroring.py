"""One rendered batch shown several times: as it is, mirrored left to right, top to bottom, and both."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from flowkit.batch import PairBatch

if TYPE_CHECKING:
    from flowkit.training.recipe import Source
    from flowkit.types import Size

_SIDES: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""The axes that are turned round, by number: x, y, both."""
WAYS = len(_SIDES)


def mirrored(batch: PairBatch, number: int) -> PairBatch:
    """The pairs mirrored in way `number` of WAYS; 0 leaves them. Flow and what else lies on the grids goes along.

    What mirroring would change (cameras, depth, the third picture) is dropped.
    """
    axes = _SIDES[number]
    if not axes:
        return batch
    kept = {
        name: getattr(batch, name).flip(axes)
        for name in (
            "image0",
            "image1",
            "flow",
            "valid",
            "occlusion",
            "backward",
            "backward_valid",
            "backward_occlusion",
            "unlit0",
            "unlit1",
        )
        if getattr(batch, name) is not None
    }
    for name in {"flow", "backward"} & kept.keys():
        for axis in axes:
            channel = 0 if axis == -1 else 1
            kept[name][:, channel] = -kept[name][:, channel]  # `flip` has copied it
    return PairBatch(**kept, made={**batch.made, "mirrored": number})


def remembered(source: Source, count: int, size: Size, seed: int) -> PairBatch:
    """`source.batch(...)`, the last one kept: its mirror images follow one another."""
    return _made(source, count, size, seed)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def _made(source: Source, count: int, size: Size, seed: int) -> PairBatch:
    return source.batch(count, size, seed)
