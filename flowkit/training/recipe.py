"""What a training run is made of, as one frozen value: the network, the pairs it sees, the optimiser, the schedule."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from flowkit.errors import UsageError
from flowkit.losses.sequence import flow_metrics, sequence_loss
from flowkit.synth.engine import Engine, EngineSettings
from flowkit.training.mirroring import WAYS, mirrored, remembered
from flowkit.training.public_pairs import PublicPairs, mixture, public_batches
from flowkit.training.schedule import multistep, one_cycle

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from flowkit.batch import PairBatch
    from flowkit.models.prediction import FlowPrediction
    from flowkit.synth.photos import PhotoStore
    from flowkit.training.material import Material
    from flowkit.types import Size


class Source(Protocol):
    """What gives pairs. The same arguments give the same pairs, in whatever process they are asked for."""

    def batch(self, count: int, size: Size, seed: int) -> PairBatch:
        """`count` pairs of `size` (height, width)."""
        ...


def either(rendered: Source | None, photographs: Source | None, share: float, generator: torch.Generator) -> Source:
    """One of two sources, the photographs with a chance of `share`; the other one where that is not there."""
    import torch

    real = bool(torch.rand((), generator=generator) < share)
    sources = (photographs, rendered) if real else (rendered, photographs)
    return next(source for source in sources if source is not None)


@dataclass(frozen=True)
class Stage:
    """A part of a run with crops and motions of its own; None takes the recipe's value."""

    share: float = 1.0
    """How much of the run it takes, relative to the other stages."""
    size: tuple[int, int] | None = None
    """(height, width) of the crops in pixels."""
    batch: int | None = None
    """Pairs per step and device."""
    max_displacement: float | None = None
    """Longest motion that the engine makes, in pixels."""
    iterations: int | None = None
    """Update iterations of the network."""
    until: str | None = None
    """The last unit of the network that runs, for networks that are trained level by level (such as "S6", or "features")."""
    learning_rate: float | None = None
    """Peak learning rate; given, the schedule runs anew from the beginning of the stage to its end, and that of the stages
    without a rate of their own as if it were not there."""
    milestones: tuple[float, ...] | None = None
    """Fractions of the stage after which its rate falls (multistep)."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a run computes, apart from the photos, the initial weights and the budget.

    A recipe for a network with a loss of its own is a subclass that overrides `loss`, and perhaps `batch`.
    """

    model: str
    """Name of the network in flowkit.models.registry."""
    source: str = "engine"
    """Where pairs come from: "engine" makes them from photos; otherwise a mixture of public data sets or one of them, as in
    docs/training_data.md, whose folders --data gives."""
    size: tuple[int, int] = (368, 496)
    """(height, width) of the crops in pixels."""
    batch: int = 10
    """Pairs per step and device; a step sees batch x accumulate x devices pairs."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    iterations: int | None = 12
    """Update iterations of the network; none for networks that have no such thing."""
    until: str | None = None
    """The last unit of the network that runs; none: all of them. Stages say it (see `Stage.until`)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the network's forward."""
    stages: tuple[Stage, ...] = ()
    """A curriculum: what grows in the course of the run. None: the same from beginning to end."""
    engine: EngineSettings = field(default_factory=EngineSettings)
    """What the engine's pairs look like."""

    mirrors: int = 1
    """How often a batch that the engine has made is shown, up to 4: as it is, mirrored left to right, top to bottom, both."""

    steps: int = 100_000
    """Length of the run where neither --steps nor --minutes is given."""
    learning_rate: float = 4e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """AdamW's decay, of all parameters."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moments."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 does not clip."""
    clip_each: bool = False
    """Clip the gradient of each tensor by itself, so that one that explodes does not hold up the others."""
    schedule: Literal["onecycle", "multistep", "constant"] = "onecycle"
    """How the learning rate goes over the run."""
    warmup: float = 0.05
    """onecycle: the fraction of the run in which the rate rises."""
    milestones: tuple[float, ...] = (0.5, 0.75, 0.9)
    """multistep: the fractions of the run after which the rate falls."""
    milestone_factor: float = 0.5
    """multistep: what the rate is multiplied by there."""
    frozen: tuple[str, ...] = ()
    """Parameters that stay as they are: every one whose name starts with one of these."""
    fine_tuned: tuple[str, ...] = ()
    """Parameters that learn slower, by the beginning of their names."""
    fine_tuning: float = 0.1
    """The factor on their learning rate."""
    freeze_batchnorm: bool = False
    """Keep the statistics of batch normalisation, as RAFT does after its first stage."""
    ema: float = 0.999
    """Decay per step of the averaged weights, which are validated and exported; 0 exports the weights themselves."""

    gamma: float = 0.8
    """Weight of an iterate relative to the next one."""
    max_flow: float = 400.0
    """Pixels that move further do not count."""
    occluded: float = 1.0
    """Weight of hidden pixels; 0 leaves them to the network's imagination."""
    norm: Literal["l1", "l2"] = "l1"
    """How a flow error counts: mean of |dx| and |dy|, or half the Euclidean length."""

    precision: Literal["bf16", "fp32"] = "bf16"
    """What the network computes in; weights, loss and optimiser are float32 in any case."""
    channels_last: bool = True
    """Lay images and weights out with the channels last, which convolutions like."""
    workers: int = 1
    """Processes that make pairs for a CPU run (and read data sets); a GPU renders its own."""
    threads: int = 0
    """CPU threads of the training process; 0 leaves the choice to torch."""
    seed: int = 0
    """Seed of the pairs and of everything else that is random."""

    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 500
    """Steps between two checkpoints; there is always one at the end."""
    validate_every: int = 500
    """Steps between two validations, each of which may find a new best state, which is kept; 0: never."""
    validation_pairs: int = 32
    """How many held-out scenes are made for it."""
    validation_size: tuple[int, int] = (256, 384)
    """(height, width) of those."""
    validation_iterations: int | None = 12
    """Update iterations there."""
    export: Literal["fp16", "fp32"] = "fp16"
    """Precision of weights.safetensors."""

    def __post_init__(self) -> None:
        if not 1 <= self.mirrors <= WAYS:
            raise UsageError(f"mirrors={self.mirrors}: must be 1 to {WAYS}")
        for name in ("steps", "batch", "accumulate", "log_every", "checkpoint_every", "validation_pairs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in (
            "learning_rate",
            "weight_decay",
            "clip",
            "workers",
            "threads",
            "seed",
            "validate_every",
            "occluded",
        ):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name}={getattr(self, name)}: must not be negative")
        for name in ("ema", "gamma", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name}={getattr(self, name)}: must lie between 0 and 1")
        sizes = [self.size, self.validation_size, *(stage.size for stage in self.stages if stage.size is not None)]
        if any(min(size) < 8 for size in sizes):
            raise UsageError("size: crops must be at least 8 pixels high and wide")
        if any(stage.share <= 0 for stage in self.stages):
            raise UsageError("stages: every share must be positive")

    @property
    def renders(self) -> bool:
        """Whether its pairs are made from photos, which a GPU does by itself."""
        return self.source == "engine"

    # --- the course of the run ---------------------------------------------------------------------------------------

    def stage_at(self, fraction: float) -> int:
        """Which stage holds at that fraction of the run; 0 where there are none."""
        total, end = sum(stage.share for stage in self.stages), 0.0
        for index, stage in enumerate(self.stages):
            end += stage.share / total
            if fraction < end - 1e-12:
                return index
        return max(0, len(self.stages) - 1)

    def at_stage(self, index: int) -> Recipe:
        """The recipe with the values of one stage in place of its own, and no stages."""
        if not self.stages:
            return self
        stage = self.stages[index]
        engine = self.engine
        if stage.max_displacement is not None:
            engine = replace(engine, max_displacement=stage.max_displacement)
        return replace(
            self,
            size=stage.size or self.size,
            batch=stage.batch or self.batch,
            iterations=stage.iterations or self.iterations,
            until=stage.until or self.until,
            engine=engine,
            stages=(),
        )

    def rate(self, fraction: float) -> float:
        """The learning rate at that fraction of the run."""
        peak, milestones = self.learning_rate, self.milestones
        if self.stages:
            index = self.stage_at(fraction)
            stage = self.stages[index]
            begin, end = self.span(index)
            if stage.learning_rate is not None:
                peak, fraction = stage.learning_rate, (fraction - begin) / (end - begin)
            else:
                alike = [self.span(k) for k, other in enumerate(self.stages) if other.learning_rate is None]
                passed = sum(min(fraction, end) - begin for begin, end in alike if begin < fraction)
                fraction = passed / sum(end - begin for begin, end in alike)
            milestones = milestones if stage.milestones is None else stage.milestones
        if self.schedule == "onecycle":
            return peak * one_cycle(fraction, self.warmup)
        if self.schedule == "multistep":
            return peak * multistep(fraction, milestones, self.milestone_factor)
        return peak

    def span(self, index: int) -> tuple[float, float]:
        """The fractions of the run at which that stage begins and ends."""
        shares = [stage.share for stage in self.stages]
        return sum(shares[:index]) / sum(shares), sum(shares[: index + 1]) / sum(shares)

    # --- what depends on the network and its pairs -------------------------------------------------------------------

    def network(self) -> torch.nn.Module:
        """A new network, its initial weights drawn from torch's generator."""
        from flowkit.models.registry import build

        return build(self.model)

    def begin(self, network: torch.nn.Module) -> None:
        """What a run starts from that neither resumes nor is given weights; the network as it is, unless a recipe says more."""

    def enter(self, network: torch.nn.Module, stage: int) -> bool:
        """What a stage after the first one begins with; whether weights were changed, so that their average starts anew."""
        return False

    @property
    def taught(self) -> bool:
        """Whether a recipe without stages has a teacher: the averaged network as it was when that stage began, see `lesson`."""
        return False

    def lesson(self, teacher: torch.nn.Module, batch: PairBatch) -> PairBatch:
        """The batch as the student gets it, with what the teacher, which never learns, says of it; asked for where `taught`."""
        return batch

    def engine_source(self, photos: PhotoStore) -> Source:
        """The engine over these photos; of a recipe without stages (see `at_stage`)."""
        return Engine(photos, self.engine)

    def source_from(self, material: Material) -> Source:
        """What gives the pairs of a recipe without stages; UsageError or InputError when what it needs is not there."""
        if not self.renders:
            return public_batches(material.data, mixture(self.source))
        if material.photos is None:
            raise UsageError("the engine makes pairs from photographs; give --photos DIR")
        return self.engine_source(material.photos)

    def batches(self, source: Source, index: int) -> PairBatch:
        """Batch number `index` of the run: a function of the recipe and the index alone."""
        if isinstance(source, PublicPairs):
            return source.numbered(index, self.batch, self.size, self.seed)  # every pair once an epoch
        if self.mirrors == 1:
            return source.batch(self.batch, self.size, self.batch_seed(index))
        number, way = divmod(index, self.mirrors)
        return mirrored(remembered(source, self.batch, self.size, self.batch_seed(number)), way)

    def batch_seed(self, index: int) -> int:
        """The seed that batch number `index` is made from, below 2^48."""
        digest = hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big")

    def divisor(self) -> int:
        """What the network divides heights and widths by."""
        from flowkit.models.registry import model_spec

        return model_spec(self.model).divisor

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """The context in which the network runs: half precision where the recipe says so."""
        import torch

        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Images or batches in the memory layout that the network computes in."""
        import torch

        return tensor.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)

    def with_iterations(self, iterations: int | None) -> Recipe:
        """The same for another number of update iterations; None keeps it."""
        return self if iterations is None else replace(self, iterations=iterations)

    def views(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """The pairs of pictures (N, 3, H, W) that the network is asked for; a loss over several directions stacks them."""
        return batch.image0, batch.image1

    def predict(self, network: torch.nn.Module, image0: Tensor, image1: Tensor) -> FlowPrediction:
        """The network's answer to images (B, 3, H, W) in [0, 1]."""
        options = dict(self.options)
        if self.iterations is not None:
            options["iterations"] = self.iterations
        if self.until is not None:
            options["until"] = self.until
        prediction: FlowPrediction = network(image0, image1, **options)
        return prediction

    def loss(self, prediction: FlowPrediction, batch: PairBatch) -> dict[str, Tensor]:
        """Of the prediction for `views(batch)`: `loss` is what is minimised, a scalar; the other entries are only reported."""
        loss = sequence_loss(
            prediction.iterates,
            prediction.strides,
            batch,
            gamma=self.gamma,
            max_flow=self.max_flow,
            occluded=self.occluded,
            norm=self.norm,
        )
        return {"loss": loss, **flow_metrics(prediction.flow, batch, self.max_flow)}
