"""The process in which one network is measured: `speed` starts it, asks over a pipe, and reads an answer per line.

For ptlflow's networks this file is run by another Python, which has torch and ptlflow but perhaps no flowkit. So at its top
it imports nothing but Python's own library.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

WARM_UP = 128
"""Side of the pictures that a network is first run on: kernels are compiled and threads started before memory is looked at."""
PEERS = {
    "raft": "ptlflow.models.raft.raft:raft",
    "raft-small": "ptlflow.models.raft.raft:raft_small",
    "liteflownet": "ptlflow.models.liteflownet.liteflownet:liteflownet",
    "liteflownet2": "ptlflow.models.liteflownet.liteflownet2:liteflownet2",
    "liteflownet2-kitti": "ptlflow.models.liteflownet.liteflownet2:liteflownet2_pseudoreg",
    "pwcnet": "ptlflow.models.pwcnet.pwcnet:pwcnet",
}
"""ptlflow's networks under the names of ours."""


class Subject:
    """A network that is measured, with the pictures it is given.

    `job`: who ("flowkit" or "ptlflow"), model, size (height, width) that fits the network, device, precision, threads,
    iterations (None: it has none).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(job["threads"])
        torch.manual_seed(0)
        self.device = job["device"]
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(job["precision"])
        load = flowkit_network if job["who"] == "flowkit" else ptlflow_network
        self.module, self.call, weights = load(job["model"], job["iterations"], self.device)
        self.learned = {name for name, p in self.module.named_parameters() if p.requires_grad}
        self.module.requires_grad_(False)
        self.pictures = tuple(picture.to(self.device) for picture in pictures(*job["size"]))
        self.run(*(picture[..., :WARM_UP, :WARM_UP].contiguous() for picture in self.pictures))
        self._wait()
        self.memory = Memory(self.device)
        self.facts = {
            "weights": weights,
            "parameters": count_parameters(self.module, self.learned),
            "layers": count_layers(self.module, self.learned),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name(self.device) if self.device != "cpu" else None,
        }

    def run(self, *pair: torch.Tensor) -> None:
        """One forward pass, on the pictures of the job unless others are given."""
        import torch

        kind = torch.device(self.device).type
        with torch.inference_mode(), torch.autocast(kind, dtype=self.dtype, enabled=self.dtype is not None):
            self.call(*(pair or self.pictures))

    def time(self, untimed: int, timed: int) -> dict[str, Any]:
        """Seconds of `timed` passes after `untimed` others."""
        for _ in range(untimed):
            self.run()
        seconds = []
        for _ in range(timed):
            self._wait()
            started = time.perf_counter()
            self.run()
            self._wait()
            seconds.append(time.perf_counter() - started)
        self._leave()
        return {"seconds": seconds}

    def peak(self) -> dict[str, Any]:
        """Bytes that the passes so far have taken at most: beyond what lay there before, and in all."""
        return self.memory.peak()

    def count(self) -> dict[str, Any]:
        """FLOPs of a pass by block, of convolutions and of other matrix products; needs flowkit for our own network."""
        from flowkit.evaluation.speed_blocks import count_blocks

        return count_blocks(self.module, self.run, self.learned)

    def total(self) -> dict[str, Any]:
        """FLOPs of a pass."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.run()
        counts = counter.get_flop_counts().get("Global", {})
        convolutions = sum(flops for operator, flops in counts.items() if "convolution" in str(operator))
        return {"convolutions": convolutions, "products": sum(counts.values()) - convolutions}

    def blocks(self, untimed: int) -> dict[str, Any]:
        """Seconds of a pass by block, after `untimed` other passes."""
        from flowkit.evaluation.speed_blocks import time_blocks

        for _ in range(untimed):
            self.run()
        self._wait()
        found = time_blocks(self.module, self.run, self.device)
        self._leave()
        return found

    def _wait(self) -> None:
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize(self.device)

    def _leave(self) -> None:
        """Let the others have the GPU's memory while it is their turn."""
        if self.device != "cpu":
            import torch

            torch.cuda.empty_cache()


class Memory:
    """How much memory passes take from now on.

    On CUDA what the allocator hands out. On the CPU the process's resident set, whose peak Linux can forget; elsewhere it is
    the largest so far, so that little is noticed of networks that need less than being loaded took.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cpu":
            _trim()
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            self.before = _resident("VmRSS")
        else:
            import torch

            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            self.before = torch.cuda.memory_allocated(device)

    def peak(self) -> dict[str, Any]:
        """Bytes beyond those of the start, and in all; None where the system does not tell."""
        if self.device == "cpu":
            total = _resident("VmHWM")
        else:
            import torch

            total = torch.cuda.max_memory_allocated(self.device)
        if total is None or self.before is None:
            return {"peak": None, "peak_total": total}
        return {"peak": max(total - self.before, 0), "peak_total": total}


def _trim() -> None:
    """Give back what was freed but kept for later use (glibc)."""
    import ctypes

    gc.collect()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int | None:
    """Bytes of the process's resident set, now (VmRSS) or at most (VmHWM)."""
    with suppress(OSError):
        if match := re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return 1024 * int(match[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def flowkit_network(
    name: str, iterations: int | None, device: str
) -> tuple[torch.nn.Module, Callable[..., object], str]:
    """Ours, with its weights where some are shipped, else random ones."""
    import torch

    from flowkit.errors import WeightsError
    from flowkit.models.registry import build
    from flowkit.models.weights import load_network

    try:
        weights, loaded = "shipped", load_network(name, device=device)
        module = loaded.module.requires_grad_(True)
    except WeightsError:
        weights, module = "random", build(name).eval()
        module = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    options = {} if iterations is None else {"iterations": iterations}
    return module, lambda a, b: module(a, b, **options), weights


def ptlflow_network(
    name: str, iterations: int | None, device: str
) -> tuple[torch.nn.Module, Callable[..., object], str]:
    """ptlflow's, with random weights."""
    import torch

    declare_operators()
    path, _, attribute = PEERS[name].partition(":")
    build = getattr(import_module(path), attribute)
    module = (build() if iterations is None else build(iters=iterations)).eval().to(device)
    return module, lambda a, b: module({"images": torch.stack([a, b], dim=1)}), "random"


@cache
def declare_operators() -> object:
    """Without these names torchvision, which ptlflow imports, cannot be imported where its compiled part does not load.

    They are there as long as what is given back, which the cache keeps.
    """
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def pictures(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth noise and the same moved by a few pixels, (1, 3, H, W) each."""
    import torch

    coarse = torch.rand(1, 3, height // 8 + 1, width // 8 + 1, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    return smooth.clamp(0, 1), smooth.clamp(0, 1).roll((3, -5), (2, 3))


def count_parameters(module: torch.nn.Module, learned: set[str], prefix: str = "") -> int:
    """How many numbers are learned in a module, called `prefix` in the network."""
    return sum(p.numel() for name, p in module.named_parameters(prefix.rstrip(".")) if name in learned)


def count_layers(module: torch.nn.Module, learned: set[str], prefix: str = "") -> int:
    """How many convolutions, transposed convolutions and linear layers with learned parameters are in a module."""
    from torch import nn

    kinds = nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear
    layers = (name for name, layer in module.named_modules(prefix=prefix.rstrip(".")) if isinstance(layer, kinds))
    return sum(f"{name}.weight" in learned or f"{name}.bias" in learned for name in layers)


def main() -> None:
    """Build what the argument says, then answer every request, {"do": METHOD, **arguments}, with a line of JSON."""
    if not __package__:  # run as a file by another Python: its neighbours are not meant to be found as modules
        sys.path.pop(0)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def answer(found: dict[str, Any]) -> None:
        print(json.dumps(found), file=answers, flush=True)

    try:
        subject = Subject(json.loads(sys.argv[1]))
        answer(subject.facts)
        for line in sys.stdin:
            request = json.loads(line)
            answer(getattr(subject, request.pop("do"))(**request))
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})


if __name__ == "__main__":
    main()
