"""Flow and egomotion learned together, without labels: pictures, their camera's K, and the essential matrix of the flow itself.

Jiang, Campbell, Liu, Gould and Hartley, joint unsupervised flow and egomotion, sections 4 and 5.1; spec.md 3.3. Pairs are the
engine's rigid scenes, whose true flow only serves the figures, and frames of videos (training/video_pairs.py).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from flowkit.errors import UsageError
from flowkit.geometry.essential_layer import EssentialFit, EssentialSettings, essential_of_flow
from flowkit.geometry.grids import flow_targets
from flowkit.geometry.pose import normalise_points, recover_pose, rotation_angle, translation_angle
from flowkit.io.weights import load_checkpoint, load_strictly
from flowkit.losses.bilevel import Scales, UpperLevel, flow_levels, upper_level_terms
from flowkit.losses.one_sided_epipolar import EpipolarForm, epipolar_loss
from flowkit.losses.self_supervision import visible
from flowkit.losses.sequence import flow_metrics
from flowkit.synth.engine import EngineSettings
from flowkit.synth.scene3d import Scene3DSettings
from flowkit.training.recipe import Recipe, Source, Stage, either
from flowkit.training.student import StudentBatch, lesson_of
from flowkit.training.superpixel_noise import SuperpixelNoise
from flowkit.training.video_pairs import open_videos

if TYPE_CHECKING:
    from torch import Tensor

    from flowkit.batch import PairBatch
    from flowkit.models.prediction import FlowPrediction
    from flowkit.training.material import Material
    from flowkit.types import Size

log = logging.getLogger(__name__)

BASELINE, EPIPOLAR, STUDENT = STAGES = ("baseline", "epipolar", "student")
"""What `until` names: pictures alone, E besides (the teacher), and the student of what was learned before it."""
_VOTERS = 4
"""Every fourth row and column says on which side of the cameras the points lie."""


@dataclass(frozen=True)
class EgoflowRecipe(Recipe):
    """What the bi-level training has besides: its terms by stage, how E is found, what the student does not see, videos."""

    base: str = ""
    """A network of the box, of the same architecture, whose weights it begins with; none: chance."""
    baseline: UpperLevel = field(default_factory=UpperLevel)
    """The terms of the stage baseline, and their weights."""
    teacher: UpperLevel = field(default_factory=lambda: UpperLevel(epipolar=1000.0))
    """Those of the stage epipolar."""
    student: UpperLevel = field(
        default_factory=lambda: UpperLevel(consistency=0.0, smoothness=0.0, epipolar=1000.0, occlusion=1.0)
    )
    """Those of the stage student."""
    scales: Scales = field(default_factory=Scales)
    """The pyramid of pictures and flows."""
    lower: EssentialSettings = field(default_factory=EssentialSettings)
    """How E is found."""
    epipolar_form: EpipolarForm = "square"
    """What the epipolar term takes: squared distances (the paper), rho_c of distances in pixels, or of angles to the lines."""
    trust: float = 0.0
    """The share of pixels that a pair's E must explain for it to have an epipolar term: a wrong E is worse than none."""
    agreement: float = 180.0
    """Degrees by which the translations of a pair's E there and E back may differ for it to have an epipolar term."""
    through: bool = True
    """Let the epipolar term change the flow by way of E, too (equation 11); else E is taken as given, as one that is known."""
    crop: tuple[int, int] = (256, 640)
    """(height, width) of what the student sees of the crops that its teacher sees."""
    superpixels: SuperpixelNoise = field(default_factory=SuperpixelNoise)
    """What else is hidden from it."""
    real: float = 0.5
    """Share of batches from videos, where --video gives some; the others are the engine's."""
    gap: int = 2
    """Frames between the two of a pair: 1 to so many."""
    K: str = ""
    """The video's intrinsics, fx,fy,cx,cy or a file, in pixels of its frames; reconstructed scenes bring their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = {stage.until for stage in self.stages} | {self.until}
        if unknown := known - {None, *STAGES}:
            raise UsageError(f"until={unknown.pop()}: known: {', '.join(STAGES)}")
        if not 0 <= self.real <= 1 or self.gap < 1:
            raise UsageError(f"real={self.real}, gap={self.gap}: real must lie between 0 and 1, gap be at least 1")
        for stage in self.stages or (Stage(until=self.until),):
            if (stage.until or self.until or STUDENT) == STUDENT:
                self._check_crop(stage.size or self.size)

    def _check_crop(self, whole: Size) -> None:
        crop, divisor = f"crop={self.crop[0]},{self.crop[1]}", self.divisor()
        if self.crop[0] > whole[0] or self.crop[1] > whole[1]:
            raise UsageError(f"{crop}: the student's crop must fit into its teacher's, size={whole[0]},{whole[1]}")
        if self.crop[0] % divisor or self.crop[1] % divisor:
            raise UsageError(f"{crop}: {self.model} takes crops whose sides are divisible by {divisor}")

    @property
    def renders(self) -> bool:
        """Whether any of its pairs are made from photos."""
        return self.real < 1

    @property
    def upper(self) -> UpperLevel:
        """The terms of a recipe without stages."""
        return {BASELINE: self.baseline, EPIPOLAR: self.teacher}.get(self.until or STUDENT, self.student)

    def begin(self, network: torch.nn.Module) -> None:
        """Load the weights of `base`, if there is to be one; WeightsError when they do not fit."""
        if self.base:
            load_strictly(network, load_checkpoint(self.base), self.base)
            log.info("begins with the weights of %s", self.base)

    # --- pairs -------------------------------------------------------------------------------------------------------

    def source_from(self, material: Material) -> Source:
        """The engine's pairs, frames of the videos of `material.data`, or both."""
        videos = open_videos(material.data, self.K, self.gap) if material.data else None
        if videos is None and not self.renders:
            raise UsageError("real=1 needs a video; give --video FILE --K fx,fy,cx,cy")
        return Mixed(super().source_from(material) if self.renders else None, videos, self.real)

    @property
    def taught(self) -> bool:
        """Only the student has a teacher."""
        return (self.until or STUDENT) == STUDENT

    def lesson(self, teacher: torch.nn.Module, batch: PairBatch) -> PairBatch:
        """The student's crops, and the teacher's flows of the whole pictures; see `student.lesson_of`."""
        with torch.no_grad(), self.autocast(batch.device):
            flows = self.predict(teacher, *map(self.laid_out, self.views(batch))).flow.float()
        generator = torch.Generator().manual_seed(_seed())
        return lesson_of(flows, batch, self.crop, self.superpixels, generator)

    def views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Both directions, stacked."""
        return torch.cat([batch.image0, batch.image1]), torch.cat([batch.image1, batch.image0])

    def predict(self, network: torch.nn.Module, image0: Tensor, image1: Tensor) -> FlowPrediction:
        """The network's answer; a stage changes what is asked of it, not the network."""
        prediction: FlowPrediction = network(image0, image1, **self.options)
        return prediction

    # --- the loss ----------------------------------------------------------------------------------------------------

    def loss(self, prediction: FlowPrediction, batch: PairBatch) -> dict[str, Tensor]:
        """`loss` and its terms, weighted (equations 16 and 17); what is known of flow and cameras only serves the figures."""
        upper, taught = self.upper, batch if isinstance(batch, StudentBatch) else None
        flows = flow_levels(prediction.flow, prediction.iterates, prediction.strides, len(self.scales.weights))
        terms = upper_level_terms(
            flows,
            batch.image0,
            batch.image1 if taught is None or taught.clean1 is None else taught.clean1,
            upper=upper,
            scales=self.scales,
            lesson=None if taught is None else taught.lesson,
        )
        figures: dict[str, Tensor] = {}
        if upper.epipolar > 0:
            terms["epipolar"], figures = self._epipolar(flows[0], batch)
        if bool(batch.valid.any()):
            figures |= flow_metrics(prediction.flow[: len(batch)], batch, self.max_flow)
        total = sum(terms.values(), torch.zeros((), device=batch.device))
        return {"loss": total, **terms, **figures}

    def _epipolar(self, flows: Tensor, batch: PairBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """lambda_e L_e of both directions, each under the E of its own flow, and figures about E."""
        if batch.K0 is None or batch.K1 is None:
            raise UsageError("the epipolar term needs the cameras' K; give --K, or --set until=baseline without it")
        K0, K1 = torch.cat([batch.K0, batch.K1]), torch.cat([batch.K1, batch.K0])
        there, back = flows.chunk(2)
        usable = visible(flows, torch.cat([back, there]))
        fit = essential_of_flow(flows, K0, K1, usable, self.lower, seed=_seed())
        R, t = _poses(fit, flows, usable, K0, K1)
        trusted = fit.found & (fit.inlier_share >= self.trust) & (_disagreement(R, t) <= self.agreement)
        E = fit.E if self.through else fit.E.detach()
        weight = trusted.to(flows.dtype)[:, None, None]
        term = self.upper.epipolar * epipolar_loss(flows, E, K0, K1, weight, self.epipolar_form, R.to(E.dtype))
        figures = {"inliers": fit.inlier_share.float().mean(), "found": fit.found.float().mean()}
        return term, figures | _pose_errors(R[: len(there)], t[: len(there)], fit.found[: len(there)], batch)


@torch.no_grad()
def _poses(fit: EssentialFit, flows: Tensor, usable: Tensor, K0: Tensor, K1: Tensor) -> tuple[Tensor, Tensor]:
    """R (2B, 3, 3) and t (2B, 3) in each E, float64."""
    end = flow_targets(flows)
    start = end - flows.movedim(1, -1)
    points0, points1, voters = (maps[:, ::_VOTERS, ::_VOTERS].flatten(1, 2) for maps in (start, end, usable))
    x0, x1 = (normalise_points(points.double(), K.double()) for points, K in ((points0, K0), (points1, K1)))
    R, t, _ = recover_pose(fit.E.double(), x0, x1, voters)
    return R, t


def _disagreement(R: Tensor, t: Tensor) -> Tensor:
    """(2B,): degrees between the translation of each of R, t there and back again, and that of the other."""
    (_, R_back), (t_there, t_back) = R.chunk(2), t.chunk(2)
    undone = -(R_back.mT @ t_back[..., None])[..., 0]
    return translation_angle(t_there, undone).repeat(2)


def _pose_errors(R: Tensor, t: Tensor, found: Tensor, batch: PairBatch) -> dict[str, Tensor]:
    """`rotation` and `translation`: mean angles in degrees between R, t and the truth; 180 where there is no E."""
    if batch.R is None or batch.t is None:
        return {}
    errors = {
        "rotation": rotation_angle(R @ batch.R.double().mT),
        "translation": translation_angle(t, batch.t.double()),
    }
    return {
        name: torch.where(found, error, torch.full_like(error, 180.0)).float().mean() for name, error in errors.items()
    }


def _seed() -> int:
    """From torch's generator, which the loop has seeded with the number of the batch."""
    return int(torch.randint(2**31, (), device="cpu"))


class Mixed:
    """Batches of either source."""

    def __init__(self, rendered: Source | None, videos: Source | None, real: float) -> None:
        self.rendered, self.videos, self.real = rendered, videos, real

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size`; the same arguments give the same."""
        host = torch.Generator().manual_seed(seed)
        return either(self.rendered, self.videos, self.real, host).batch(count, size, seed)


_RIGID = EngineSettings(
    layered=0.0,
    scenes3d=1.0,
    geometric=0.0,
    max_displacement=60.0,
    lighting=0.1,
    cameras=Scene3DSettings(moving=0.0, rotation=0.05, min_displacement=2.0),
)
"""Nothing moves but the camera, which nearly always changes its place."""

EGOFLOW = EgoflowRecipe(
    model="pwcnet",
    size=(256, 832),
    batch=4,
    iterations=None,
    stages=(
        Stage(share=0.4, until=BASELINE),
        Stage(share=0.3, until=EPIPOLAR),
        Stage(share=0.3, until=STUDENT, size=(320, 896)),
    ),
    engine=_RIGID,
    steps=500_000,
    learning_rate=1e-4,
    weight_decay=0.0,
    clip=1.0,
    schedule="multistep",
    milestones=(0.2, 0.4, 0.6, 0.8),
    precision="fp32",
    validation_size=(256, 384),
    validation_iterations=None,
)
"""The paper's weights and network; how long it learns is DDFlow's: Adam at 1e-4, halved every 100 000 steps."""

EGOFLOW_CPU = replace(
    EGOFLOW,
    model="egoflow",
    base="liteflownetx",
    size=(192, 320),
    batch=1,
    stages=(
        Stage(share=0.6, until=BASELINE),
        Stage(share=0.2, until=EPIPOLAR),
        Stage(share=0.2, until=STUDENT, size=(256, 384)),
    ),
    crop=(192, 320),
    engine=replace(_RIGID, lighting=0.3, max_displacement=48.0),
    scales=Scales(radii=(3, 2, 2, 1, 1)),
    epipolar_form="angle",
    trust=0.5,
    agreement=5.0,
    teacher=UpperLevel(epipolar=0.25),
    student=UpperLevel(consistency=0.0, smoothness=0.0, epipolar=0.25, occlusion=1.0),
    lower=EssentialSettings(delta=2e-3, hypotheses=512, held_out=1_000, iterations=30, score="objective"),
    superpixels=SuperpixelNoise(segments=100, replaced=(4, 8)),
    clip_each=True,
    ema=0.998,
    schedule="onecycle",
    steps=5_000,
    log_every=10,
    checkpoint_every=250,
    validate_every=500,
    validation_pairs=16,
)
"""On two cores, from the weights of LiteFlowNetX: one crop at a time, but a large one (from small ones the coarse levels
unlearn large pictures), fewer hypotheses, smaller patches on coarse levels, and an epipolar term of angles, as robust as the
other terms, which the network cannot lower by moving less.

E is chosen by the objective, since what the term is worth depends on how good E is. What was tried: docs/egomotion.md.
"""

EGOFLOW_RECIPES: Mapping[str, EgoflowRecipe] = MappingProxyType({"egoflow": EGOFLOW, "egoflow-cpu": EGOFLOW_CPU})
