"""What `speed` measured, as tables on screen, as CSV and as JSON. Ratios are ptlflow's figures over ours."""

from __future__ import annotations

import csv
import io
import os
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowkit
from flowkit.evaluation.speed import OURS, BlockCost, Measured, Settings

if TYPE_CHECKING:
    from rich.table import Table

JSON_VERSION = 1
MIB = 2**20
Cell = Callable[[Mapping[str, Any]], str]


def network_table(found: Sequence[Measured], settings: Settings) -> Table:
    """The paper's Table 5: a row for each network."""
    from rich.table import Table

    height, width = settings.size
    threads = f"{settings.threads} thread{'s' * (settings.threads != 1)}"
    title = f"{height}x{width}, {settings.device}, {threads}, {settings.precision}, median of {settings.repeats} turns"
    random = list(dict.fromkeys(one.model for one in found if one.who == OURS and one.facts.get("weights") == "random"))
    caption = f"random weights, on which speed hardly depends: {', '.join(random)}" if random else None
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    records = [network_record(one, found) for one in found]
    shown = [(heading, cell) for heading, cell in _NETWORK.items() if any(cell(record) for record in records)]
    for heading, _ in shown:
        table.add_column(heading, justify="left" if heading in ("network", "by", "") else "right", overflow="fold")
    for record in records:
        table.add_row(*(cell(record) for _, cell in shown))
    return table


def block_table(one: Measured) -> Table:
    """The paper's Table 2: a row for each block of a network, those inside another indented."""
    from rich.table import Table

    table = Table(title=f"{one.model} by block", title_justify="left")
    for heading in ("block", "layers", "M param.", "GFLOPs", "ms", "%"):
        table.add_column(heading, justify="left" if heading == "block" else "right")
    for block in one.blocks:
        name = block.name if block.parent is None else "  " + block.name.removeprefix(f"{block.parent}.")
        table.add_row(name, *_costs(block, one.blocks_seconds))
    outer = [block for block in one.blocks if block.parent is None]
    whole = {
        key: sum(getattr(block, key) for block in outer)
        for key in ("layers", "parameters", "convolutions", "products", "seconds")
    }
    table.add_section()
    table.add_row("all", *_costs(BlockCost("all", None, 1, **whole), one.blocks_seconds))
    return table


def network_record(one: Measured, found: Sequence[Measured]) -> dict[str, Any]:
    """A network as plain values; null is what was not measured. Seconds, bytes, FLOPs."""
    ours = next((other for other in found if other.who == OURS and other.model == one.model), None)
    compared = ours if ours is not one else None
    return {
        "model": one.model,
        "by": one.who,
        "status": "failed" if one.error else "ok",
        "message": one.error or "",
        "device": one.device,
        "height": one.size[0],
        "width": one.size[1],
        "iterations": one.iterations,
        "weights": one.facts.get("weights"),
        "torch": one.facts.get("torch"),
        "layers": one.facts.get("layers"),
        "parameters": one.facts.get("parameters"),
        "flops_convolutions": None if one.error else one.convolutions,
        "flops_products": None if one.error else one.products,
        "seconds": one.median,
        "seconds_min": min(one.seconds, default=None),
        "seconds_max": max(one.seconds, default=None),
        "frames_per_second": 1 / one.median if one.median else None,
        "peak_bytes": one.peak,
        "peak_bytes_total": one.peak_total,
        "ratio_seconds": _ratio(one.median, compared.median) if compared else None,
        "ratio_peak": _ratio(one.peak, compared.peak) if compared else None,
    }


def block_records(one: Measured) -> list[dict[str, Any]]:
    """The blocks of a network as plain values, those inside others after them."""
    return [
        {
            "block": block.name,
            "inside": block.parent,
            "calls": block.calls,
            "layers": block.layers,
            "parameters": block.parameters,
            "flops_convolutions": block.convolutions,
            "flops_products": block.products,
            "seconds": block.seconds,
        }
        for block in one.blocks
    ]


def json_record(found: Sequence[Measured], settings: Settings) -> dict[str, Any]:
    """Everything as one JSON document."""
    height, width = settings.size
    return {
        "kind": "speed",
        "version": JSON_VERSION,
        "flowkit": flowkit.__version__,
        "arguments": {
            "size": {"height": height, "width": width},
            "device": settings.device,
            "precision": settings.precision,
            "repeats": settings.repeats,
            "threads": settings.threads,
        },
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "gpu": next((one.facts["gpu"] for one in found if one.facts.get("gpu")), None),
            "python": platform.python_version(),
        },
        "networks": [
            {**network_record(one, found), "all_seconds": list(one.seconds), "blocks": block_records(one)}
            for one in found
        ],
    }


def networks_csv(found: Sequence[Measured]) -> str:
    """A line for each network."""
    return _csv([network_record(one, found) for one in found])


def blocks_csv(found: Sequence[Measured]) -> str:
    """A line for each block of each network."""
    return _csv([{"model": one.model, "by": one.who, **block} for one in found for block in block_records(one)])


def _number(key: str, factor: float, digits: int) -> Cell:
    def cell(record: Mapping[str, Any]) -> str:
        return "" if record[key] is None else f"{record[key] * factor:.{digits}f}"

    return cell


_NETWORK: dict[str, Cell] = {
    "network": lambda record: str(record["model"]),
    "by": lambda record: str(record["by"]),
    "iters": _number("iterations", 1, 0),
    "layers": _number("layers", 1, 0),
    "M param.": _number("parameters", 1e-6, 2),
    "GFLOPs": _number("flops_convolutions", 1e-9, 1),
    "ms": _number("seconds", 1e3, 1),
    "frames/s": _number("frames_per_second", 1, 2),
    "peak MiB": _number("peak_bytes", 1 / MIB, 0),
    "ms ratio": _number("ratio_seconds", 1, 2),
    "peak ratio": _number("ratio_peak", 1, 2),
    "": lambda record: str(record["message"]),
}
"""Heading -> what stands there; a column without anything is left out."""


def _costs(block: BlockCost, total: float) -> tuple[str, ...]:
    return (
        str(block.layers),
        f"{block.parameters / 1e6:.3f}",
        f"{block.convolutions / 1e9:.2f}",
        f"{1e3 * block.seconds:.2f}",
        f"{100 * block.seconds / total:.1f}",
    )


def _ratio(theirs: float | None, ours: float | None) -> float | None:
    return theirs / ours if theirs is not None and ours else None


def _processor() -> str:
    with suppress(OSError):
        if match := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return match[1]
    return platform.processor() or platform.machine()


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]) if lines else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()
