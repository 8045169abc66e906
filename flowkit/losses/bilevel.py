"""The upper level of the bi-level problem: what is asked of the flow at five scales, and of the finest one by its own E.

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion, equations 16 and 17; spec.md 3.3. The lower
level, E of a flow, is geometry/essential_layer.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.errors import UsageError
from flowkit.geometry.grids import flow_targets
from flowkit.geometry.sampling import sample
from flowkit.losses.census import Form, census_loss, grey_levels
from flowkit.losses.self_supervision import consistency_loss, occlusion_loss, smoothness_loss, visible
from flowkit.ops.precision import wide

TERMS = ("photometric", "consistency", "smoothness", "occlusion")
FINEST = 4
"""The stride of PWC-Net's finest flow, which is enlarged as many times to fit the picture; so are those of all levels."""


@dataclass(frozen=True)
class UpperLevel:
    """The weights of the terms and their constants; the defaults are the paper's of its first model on KITTI."""

    photometric: float = 1.0
    """lambda_p, of the census loss where a pixel is visible (equation 12)."""
    consistency: float = 0.1
    """lambda_c, of there and back again (equation 13)."""
    smoothness: float = 0.1
    """lambda_s, of the flow's differences (equation 14)."""
    epipolar: float = 0.0
    """lambda_e, of the distance from the epipolar lines of the flow's own E (equation 3); 1000 in the paper."""
    occlusion: float = 0.0
    """lambda_o, of what the teacher saw and the student does not (equation 15); 1 in the paper."""


@dataclass(frozen=True)
class Scales:
    """The pyramid, and what its terms are made of."""

    weights: tuple[float, ...] = (1.0, 0.34, 0.31, 0.27, 0.08)
    """Of the levels, finest first; each is half as large as the one before."""
    radii: tuple[int, ...] = (3, 3, 3, 3, 3)
    """Of the census patches, finest first; UnFlow has 3, 2, 2, 1, 1."""
    form: Form = "charbonnier"
    """How patches are compared: charbonnier (equation 12) or soft-hamming (UnFlow)."""
    alpha: float = 10.0
    """How much an edge of the picture allows the flow to change (equation 14)."""

    def __post_init__(self) -> None:
        if len(self.radii) != len(self.weights) or not self.weights:
            raise UsageError(f"scales: {len(self.weights)} weights with {len(self.radii)} radii; give as many")
        if min(self.weights) < 0 or min(self.radii) < 1 or self.alpha < 0:
            raise UsageError("scales: weights and alpha must not be negative, radii at least 1")


@dataclass(frozen=True)
class Lesson:
    """A teacher's `flow` (2B, 2, H, W) in both directions, and `hidden` (2B, H, W) bool, where it is to be learned."""

    flow: Tensor
    hidden: Tensor


def upper_level_terms(
    flows: Mapping[int, Tensor],
    image0: Tensor,
    image1: Tensor,
    *,
    upper: UpperLevel,
    scales: Scales,
    lesson: Lesson | None = None,
) -> dict[str, Tensor]:
    """The weighted terms of equations 16 and 17 but for L_e, each the sum over the levels; scalars by name.

    `flows` are those of `flow_levels` for the pairs (image0, image1) and then (image1, image0): their batch is twice that of
    the pictures (B, 3, H, W), which are those that are compared. Terms without weight are left out.
    """
    pictures, others = (wide(torch.cat(pair)) for pair in ((image0, image1), (image1, image0)))
    totals = {name: pictures.new_zeros(()) for name in TERMS if getattr(upper, name) > 0}
    for level, weight in enumerate(scales.weights):
        if level:
            pictures, others = F.avg_pool2d(pictures, 2), F.avg_pool2d(others, 2)
        flow = flows.get(level)
        if flow is None or weight == 0:
            continue
        for name, value in _level(flow, pictures, others, level, upper, scales, lesson).items():
            totals[name] = totals[name] + getattr(upper, name) * weight * value
    return totals


def _level(
    flow: Tensor,
    pictures: Tensor,
    others: Tensor,
    level: int,
    upper: UpperLevel,
    scales: Scales,
    lesson: Lesson | None,
) -> dict[str, Tensor]:
    """The terms of one level that have a weight, means over both directions."""
    there, back = flow.chunk(2)
    backward = torch.cat([back, there])
    seen = visible(flow, backward).to(flow.dtype)
    terms: dict[str, Tensor] = {}
    taught = None if lesson is None else lesson_at(lesson, level)
    if taught is not None:
        seen = seen * (~taught.hidden)
        if upper.occlusion > 0:
            terms["occlusion"] = occlusion_loss(flow, taught.flow, taught.hidden.to(flow.dtype))
    if upper.photometric > 0:
        warped = sample(grey_levels(others), flow_targets(flow), padding="border")
        grey = grey_levels(pictures)
        terms["photometric"] = census_loss(grey, warped, seen, radius=scales.radii[level], form=scales.form)
    if upper.consistency > 0:
        terms["consistency"] = consistency_loss(flow, backward, seen)
    if upper.smoothness > 0:
        terms["smoothness"] = smoothness_loss(flow, pictures, scales.alpha)
    return terms


def flow_levels(flow: Tensor, iterates: Sequence[Tensor], strides: Sequence[int], count: int) -> dict[int, Tensor]:
    """The flow at full size (0), half of it (1) and so on, below `count`, each in pixels of its own size.

    Of a FlowPrediction. Level i > 0 is the last iterate of a stride of 4 * 2^i, enlarged four times (section 5.1), and is left
    out where the network has none; level 0 is the final flow itself.
    """
    last = dict(zip(strides, iterates, strict=True))
    levels = {0: wide(flow)}
    for level in range(1, count):
        if (coarse := last.get(FINEST * 2**level)) is not None:
            own = wide(coarse) / 2**level
            levels[level] = F.interpolate(own, scale_factor=float(FINEST), mode="bilinear", align_corners=False)
    return levels


def lesson_at(lesson: Lesson, level: int) -> Lesson:
    """The lesson at that level, means over cells; hidden is what is so by more than half."""
    if level == 0:
        return lesson
    share = F.avg_pool2d(lesson.hidden[:, None].to(lesson.flow.dtype), 2**level)[:, 0]
    return Lesson(F.avg_pool2d(lesson.flow, 2**level) / 2**level, share > 0.5)
