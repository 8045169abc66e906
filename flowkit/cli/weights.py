"""`flowkit weights`: which weights there are, where they lie, whether they are intact, fetching and converting them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flowkit.errors import UsageError, WeightsError

app = typer.Typer(
    help="The weights of networks and features: where they are, whether they are intact.", no_args_is_help=True
)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Weights, all by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command("list")
def list_weights(as_json: AsJson = False) -> None:
    """Show every weights file: size, licence and where it was found."""
    from flowkit.io.weights import cards, locate

    rows: list[dict[str, Any]] = []
    for card in cards().values():
        place, path = locate(card) or (None, None)
        rows.append(
            {
                "name": card.name,
                "file": card.file,
                "size": card.size,
                "licence": card.licence,
                "found": place,
                "path": None if path is None else str(path),
                "sha256": card.sha256,
                "source": card.source,
                "description": card.description,
                "metrics": dict(card.metrics),
            }
        )
    if as_json:
        import json

        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "size", "licence", "found", "description", box=None, header_style="bold")
    for row in rows:
        size = f"{row['size'] / 1e6:.1f} MB"
        table.add_row(row["name"], size, row["licence"], row["found"] or "to download", row["description"])
    Console().print(table)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The file others made (.pth, .ckpt, ...).")],
    model: Annotated[str, typer.Option(help="The network it belongs to.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where to write the .safetensors.")],
    half: Annotated[bool, typer.Option("--half", help="Store fp16: half the size, about 3 digits.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there already.")] = False,
) -> None:
    """Turn a checkpoint of other software into weights for `--weights FILE`.

    Nothing in the file is executed, and it must hold exactly the network's tensors.
    """
    from flowkit.io.weights import sha256
    from flowkit.models.registry import network_spec
    from flowkit.models.weights import convert_checkpoint

    spec = network_spec(model)
    if output.exists() and not overwrite:
        raise UsageError(f"{output}: is there already; choose another --output, or --overwrite to replace it")
    count = convert_checkpoint(checkpoint, model, output, half=half)
    print(f"{output}: {count} tensors of {model}, sha256 {sha256(output)}")
    print(f"  licence: the source's, not flowkit's: {spec.sources}")
    print(f"  use it with --model {model} --weights {output}")


@app.command()
def path(name: Annotated[str, typer.Argument(help="One of `flowkit weights list`.")]) -> None:
    """Print where a weights file lies (exit 4 if it is not on this machine)."""
    from flowkit.io.weights import card, locate

    wanted = card(name)
    located = locate(wanted)
    if located is None:
        raise WeightsError(f"weights {name!r} ({wanted.file}) are not on this machine; get them with {wanted.remedy}")
    print(located[1])


@app.command()
def verify(names: Names = None) -> None:
    """Check the sha256 of the files on this machine (exit 4 if a file that was named is missing, or one is corrupt)."""
    from flowkit.io import weights

    faults = []
    for card in [weights.card(name) for name in names] if names else weights.cards().values():
        located = weights.locate(card)
        if located is None:
            print(f"{card.name}: not on this machine")
            if names:
                faults.append(f"weights {card.name!r} are not on this machine; get them with {card.remedy}")
            continue
        try:
            weights.verify(located[1], card)
            print(f"{card.name}: ok, {located[1]}")
        except WeightsError as error:
            print(f"{card.name}: CORRUPT, {located[1]}")
            faults.append(str(error))
    if faults:
        raise WeightsError("; ".join(faults))


@app.command()
def pull(names: Names = None) -> None:
    """Make sure that the files are on this machine, downloading what is missing."""
    from flowkit.io.weights import cards, find_weights

    for name in names or cards():
        print(f"{name}: {find_weights(name)}")
