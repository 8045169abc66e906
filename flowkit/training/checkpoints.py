"""Checkpoints: all that a run needs to go on, in pieces of bounded size with an index, replaced wholly or not at all.

A folder holds `index.json` and the pieces, which are safetensors files. New pieces are written under new names, then the index
is replaced, then the old pieces go: whenever a run is killed, the index names pieces that are whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowkit.errors import WeightsError
from flowkit.io.atomic import remove_stale, write_bytes, write_text

FORMAT = "flowkit-checkpoint-1"
INDEX = "index.json"
SHARD_SIZE = 15 * 2**20
"""Bytes of the largest piece."""
_OVERHEAD = 512
"""Bytes that a tensor takes in a piece's header, at most, beside its name."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and facts that JSON can hold. Names start with what the tensor belongs to: "model/", "ema/", ..."""

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of "name/...", without that."""
        prefix = f"{name}/"
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


def write_checkpoint(folder: Path, checkpoint: Checkpoint, shard_size: int = SHARD_SIZE) -> None:
    """Put the checkpoint in the place of the one in `folder`, in files of at most `shard_size` bytes and the index.

    OutputError when it cannot be written (full disk); then the old one is still there.
    """
    from safetensors.torch import save

    step = int(checkpoint.facts.get("step", 0))
    pieces: dict[str, dict[str, Any]] = {}
    table: dict[str, dict[str, Any]] = {}
    written: list[Path] = []
    remove_stale(folder)
    old = _piece_names(folder)
    try:
        for number, piece in enumerate(_packed(checkpoint.tensors, shard_size)):
            data = save({key: part for key, _, part in piece})
            name = _new_name(f"{step:08d}-{number:03d}", old)
            write_bytes(folder / name, data)
            written.append(folder / name)
            pieces[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for key, tensor, _ in piece:
                whole = checkpoint.tensors[tensor]
                entry = table.setdefault(tensor, {"shape": list(whole.shape), "parts": []})
                entry["parts"].append([name, key])
        index = {"format": FORMAT, **checkpoint.facts, "pieces": pieces, "tensors": table}
        write_text(folder / INDEX, json.dumps(index, indent=1, allow_nan=False) + "\n")
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    for name in old - pieces.keys():
        (folder / name).unlink(missing_ok=True)


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the checkpoint in `folder`; WeightsError when there is none that can be read."""
    path = folder / INDEX
    try:
        index: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{folder}: no checkpoint there ({INDEX} is missing)") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise WeightsError(f"{path}: not an index of a checkpoint of this version of flowkit")
    return index


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, its pieces checked by their hashes; WeightsError when something is missing or corrupt."""
    from safetensors.torch import load

    index = read_index(folder)
    parts: dict[tuple[str, str], Tensor] = {}
    for name, piece in index["pieces"].items():
        try:
            data = (folder / name).read_bytes()
        except OSError as error:
            raise WeightsError(
                f"{folder / name}: a piece of the checkpoint cannot be read ({error.strerror})"
            ) from error
        if hashlib.sha256(data).hexdigest() != piece["sha256"]:
            raise WeightsError(
                f"{folder / name}: this piece of the checkpoint is corrupt (its sha256 is not that of the index)"
            )
        parts |= {(name, key): tensor for key, tensor in load(data).items()}
    tensors = {}
    for tensor, entry in index["tensors"].items():
        found = [parts[piece, key].reshape(-1) for piece, key in entry["parts"]]
        tensors[tensor] = torch.cat(found).reshape(entry["shape"])
    return Checkpoint(tensors, {k: v for k, v in index.items() if k not in ("format", "pieces", "tensors")})


def clear(folder: Path) -> None:
    """Remove the checkpoint in `folder`, if there is one."""
    (folder / INDEX).unlink(missing_ok=True)
    for name in _piece_names(folder):
        (folder / name).unlink()


def _packed(tensors: Mapping[str, Tensor], shard_size: int) -> Iterator[list[tuple[str, str, Tensor]]]:
    """Pieces as lists of (key in the piece, name of the tensor, its part); a tensor that is too large is cut."""
    piece: list[tuple[str, str, Tensor]] = []
    room = shard_size - _OVERHEAD
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        overhead = _OVERHEAD + len(name.encode())
        largest = max(1, (shard_size - _OVERHEAD - overhead) // tensor.element_size())
        parts = flat.split(largest) if len(flat) else (flat,)
        for number, part in enumerate(parts):
            needed = part.numel() * part.element_size() + overhead
            if piece and needed > room:
                yield piece
                piece, room = [], shard_size - _OVERHEAD
            key = name if len(parts) == 1 else f"{name}#{number}"
            piece.append((key, name, part.clone()))
            room -= needed
    if piece:
        yield piece


def _piece_names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.safetensors")} if folder.is_dir() else set()


def _new_name(stem: str, taken: set[str]) -> str:
    """A file name that no old piece has: the same step may be written twice."""
    name, count = f"{stem}.safetensors", 0
    while name in taken:
        count += 1
        name = f"{stem}-{count}.safetensors"
    return name
