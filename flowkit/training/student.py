"""A student's lesson: it sees less than its teacher, who says how what it cannot see any more moves.

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion, "Training strategy"; Liu et al., DDFlow (AAAI
2019) for the crop and SelFlow (CVPR 2019) for the noise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.geometry.grids import flow_targets, inside
from flowkit.geometry.sampling import sample
from flowkit.losses.bilevel import Lesson
from flowkit.losses.self_supervision import visible
from flowkit.training.superpixel_noise import SuperpixelNoise, add_noise
from flowkit.types import Size


@dataclass(frozen=True)
class StudentBatch(PairBatch):
    """What a student sees: crops, with noise in image1.

    `clean1` (B, 3, H, W) is image1's crop without noise. `taught` (2B, 2, H, W) are the teacher's flows of both directions and
    `hidden` (2B, H, W) bool where only the teacher could see the match.
    """

    clean1: Tensor | None = None
    taught: Tensor | None = None
    hidden: Tensor | None = None

    @property
    def lesson(self) -> Lesson | None:
        """The teacher's word."""
        return None if self.taught is None or self.hidden is None else Lesson(self.taught, self.hidden)


@torch.no_grad()
def lesson_of(
    flows: Tensor, batch: PairBatch, size: Size, noise: SuperpixelNoise, generator: torch.Generator
) -> StudentBatch:
    """Crops of `size` (height, width) at one place of all pictures, superpixels of image1's replaced by noise.

    `flows` (2B, 2, H, W) are the teacher's, forward and then backward, of the whole pictures. A pixel is hidden now where the
    teacher sees its match, by the forward-backward test, and that lies outside of the other crop or in noise, or where the
    pixel itself is noise. What lies on image0's grid is cropped along, K refers to the crops.
    """
    height, width = batch.size
    top, left = (
        int(torch.randint(full - part + 1, (), generator=generator))
        for full, part in zip((height, width), size, strict=True)
    )
    there, back = flows.chunk(2)
    seen = visible(flows, torch.cat([back, there]))
    cropped = crop_pairs(batch, (top, left), size)
    taught, seen = (_window(maps, (top, left), size) for maps in (flows, seen))
    image1, noisy = add_noise(cropped.image1, noise, generator)
    targets = flow_targets(taught)
    onto_noise = sample(noisy[:, None].to(taught.dtype), targets[: len(noisy)], padding="border")[:, 0] > 0.5
    lost = ~inside(targets, size) | torch.cat([onto_noise, noisy])
    known = {field.name: getattr(cropped, field.name) for field in fields(PairBatch)}
    known["image1"] = image1
    return StudentBatch(**known, clean1=cropped.image1, taught=taught, hidden=seen & lost)


def crop_pairs(batch: PairBatch, corner: tuple[int, int], size: Size) -> PairBatch:
    """The pairs cut to a window of `size` at `corner` (top, left) of both pictures; cameras refer to the crops.

    Both pictures must be of one size. F, which refers to the whole pictures, the way back and the third picture are dropped.
    """
    maps = ("image0", "image1", "flow", "valid", "occlusion")
    there = batch.tensors()
    known = {name: _window(there[name], corner, size) for name in maps if name in there}
    shift = torch.tensor([[0, 0, corner[1]], [0, 0, corner[0]], [0, 0, 0]], device=batch.device)
    known |= {name: there[name] - shift.to(there[name]) for name in ("K0", "K1") if name in there}
    known |= {name: there[name] for name in ("R", "t", "E") if name in there}
    return PairBatch(**known, made=batch.made)


def _window(maps: Tensor, corner: tuple[int, int], size: Size) -> Tensor:
    top, left = corner
    return maps[..., top : top + size[0], left : left + size[1]].contiguous()
