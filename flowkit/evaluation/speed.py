"""Time, memory, parameters and FLOPs of the networks on this machine, whole and by block, and beside them ptlflow's.

What Tables 2 and 5 of Hui et al., LiteFlowNet2 (TPAMI 2020), say of theirs. Every network runs in a process of its own, so that
neither its memory nor its warm-up is another's; the processes take turns.
"""

from __future__ import annotations

import json
import logging
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from flowkit.errors import UsageError
from flowkit.evaluation import speed_worker
from flowkit.evaluation.speed_blocks import BETWEEN
from flowkit.models.registry import MODELS, network_spec
from flowkit.types import Size

OURS, PTLFLOW = "flowkit", "ptlflow"
MIN_SIDE = 64
PASSES = {"cpu": (0, 1), "cuda": (3, 10)}
"""How many passes of a turn are not timed, and how many are: GPUs slow down while it is another's turn."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How networks are measured."""

    size: Size = (436, 1024)
    """(height, width); each network's own pictures are this size rounded up to what it takes."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    precision: str = "fp32"
    repeats: int = 5
    threads: int = 1


@dataclass(frozen=True)
class BlockCost:
    """What a block costs in one pass, blocks inside it included."""

    name: str
    parent: str | None
    """The block that it is in; None: the network."""
    calls: int
    layers: int
    parameters: int
    convolutions: int
    products: int
    seconds: float


@dataclass(frozen=True)
class Measured:
    """One network: flowkit's or ptlflow's of that name. FLOPs are those of one pass, a multiply-add is two."""

    model: str
    who: str
    device: str
    size: Size
    """The pictures' (height, width), as the network takes them."""
    iterations: int | None
    error: str | None = None
    """Why nothing was measured."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """weights ("shipped" or "random"), layers, parameters, torch, threads, gpu."""
    seconds: tuple[float, ...] = ()
    """Of every timed pass."""
    peak: int | None = None
    """Bytes that a pass takes beyond what lay in memory before: network, pictures, on the CPU Python and its libraries."""
    peak_total: int | None = None
    """The same with it: the process's resident set, on CUDA what torch's allocator handed out."""
    convolutions: int = 0
    """FLOPs of convolutions."""
    products: int = 0
    """FLOPs of other matrix products, as this device computes them."""
    blocks: tuple[BlockCost, ...] = ()
    """By block, ptlflow's none. Those without a parent add up to the whole, the others to their parents."""

    @property
    def median(self) -> float | None:
        """Seconds of a pass; None where nothing was measured."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def blocks_seconds(self) -> float:
        """Seconds of a pass that is watched block by block."""
        return sum(block.seconds for block in self.blocks if block.parent is None)


def networks(names: Sequence[str] = ()) -> list[str]:
    """Those names, or all networks without any; UsageError for one that is no network."""
    if not names:
        return [name for name, spec in MODELS.items() if spec.network]
    return list(dict.fromkeys(network_spec(name).name for name in names))


def parse_size(text: str) -> Size:
    """ "436x1024" -> (436, 1024), height x width as in the papers; UsageError for anything else."""
    match = re.fullmatch(r"([0-9]{1,5})[xX]([0-9]{1,5})", text.strip())
    if match is None or min(int(match[1]), int(match[2])) < MIN_SIDE:
        raise UsageError(f"--size {text}: give height x width in pixels, for example 436x1024, from {MIN_SIDE} up")
    return int(match[1]), int(match[2])


def settings(
    size: str = "436x1024",
    *,
    device: str = "auto",
    precision: str = "fp32",
    repeats: int = 5,
    threads: int | None = None,
) -> Settings:
    """As they are typed; without `threads` as many as torch takes. UsageError for what this machine cannot do."""
    import torch

    from flowkit.pipelines.network import resolve_precision
    from flowkit.pipelines.prepare import resolve_device

    sides, device = parse_size(size), resolve_device(device)
    if device == "mps":
        raise UsageError("--device mps: speed is measured on cpu and cuda")
    return Settings(sides, device, resolve_precision(precision, device), repeats, threads or torch.get_num_threads())


def find_ptlflow(python: str | None = None) -> str | None:
    """The Python that has ptlflow: `python`, where it is given, else this one, else None.

    UsageError when `python` cannot be run or has no ptlflow.
    """
    if python is None:
        return sys.executable if find_spec("ptlflow") is not None else None
    ask = "import importlib.util as i; print(all(map(i.find_spec, ('torch', 'ptlflow'))))"
    try:
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    except OSError as error:
        raise UsageError(f"--ptlflow-python {python}: cannot be run ({error.strerror})") from None
    if done.stdout.strip() != "True":
        raise UsageError(
            f"--ptlflow-python {python}: has no torch or no ptlflow; give a Python where both are installed"
        )
    return python


def measure(
    models: Iterable[str],
    settings: Settings,
    ptlflow: str | None = None,
    *,
    step: Callable[[], None] = lambda: None,
) -> list[Measured]:
    """Every network, each followed by ptlflow's of that name where the Python `ptlflow` has it.

    `step` is called `steps(...)` times as it goes on. A network that cannot be measured, because memory is short say, has an
    `error` in its place.
    """
    with ExitStack() as stack:
        processes: list[Process] = []
        for model in models:
            processes.append(stack.enter_context(Process(model, OURS, settings, sys.executable)))
            if ptlflow is not None and model in speed_worker.PEERS:
                processes.append(stack.enter_context(Process(model, PTLFLOW, settings, ptlflow)))
        return _in_turns(processes, settings, step)


def steps(models: Sequence[str], settings: Settings, ptlflow: str | None = None) -> int:
    """How often `measure` calls `step`."""
    peers = sum(model in speed_worker.PEERS for model in models) if ptlflow is not None else 0
    return (len(models) + peers) * (1 + settings.repeats) + len(models) * settings.repeats


def _in_turns(processes: Sequence[Process], settings: Settings, step: Callable[[], None]) -> list[Measured]:
    untimed, timed = PASSES["cpu" if settings.device == "cpu" else "cuda"]
    for process in processes:
        process.start()
        process.ask("time", untimed=1, timed=0)
        step()
    for _ in range(settings.repeats):
        for process in processes:
            process.seconds += process.ask("time", untimed=untimed, timed=timed).get("seconds", [])
            step()
    for process in processes:
        process.found |= process.ask("peak")
        process.found |= process.ask("count" if process.who == OURS else "total")
    ours = [process for process in processes if process.who == OURS]
    for _ in range(settings.repeats):
        for process in ours:
            process.passes.append(process.ask("blocks", untimed=untimed))
            step()
    return [process.measured() for process in processes]


class Process:
    """The process in which one network is measured; used as a context, at whose end it is gone."""

    def __init__(self, model: str, who: str, settings: Settings, python: str) -> None:
        spec = network_spec(model)
        height, width = (-(-side // spec.divisor) * spec.divisor for side in settings.size)
        self.model, self.who, self.error = model, who, ""
        self.found: dict[str, Any] = {}
        self.seconds: list[float] = []
        self.passes: list[dict[str, Any]] = []
        """The answers to "blocks"."""
        self._facts: dict[str, Any] = {}
        self._blank = Measured(model, who, settings.device, (height, width), spec.iterations)
        job = {
            "who": who, "model": model, "size": (height, width), "iterations": spec.iterations,
            "device": settings.device, "precision": settings.precision, "threads": settings.threads,
        }  # fmt: skip
        worker = ["-m", speed_worker.__name__] if who == OURS else [str(Path(speed_worker.__file__))]
        self._command = [python, *worker, json.dumps(job)]
        self._running: subprocess.Popen[str] | None = None
        self._log: IO[bytes] | None = None

    def __enter__(self) -> Self:
        """Nothing runs yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._end()

    def start(self) -> None:
        """Build the network; what is wrong with it is in `error`, then and later."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        pipe = subprocess.PIPE
        self._running = subprocess.Popen(
            self._command, stdin=pipe, stdout=pipe, stderr=self._log, text=True, encoding="utf-8"
        )
        self._facts = self._answer()
        if not self.error:
            _log.info("%s (%s): ready", self.model, self.who)

    def ask(self, what: str, **arguments: int) -> dict[str, Any]:
        """The answer to a request (a method of `speed_worker.Subject`); empty once something went wrong."""
        if self.error or self._running is None or self._running.stdin is None:
            return {}
        with suppress(OSError):  # a process that has ended is noticed by its answer
            self._running.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
            self._running.stdin.flush()
        return self._answer()

    def measured(self) -> Measured:
        """What was found."""
        if self.error:
            return replace(self._blank, error=self.error, facts=self._facts)
        found = dict(self.found)
        counted = found.pop("blocks", [])
        whole = {name: self._facts[name] for name in ("layers", "parameters")}
        whole |= {name: found[name] for name in ("convolutions", "products")}
        blocks = tuple(_costs(counted, whole, self.passes)) if self.passes else ()
        return replace(self._blank, facts=self._facts, seconds=tuple(self.seconds), blocks=blocks, **found)

    def _answer(self) -> dict[str, Any]:
        assert self._running is not None and self._running.stdout is not None
        line = self._running.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            self.error = answer["error"]
            _log.warning("%s (%s): %s", self.model, self.who, self.error)
            self._end()
            return {}
        return answer

    def _last_words(self) -> str:
        """Why the process ended without an answer."""
        assert self._running is not None and self._log is not None
        code = self._running.wait()
        if code < 0:
            return f"its process was ended by signal {-code}; memory was short, if that is 9"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return f"its process ended with exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}"

    def _end(self) -> None:
        if self._running is not None:
            self._running.kill()
            self._running.communicate()
            self._running = None
        if self._log is not None:
            self._log.close()
            self._log = None


def _costs(
    counted: Sequence[Mapping[str, Any]], whole: Mapping[str, int], passes: Sequence[Mapping[str, Any]]
) -> Iterable[BlockCost]:
    """The blocks, and after those of the network and of each block what is between them."""
    typical = sorted(passes, key=lambda one: float(one["seconds"]))
    quarter = len(typical) // 4
    typical = typical[quarter : len(typical) - quarter]  # means add up, medians do not
    costs = [
        BlockCost(**block, seconds=statistics.fmean(one["blocks"][block["name"]] for one in typical))
        for block in counted
    ]
    total = BlockCost("", None, 1, **whole, seconds=statistics.fmean(one["seconds"] for one in typical))
    for cost in (each for each in costs if each.parent is None):
        yield cost
        inside = [each for each in costs if each.parent == cost.name]
        yield from inside
        if inside:
            yield _between(cost, inside, f"{cost.name}.{BETWEEN}", cost.name)
    yield _between(total, [each for each in costs if each.parent is None], BETWEEN, None)


def _between(whole: BlockCost, inside: Sequence[BlockCost], name: str, parent: str | None) -> BlockCost:
    rest = {
        key: getattr(whole, key) - sum(getattr(each, key) for each in inside)
        for key in ("layers", "parameters", "convolutions", "products", "seconds")
    }
    return BlockCost(name, parent, whole.calls, **rest)
