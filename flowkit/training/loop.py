"""The loop of every recipe: batches in, weights out, on a CPU, a GPU or several.

It knows no network by name: the recipe builds the network, asks it and judges its answer. Where a run stands is a function
of its step (with a budget of minutes, of the clock besides), every random number follows from the seed and the step, and so
a run that is killed and resumed ends as the unbroken one.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from flowkit.batch import PairBatch
from flowkit.errors import EXIT_INPUT, EXIT_PARTIAL_BATCH, FlowkitError, UsageError, is_out_of_memory
from flowkit.io.atomic import remove_stale
from flowkit.io.weights import write_weights
from flowkit.ops.precision import emulates_bf16
from flowkit.training.checkpoints import SHARD_SIZE, clear, read_checkpoint, write_checkpoint
from flowkit.training.devices import make_fabric
from flowkit.training.feeding import Place, WorkerLost, feed, is_lost_worker
from flowkit.training.log import FOLDER, RunLog
from flowkit.training.material import Material
from flowkit.training.meter import Meter
from flowkit.training.recipe import Recipe
from flowkit.training.schedule import Budget
from flowkit.training.state import Progress, State, initialise, require_model
from flowkit.training.validation import HELD_OUT, Validator, make_validator

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)

LAST, BEST = "last", "best"
"""Folders of the two checkpoints that are kept."""
WEIGHTS, BEST_WEIGHTS = "weights.safetensors", "best.safetensors"
"""The averaged weights of each, for `flowkit flow --weights` and `flowkit train --init`."""

Listener = Callable[[str, int, float, Mapping[str, float]], None]
"""Told (kind, step, fraction of the run, figures) of every line of the log; kind is "train" or "validation"."""


class Diverged(FlowkitError):  # noqa: N818
    """The loss or the gradient is not finite (exit 6: a part is done, and its last checkpoint is kept)."""

    exit_code = EXIT_PARTIAL_BATCH


class TooLarge(FlowkitError):  # noqa: N818
    """A step takes more memory than there is (exit 3); the last checkpoint is kept."""

    exit_code = EXIT_INPUT


@dataclass(frozen=True)
class Plan:
    """What a run does apart from its recipe."""

    output: Path
    budget: Budget
    name: str = ""
    """The recipe's name, for the files."""
    init: Path | None = None
    """Weights to begin with."""
    resume: bool = False
    """Go on from the last checkpoint in `output`."""
    device: str = "cpu"
    """cpu, cuda, cuda:N or mps; under torchrun every process takes the device of its rank."""
    pairs: Path | None = None
    """A collection of real pairs to validate on."""
    shard_size: int = SHARD_SIZE
    """Bytes of the largest file of a checkpoint."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `scores` are those of the last validation."""

    step: int
    steps_taken: int
    """Those of this process; a run that was resumed has more behind it."""
    minutes: float
    interrupted: bool
    scores: Mapping[str, float]


def train(recipe: Recipe, material: Material, plan: Plan, listener: Listener | None = None) -> Outcome:
    """Train, and leave the checkpoints `last` and `best`, the weights and the log in `plan.output`.

    Diverged, TooLarge, OutputError, WeightsError and InputError leave the last good checkpoint where it is. SIGINT and
    SIGTERM end the run with a checkpoint after the step in progress.
    """
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    run = _Run(recipe, material, plan, listener)
    with _stopping(run):
        return run.go()


class _Run:
    def __init__(self, recipe: Recipe, material: Material, plan: Plan, listener: Listener | None) -> None:
        self.recipe, self.plan, self.listener = recipe, plan, listener
        self.fabric: Fabric = make_fabric(plan.device, partial=any(stage.until for stage in recipe.stages))
        self.device = self.fabric.device
        self.stages = [recipe.at_stage(index) for index in range(max(1, len(recipe.stages)))]
        self._check_crops()
        if recipe.precision == "bf16" and emulates_bf16(self.device.type):
            log.warning("this CPU only emulates bf16, which takes several times as long; try --set precision=fp32")
        torch.manual_seed(recipe.seed)
        network = recipe.network()
        if plan.init is not None and not plan.resume:
            initialise(network, plan.init, recipe.model)
        elif not plan.resume:
            recipe.begin(network)
        self.state = State(recipe, network, self.device)
        if plan.resume:
            checkpoint = read_checkpoint(plan.output / LAST)
            require_model(checkpoint.facts, recipe.model, plan.output / LAST)
            self.state.restore(checkpoint)
        self.material = material.to(self.device) if recipe.renders and self.device.type == "cuda" else material
        self.stop = False
        self.started = time.monotonic() - self.progress.elapsed
        self.scores: dict[str, float] = {}
        self.began_at = self.saved = self.validated = self.progress.step

    def _check_crops(self) -> None:
        divisor = self.recipe.divisor()
        for stage in self.stages:
            if stage.size[0] % divisor or stage.size[1] % divisor:
                crop = f"{stage.size[0]},{stage.size[1]}"
                raise UsageError(f"size={crop}: {self.recipe.model} takes crops whose sides are divisible by {divisor}")

    @property
    def progress(self) -> Progress:
        return self.state.progress

    def go(self) -> Outcome:
        """Step after step, until the budget is used up or somebody stops it."""
        place = Place(self.fabric.global_rank, self.fabric.world_size, self.recipe.accumulate)
        batches = feed(self.recipe, self.material, place, self.progress.step, self._stage_at)
        self.validator = self._validator()
        self.log = self._opened_log()
        model, optimiser = self.fabric.setup(self.state.network, self.state.optimiser)
        meter = Meter(self.device)
        try:
            while True:
                fraction, stop = self._agree()
                if fraction >= 1 or stop:
                    break
                self._step(model, optimiser, batches, fraction, meter)
                self._after_step(fraction, meter)
            self._finish(meter)
        except (RuntimeError, MemoryError) as error:
            if is_lost_worker(error):
                raise WorkerLost from error
            if not is_out_of_memory(error):
                raise
            raise self._too_large() from error
        finally:
            batches.close()
            if self.log is not None:
                self.log.close()
        step = self.progress.step
        return Outcome(step, step - self.began_at, self.progress.elapsed / 60, self.stop, self.scores)

    # --- one step ----------------------------------------------------------------------------------------------------

    def _step(
        self, model: nn.Module, optimiser: Any, batches: Iterator[tuple[int, PairBatch]], fraction: float, meter: Meter
    ) -> None:
        recipe, step = self.recipe, self.progress.step
        rate = recipe.rate(fraction)
        for group in self.state.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        set_training(model, recipe.freeze_batchnorm)
        for turn, number in enumerate(self._numbers(step)[self.fabric.global_rank :: self.fabric.world_size]):
            with meter.waiting():
                stage, batch = next(batches)
            self._enter(stage)
            torch.manual_seed(recipe.batch_seed(-1 - number))  # dropout and the like resume exactly, too
            last = turn == recipe.accumulate - 1
            with self._unsynchronised(model, not last):
                terms = self._terms(model, batch.to(self.device), self.stages[stage])
                self.fabric.backward(terms["loss"] / recipe.accumulate)
            meter.add(terms, step)
        norm = self._clipped(model, optimiser)
        meter.add({"gradient": norm}, step)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.state.update_average()

    def _clipped(self, model: nn.Module, optimiser: Any) -> Tensor:
        """The norm of the whole gradient, which is clipped as the recipe says."""
        limit = self.recipe.clip or 1e30
        if not self.recipe.clip_each:
            norm = self.fabric.clip_gradients(model, optimiser, max_norm=limit, error_if_nonfinite=False)
            assert norm is not None
            return norm
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients))
        torch._foreach_mul_(gradients, list((limit / norms.clamp_min(limit)).unbind()))
        return norms.norm()

    def _enter(self, stage: int) -> None:
        """Before the first step of a stage, which an interrupted run may have taken already."""
        while self.progress.stage < stage:
            self.progress.stage += 1
            if self.recipe.enter(self.state.network, self.progress.stage):
                self.state.restart_average()
                self.progress.best = None  # what was judged was another, smaller network
        if self.stages[stage].taught and self.state.teacher is None:
            self.state.appoint_teacher()

    def _terms(self, model: nn.Module, batch: PairBatch, recipe: Recipe) -> dict[str, Tensor]:
        if recipe.taught and self.state.teacher is not None:
            batch = recipe.lesson(self.state.teacher, batch)
        with recipe.autocast(self.device):
            prediction = recipe.predict(model, *map(recipe.laid_out, recipe.views(batch)))
        return recipe.loss(prediction, batch)

    def _unsynchronised(self, model: nn.Module, wanted: bool) -> AbstractContextManager[Any]:
        if self.fabric.world_size == 1 or not wanted:
            return nullcontext()
        return self.fabric.no_backward_sync(model)  # type: ignore[arg-type]

    def _after_step(self, fraction: float, meter: Meter) -> None:
        recipe, step = self.recipe, self.progress.step
        self.progress.elapsed = time.monotonic() - self.started
        if self.device.type == "cpu" or step % recipe.log_every == 0:
            self._require_finite(meter)
        if step % recipe.log_every == 0:
            self._report_step(fraction, meter)
        if recipe.validate_every and step % recipe.validate_every == 0:
            self._validate(meter)
        if step % recipe.checkpoint_every == 0:
            self._save(meter)

    def _finish(self, meter: Meter) -> None:
        """The end, or an interruption: a checkpoint in any case."""
        step = self.progress.step
        if step == self.began_at:
            return
        self._require_finite(meter)
        unjudged = not self.stop and self.recipe.validate_every > 0 and self.validated != step
        if unjudged:
            self._validate(meter)
        if unjudged or self.saved != step:  # what is best may have changed
            self._save(meter)

    # --- how far, and what is said of it -----------------------------------------------------------------------------

    def _stage_at(self, step: int) -> int:
        return self.recipe.stage_at(self.plan.budget.fraction(step, time.monotonic() - self.started))

    def _agree(self) -> tuple[float, bool]:
        """The fraction of the run, and whether to stop: the same for all ranks, though their clocks and signals differ."""
        elapsed = time.monotonic() - self.started
        fraction = self.plan.budget.fraction(self.progress.step, elapsed)
        if self.fabric.world_size == 1:
            return fraction, self.stop
        both = torch.tensor([fraction, float(self.stop)], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        self.stop = bool(both[1])
        return float(both[0]), self.stop

    def _require_finite(self, meter: Meter) -> None:
        step = meter.first_bad()
        if step is None:
            return
        seeds = [self.recipe.batch_seed(number) for number in self._numbers(step)]
        raise Diverged(
            f"loss or gradient is not finite at step {step} (batch seed {', '.join(map(str, seeds))}); {self._kept()}; "
            "try a smaller --set learning_rate=..., or --set precision=fp32"
        )

    def _too_large(self) -> TooLarge:
        index = self._stage_at(self.progress.step)
        stage, where = self.stages[index], f"stages.{index}." if self.recipe.stages else ""
        return TooLarge(
            f"not enough memory at step {self.progress.step} for {stage.batch} pairs of {stage.size[0]} x {stage.size[1]} "
            f"pixels; {self._kept()}; try a smaller --set {where}batch=... (--set accumulate=... makes up for it) or size"
        )

    def _kept(self) -> str:
        if not self.saved:
            return "no checkpoint yet"
        return f"the last good checkpoint is {self.plan.output / LAST} (step {self.saved})"

    def _numbers(self, step: int) -> list[int]:
        per_step = self.recipe.accumulate * self.fabric.world_size
        return [step * per_step + turn for turn in range(per_step)]

    def _report_step(self, fraction: float, meter: Meter) -> None:
        figures = meter.take()
        if self.fabric.world_size > 1:
            names = sorted(figures)
            mean = self.fabric.all_reduce(torch.tensor([figures[name] for name in names], device=self.device))
            assert isinstance(mean, Tensor)
            figures = dict(zip(names, mean.tolist(), strict=True))
        figures |= {"lr": self.recipe.rate(fraction), "stage": float(self.recipe.stage_at(fraction))}
        self._tell("train", figures)

    def _tell(self, kind: str, figures: Mapping[str, float]) -> None:
        if self.log is None:
            return
        step, elapsed = self.progress.step, self.progress.elapsed
        self.log.write(kind, step, elapsed / 60, figures)
        if self.listener is not None:
            self.listener(kind, step, self.plan.budget.fraction(step, elapsed), figures)

    # --- validation and checkpoints, on the first rank ---------------------------------------------------------------

    def _opened_log(self) -> RunLog | None:
        """The log; of a run that starts anew, all that an earlier one has left goes first."""
        if not self.fabric.is_global_zero:
            return None
        output = self.plan.output
        remove_stale(output)
        if not self.plan.resume:
            for path in (output / WEIGHTS, output / BEST_WEIGHTS, *(output / FOLDER).glob("events.*")):
                path.unlink(missing_ok=True)
            for folder in (LAST, BEST):
                clear(output / folder)
        return RunLog(output, self.progress.step)

    def _validator(self) -> Validator | None:
        if not self.fabric.is_global_zero or not self.recipe.validate_every:
            return None
        return make_validator(self.recipe, self.material, self.plan.pairs)

    def _validate(self, meter: Meter) -> None:
        self._require_finite(meter)
        began = time.monotonic()
        if self.validator:
            self.scores = self.validator.scores(self.state.average, self.device, self.stages[self.progress.stage].until)
            self.progress.elapsed = time.monotonic() - self.started
            self._tell("validation", self.scores)
            self._keep_if_best()
        self.validated = self.progress.step
        self.fabric.barrier()
        meter.pause(time.monotonic() - began)

    def _keep_if_best(self) -> None:
        error = self.scores.get(f"{HELD_OUT}/epe", next(iter(self.scores.values())))
        if math.isfinite(error) and (self.progress.best is None or error < self.progress.best):
            self.progress.best = error
            self._write(BEST, BEST_WEIGHTS)

    def _save(self, meter: Meter) -> None:
        self._require_finite(meter)
        began = time.monotonic()
        self.progress.elapsed = began - self.started
        if self.fabric.is_global_zero:
            self._write(LAST, WEIGHTS)
        self.saved = self.progress.step
        self.fabric.barrier()
        meter.pause(time.monotonic() - began)

    def _write(self, folder: str, weights: str) -> None:
        recipe, output = self.recipe, self.plan.output
        facts = {
            "model": recipe.model,
            "name": self.plan.name,
            "recipe": asdict(recipe),
            "budget": asdict(self.plan.budget),
        }
        write_checkpoint(output / folder, self.state.checkpoint(facts), self.plan.shard_size)
        notes = {"model": recipe.model, "recipe": self.plan.name, "step": str(self.progress.step)}
        write_weights(output / weights, self.state.average.state_dict(), notes, half=recipe.export == "fp16")


def set_training(model: nn.Module, freeze_batchnorm: bool) -> None:
    """Training mode, in which batch normalisation may keep to the statistics it has."""
    model.train()
    if freeze_batchnorm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()


@contextmanager
def _stopping(run: _Run) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the run after the step in progress; a second one ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if run.stop:
            raise KeyboardInterrupt
        run.stop = True
        log.warning("stopping after this step; once more to stop at once, without a checkpoint")

    try:
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
