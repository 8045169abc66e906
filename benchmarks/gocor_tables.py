"""The tables of gocor.py: both networks side by side, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowkit.evaluation.scores import TASKS

EVEN = 0.005
"""Means that differ by less than this share are called even."""
Row = dict[str, Any]


def compared(name: str, plain: Sequence[Row], gocor: Sequence[Row], prefix: str = "") -> Row:
    """The row of a set from both networks' scores by pair: their figures, and by how much GOCor's are better.

    With `prefix` of the scores that are called so, of the pairs that have them.
    """
    both = [_scores(pairs, prefix) for pairs in (plain, gocor)]
    willow = "pck_0.1" in both[0][0]
    low, high, key = ("pck_0.05", "pck_0.1", "pck_0.1") if willow else ("within_1", "within_5", "epe")
    means = [TASKS["matching" if willow else "flow"].summarise(scores) for scores in both]
    row: Row = {"set": name, "pairs": len(both[0])}
    if not willow:
        row |= {"epe_plain": means[0]["aepe"], "epe_gocor": means[1]["aepe"]}
        row["gain"] = 1 - row["epe_gocor"] / row["epe_plain"] if row["epe_plain"] else math.nan
    for short, long in (("low", low), ("high", high)):
        row |= {f"{short}_plain": means[0][long], f"{short}_gocor": means[1][long]}
    if prefix:
        row |= {
            f"off_{who}": float(np.mean([s["off"] for s in scores]))
            for who, scores in zip(("plain", "gocor"), both, strict=True)
        }
    errors = [[(-1 if willow else 1) * score[key] for score in scores] for scores in both]
    row["better"] = sum(g < p for p, g in zip(*errors, strict=True))
    row["verdict"] = verdict(row)
    return row


def _scores(pairs: Sequence[Row], prefix: str) -> list[Row]:
    named = [{key: value for key, value in pair.items() if key.startswith(prefix)} for pair in pairs]
    return [{key.removeprefix(prefix): value for key, value in scores.items()} for scores in named if scores]


def verdict(row: Row) -> str:
    """By how much GOCor wins or loses: of the error, or where there is none, in points of PCK-.1."""
    if "gain" in row:
        amount, text = row["gain"], f"{100 * abs(row['gain']):.1f} %"
    else:
        amount = row["high_gocor"] - row["high_plain"]
        text = f"{100 * abs(amount):.1f} points"
    if math.isnan(amount):
        return ""
    return "even" if abs(amount) < EVEN else f"{'wins' if amount > 0 else 'loses'} by {text}"


def accuracy_table(rows: Sequence[Row]) -> str:
    """Both networks' figures side by side, "plain / GOCor"."""
    cells = [["set", "pairs", "EPE px", "PCK-1 %", "PCK-5 %", "better on", "GOCor"]]
    for row in rows:
        epe = f"{row['epe_plain']:.2f} / {row['epe_gocor']:.2f}" if "epe_plain" in row else ""
        shares = [f"{100 * row[f'{k}_plain']:.1f} / {100 * row[f'{k}_gocor']:.1f}" for k in ("low", "high")]
        name = f"{row['set']} (PCK-.05, PCK-.1)" if "epe_plain" not in row else row["set"]
        cells.append([name, str(row["pairs"]), epe, *shares, f"{row['better']} of {row['pairs']}", row["verdict"]])
    table = markdown(cells)
    for row in rows:
        if "off_plain" in row:
            table += (
                f"\n{row['set']}: {100 * row['off_plain']:.1f} % of the pixels are half a tile or more off, with GOCor "
            )
            table += f"{100 * row['off_gocor']:.1f} %.\n"
    return table


def speed_table(rows: Sequence[Row]) -> str:
    cells = [["size", "plain s", "GOCor s", "ratio", "plain MiB", "GOCor MiB"]]
    for row in rows:
        memory = [f"{row[f'peak_{who}'] / 2**20:.0f}" if row[f"peak_{who}"] else "" for who in ("plain", "gocor")]
        seconds = [f"{row[f'seconds_{who}']:.3f}" for who in ("plain", "gocor")]
        cells.append([row["size"], *seconds, f"{row['ratio']:.2f}", *memory])
    return markdown(cells)


def steps_table(rows: Sequence[Row], sets: Sequence[str]) -> str:
    """Mean error in pixels by number of steps, and of the plain network."""
    cells = [["steps", *(f"{name} EPE px" for name in sets)]]
    for steps in dict.fromkeys(row["steps"] for row in rows):
        found = {row["set"]: row["epe"] for row in rows if row["steps"] == steps}
        cells.append([str(steps), *(f"{found[name]:.2f}" if name in found else "" for name in sets)])
    return markdown(cells)


def markdown(cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[k]) for line in cells) for k in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
