"""Weights that flowkit may neither ship nor download for the user: files that they got from the authors themselves.

Given by path, or found under their official name in flowkit's cache folder (`flowkit.io.weights.cache_folder`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flowkit.errors import WeightsError
from flowkit.io.weights import cache_folder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OwnWeights:
    """The official files of a feature, the best first; whose they are, and on which terms."""

    feature: str
    files: tuple[str, ...]
    licence: str
    source: str

    @property
    def note(self) -> str:
        """For the log and the provenance."""
        return f"{self.feature} runs on a file of yours; the official weights: licence {self.licence}, {self.source}"


def find_own_weights(wanted: OwnWeights, given: str | Path | None = None) -> Path:
    """The file `given`, else the first official one in the cache folder; WeightsError saying where to get it."""
    folder = cache_folder()
    if given is not None:
        path = Path(given).expanduser()
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file (given for {wanted.feature!r}); {_where(wanted, folder)}")
        found: Path | None = path
    else:
        found = next((folder / name for name in wanted.files if (folder / name).is_file()), None)
    if found is None:
        raise WeightsError(
            f"{wanted.files[0]}: the weights of {wanted.feature!r} are not here; {_where(wanted, folder)}"
        )
    _announce(wanted.note, found)
    return found


def _where(wanted: OwnWeights, folder: Path) -> str:
    return (
        f"get it from {wanted.source} (licence {wanted.licence}) and give it with --feature-weights {wanted.feature}=FILE, "
        f"or put it into {folder}"
    )


@cache
def _announce(note: str, path: Path) -> None:
    """Say once on which terms a file may be used."""
    log.info("%s: %s", path, note)
