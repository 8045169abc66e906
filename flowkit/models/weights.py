"""A network together with its weights: our own, or a file of the user's in our layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowkit.errors import UsageError, WeightsError
from flowkit.io import weights as files
from flowkit.models.registry import ModelSpec, build, network_spec, resolve, same_architecture

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class LoadedNetwork:
    """A network ready to run (eval mode, channels_last, fp32) on `device`, and which file its weights are from."""

    spec: ModelSpec
    module: torch.nn.Module
    device: str
    weights: Mapping[str, str]
    """Name of the weights file -> its sha256, for the provenance."""


def load_network(name: str, weights: str | Path | None = None, device: str = "cpu") -> LoadedNetwork:
    """The network of that name with its own weights, or with those of the file `weights`; loaded once per process.

    WeightsError when they are missing, unreadable, or not exactly those of this network in flowkit's layout: a checkpoint
    that others made is converted first (`convert_checkpoint`). UsageError for an unknown name.
    """
    path = weights_path(network_spec(name), weights)
    stat = path.stat()
    return _loaded(name, path, (stat.st_mtime_ns, stat.st_size), device, foreign=weights is not None)


def weights_path(spec: ModelSpec, override: str | Path | None = None) -> Path:
    """Where the weights of a network lie; WeightsError, with what to do, when there are none."""
    if override is None and spec.weights not in files.cards():
        ways = [f"train some with `flowkit train` and give them with --weights FILE ({spec.name})"]
        if spec.convert is not None:
            ways.append(
                f"convert an official checkpoint: `flowkit weights convert CHECKPOINT --model {spec.name} "
                "--output W.safetensors`, then --weights W.safetensors"
            )
        raise WeightsError(
            f"weights of {spec.name!r} are not shipped with this version of flowkit; {', or '.join(ways)}"
        )
    return files.find_weights(spec.weights or spec.name, override)


@lru_cache(maxsize=4)
def _loaded(name: str, path: Path, version: tuple[int, int], device: str, *, foreign: bool) -> LoadedNetwork:
    """`version` changes with the file, so that one that was replaced is read again."""
    import torch

    spec = network_spec(name)
    module = build(name)
    state = _tensors(files.load_checkpoint(spec.weights or name, path if foreign else None), path)
    if foreign:
        _refuse_others(spec, path, state, module)
    files.load_strictly(module, state, f"{name} ({path})" if foreign else name)
    module = module.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if foreign:
        return LoadedNetwork(spec, module, device, {path.name: files.sha256(path)})
    own = files.card(spec.weights or name)
    return LoadedNetwork(spec, module, device, {part: files.card(part).sha256 for part in (own.name, *own.parts)})


def _refuse_others(spec: ModelSpec, path: Path, state: Mapping[str, Any], module: torch.nn.Module) -> None:
    """WeightsError, saying what the file is instead, unless it holds the tensors of this network by name and shape."""
    made_for = files.metadata(path).get("model")
    if made_for is not None and not same_architecture(made_for, spec.name):
        raise WeightsError(f"{path}: weights of {made_for!r}, not of {spec.name!r}; give --model {made_for}")
    fault = mismatch(state, module)
    if fault is None:
        return
    remedy = "give a file that flowkit trained or converted for this model"
    if spec.convert is not None:
        remedy = (
            f"if it is a checkpoint of other software: `flowkit weights convert {path} --model {spec.name} "
            "--output W.safetensors`, then --weights W.safetensors"
        )
    raise WeightsError(f"{path}: not weights of {spec.name!r} in flowkit's layout ({fault}); {remedy}")


def _tensors(state: Any, path: Path) -> dict[str, Any]:
    """The tensors by name that a checkpoint holds, also where training left them in an entry beside other things."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{path}: holds no tensors by name, so it is no checkpoint of a network")
    return dict(state)


def mismatch(state: Mapping[str, Any], module: torch.nn.Module) -> str | None:
    """What keeps `state` from being loaded strictly, in a few words; None when nothing does."""
    import torch

    wanted = module.state_dict()
    if missing := sorted(wanted.keys() - state.keys()):
        return f"{len(missing)} of {len(wanted)} tensors are missing, {missing[0]} for one"
    if extra := sorted(state.keys() - wanted.keys()):
        return f"{len(extra)} tensors are unknown, {extra[0]} for one"
    for key, tensor in wanted.items():
        found = state[key]
        if not isinstance(found, torch.Tensor) or found.shape != tensor.shape:
            shape = tuple(getattr(found, "shape", ()))
            return f"{key} has shape {shape} where {tuple(tensor.shape)} belongs"
        if found.is_floating_point() and not found.isfinite().all():
            return f"{key} holds numbers that are not finite"
    return None


def convert_checkpoint(checkpoint: str | Path, name: str, output: str | Path, *, half: bool = False) -> int:
    """Write a foreign checkpoint of that network as safetensors in flowkit's layout; gives the number of tensors.

    The file is read with weights_only, and must come to exactly the tensors of the network. `half` stores fp16. WeightsError
    when it cannot be read, is of no layout that the converter knows, or is of another architecture; UsageError for a model
    without a converter.
    """
    spec = network_spec(name)
    if spec.convert is None:
        raise UsageError(f"--model {name}: no other software has checkpoints of it, so there is nothing to convert")
    path = Path(checkpoint)
    state = _tensors(files.load_checkpoint(name, path), path)
    module = build(name)
    if mismatch(state, module) is not None:  # one in our own layout only changes its container
        try:
            state = resolve(spec.convert)(state)
        except (WeightsError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise WeightsError(
                f"{path}: no checkpoint of {name!r} in a layout that flowkit knows ({reason})"
            ) from error
    if fault := mismatch(state, module):
        raise WeightsError(f"{path}: not a checkpoint of {name!r} ({fault}); is it of another --model?")
    kept = {key: state[key] for key in module.state_dict()}
    facts = {"model": name, "converted_from": path.name, "converted_sha256": files.sha256(path), "note": spec.sources}
    files.write_weights(output, kept, facts, half=half)
    return len(kept)
