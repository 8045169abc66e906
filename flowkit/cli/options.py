"""The options that verbs share, each written down once.

A verb takes whole groups, `def flow(a: Image0, ..., output: Output, batch: Batch)`, and `grouped` shows typer their fields as
if they stood in the signature.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast, get_type_hints

from typer import Argument, Option

from flowkit.errors import UsageError

METHOD, RESULTS, BATCH = "How it is computed", "Results", "Many pairs"


class Precision(StrEnum):
    """What networks compute in."""

    AUTO = "auto"
    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Effort(StrEnum):
    """How much time to spend on a hard pair."""

    NORMAL = "normal"
    HIGH = "high"


Image0 = Annotated[Path | None, Argument(metavar="A", help="First image.", show_default=False)]
Image1 = Annotated[Path | None, Argument(metavar="B", help="Second image.", show_default=False)]
Features = Annotated[
    str | None,
    Option(
        help="Local features, several joined by + (sift, xfeat, sift+xfeat, ...); the bench's best by default.",
        rich_help_panel=METHOD,
    ),
]
EffortOption = Annotated[
    Effort,
    Option(
        help="high: also a common view, simulated viewpoints, turns, scales; many times slower.",
        rich_help_panel=METHOD,
    ),
]
Threshold = Annotated[
    float | None, Option(min=0.01, help="Inlier threshold of the robust fit, pixels.", rich_help_panel=METHOD)
]
Iterations = Annotated[
    int | None,
    Option(
        "--iters",
        min=1,
        max=1000,
        help="Update iterations of a network, or of its GOCor modules; its own by default.",
        rich_help_panel=METHOD,
    ),
]
MaxFlow = Annotated[
    float | None, Option(min=1e-6, help="Flow length that gets the full colour; the longest vector by default.")
]
Legend = Annotated[bool, Option("--legend", help="Draw the colour wheel into the flow picture.")]
Device = Annotated[str, Option(metavar="DEV", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=METHOD)]
Seed = Annotated[int, Option(min=0, help="Seed of everything random.", rich_help_panel=METHOD)]
Overwrite = Annotated[
    bool, Option("--overwrite", help="Replace results that are there already.", rich_help_panel=RESULTS)
]
AsJson = Annotated[
    bool, Option("--json", help="Print the JSON record on stdout, nothing else.", rich_help_panel=RESULTS)
]
Verbose = Annotated[
    int,
    Option(
        "--verbose",
        "-v",
        count=True,
        show_default=False,
        help="Log what is done; -vv with tracebacks.",
        rich_help_panel=RESULTS,
    ),
]
Quiet = Annotated[
    bool, Option("--quiet", "-q", help="No summary, log or progress; errors still show.", rich_help_panel=RESULTS)
]


NETWORK_OPTIONS = {
    "weights": "--weights",
    "precision": "--precision",
    "iterations": "--iters",
    "tile": "--tile",
    "flip_test": "--flip-test",
}
"""What only networks take, by the names that the pipelines use."""


@dataclass(frozen=True)
class Compute:
    """Where and at what size the work is done; results are in original pixels all the same."""

    device: Device = "auto"
    resize: Annotated[
        str | None,
        Option(metavar="N|WxH", help="Work at this size: the longer side, or width x height.", rich_help_panel=METHOD),
    ] = None
    seed: Seed = 0

    def arguments(self) -> dict[str, Any]:
        """As the pipelines take them."""
        return {"device": self.device, "resize": parse_resize(self.resize), "seed": self.seed}


@dataclass(frozen=True)
class FeatureFiles:
    """The weights files that some features need."""

    feature_weights: Annotated[
        list[str] | None,
        Option(
            metavar="NAME=FILE",
            help="Your weights file of superpoint, r2d2, vgg16, resnet50, moco or conv4; may be repeated.",
            rich_help_panel=METHOD,
        ),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """As the pipelines take them, only what was given."""
        files = {}
        for text in self.feature_weights or ():
            name, separator, file = text.partition("=")
            if not (name and separator and file):
                raise UsageError(f"--feature-weights {text}: give NAME=FILE, for example r2d2=r2d2_WASF_N16.pt")
            files[name] = file
        return {"feature_weights": files} if files else {}


@dataclass(frozen=True)
class Matching(FeatureFiles):
    """What leads the matching of features, and the weights files that some of them need."""

    guide: Annotated[
        str | None,
        Option(
            metavar="MODEL",
            help="A flow leads the matching: life, or another model (MODEL=FILE for its weights).",
            rich_help_panel=METHOD,
        ),
    ] = None
    guide_radius: Annotated[
        float | None,
        Option(metavar="PX", help="Pixels around the guide's prediction looked at first; 5.", rich_help_panel=METHOD),
    ] = None

    def arguments(self) -> dict[str, Any]:
        """As the pipelines take them, only what was given."""
        if self.guide_radius is not None and self.guide is None:
            raise UsageError(f"--guide-radius {self.guide_radius:g}: only together with --guide MODEL")
        given = {"guide": self.guide, "guide_radius": self.guide_radius}
        return {**super().arguments(), **{name: value for name, value in given.items() if value is not None}}


@dataclass(frozen=True)
class Dense:
    """Which dense method, and how it runs."""

    model: Annotated[str, Option(help="Dense method.", rich_help_panel=METHOD)] = "dis"
    weights: Annotated[
        Path | None,
        Option(metavar="FILE", help="Weights file for the model in place of its own.", rich_help_panel=METHOD),
    ] = None
    precision: Annotated[
        Precision, Option(help="What networks compute in; auto: the fastest that is as good.", rich_help_panel=METHOD)
    ] = Precision.AUTO
    iterations: Iterations = None

    def arguments(self) -> dict[str, Any]:
        """As the pipelines take them; UsageError for what this model does not have."""
        from flowkit.models.registry import model_spec

        given = {name: value for name, value in self.network_arguments().items() if value is not None}
        if not model_spec(self.model).network:
            for name, value in given.items():
                if (name, value) != ("precision", "fp32"):
                    option = f"{NETWORK_OPTIONS[name]} {value}"
                    raise UsageError(f"{option}: {self.model!r} is no network and has no weights; leave the option out")
            given = {}
        return {"model": self.model, **given}

    def network_arguments(self) -> dict[str, Any]:
        """What only networks take, as the pipelines take it; None where it was not given."""
        precision = None if self.precision is Precision.AUTO else self.precision.value
        return {"weights": self.weights, "precision": precision, "iterations": self.iterations}


@dataclass(frozen=True)
class DenseAlign(Dense):
    """The same for the fine stage of an alignment, which may choose."""

    model: Annotated[
        str,
        Option(
            help="Dense method of the fine stage; auto: ransac-flow where all is one plane, else dis.",
            rich_help_panel=METHOD,
        ),
    ] = "dis"

    def arguments(self) -> dict[str, Any]:
        """As above; UsageError beside `auto` for what only some methods take."""
        if self.model != "auto":
            return super().arguments()
        from flowkit.pipelines.auto import refuse_options

        refuse_options({NETWORK_OPTIONS[name]: value for name, value in self.network_arguments().items()})
        return {"model": self.model}


@dataclass(frozen=True)
class DenseFlow(DenseAlign):
    """Which dense method, and all that can be said about running a network."""

    model: Annotated[
        str, Option(help="Dense method; auto chooses one for each pair by a few matches.", rich_help_panel=METHOD)
    ] = "auto"
    tile: Annotated[
        bool | None,
        Option(
            "--tile/--no-tile", help="In overlapping tiles; by default where memory is short.", rich_help_panel=METHOD
        ),
    ] = None
    tile_size: Annotated[
        int | None, Option(min=1, metavar="N", help="Side of the tiles, pixels (with --tile).", rich_help_panel=METHOD)
    ] = None
    flip_test: Annotated[
        bool,
        Option("--flip-test", help="GLU-Nets: match A mirrored if that fits better.", rich_help_panel=METHOD),
    ] = False

    def network_arguments(self) -> dict[str, Any]:
        """As above; `tile` False forbids tiles."""
        if self.tile_size is not None and self.tile is False:
            raise UsageError(f"--tile-size {self.tile_size}: not together with --no-tile")
        tile = self.tile if self.tile_size is None else self.tile_size
        flip_test = self.flip_test or None
        return {**super().network_arguments(), "tile": tile, "flip_test": flip_test}


@dataclass(frozen=True)
class Output:
    """Where results go and what is said meanwhile."""

    output: Annotated[
        Path | None,
        Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for the results; named after the inputs by default.",
            rich_help_panel=RESULTS,
        ),
    ] = None
    overwrite: Overwrite = False
    pictures: Annotated[
        bool, Option("--pictures/--no-pictures", help="Write pictures beside the data.", rich_help_panel=RESULTS)
    ] = True
    json: AsJson = False
    verbose: Verbose = 0
    quiet: Quiet = False


@dataclass(frozen=True)
class Batch:
    """Many pairs in one run."""

    pairs: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="List of pairs, a line each: A B [rotations [K0 K1 [T]]] (hloc, SuperGlue).",
            rich_help_panel=BATCH,
        ),
    ] = None
    image_root: Annotated[
        Path | None, Option(metavar="DIR", help="Folder that the names in the list start from.", rich_help_panel=BATCH)
    ] = None
    shard: Annotated[
        str | None,
        Option(metavar="I/N", help="Only the I-th of N parts of the list, I from 1 to N.", rich_help_panel=BATCH),
    ] = None
    jobs: Annotated[int, Option(min=1, max=1024, help="Worker processes.", rich_help_panel=BATCH)] = 1

    def refuse_alone(self) -> None:
        """UsageError when an option that needs --pairs is given without it."""
        given = {"--image-root": self.image_root, "--shard": self.shard, "--jobs": self.jobs if self.jobs > 1 else None}
        for name, value in given.items():
            if value is not None:
                raise UsageError(f"{name} {value}: only together with --pairs FILE")


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let typer see the fields of `command`'s dataclass parameters as options of their own.

    The options' values arrive at `command` as those dataclasses again.
    """
    hints = get_type_hints(command, include_extras=True)
    hints.pop("return", None)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind))
            continue
        inner = get_type_hints(kind, include_extras=True)
        for field in fields(kind):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(field.name, keyword, default=default, annotation=inner[field.name]))

    def wrapper(**values: Any) -> None:
        arguments = {}
        for name, kind in hints.items():
            if is_dataclass(kind):
                group = cast(type, kind)
                arguments[name] = group(**{field.name: values[field.name] for field in fields(kind)})
            else:
                arguments[name] = values[name]
        command(**arguments)

    keyword_only = inspect.Parameter.KEYWORD_ONLY
    signature = inspect.Signature([parameter.replace(kind=keyword_only) for parameter in parameters])
    wrapper.__signature__ = signature  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    wrapper.__name__, wrapper.__module__ = command.__name__, command.__module__
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    wrapper.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # typer keeps line breaks
    return wrapper


def parse_resize(text: str | None, option: str = "--resize") -> int | tuple[int, int] | None:
    """ "800" -> 800, the longer side; "640x480" -> (480, 640), (height, width)."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,6})(?:[xX]([0-9]{1,6}))?", text.strip())
    if match is None or not int(match[1]) or (match[2] is not None and not int(match[2])):
        raise UsageError(f"{option} {text}: give the longer side (800) or width x height (640x480) in pixels")
    return int(match[1]) if match[2] is None else (int(match[2]), int(match[1]))


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "2/8" -> (2, 8); the whole, (1, 1), without it."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text.strip())
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {text}: give I/N with I from 1 to N, for example 1/8 ... 8/8")
    return int(match[1]), int(match[2])
