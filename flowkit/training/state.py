"""The state of a run: network, averaged network, optimiser and how far it is, and its way into a checkpoint and back."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowkit.errors import WeightsError
from flowkit.io.weights import cards, load_checkpoint, load_strictly, metadata
from flowkit.models.registry import same_architecture
from flowkit.training.checkpoints import INDEX, Checkpoint, read_checkpoint, read_index
from flowkit.training.recipe import Recipe


@dataclass
class Progress:
    """How far a run is. `best` is the smallest end-point error on held-out scenes so far."""

    step: int = 0
    elapsed: float = 0.0
    """Seconds of training, those before an interruption included."""
    best: float | None = None
    stage: int = 0
    """The stage of the last step."""


class State:
    """All that changes in the course of a run."""

    def __init__(self, recipe: Recipe, network: nn.Module, device: torch.device) -> None:
        """Move the network to `device` in the recipe's layout; optimiser and average start afresh."""
        self.recipe = recipe
        layout = torch.channels_last if recipe.channels_last else torch.preserve_format
        self.network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        for name, parameter in network.named_parameters():
            if recipe.frozen and name.startswith(recipe.frozen):
                parameter.requires_grad_(False)
        self.average = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimiser = make_optimiser(recipe, network, device)
        self.progress = Progress()
        self.teacher: nn.Module | None = None

    def appoint_teacher(self) -> None:
        """Keep the averaged network as it is now; the student begins as its teacher."""
        self.teacher = copy.deepcopy(self.average)
        self.network.load_state_dict(self.average.state_dict())

    def restart_average(self) -> None:
        """Let the average begin with the present weights."""
        self.average.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def update_average(self) -> None:
        """Draw the averaged weights towards the present ones; faster at first, when those still change much."""
        step = self.progress.step
        decay = min(self.recipe.ema, (1 + step) / (10 + step)) if self.recipe.ema else 0.0
        averaged, present = list(self.average.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(averaged, present, 1 - decay)
        for mine, theirs in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mine.copy_(theirs)

    def checkpoint(self, facts: Mapping[str, Any]) -> Checkpoint:
        """Everything that `restore` needs, and the facts given."""
        tensors = {f"model/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"ema/{name}": value for name, value in self.average.state_dict().items()}
        if self.teacher is not None:
            tensors |= {f"teacher/{name}": value for name, value in self.teacher.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            for key, value in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser/{key}/{name}"] = value
        return Checkpoint(tensors, {**facts, **vars(self.progress)})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint of this architecture; WeightsError when it is of another."""
        load_strictly(self.network, checkpoint.group("model"), self.recipe.model)
        load_strictly(self.average, checkpoint.group("ema"), self.recipe.model)
        if teacher := checkpoint.group("teacher"):
            self.teacher = copy.deepcopy(self.average)
            load_strictly(self.teacher, teacher, self.recipe.model)
        moments = checkpoint.group("optimiser")
        keys = {name.partition("/")[0] for name in moments}
        for name, parameter in self.network.named_parameters():
            found = {key: moments[f"{key}/{name}"] for key in keys if f"{key}/{name}" in moments}
            if found and parameter.requires_grad:
                self.optimiser.state[parameter] = {key: _like(parameter, value) for key, value in found.items()}
        self.progress = Progress(
            **{name: checkpoint.facts.get(name, value) for name, value in vars(Progress()).items()}
        )


def make_optimiser(recipe: Recipe, network: nn.Module, device: torch.device) -> torch.optim.AdamW:
    """AdamW over the parameters that learn. Each group has a "factor" that its learning rate is multiplied by."""
    slow: list[nn.Parameter] = []
    normal: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            fine_tuned = bool(recipe.fine_tuned) and name.startswith(recipe.fine_tuned)
            (slow if fine_tuned else normal).append(parameter)
    groups = [{"params": normal, "factor": 1.0}, {"params": slow, "factor": recipe.fine_tuning}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=recipe.learning_rate,
        betas=recipe.betas,
        eps=recipe.eps,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )


def initialise(network: nn.Module, path: Path, model: str) -> None:
    """Give the network the weights of a file, a checkpoint, a run's folder (its best state, else its last), or of the box.

    Of a checkpoint the averaged weights are taken. They may be of another model of the same architecture: LIFE begins with
    RAFT's. WeightsError when they are of another architecture.
    """
    folder = next((place for place in (path, path / "best", path / "last") if (place / INDEX).is_file()), None)
    if folder is not None:
        require_model(read_index(folder), model, folder)
        weights = read_checkpoint(folder).group("ema")
    elif path.is_dir():
        raise WeightsError(f"{path}: no checkpoint in this folder; give a run's folder or a .safetensors file")
    elif not path.exists() and str(path) in cards():
        weights = load_checkpoint(str(path))
    else:
        weights = load_checkpoint(model, path)
        require_model(metadata(path), model, path)
    try:
        load_strictly(network, weights, model)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def require_model(facts: Mapping[str, Any], model: str, where: Path) -> None:
    """WeightsError when the facts name a network of another architecture."""
    found = facts.get("model", model)
    if not same_architecture(found, model):
        raise WeightsError(
            f"{where}: weights of {found!r}, but the recipe trains {model!r}; give a file of that network"
        )


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment in its parameter's memory layout, which the fused optimiser takes for granted; counters as they are."""
    if value.ndim == 0:
        return value.clone().to(parameter.device)
    return torch.empty_like(parameter).copy_(value)
