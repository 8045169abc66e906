"""Worker processes for batches: one item in flight each, and the death of one costs one item.

concurrent.futures would lose the whole pool, and not say which item was to blame, when a worker runs out of memory.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar, cast

Item = TypeVar("Item")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


class WorkerDied(Exception):  # noqa: N818
    """The process that had the item ended without an answer; `exit_code` is its own, negative for a signal."""

    def __init__(self, exit_code: int | None) -> None:
        """Say how the process ended."""
        self.exit_code = exit_code
        super().__init__(
            f"its worker process ended with code {exit_code}"
            + (" (killed, probably out of memory)" if exit_code == -9 else "")
        )


def run_in_workers(
    function: Callable[[Item], Any], items: Iterable[Item], jobs: int, setup: Callable[[], None] | None = None
) -> Iterator[tuple[Item, Any]]:
    """Apply `function` in `jobs` processes; gives (item, result) as they finish, WorkerDied as result where one ended.

    `function` must not raise, and like `setup`, which every worker calls first, must be importable. Leaving the iteration
    early, also by Ctrl-C, ends the workers at once.
    """
    queue = iter(items)
    threads = max(1, _cores() // jobs)
    busy: dict[Connection, tuple[Item, Any]] = {}
    processes = []

    def hire(item: Item) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, function, setup, threads), daemon=True)
        with _environment(dict.fromkeys(_THREADS, str(threads))):  # libraries read it when the child loads them
            process.start()
        theirs.close()
        processes.append(process)
        busy[ours] = item, process
        ours.send(item)

    try:
        for item in islice(queue, jobs):
            hire(item)
        while busy:
            for connection in cast(list[Connection], wait(list(busy))):
                item, process = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, ConnectionResetError):
                    connection.close()
                    process.join()
                    for successor in islice(queue, 1):
                        hire(successor)
                    yield item, WorkerDied(process.exitcode)
                    continue
                for successor in islice(queue, 1):
                    busy[connection] = successor, process
                    connection.send(successor)
                if connection not in busy:
                    connection.close()  # the worker reads the end and leaves
                yield item, result
    finally:
        for process in processes:
            if busy:
                process.terminate()
            process.join()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(
    connection: Connection, function: Callable[[Any], Any], setup: Callable[[], None] | None, threads: int
) -> None:
    """What a worker does until the other end of the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends us
    if setup is not None:
        setup()
    _limit_threads(threads)
    try:
        while True:
            connection.send(function(connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass


def _cores() -> int:
    """The cores this process may use, which on shared machines are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit_threads(threads: int) -> None:
    import cv2
    import torch

    cv2.setNumThreads(threads)
    torch.set_num_threads(threads)
