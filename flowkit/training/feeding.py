"""Batches for the loop, made in the background, each by its number: a resumed run sees what the unbroken one would have."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from flowkit.batch import PairBatch
from flowkit.errors import FlowkitError
from flowkit.training.material import Material

if TYPE_CHECKING:
    from flowkit.training.recipe import Recipe, Source

Key = tuple[int, int]
"""(number of the batch, stage of the curriculum)."""


class WorkerLost(FlowkitError):  # noqa: N818
    """A process that makes batches ended without being asked to (exit 1)."""

    def __init__(self) -> None:
        super().__init__(
            "a process that makes pairs has died (killed, perhaps out of memory); go on with --resume, "
            "and with a smaller --set batch=... or --set workers=0"
        )


def is_lost_worker(error: BaseException) -> bool:
    """Whether torch says so: it does when a batch is asked for, or, from a signal handler, anywhere."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)


@dataclass(frozen=True)
class Place:
    """Which batches this process makes: of every `accumulate` x `world` of a step, those of its `rank`."""

    rank: int = 0
    world: int = 1
    accumulate: int = 1

    def numbers(self, first_step: int) -> Iterator[tuple[int, int]]:
        """(step, number of the batch), without end.

        Two ranks see together what one sees that accumulates two batches.
        """
        step = first_step
        while True:
            for turn in range(self.accumulate):
                yield step, (step * self.accumulate + turn) * self.world + self.rank
            step += 1


class Maker(Dataset[Any]):
    """Makes a batch for a key. It is what the worker processes hold."""

    def __init__(self, recipe: Recipe, material: Material) -> None:
        """Open the source of every stage; UsageError or InputError when the material is not what the recipe needs."""
        self._recipes = [recipe.at_stage(index) for index in range(max(1, len(recipe.stages)))]
        self._material = material
        self._sources = self._opened()

    def batch(self, key: Key) -> PairBatch:
        """The batch of that number at that stage."""
        number, stage = key
        return self._recipes[stage].batches(self._sources[stage], number)

    def _opened(self) -> list[Source]:
        if self._recipes[0].renders:
            return [recipe.source_from(self._material) for recipe in self._recipes]
        return [self._recipes[0].source_from(self._material)] * len(
            self._recipes
        )  # its crops are cut when they are asked for

    def __getstate__(self) -> dict[str, Any]:
        """Without the sources, for a process that is not a fork: they hold open what cannot be passed on."""
        return {**self.__dict__, "_sources": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the sources again."""
        self.__dict__.update(state)
        self._sources = self._opened()

    def __getitem__(self, key: Key) -> dict[str, np.ndarray] | FlowkitError:
        """The batch as arrays, which go through a pipe: shared memory is scarce in containers."""
        try:
            return {name: tensor.numpy() for name, tensor in self.batch(key).tensors().items()}
        except FlowkitError as error:  # as a value: torch would put a traceback into its message
            return error


def feed(
    recipe: Recipe, material: Material, place: Place, first_step: int, stage_at: Callable[[int], int]
) -> Generator[tuple[int, PairBatch], None, None]:
    """(stage, batch) without end, from the first batch of `first_step` on; `stage_at(step)` is asked a little ahead of time.

    Where the material lies on a GPU the batches are rendered there and then, otherwise by `recipe.workers` processes.
    """
    maker = Maker(recipe, material)
    keys = ((number, stage_at(step)) for step, number in place.numbers(first_step))
    if recipe.workers == 0 or material.renders_on_gpu(recipe):
        return ((key[1], maker.batch(key)) for key in keys)
    # fork shares the photos; where it is not safe torch passes them on in shared memory
    context = "fork" if sys.platform.startswith("linux") else "spawn"
    stages: list[int] = []
    loader = DataLoader(
        maker,
        batch_size=None,
        sampler=_noting(keys, stages),
        num_workers=recipe.workers,
        collate_fn=_as_it_is,
        worker_init_fn=partial(_set_up_worker, context),
        multiprocessing_context=context,
    )
    with _without_cv_threads():
        answers = iter(loader)  # starts the workers
    return _unpacked(answers, stages)


@contextmanager
def _without_cv_threads() -> Iterator[None]:
    """Let OpenCV end its threads: a forked child does not have them, but would wait for them for ever."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _unpacked(answers: Iterator[Any], stages: list[int]) -> Generator[tuple[int, PairBatch], None, None]:
    while True:
        try:
            arrays = next(answers)
        except RuntimeError as error:
            if not is_lost_worker(error):
                raise
            raise WorkerLost from error
        if isinstance(arrays, FlowkitError):
            raise arrays
        tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
        yield stages.pop(0), PairBatch(**tensors)


def _noting(keys: Iterator[Key], stages: list[int]) -> Iterator[Key]:
    """Pass the keys on and note their stages, in the order in which the loader gives the batches back."""
    for key in keys:
        stages.append(key[1])
        yield key


def _as_it_is(value: Any) -> Any:
    return value


def _set_up_worker(context: str, number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the training process ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if context != "fork":
        import cv2

        cv2.setNumThreads(1)
