"""The local kernels of the pyramid networks against plain torch and, where they are installed, packages: time, and equality.

    .venv/bin/python benchmarks/kernels.py [--device cpu] [--size 109x256] [--channels 96] [--threads 2] [--repeats 15]
        [--output kernels.json]

Local correlation, dense (radius 4) and sparse as LiteFlowNet's level 3 has it (radius 3, every second cell and displacement),
against the loop of shift, multiply and mean, and on CUDA against the package spatial-correlation-sampler; warping against
torch's own grid_sample and four gathers; the feature-driven local convolution, windows of 3, 5 and 7, against unfold and the
loop of shift, multiply and add. Each in both memory layouts (channels first and last), forward alone, and forward with
backward. 109x256 is a quarter of 436x1024.

Medians in milliseconds (on the CPU of the time that all threads worked as well), after a warm-up, the rivals in turns; the
largest difference is to the reference in float64.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from reporting import show, write
from torch import Tensor

from flowkit.ops.correlation import correlation_reference, local_correlation
from flowkit.ops.local_convolution import local_convolution, local_convolution_reference
from flowkit.ops.warping import warped, warped_reference

Kernel = Callable[[Tensor, Tensor], Tensor]
LAYOUTS = {"first": torch.contiguous_format, "last": torch.channels_last}
COLUMNS = {
    "kernel": ("kernel", ""),
    "layout": ("channels", ""),
    "pass": ("pass", ""),
    "ours": ("ours ms", ".1f"),
    "rival": ("against", ""),
    "theirs": ("ms", ".1f"),
    "ratio": ("ratio", ".2f"),
    "cpu_ratio": ("cpu ratio", ".2f"),
    "difference": ("max diff", ".0e"),
}


def sampler(radius: int, stride: int) -> Kernel:
    """The package's dense or strided correlation; it pads and divides by nothing."""
    from spatial_correlation_sampler import spatial_correlation_sample

    def correlate(a: Tensor, b: Tensor) -> Tensor:
        patch = {"kernel_size": 1, "patch_size": 2 * radius + 1, "stride": stride, "dilation_patch": stride}
        return spatial_correlation_sample(a, b, **patch).flatten(1, 2) / a.shape[1]

    return correlate


def kernels(on_cuda: bool) -> dict[str, tuple[Kernel, dict[str, Kernel]]]:
    """By name: ours, and the rivals, of which the first is also the definition."""
    table: dict[str, tuple[Kernel, dict[str, Kernel]]] = {}
    for name, radius, stride in (("correlation r4", 4, 1), ("correlation r3 sparse", 3, 2)):
        options = {"output_stride": stride, "displacement_stride": stride}
        ours: Kernel = lambda a, b, r=radius, o=options: local_correlation(a, b, r, **o)  # type: ignore[misc]  # noqa: E731
        loop: Kernel = lambda a, b, r=radius, o=options: correlation_reference(a, b, r, **o)  # type: ignore[misc]  # noqa: E731
        table[name] = ours, {"shift, multiply, mean": loop}
        if on_cuda and importlib.util.find_spec("spatial_correlation_sampler"):
            table[name][1]["spatial-correlation-sampler"] = sampler(radius, stride)
    table["warping"] = warped, {"grid_sample": warped_reference, "four gathers": four_gathers}
    for side in (3, 5, 7):
        rivals = {"unfold": local_convolution_reference, "shift, multiply, add": shifts}
        table[f"f-lcon {side}x{side}"] = local_convolution, rivals
    return table


def four_gathers(features: Tensor, flow: Tensor) -> Tensor:
    """Warping of one pair in plain torch: the four cells around each place, by index, times their weights."""
    _, channels, height, width = features.shape
    cells = features[0].flatten(1)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x, y = x.to(flow) + flow[0, 0], y.to(flow) + flow[0, 1]
    left, top = x.floor(), y.floor()
    found = torch.zeros_like(cells)
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            share = (1 - (x - column).abs()) * (1 - (y - row).abs()) * inside
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            found = found + cells[:, place.flatten().long()] * share.flatten()
    return found.view(1, channels, height, width)


def shifts(flow: Tensor, distance: Tensor) -> Tensor:
    """The feature-driven local convolution in plain torch: shift, multiply, add over the window."""
    side = round(distance.shape[1] ** 0.5)
    height, width = flow.shape[-2:]
    filters = (-(distance**2)).softmax(1)
    around = F.pad(flow, 4 * [side // 2])
    cells = [around[..., y : y + height, x : x + width] for y in range(side) for x in range(side)]
    return sum((cell * filters[:, k : k + 1] for k, cell in enumerate(cells)), torch.zeros_like(flow))


def inputs(name: str, channels: int, size: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(0)
    if name.startswith("correlation"):
        shapes, scale = ((1, channels, *size), (1, channels, *size)), 1.0
    elif name == "warping":
        shapes, scale = ((1, channels, *size), (1, 2, *size)), 4.0
    else:
        shapes, scale = ((1, 2, *size), (1, int(name[-1]) ** 2, *size)), 1.0
    return torch.randn(shapes[0], generator=make).to(device), (scale * torch.randn(shapes[1], generator=make)).to(
        device
    )


def spent(kernel: Kernel, a: Tensor, b: Tensor, backward: bool) -> tuple[float, float]:
    """Milliseconds of the wall clock and of all threads."""
    if a.is_cuda:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    if backward:
        found = kernel(a, b)
        torch.autograd.grad(found, (a, b), torch.ones_like(found))
    else:
        with torch.inference_mode():
            kernel(a, b)
    if a.is_cuda:
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def compare(name: str, layout: str, backward: bool, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    ours, rivals = kernels(arguments.device.startswith("cuda"))[name]
    height, width = (int(side) for side in arguments.size.split("x"))
    pair = inputs(name, arguments.channels, (height, width), arguments.device)
    a, b = (each.contiguous(memory_format=LAYOUTS[layout]).requires_grad_(backward) for each in pair)
    with torch.no_grad():
        exact = next(iter(rivals.values()))(a.double(), b.double())
        difference = float((ours(a, b) - exact).abs().max())
    runners = {"ours": ours, **rivals}
    times: dict[str, list[tuple[float, float]]] = {which: [] for which in runners}
    for turn in range(arguments.repeats + 2):
        for which, kernel in runners.items():
            found = spent(kernel, a, b, backward)
            if turn >= 2:
                times[which].append(found)
    wall, cpu = ({w: statistics.median(t[i] for t in found) for w, found in times.items()} for i in (0, 1))
    common = {"kernel": name, "layout": layout, "pass": "both" if backward else "forward", "difference": difference}
    return [
        {
            **common,
            "ours": wall["ours"],
            "rival": rival,
            "theirs": wall[rival],
            "ratio": wall[rival] / wall["ours"],
            "cpu_ratio": cpu[rival] / cpu["ours"],
        }
        for rival in rivals
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", default="109x256", help="height x width of the maps")
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    for name in kernels(on_cuda=False):
        for layout in LAYOUTS:
            for backward in (False, True):
                rows += compare(name, layout, backward, arguments)
    title = f"{arguments.channels} channels, {arguments.size}, {arguments.device}, {arguments.threads} threads"
    show(f"{title}: ratios above 1 are ours faster", rows, COLUMNS)
    write(arguments.output, arguments, {"rows": rows})


if __name__ == "__main__":
    main()
