"""Where the intrinsics of two images come from on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from flowkit.cli import pairwise
from flowkit.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from flowkit.types import Image

PANEL = "Cameras"
_WAYS = "give --K (or --K0 and --K1) as fx,fy,cx,cy or a file with a 3x3 matrix, or --fov in degrees"


class NoIntrinsics(UsageError):  # noqa: N818
    """No source has the intrinsics of an image. In a batch this concerns one pair, unlike other wrong options."""


@dataclass(frozen=True)
class Cameras:
    """What the user says of them; fx, fy, cx, cy in original pixels, the centre of the top-left pixel being (0, 0)."""

    K: Annotated[
        str | None,
        Option("--K", metavar="fx,fy,cx,cy|FILE", help="Intrinsics of both cameras.", rich_help_panel=PANEL),
    ] = None
    K0: Annotated[
        str | None, Option("--K0", metavar="fx,fy,cx,cy|FILE", help="Of A's alone.", rich_help_panel=PANEL)
    ] = None
    K1: Annotated[
        str | None, Option("--K1", metavar="fx,fy,cx,cy|FILE", help="Of B's alone.", rich_help_panel=PANEL)
    ] = None
    fov: Annotated[
        float | None, Option(help="Field of view of both across the longer side, in degrees.", rich_help_panel=PANEL)
    ] = None

    def arguments(self) -> dict[str, Any]:
        """As a job passes them on to `both`; UsageError for a field of view that is none."""
        if self.fov is not None and not 0 < self.fov < 180:
            raise UsageError(f"--fov {self.fov:g}: between 0 and 180 degrees")
        return {"K0": self.K0 or self.K, "K1": self.K1 or self.K, "fov": self.fov}


def both(inputs: pairwise.Inputs, K0: str | None, K1: str | None, fov: float | None) -> tuple[np.ndarray, np.ndarray]:
    """K of both images of a pair, turned as they are."""
    return (
        intrinsics(inputs.image0, K0, inputs.rotation0, inputs.K0, fov),
        intrinsics(inputs.image1, K1, inputs.rotation1, inputs.K1, fov),
    )


def intrinsics(image: Image, text: str | None, turns: int, listed: np.ndarray | None, fov: float | None) -> np.ndarray:
    """K of one image, turned as it is, from the first source that has it; NoIntrinsics naming the ways if none has.

    What is given by hand is, like what a list gives, of the image as stored.
    """
    from flowkit.io import cameras

    if text is not None:
        stored = image.size[::-1] if turns % 2 else image.size
        return pairwise.turn_intrinsics(cameras.parse_intrinsics(text, stored), stored, turns)
    if listed is not None:
        return listed
    if fov is not None:
        return cameras.intrinsics_from_fov(fov, image.size)
    K = cameras.intrinsics_from_exif(image)
    if K is None:
        raise NoIntrinsics(f"{image.name}: no intrinsics are known and its EXIF has none; {_WAYS}")
    return K
