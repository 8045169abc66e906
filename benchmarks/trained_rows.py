"""What the ablations share: training one row with `flowkit train`, once and resumably, and measuring its weights."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from reporting import say

from flowkit.errors import EXIT_PARTIAL_BATCH
from flowkit.io.weights import load_checkpoint
from flowkit.training.checkpoints import INDEX, read_index
from flowkit.training.loop import LAST, WEIGHTS
from flowkit.training.material import read_photos
from flowkit.training.recipes import recipe
from flowkit.training.settings import with_settings
from flowkit.training.validation import make_validator


def train(
    name: str,
    row: str,
    settings: Sequence[str],
    arguments: argparse.Namespace,
    begun: Callable[[], Path | None] = lambda: None,
) -> Path | None:
    """The averaged weights at the end of the row's run of the recipe `name`; None where it diverged.

    A run that is there goes on, if it has to; a new one begins with the weights that `begun` gives. SystemExit with the
    run's exit code when it fails otherwise.
    """
    folder = arguments.output / row
    step = read_index(folder / LAST)["step"] if (folder / LAST / INDEX).is_file() else 0
    if step >= arguments.steps:
        say(f"{row}: trained already")
        return folder / WEIGHTS
    say(f"{row}: {arguments.steps - step} steps")
    command = [sys.executable, "-m", "flowkit", "train", name, "--photos", str(arguments.photos)]
    command += ["--steps", str(arguments.steps), "--output", str(folder), "--device", arguments.device]
    init = None if step else begun()
    command += ["--resume"] if step else ["--overwrite", *(["--init", str(init)] if init else [])]
    command += [word for field in settings for word in ("--set", field)]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code not in (0, EXIT_PARTIAL_BATCH):
        raise SystemExit(code)
    return folder / WEIGHTS if code == 0 else None


def errors(name: str, settings: Sequence[str], weights: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Mean end-point errors by set: held-out scenes, and the flow pairs of `arguments.root`."""
    made = with_settings(recipe(name), [*settings, "validate_every=1"])
    network = made.network()
    network.load_state_dict(load_checkpoint(made.model, weights))
    validator = make_validator(made, read_photos(arguments.photos), arguments.root)
    found = validator.scores(network.to(memory_format=torch.channels_last), torch.device("cpu"))
    return {name.removesuffix("/epe"): value for name, value in found.items() if name.endswith("/epe")}
