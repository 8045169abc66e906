"""`--mask0` and `--mask1`, which the verbs that match share: where in either picture a match may lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from flowkit.cli.options import METHOD

if TYPE_CHECKING:
    from flowkit.cli.pairwise import Inputs

_HELP = "white = use; auto: no sky, nothing without texture."


@dataclass(frozen=True)
class Masks:
    """The masks of both pictures, as many for a whole list: files then fit every pair (the hood of the car, say)."""

    mask0: Annotated[
        str | None, Option(metavar="FILE|auto", help=f"Mask of the first picture, {_HELP}", rich_help_panel=METHOD)
    ] = None
    mask1: Annotated[
        str | None, Option(metavar="FILE|auto", help=f"Mask of the second picture, {_HELP}", rich_help_panel=METHOD)
    ] = None

    def arguments(self) -> dict[str, Any]:
        """As the pipelines take them, only what was given."""
        given = {"mask0": self.mask0, "mask1": self.mask1}
        return {name: value for name, value in given.items() if value is not None}


def turned(inputs: Inputs, method: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's arguments for a pair: where the list turns a picture, the mask in a file is turned along.

    InputError for a mask that does not fit.
    """
    import numpy as np

    from flowkit.pipelines.masks import AUTO, read_mask

    result = dict(method)
    pictures = (("mask0", inputs.image0, inputs.rotation0), ("mask1", inputs.image1, inputs.rotation1))
    for name, image, turns in pictures:
        choice = result.get(name)
        if choice not in (None, AUTO) and turns % 4:
            stored = image.size[::-1] if turns % 2 else image.size
            result[name] = np.ascontiguousarray(np.rot90(read_mask(choice, stored), turns % 4))
    return result
