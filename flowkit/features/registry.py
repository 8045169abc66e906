"""From the name of a feature to what extracts or matches it. Nothing is imported or loaded until it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from flowkit.errors import UsageError
from flowkit.features.base import Extractor, PairMatcher

if TYPE_CHECKING:
    from flowkit.features.matching import DescriptorMatcher

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What every feature can be told; None means the feature's own default."""

    device: str = "cpu"
    max_keypoints: int | None = None
    max_side: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Name of a feature whose weights the user has to bring -> the file."""


@dataclass(frozen=True)
class FeatureSet:
    """Features joined by "+" together with the (name, weights file) of those that need one of the user's."""

    names: str
    files: tuple[tuple[str, str], ...] = ()

    @property
    def parts(self) -> list[str]:
        """The names one by one."""
        return [part.strip() for part in self.names.split("+")]

    def __str__(self) -> str:
        return self.names


def extractor(
    name: str,
    *,
    device: str = "cpu",
    max_keypoints: int | None = None,
    max_side: int | None = None,
    weights: str | None = None,
) -> Extractor:
    """The extractor of that name, its weights from a file of the user's if given; UsageError listing the known names."""
    files = {} if weights is None else {name: weights}
    return _look_up(EXTRACTORS, name, "extractor")(Options(str(device), max_keypoints, max_side, files))


def matcher(
    features: str | FeatureSet, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None
) -> PairMatcher:
    """The pair matcher of that name, or of several joined by "+"; UsageError listing the known names if there is none."""
    from flowkit.features.matching import Union

    chosen = features if isinstance(features, FeatureSet) else FeatureSet(features)
    options = Options(str(device), max_keypoints, max_side, dict(chosen.files))
    makers = [_look_up(MATCHERS, part, "feature") for part in chosen.parts]
    members = [make(options) for make in makers]
    return members[0] if len(members) == 1 else Union(members)


def descriptor_matchers(
    features: str | FeatureSet, *, device: str = "cpu", max_keypoints: int | None = None, max_side: int | None = None
) -> tuple[DescriptorMatcher, ...]:
    """The matchers of the descriptors of those features, one for each: what guided matching works with.

    Of `disk` and `aliked` it is the nearest neighbour, without LightGlue. UsageError for those that have no keypoints.
    """
    from flowkit.features.matching import DescriptorMatcher

    chosen = features if isinstance(features, FeatureSet) else FeatureSet(features)
    options = Options(str(device), max_keypoints, max_side, dict(chosen.files))
    makers = [_look_up(MATCHERS, DESCRIPTORS_OF.get(part, part), "feature") for part in chosen.parts]
    for part in chosen.parts:
        if part in PAIRWISE:
            raise UsageError(
                f"--guide: {part!r} makes its points for each pair and cannot be guided; use --features xfeat"
            )
    made = [make(options) for make in makers]
    return tuple(each for each in made if isinstance(each, DescriptorMatcher))


def names() -> tuple[str, ...]:
    """Every name `matcher` knows."""
    return tuple(MATCHERS)


def _look_up(table: dict[str, T], name: str, what: str) -> T:
    """The entry of that name."""
    try:
        return table[name]
    except KeyError:
        raise UsageError(f"no {what} is called {name!r}; known: {', '.join(table)}") from None


def _sift(o: Options) -> Extractor:
    from flowkit.features.sift import Sift

    return Sift(max_keypoints=o.max_keypoints, max_side=o.max_side)


def _xfeat(o: Options) -> Extractor:
    from flowkit.features.xfeat import XFeat

    return XFeat(device=o.device, max_keypoints=o.max_keypoints, max_side=o.max_side)


def _disk(o: Options) -> Extractor:
    from flowkit.features.disk import Disk

    return Disk(device=o.device, max_keypoints=o.max_keypoints, max_side=o.max_side)


def _aliked(o: Options) -> Extractor:
    from flowkit.features.aliked import Aliked

    return Aliked(device=o.device, max_keypoints=o.max_keypoints, max_side=o.max_side)


def _superpoint(o: Options) -> Extractor:
    from flowkit.features.superpoint import SuperPoint

    return SuperPoint(
        device=o.device, max_keypoints=o.max_keypoints, max_side=o.max_side, weights=o.files.get("superpoint")
    )


def _r2d2(o: Options) -> Extractor:
    from flowkit.features.r2d2 import R2D2

    return R2D2(device=o.device, max_keypoints=o.max_keypoints, max_side=o.max_side, weights=o.files.get("r2d2"))


def _affine(base: Callable[[Options], Extractor]) -> Callable[[Options], Extractor]:
    def make(o: Options) -> Extractor:
        from flowkit.features.affine import AffineSimulation

        return AffineSimulation(base(Options(o.device, max_side=o.max_side)), max_keypoints=o.max_keypoints)

    return make


def _nearest(
    make: Callable[[Options], Extractor], ratio: float, unique: bool = False
) -> Callable[[Options], PairMatcher]:
    """Mutual nearest neighbours with a ratio test."""

    def build(o: Options) -> PairMatcher:
        from flowkit.features.matching import DescriptorMatcher

        return DescriptorMatcher(make(o), ratio=ratio, unique=unique, device=o.device)

    return build


def _lightglue(make: Callable[[Options], Extractor]) -> Callable[[Options], PairMatcher]:
    def build(o: Options) -> PairMatcher:
        from flowkit.features.lightglue import LightGlueMatcher

        return LightGlueMatcher(make(o), device=o.device)

    return build


def _xfeat_dense(o: Options) -> PairMatcher:
    from flowkit.features.dense import DenseMatcher
    from flowkit.features.xfeat import XFeatDense

    return DenseMatcher("xfeat-dense", XFeatDense(device=o.device), max_keypoints=o.max_keypoints)


def _conv4(name: str) -> Callable[[Options], PairMatcher]:
    def build(o: Options) -> PairMatcher:
        from flowkit.features.conv4 import Conv4
        from flowkit.features.dense import DenseMatcher

        network = Conv4(name, device=o.device, weights=o.files.get(name))
        return DenseMatcher(name, network, max_keypoints=o.max_keypoints)

    return build


def _xfeat_star(o: Options) -> PairMatcher:
    from flowkit.features.xfeat import XFeatStar

    return XFeatStar(device=o.device, max_keypoints=o.max_keypoints, max_side=o.max_side)


EXTRACTORS: dict[str, Callable[[Options], Extractor]] = {
    "sift": _sift,
    "xfeat": _xfeat,
    "disk": _disk,
    "aliked": _aliked,
    "superpoint": _superpoint,
    "r2d2": _r2d2,
    "affine-sift": _affine(_sift),
    "asift": _affine(_sift),
    "affine-xfeat": _affine(_xfeat),
}

MATCHERS: dict[str, Callable[[Options], PairMatcher]] = {
    "sift": _nearest(_sift, 0.9),
    "xfeat": _nearest(_xfeat, 0.9),
    "xfeat*": _xfeat_star,
    "disk": _lightglue(_disk),
    "aliked": _lightglue(_aliked),
    "disk-nn": _nearest(_disk, 0.95),
    "aliked-nn": _nearest(_aliked, 0.95),
    "superpoint": _nearest(_superpoint, 0.95),
    "r2d2": _nearest(_r2d2, 0.95),
    "affine-sift": _nearest(EXTRACTORS["affine-sift"], 0.9, unique=True),
    "asift": _nearest(EXTRACTORS["affine-sift"], 0.9, unique=True),
    "affine-xfeat": _nearest(EXTRACTORS["affine-xfeat"], 0.9, unique=True),
    "xfeat-dense": _xfeat_dense,
    "vgg16": _conv4("vgg16"),
    "resnet50": _conv4("resnet50"),
    "moco": _conv4("moco"),
    "conv4": _conv4("conv4"),
}

DESCRIPTORS_OF = {"disk": "disk-nn", "aliked": "aliked-nn"}
"""Features whose matcher looks at both images -> the matcher of their descriptors alone."""

CELLS = ("vgg16", "resnet50", "moco", "conv4")
"""Features that say only in which cell of 16 x 16 pixels a point is, of an image seen at 480 pixels."""

PAIRWISE = ("xfeat*", "xfeat-dense", *CELLS)
"""Features whose points are made for each pair, not for each image."""

OWN_WEIGHTS = ("superpoint", "r2d2", *CELLS)
"""Features whose weights may not be redistributed: the user brings the file."""
