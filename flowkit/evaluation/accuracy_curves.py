"""Mean matching accuracy over the threshold, as a table and as a picture (D2-Net, Dusmanu et al., CVPR 2019, Figure 4)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flowkit.evaluation.metrics import MMA_THRESHOLDS
from flowkit.evaluation.protocols import Row

if TYPE_CHECKING:
    import numpy as np

_COUNTS = ("pairs", "features", "matches")


def curve_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of `matching` that have an accuracy at every threshold."""
    return [row for row in rows if row.task == "matching" and all(math.isfinite(value) for value in _accuracies(row))]


def curves_csv(rows: Sequence[Row]) -> str:
    """A line for each data set (or group of it) and method: pairs, mean features and matches, MMA at 1 .. 10 px."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["dataset", "group", "method", *_COUNTS, *(f"mma_{t}" for t in MMA_THRESHOLDS)])
    for row in curve_rows(rows):
        values = [*(row.values.get(key, math.nan) for key in _COUNTS), *_accuracies(row)]
        writer.writerow([row.dataset, row.group, row.method, *(f"{value:.6g}" for value in values)])
    return buffer.getvalue()


def curves_picture(rows: Sequence[Row]) -> np.ndarray:
    """(H, W, 3) uint8: a panel for each data set and then its groups; methods with their mean numbers of matches."""
    from flowkit.viz.curves import Panel, draw_curves

    panels: dict[str, dict[str, list[float]]] = {}
    kept = curve_rows(rows)
    datasets = list(dict.fromkeys(row.dataset for row in kept))
    kept.sort(key=lambda row: (datasets.index(row.dataset), row.group != ""))
    for row in kept:
        panels.setdefault(f"{row.dataset} {row.group}".strip(), {})[row.method] = _accuracies(row)
    whole = {row.method: row for row in kept if not row.group}
    named = {method: f"{method}: {_counts(row)}" for method, row in whole.items()}
    drawn = [
        Panel(title, {named.get(method, method): values for method, values in curves.items()})
        for title, curves in panels.items()
    ]
    return draw_curves(drawn, MMA_THRESHOLDS, "threshold in px", "MMA %")


def _counts(row: Row) -> str:
    counts = [(name, row.values.get(name, math.nan)) for name in ("features", "matches")]
    return ", ".join(f"{value:.0f} {name}" for name, value in counts if math.isfinite(value))


def _accuracies(row: Row) -> list[float]:
    return [row.values.get(f"precision_{t}", math.nan) for t in MMA_THRESHOLDS]
