"""The options of `flowkit bench`: which methods are compared, and how they are run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from flowkit.cli import options
from flowkit.cli.options import METHOD, RESULTS
from flowkit.errors import UsageError, WeightsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowkit.evaluation.methods import NamedFiles, WeightsFile

LIST = "Several, with commas between them, are compared."
Dataset = Annotated[str, Option(metavar="NAME", help="Data set, in its own layout (docs/bench.md).")]
Root = Annotated[Path, Option(metavar="DIR", help="The data set's folder.")]
MethodOption = Annotated[str | None, Option(metavar="NAMES", help=f"Methods. {LIST}", rich_help_panel=METHOD)]
Model = Annotated[str | None, Option(metavar="NAMES", help=f"Dense methods. {LIST}", rich_help_panel=METHOD)]
Preset = Annotated[str | None, Option(metavar="NAMES", help=f"fast, fine. {LIST}", rich_help_panel=METHOD)]
Init = Annotated[str | None, Option(metavar="NAMES", help=f"none, coarse, matches. {LIST}", rich_help_panel=METHOD)]
Features = Annotated[
    str | None, Option(metavar="NAMES", help=f"Local features, a union written a+b. {LIST}", rich_help_panel=METHOD)
]
Effort = Annotated[str | None, Option(metavar="NAMES", help=f"normal, high. {LIST}", rich_help_panel=METHOD)]
Rules = Annotated[
    str | None,
    Option(
        metavar="NAMES",
        help=f"How align-multi-h with ransac-flow joins homographies: official, paper, kitti. {LIST}",
        rich_help_panel=METHOD,
    ),
]
Guide = Annotated[
    str | None,
    Option(
        metavar="NAMES",
        help=f"Flow models that guide matching; none for comparison. {LIST}",
        rich_help_panel=METHOD,
    ),
]
MaxKeypoints = Annotated[
    str | None, Option(metavar="NUMBERS", help=f"Keypoints per image at most. {LIST}", rich_help_panel=METHOD)
]
FeatureWeights = Annotated[
    str | None,
    Option(
        metavar="NAME=FILE",
        help="Weights of r2d2 or superpoint, which do not come with flowkit; several with commas.",
        rich_help_panel=METHOD,
    ),
]
Weights = Annotated[
    str | None,
    Option(metavar="FILES", help=f"Weights files for the network of --model. {LIST}", rich_help_panel=METHOD),
]
Iterations = Annotated[
    str | None, Option("--iters", metavar="NUMBERS", help=f"Iterations of networks. {LIST}", rich_help_panel=METHOD)
]
Precision = Annotated[
    str | None, Option(metavar="NAMES", help=f"auto, fp32, bf16, fp16. {LIST}", rich_help_panel=METHOD)
]

Output = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="DIR",
        help="Folder for bench.json, rows.csv, pairs.csv; of hpatches-mma also the curves, mma.csv and mma.png.",
        rich_help_panel=RESULTS,
    ),
]


@dataclass(frozen=True)
class Choice:
    """Which methods are compared, and with which options."""

    method: MethodOption = None
    model: Model = None
    preset: Preset = None
    init: Init = None
    features: Features = None
    effort: Effort = None
    rules: Rules = None
    guide: Guide = None
    feature_weights: FeatureWeights = None
    max_keypoints: MaxKeypoints = None
    weights: Weights = None
    iterations: Iterations = None
    precision: Precision = None

    def varied(self) -> dict[str, list[Any]]:
        """The options that methods may differ in, each with the values to compare."""
        values: dict[str, list[Any]] = {
            name: names_of(names)
            for name, names in asdict(self).items()
            if name not in ("method", *_WITH_NUMBERS, *_WITH_FILES)
        }
        return values | {
            "guide": guides_of(self.guide),
            "feature_weights": feature_files(self.feature_weights),
            "weights": _weights_files(self.weights, values["model"]),
            "iterations": _counts(self.iterations, "--iters"),
            "max_keypoints": _counts(self.max_keypoints, "--max-keypoints"),
        }


_WITH_NUMBERS, _WITH_FILES = ("iterations", "max_keypoints"), ("guide", "feature_weights", "weights")


@dataclass(frozen=True)
class Running:
    """How much is run, where, and what becomes of the results."""

    limit: Annotated[int | None, Option(min=1, metavar="N", help="Only the first N pairs of each data set.")] = None
    device: options.Device = "auto"
    seed: options.Seed = 0
    output: Output = None
    overwrite: options.Overwrite = False
    cache: Annotated[
        bool, Option("--cache/--no-cache", help="Keep predictions and use those kept.", rich_help_panel=RESULTS)
    ] = True
    json: options.AsJson = False
    verbose: options.Verbose = 0
    quiet: options.Quiet = False


def _weights_files(text: str | None, models: Sequence[str]) -> list[WeightsFile]:
    """The files of a list; UsageError unless they are for one model, WeightsError for one that is not there."""
    from flowkit.evaluation.methods import WeightsFile
    from flowkit.io.weights import find_weights, sha256

    names = names_of(text)
    if names and len(models) != 1:
        raise UsageError(f"--weights {text}: goes with one network; give its name as --model")
    paths = [find_weights(models[0], name) for name in names]
    return [WeightsFile(path, sha256(path)) for path in paths]


def guides_of(text: str | None) -> list[str | NamedFiles]:
    """The guides of a list; one written NAME=FILE with the file's content."""
    return [_named_files([name]) if "=" in name else name for name in names_of(text)]


def feature_files(text: str | None) -> list[NamedFiles]:
    """All files of a list NAME=FILE,NAME=FILE as one value."""
    names = names_of(text)
    if wrong := [name for name in names if not all(name.partition("="))]:
        raise UsageError(f"--feature-weights {wrong[0]}: give NAME=FILE, for example r2d2=r2d2_WASF_N16.pt")
    return [_named_files(names)] if names else []


def _named_files(texts: Sequence[str]) -> NamedFiles:
    """WeightsError for a file that is not there."""
    from flowkit.evaluation.methods import NamedFiles, WeightsFile
    from flowkit.io.weights import sha256

    files = []
    for text in texts:
        name, _, file = text.partition("=")
        path = Path(file)
        if not path.is_file():
            raise WeightsError(f"{path}: no such weights file; give its path, NAME=FILE")
        files.append((name, WeightsFile(path, sha256(path))))
    return NamedFiles(tuple(files))


def _counts(text: str | None, option: str) -> list[int]:
    """ "12, 24" -> [12, 24]."""
    names = names_of(text)
    if wrong := [name for name in names if not (name.isdecimal() and int(name))]:
        raise UsageError(f"{option} {wrong[0]}: give numbers from 1 up")
    return [int(name) for name in names]


def names_of(text: str | None) -> list[str]:
    """ "a, b" -> ["a", "b"]."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
