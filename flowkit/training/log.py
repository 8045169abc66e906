"""The log of a run: one JSON object a line in log.jsonl, and the same figures for TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.errors import OutputError
from flowkit.io.atomic import write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "log.jsonl"
FOLDER = "tensorboard"


class RunLog:
    """Appends to the log of a run; every line has `kind`, `step` and `minutes`."""

    def __init__(self, output: Path, from_step: int = 0) -> None:
        """Go on with the log in `output` after `from_step`: what a killed run wrote beyond its checkpoint is dropped."""
        self._path, self._from_step, self._folder = output / FILE, from_step, output / FOLDER
        self._writer: SummaryWriter | None = None
        kept = [line for line in _lines(self._path) if json.loads(line)["step"] <= from_step] if from_step else []
        write_text(self._path, "".join(f"{line}\n" for line in kept))

    def write(self, kind: str, step: int, minutes: float, values: Mapping[str, float]) -> None:
        """One line; OutputError when it cannot be written."""
        entry: dict[str, Any] = {"kind": kind, "step": step, "minutes": round(minutes, 3)}
        entry |= {name: _rounded(value) for name, value in values.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, allow_nan=False) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror or error}; make room, then --resume"
            ) from error
        for name, value in values.items():
            if math.isfinite(value):
                self._board().add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Let TensorBoard's writer finish."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _board(self) -> SummaryWriter:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=self._from_step + 1 or None)
        return self._writer


def _lines(path: Path) -> list[str]:
    """The whole lines of a log; a killed run may have left half a one."""
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    whole = []
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            continue
        whole.append(line)
    return whole


def _rounded(value: float) -> float | None:
    """Six digits; JSON knows no NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
