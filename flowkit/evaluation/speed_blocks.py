"""What each block of a network costs: time, FLOPs, parameters. Blocks are its named children, one level deeper in dictionaries.

So of LiteFlowNet `netc` and the levels `nete.6` to `nete.2`, each with `matching`, `subpixel` and `regularization` inside; of
PWC-Net `pyramid`, the levels `decoders.6` to `decoders.2` and `context`. What no block does is `between`: rows add up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from torch import nn

BETWEEN = "between"
"""What is done outside of the blocks: in PWC-Net and RAFT warping and correlation, for instance."""
Mark = TypeVar("Mark")


@dataclass(frozen=True)
class Block:
    """A part of a network: its name in there, that of the block it belongs to (None: the network), and the module."""

    name: str
    parent: str | None
    module: nn.Module


def blocks(network: nn.Module) -> list[Block]:
    """The blocks, each followed by those inside it, in the order in which they are defined."""
    from torch import nn

    found = []
    for name, child in network.named_children():
        if not isinstance(child, nn.ModuleDict):
            found.append(Block(name, None, child))
            continue
        for key, entry in child.items():
            level = f"{name}.{key}"
            found.append(Block(level, None, entry))
            for unit, inner in entry.named_children():
                composed = any(True for _ in inner.children())
                if composed and not isinstance(inner, nn.ModuleList | nn.ModuleDict):  # those are no step of their own
                    found.append(Block(f"{level}.{unit}", level, inner))
    return found


class Hooks(Generic[Mark]):
    """Takes a mark whenever a block begins and ends; used as a context.

    A block is at work while it, or any module inside it, is called: PWC-Net enlarges a decoder's flow from outside.
    """

    def __init__(self, parts: Sequence[Block], mark: Callable[[], Mark]) -> None:
        self.spans: dict[str, list[tuple[Mark, Mark]]] = {part.name: [] for part in parts}
        self._parts, self._mark = parts, mark
        self._open: dict[str, list[Mark]] = {part.name: [] for part in parts}
        self._handles: list[Any] = []

    def __enter__(self) -> Hooks[Mark]:
        """From here on."""
        for part in self._parts:
            for module in part.module.modules():
                self._handles.append(module.register_forward_pre_hook(partial(self._begin, part.name)))
                self._handles.append(module.register_forward_hook(partial(self._end, part.name)))
        return self

    def __exit__(self, *exception: object) -> None:
        """Until here."""
        for handle in self._handles:
            handle.remove()

    def _begin(self, name: str, *_: object) -> None:
        marks = self._open[name]
        marks.append(marks[0] if marks else self._mark())

    def _end(self, name: str, *_: object) -> None:
        started = self._open[name].pop()
        if not self._open[name]:
            self.spans[name].append((started, self._mark()))


def time_blocks(network: nn.Module, run: Callable[[], None], device: str) -> dict[str, Any]:
    """Seconds of one pass and of each block in it: {"seconds": s, "blocks": {name: s}}.

    On CUDA by events in the stream, so that nothing waits for the host more than it does anyway.
    """
    parts = blocks(network)
    if device == "cpu":
        with Hooks(parts, time.perf_counter) as clock:
            started = time.perf_counter()
            run()
            total = time.perf_counter() - started
        spent = {name: sum(end - start for start, end in spans) for name, spans in clock.spans.items()}
        return {"seconds": total, "blocks": spent}
    import torch

    def event() -> torch.cuda.Event:
        here = torch.cuda.Event(enable_timing=True)
        here.record()
        return here

    with torch.cuda.device(device), Hooks(parts, event) as stream:
        first = event()
        run()
        last = event()
        torch.cuda.synchronize()
    between = {name: [start.elapsed_time(end) for start, end in spans] for name, spans in stream.spans.items()}
    return {
        "seconds": first.elapsed_time(last) / 1000,
        "blocks": {name: sum(times) / 1000 for name, times in between.items()},
    }


def count_blocks(network: nn.Module, run: Callable[[], None], learned: set[str]) -> dict[str, Any]:
    """Of one pass and of each block in it: FLOPs of convolutions and of other matrix products, parameters, layers.

    A multiply-add is two FLOPs. Only what torch's counter knows is counted: not activations, warps, kernels of our own.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from flowkit.evaluation.speed_worker import count_layers, count_parameters

    parts = blocks(network)
    counter = FlopCounterMode(display=False)

    def mark() -> tuple[int, int]:
        counts = counter.get_flop_counts().get("Global", {})
        convolutions = sum(flops for operator, flops in counts.items() if "convolution" in str(operator))
        return convolutions, sum(counts.values()) - convolutions

    with counter, Hooks(parts, mark) as marks:
        run()
    convolutions, products = mark()
    found = [
        {
            "name": part.name,
            "parent": part.parent,
            "calls": len(marks.spans[part.name]),
            "layers": count_layers(part.module, learned, part.name),
            "parameters": count_parameters(part.module, learned, part.name),
            "convolutions": sum(end[0] - start[0] for start, end in marks.spans[part.name]),
            "products": sum(end[1] - start[1] for start, end in marks.spans[part.name]),
        }
        for part in parts
    ]
    return {"convolutions": convolutions, "products": products, "blocks": found}
