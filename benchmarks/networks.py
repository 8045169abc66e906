"""Networks here against torchvision's and ptlflow's: the same weights and pictures, so the same flow; time and memory.

    .venv/bin/python benchmarks/networks.py --torchvision-python VENV1/bin/python --ptlflow-python VENV2/bin/python
        [--models raft raft-small liteflownet liteflownet2 pwcnet] [--sizes 436x1024 1080x1920] [--threads 2] [--repeats 5]
        [--device cpu] [--output networks.json]

Each peer lives in an environment of its own, with this torch: `pip install torch==...`, `pip install --no-deps torchvision`;
for ptlflow also `pip install --no-deps ptlflow timm` and what it then asks for. A torchvision wheel made for CUDA will do
beside a CPU-only torch: RAFT needs none of its compiled operators. torchvision has RAFT alone, and takes no side below 128.

Weights are random, pictures smooth noise. Every measurement is a process of its own, which warms up on a small picture and
then runs once; the processes take turns. Seconds are medians over the repeats, "cpu" those that all threads worked; peak
memory is the process's resident size (on CUDA: what the allocator reached). Sizes are padded to multiples of 64 beforehand.

ptlflow's LiteFlowNets and PWC-Net do some things otherwise than the published networks: tests/models/test_ptlflow_parity.py
names them one by one and shows that the networks are equal without them. The work is the same; the flows here differ by them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the peers' Pythons have no flowkit; these two need no more
from flowkit.evaluation.speed_worker import PEERS, declare_operators

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


RAFTS = ("raft", "raft-small")


def flowkit_network(
    model: str, state: dict[str, torch.Tensor], iterations: int, device: str, lookup: str = ""
) -> Network:
    from flowkit.models.registry import build, network_spec, resolve

    net = build(model).eval()
    net.load_state_dict(resolve(network_spec(model).convert)(state))
    net = net.to(device, memory_format=torch.channels_last)
    options = {"iterations": iterations, "lookup": lookup} if model in RAFTS else {}
    return lambda a, b: net(a, b, **options).flow


def torchvision_network(model: str, state: dict[str, torch.Tensor], iterations: int, device: str) -> Network:
    declare_operators()
    from torchvision.models.optical_flow import raft_large, raft_small

    net = (raft_large if model == "raft" else raft_small)().eval()
    net.load_state_dict(state)
    net = net.to(device)
    return lambda a, b: net(2 * a - 1, 2 * b - 1, num_flow_updates=iterations)[-1]


def ptlflow_network(model: str, state: dict[str, torch.Tensor], iterations: int, device: str) -> Network:
    net = ptlflow_model(model, **({"iters": iterations} if model in RAFTS else {}))
    net.load_state_dict(state)
    net = net.to(device)
    # It takes BGR and pads by itself, which at these sizes does nothing.
    return lambda a, b: net({"images": torch.stack([a.flip(1), b.flip(1)], dim=1)})["flows"][:, 0]


def ptlflow_model(model: str, **options: int) -> torch.nn.Module:
    declare_operators()
    module, _, name = PEERS[model].partition(":")
    return getattr(importlib.import_module(module), name)(**options).eval()


NETWORKS: dict[str, Callable[..., Network]] = {
    "flowkit": flowkit_network,
    "torchvision": torchvision_network,
    "ptlflow": ptlflow_network,
}


def work(job: dict[str, Any]) -> dict[str, Any]:
    """One measurement, in the interpreter of the one that is measured."""
    torch.set_num_threads(job["threads"])
    device = job["device"]
    state = torch.load(job["weights"], weights_only=True)
    options = {"lookup": job["lookup"]} if job["lookup"] else {}
    net = NETWORKS[job["which"]](job["model"], state, job["iterations"], device, **options)
    a, b = (picture.to(device) for picture in torch.load(job["pictures"], weights_only=True))

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    with torch.no_grad():
        net(a[..., :128, :128].contiguous(), b[..., :128, :128].contiguous())
        if device.startswith("cuda"):
            net(a, b)  # kernels are chosen by size there
            torch.cuda.reset_peak_memory_stats()
        wait()
        wall, cpu = time.perf_counter(), time.process_time()
        flow = net(a, b)
        wait()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    torch.save(flow.float().cpu(), job["flow"])
    if device.startswith("cuda"):
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"wall": wall, "cpu": cpu, "peak_gib": peak, "torch": torch.__version__}


def measure(python: str, job: dict[str, Any]) -> dict[str, Any]:
    threads = {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    done = subprocess.run(
        [python, __file__, "--work", json.dumps(job)],
        env={**os.environ, **threads},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{job['which']}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def torchvision_shapes(model: str) -> dict[str, list[int]]:
    """Name -> shape of torchvision's state dict, asked in its interpreter."""
    declare_operators()
    from torchvision.models.optical_flow import raft_large, raft_small

    state = (raft_large if model == "raft" else raft_small)().state_dict()
    return {name: list(tensor.shape) for name, tensor in state.items()}


def in_torchvision_names(python: str, model: str, ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our tensors under torchvision's names: its own names go through the converter, each with a number in its tensor."""
    from flowkit.models.convert_raft import convert

    answer = subprocess.run([python, __file__, "--shapes", model], capture_output=True, text=True, check=True).stdout
    shapes: dict[str, list[int]] = json.loads(answer.strip().splitlines()[-1])
    names = list(shapes)
    numbered = {name: torch.full(shapes[name], float(number)) for number, name in enumerate(names)}
    return {names[int(tensor.flatten()[0])]: ours[name] for name, tensor in convert(numbered).items()}


def random_ptlflow_weights(model: str, path: str) -> None:
    """A file with ptlflow's own initial weights, but for the fixed enlargements, which are as published."""
    torch.manual_seed(0)
    state = ptlflow_model(model).state_dict()
    for name, tensor in state.items():
        if name.endswith(("up_flow.weight", "up_corr.weight")):
            rising = torch.arange(tensor.shape[-1]) + 0.5
            line = torch.minimum(rising, tensor.shape[-1] - rising) / (tensor.shape[-1] / 2)
            tensor.copy_((line[:, None] * line).expand_as(tensor))
    torch.save(state, path)


def make_weights(model: str, folder: Path, pythons: dict[str, str | None]) -> dict[str, str]:
    """Files with the same random weights under the names of each."""
    from flowkit.models.registry import build

    if model not in RAFTS:
        path, python = str(folder / f"{model}.pt"), pythons["ptlflow"]
        if python is None:
            raise SystemExit(f"{model}: only ptlflow has it; give --ptlflow-python")
        subprocess.run([python, __file__, "--random", model, path], capture_output=True, check=True)
        return dict.fromkeys(("flowkit", "ptlflow"), path)
    torchvision_python = pythons["torchvision"]
    torch.manual_seed(0)
    ours = build(model).state_dict()
    for name, tensor in ours.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif name.endswith(("running_mean", ".bias")):
            tensor.normal_(0, 0.1)
    # princeton-vl's layout, which ptlflow has, holds the skip path's norm twice.
    doubled = {name.replace("downsample.1", "norm3"): t for name, t in ours.items() if ".downsample.1." in name}
    layouts = {"flowkit": ours, "ptlflow": ours | doubled}
    if torchvision_python:
        layouts["torchvision"] = in_torchvision_names(torchvision_python, model, ours)
    files = {which: str(folder / f"{model}-{which}.pt") for which in layouts}
    for which, state in layouts.items():
        torch.save(state, files[which])
    return files


def make_pictures(size: str, folder: Path) -> str:
    height, width = (int(side) for side in size.split("x"))
    coarse = torch.rand(2, 3, height // 10, width // 10, generator=torch.Generator().manual_seed(0))
    pictures = F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False).clamp(0, 1)
    pictures = F.pad(pictures, (0, -width % 64, 0, -height % 64), mode="replicate")
    path = str(folder / f"{size}.pt")
    torch.save((pictures[:1].clone(), pictures[1:].clone()), path)
    return path


def compare(model: str, size: str, arguments: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """One row for each of flowkit's lookups and each peer."""
    pythons = {"torchvision": arguments.torchvision_python, "ptlflow": arguments.ptlflow_python}
    weights = make_weights(model, folder, pythons)
    pictures = make_pictures(size, folder)
    who = [("flowkit", sys.executable, lookup) for lookup in (arguments.lookups if model in RAFTS else [""])]
    who += [(name, python, "") for name, python in pythons.items() if python and name in weights]
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(arguments.repeats):
        for which, python, lookup in who:
            name = f"{which} {lookup}".strip()
            job = {
                "which": which, "model": model, "lookup": lookup, "weights": weights[which], "pictures": pictures,
                "iterations": arguments.iterations, "threads": arguments.threads, "device": arguments.device,
                "flow": str(folder / f"{name}.pt"),
            }  # fmt: skip
            runs.setdefault(name, []).append(measure(python, job))
            last = runs[name][-1]
            print(f"  {name}: {last['wall']:.2f} s, {last['cpu']:.2f} s of cpu", file=sys.stderr, flush=True)
    first = next(iter(runs))
    flows = {name: torch.load(folder / f"{name}.pt", weights_only=True) for name in runs}
    return [
        {
            "model": model,
            "size": size,
            "who": name,
            "wall": statistics.median(run["wall"] for run in done),
            "wall_min": min(run["wall"] for run in done),
            "cpu": statistics.median(run["cpu"] for run in done),
            "peak_gib": max(run["peak_gib"] for run in done),
            "difference_px": (flows[name] - flows[first]).abs().max().item(),
            "largest_px": flows[name].abs().max().item(),
            "torch": done[-1]["torch"],
        }
        for name, done in runs.items()
    ]


def show(rows: list[dict[str, Any]]) -> None:
    """Ratios are to the first row: above 1 is slower, or more memory, than flowkit."""
    first = rows[0]
    print(f"\n{first['model']}, {first['size']}")
    print(
        f"  {'':22}{'seconds':>9}{'smallest':>9}{'ratio':>7}{'cpu s':>9}{'ratio':>7}{'peak GiB':>10}{'max diff px':>13}"
    )
    for row in rows:
        print(
            f"  {row['who']:22}{row['wall']:9.2f}{row['wall_min']:9.2f}{row['wall'] / first['wall']:7.2f}"
            f"{row['cpu']:9.2f}{row['cpu'] / first['cpu']:7.2f}{row['peak_gib']:10.2f}{row['difference_px']:13.1e}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torchvision-python")
    parser.add_argument("--ptlflow-python")
    parser.add_argument("--models", nargs="+", default=["raft", "raft-small"], choices=list(PEERS))
    parser.add_argument("--sizes", nargs="+", default=["436x1024", "1080x1920"])
    parser.add_argument("--lookups", nargs="+", default=["auto"], help="flowkit's: auto, volume, ondemand")
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--shapes", help=argparse.SUPPRESS)
    parser.add_argument("--random", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.random:
        random_ptlflow_weights(*arguments.random)
        return
    if arguments.work or arguments.shapes:
        answer = work(json.loads(arguments.work)) if arguments.work else torchvision_shapes(arguments.shapes)
        print(json.dumps(answer))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {arguments.threads} threads, "
          f"{arguments.device}, {arguments.iterations} iterations, fp32")  # fmt: skip
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            for size in arguments.sizes:
                found = compare(model, size, arguments, Path(folder))
                show(found)
                rows += found
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
