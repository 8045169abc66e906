"""Results as a table on screen, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import flowkit
from flowkit.datasets.sparse_correspondences import THRESHOLDS, THRESHOLDS_GOCOR
from flowkit.evaluation.metrics import MMA_THRESHOLDS
from flowkit.evaluation.protocols import PairResult, Row

if TYPE_CHECKING:
    from rich.table import Table

JSON_VERSION = 1

# key: (title, factor, digits)
COLUMNS: dict[str, tuple[str, float, int]] = {
    "pairs": ("pairs", 1, 0),
    "failed": ("failed", 1, 0),
    "aepe": ("AEPE", 1, 3),
    "epe_pooled": ("pooled", 1, 3),
    "aepe_visible": ("AEPE noc", 1, 3),
    "fl": ("Fl %", 100, 2),
    "fl_visible": ("Fl noc %", 100, 2),
    "within_1": ("≤1 px %", 100, 1),
    "within_3": ("≤3 px %", 100, 1),
    "within_5": ("≤5 px %", 100, 1),
    "mean_within_1": ("≤1 mean %", 100, 1),
    "mean_within_3": ("≤3 mean %", 100, 1),
    "mean_within_5": ("≤5 mean %", 100, 1),
    "coverage": ("covered %", 100, 1),
    "ause": ("AUSE", 1, 3),
    "features": ("features", 1, 0),
    "matches": ("matches", 1, 0),
    **{f"precision_{t}": (f"P@{t} %", 100.0, 1) for t in MMA_THRESHOLDS},
    "labels_within_5": ("labels ≤5 px %", 100, 1),
    "epipolar_error_median": ("epipolar px", 1, 2),
    "pck_5": ("PCK 5 px %", 100, 1),
    "pck_10": ("PCK 10 px %", 100, 1),
    "pck_0.05": ("PCK .05 %", 100, 1),
    "pck_0.1": ("PCK .1 %", 100, 1),
    **{f"pooled_pck_{t:g}": (f"PCK@{t:g} %", 100.0, 1) for t in sorted({*THRESHOLDS, *THRESHOLDS_GOCOR})},
    "auc_3": ("AUC@3", 100, 1),
    "auc_5": ("AUC@5", 100, 1),
    "auc_10": ("AUC@10", 100, 1),
    "auc_20": ("AUC@20", 100, 1),
    **{f"map_{t}": (f"mAP@{t}", 100.0, 1) for t in (5, 10, 20)},
    **{f"acc_{t}": (f"<{t}° %", 100.0, 1) for t in (5, 10, 15, 20)},
    "below_3": ("n <3 px", 1, 0),
    "below_5": ("n <5 px", 1, 0),
    "below_10": ("n <10 px", 1, 0),
    "correct_3": ("<3 px %", 100, 1),
    "correct_5": ("<5 px %", 100, 1),
    "correct_10": ("<10 px %", 100, 1),
    "corner_error_median": ("corner px", 1, 2),
    "points_error": ("points px", 1, 2),
    "rotation_error_median": ("R °", 1, 2),
    "translation_error_median": ("t °", 1, 2),
    "rotation_error_below_10": ("R <10° %", 100, 1),
    "translation_error_below_10": ("t <10° %", 100, 1),
    "t_err": ("t_err %", 100, 2),
    "r_err": ("r_err °/100 m", 1, 3),
    "rpe_translation": ("RPE m", 1, 4),
    "rpe_rotation": ("RPE °", 1, 3),
    "rotation_error_mean": ("R mean °", 1, 3),
    "translation_error_mean": ("t mean °", 1, 2),
    "ate": ("ATE m", 1, 3),
    "ate_scaled": ("ATE Sim(3) m", 1, 3),
    "within_0.25m_2deg": (".25 m 2° %", 100, 1),
    "within_0.5m_5deg": (".5 m 5° %", 100, 1),
    "within_5m_10deg": ("5 m 10° %", 100, 1),
    "within_0.5m_2deg": (".5 m 2° %", 100, 1),
    "within_1m_5deg": ("1 m 5° %", 100, 1),
    "position_error_median": ("position", 1, 3),
    "seconds": ("s/pair", 1, 2),
    "seconds_first": ("first s", 1, 2),
}
"""How each value of a row is shown; in JSON and CSV shares stay in [0, 1] and keep their keys."""
_FILES_ONLY = {
    *("mean_within_3", "below_3", "below_5", "below_10", "acc_5", "acc_10", "acc_15", "acc_20"),
    *(f"precision_{t}" for t in MMA_THRESHOLDS if t not in (1, 3, 5, 10)),
}
"""Values that would make the table on the screen too wide."""


def screen_table(rows: Sequence[Row]) -> Table:
    """The rows of one task for the terminal; columns without any value are left out."""
    from rich.table import Table

    shown = [key for key in COLUMNS if key not in _FILES_ONLY]
    keys = [key for key in shown if any(not math.isnan(row.values.get(key, math.nan)) for row in rows)]
    table = Table(title=rows[0].task if rows else None, title_justify="left")
    for title in ("data set", "method"):
        table.add_column(title, overflow="fold")
    for key in keys:
        table.add_column(COLUMNS[key][0], justify="right")
    for i, row in enumerate(rows):
        last = i + 1 == len(rows) or rows[i + 1].dataset != row.dataset
        table.add_row(
            f"{row.dataset} {row.group}".strip(),
            row.method,
            *(_shown(row.values, key) for key in keys),
            end_section=last,
        )
    return table


def rows_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table for each task, with the columns of `screen_table`; n/a where a value is not defined."""
    tables = []
    for task in dict.fromkeys(row.task for row in rows):
        mine = [row for row in rows if row.task == task]
        keys = [key for key in COLUMNS if key not in _FILES_ONLY and any(key in row.values for row in mine)]
        lines = [[task, "method", *(COLUMNS[key][0] for key in keys)], ["---"] * 2 + ["---:"] * len(keys)]
        lines += [
            [f"{row.dataset} {row.group}".strip(), row.method, *(_shown(row.values, key) or "n/a" for key in keys)]
            for row in mine
        ]
        tables.append("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(tables)


def rows_csv(rows: Sequence[Row]) -> str:
    """The rows, one line for each data set and method."""
    keys = [key for key in COLUMNS if any(key in row.values for row in rows)]
    lines = [
        [row.task, row.dataset, row.group, row.method, *(_plain(row.values.get(key)) for key in keys)] for row in rows
    ]
    return _csv(["task", "dataset", "group", "method", *keys], lines)


def pairs_csv(results: Sequence[PairResult]) -> str:
    """Every pair, one line for each method."""
    keys = list(dict.fromkeys(key for result in results for key in result.scores))
    lines = [
        [
            r.task,
            r.dataset,
            r.group.name if r.group else "",
            r.sample,
            r.method,
            r.status,
            f"{r.seconds:.4f}",
            int(r.first),
            r.message,
        ]
        + [_plain(r.scores.get(key)) for key in keys]
        for r in results
    ]
    return _csv(["task", "dataset", "group", "sample", "method", "status", "seconds", "first", "message", *keys], lines)


def json_record(
    rows: Sequence[Row], results: Sequence[PairResult], arguments: Mapping[str, object]
) -> dict[str, object]:
    """Rows and pairs as one JSON document; null is an infinite (failed) or undefined value."""
    return {
        "kind": "bench",
        "version": JSON_VERSION,
        "flowkit": flowkit.__version__,
        "arguments": dict(arguments),
        "rows": [
            {"task": row.task, "dataset": row.dataset, "group": row.group, "method": row.method, **_finite(row.values)}
            for row in rows
        ],
        "pairs": [
            {
                "task": result.task,
                "dataset": result.dataset,
                "group": result.group.name if result.group else "",
                "sample": result.sample,
                "method": result.method,
                "status": result.status,
                "message": result.message,
                "seconds": result.seconds,
                "first": result.first,
                "scores": _finite(result.scores),
            }
            for result in results
        ],
    }


def _shown(values: Mapping[str, float], key: str) -> str:
    value = values.get(key, math.nan)
    _, factor, digits = COLUMNS[key]
    return "" if math.isnan(value) else "∞" if math.isinf(value) else f"{value * factor:.{digits}f}"


def _plain(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}


def _csv(head: list[str], lines: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([head, *lines])
    return buffer.getvalue()
