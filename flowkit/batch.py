"""A batch of image pairs with what is known of them: what the data engine and the data sets give and the training loop eats."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class PairBatch:
    """B image pairs; every tensor has the batch first and all lie on one device. None is "not known for this batch".

    Images are (B, 3, H, W) float32 RGB in [0, 1]. `flow` (B, 2, H, W) float32 is image0 -> image1 in pixels on image0's grid
    (p0 + flow(p0) is in image1; channel 0 = x), known where `valid` (B, H, W) bool is True and 0 elsewhere, and it may lead
    out of image1. `occlusion` (B, H, W) bool is True where the point of image0 is not seen in image1: hidden or outside.
    The `backward` fields say the same for image1 -> image0. Cameras: K 3x3 in pixels, X1 = R X0 + t, E = [t]x R, F with
    x1' F x0 = 0 (pixels); depths (B, H, W) along the optical axis in the unit of t. With `moving` (B, H, W) bool True where
    a pixel of image0 moves on its own, so that the cameras do not explain its flow.

    A triplet (LIFE) has a third picture besides, `warped` (B, 3, H, W): image1 through a synthetic map. `warp` (B, 2, H, W) is
    the flow image1 -> warped on image1's grid, known where `warp_valid` (B, H, W), `unwarp` and `unwarp_valid` the way back.
    `unlit0` and `unlit1` (B, 3, H, W) are image0 and image1 before their light was changed, for losses that compare pictures.
    """

    image0: Tensor
    image1: Tensor
    flow: Tensor
    valid: Tensor
    occlusion: Tensor | None = None
    backward: Tensor | None = None
    backward_valid: Tensor | None = None
    backward_occlusion: Tensor | None = None
    depth0: Tensor | None = None
    depth1: Tensor | None = None
    K0: Tensor | None = None
    K1: Tensor | None = None
    R: Tensor | None = None
    t: Tensor | None = None
    E: Tensor | None = None
    F: Tensor | None = None
    moving: Tensor | None = None
    warped: Tensor | None = None
    warp: Tensor | None = None
    warp_valid: Tensor | None = None
    unwarp: Tensor | None = None
    unwarp_valid: Tensor | None = None
    unlit0: Tensor | None = None
    unlit1: Tensor | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    """How the batch was made: scene family, seed, recipe; small values, for people and for provenance."""

    def __len__(self) -> int:
        return int(self.image0.shape[0])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of image0."""
        return int(self.image0.shape[-2]), int(self.image0.shape[-1])

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.image0.device

    def to(self, device: torch.device | str) -> PairBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are there, by name."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "made")
        return {name: value for name, value in named if value is not None}

    def __getitem__(self, index: slice) -> PairBatch:
        """Some of the pairs."""
        part: dict[str, Any] = {name: tensor[index] for name, tensor in self.tensors().items()}
        return replace(self, **part)

    def reversed(self) -> PairBatch:
        """The pairs the other way round: image1 -> image0. ValueError when the backward flow is not known.

        `moving` is dropped, for it lives on image0's grid, and so is the third picture of a triplet.
        """
        if self.backward is None or self.backward_valid is None:
            raise ValueError("the backward flow of this batch is not known")

        def transposed(matrix: Tensor | None) -> Tensor | None:
            return None if matrix is None else matrix.mT

        R = transposed(self.R)
        t = None if self.R is None or self.t is None else -(self.R.mT @ self.t[..., None])[..., 0]
        return PairBatch(
            image0=self.image1,
            image1=self.image0,
            flow=self.backward,
            valid=self.backward_valid,
            occlusion=self.backward_occlusion,
            backward=self.flow,
            backward_valid=self.valid,
            backward_occlusion=self.occlusion,
            depth0=self.depth1,
            depth1=self.depth0,
            K0=self.K1,
            K1=self.K0,
            R=R,
            t=t,
            E=transposed(self.E),
            F=transposed(self.F),
            unlit0=self.unlit1,
            unlit1=self.unlit0,
            made={**self.made, "reversed": True},
        )


def concatenate(batches: Iterable[PairBatch]) -> PairBatch:
    """One batch of several; a field is kept where all of them have it, `made` becomes {"parts": [...]}."""
    import torch

    parts = list(batches)
    if len(parts) == 1:
        return parts[0]
    common = set.intersection(*(set(part.tensors()) for part in parts))
    joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in sorted(common)}
    return PairBatch(**joined, made={"parts": [dict(part.made) for part in parts]})
