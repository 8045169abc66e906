"""Which dense method for a pair, judged by a few sparse matches: what `flowkit flow` does unless a model is named.

A method that is best on video loses the way where the camera went round a building, and one that survives a change of light
pays for it where there is none. One cheap look tells such pairs apart; the table of rules below says what was best in each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from flowkit.errors import UsageError
from flowkit.estimators.magsac import fit_homography
from flowkit.io.weights import card
from flowkit.models.registry import model_spec
from flowkit.pipelines.match import in_original_pixels, match
from flowkit.pipelines.prepare import Resize, resized_image, working_size
from flowkit.pipelines.seeding import locally_consistent
from flowkit.types import Flow, Image, Matches

AUTO = "auto"
SIDE = 640
"""Longer side at which the pair is looked at, pixels: XFeat needs a tenth of a second for both."""
KEYPOINTS = 1500
THRESHOLD = 3.0
"""Pixels of those from a homography within which a match lies on it; XFeat's are good to one or two."""
NETWORK_PIXELS = 2e6
"""Networks work at most at this size unless told otherwise, as the fine stage of `align` does: they are slow."""
FEW = 30
"""Agreeing matches below which nothing is known: chance lets up to 28 of different things agree (PF-WILLOW)."""


@dataclass(frozen=True)
class Regime:
    """What kind of pair it is, as far as matches tell. NaN, with which no rule agrees, where too few of them agree."""

    matches: int
    """Mutual nearest neighbours, of at most KEYPOINTS."""
    agreeing: int
    """Of these, how many move as their neighbours do or lie on the homography."""
    displacement_px: float = np.nan
    """Nine tenths of the agreeing ones move no further; pixels of the originals."""
    displacement_share: float = np.nan
    """That, as a share of image0's longer side."""
    rotation_deg: float = np.nan
    """Of the affine map that fits the agreeing ones best, as are the next two; clockwise as seen, y being down."""
    scale: float = np.nan
    """How much larger things are in image1."""
    stretch: float = np.nan
    """How much more they grow in one direction than in the other, at least 1."""
    planarity: float = np.nan
    """Share of the agreeing ones on one homography."""
    light: float = np.nan
    """Correlation of the brightness of both images at the agreeing matches: 1 in the same light."""

    @property
    def known(self) -> bool:
        """Whether enough matches agree to say anything."""
        return self.agreeing >= FEW


def judge(image0: Image, image1: Image, *, device: str = "auto", seed: int = 0) -> Regime:
    """The regime of a pair as loaded, from XFeat's matches at a small size: 0.1 to 0.3 s on one CPU core."""
    pair = image0, image1
    small0, small1 = (resized_image(image, working_size(image.size, max_side=SIDE)) for image in pair)
    found = match(small0, small1, features="xfeat", max_keypoints=KEYPOINTS, device=device, seed=seed)
    fit = fit_homography(found.points0, found.points1, threshold=THRESHOLD, seed=seed, iterations=2000)
    agree = locally_consistent(found.points0, found.points1) | fit.inliers
    regime = Regime(len(found), int(agree.sum()))
    if not regime.known:
        return regime
    original = in_original_pixels(found, (small0, small1), pair)
    points0, points1 = original.points0[agree], original.points1[agree]
    moved = float(np.quantile(np.linalg.norm(points1 - points0, axis=1), 0.9))
    rotation, scale, stretch = _affine(points0, points1)
    return replace(
        regime,
        displacement_px=moved,
        displacement_share=moved / max(image0.size),
        rotation_deg=rotation,
        scale=scale,
        stretch=stretch,
        planarity=float(fit.inliers.sum() / agree.sum()),
        light=_correlation(found, agree, small0, small1),
    )


def _affine(points0: np.ndarray, points1: np.ndarray) -> tuple[float, float, float]:
    """Rotation in degrees, scale and stretch of the least-squares affine map (N, 2) -> (N, 2)."""
    design = np.column_stack([points0 - points0.mean(axis=0), np.ones(len(points0))]).astype(np.float64)
    matrix = np.linalg.lstsq(design, points1.astype(np.float64), rcond=None)[0][:2].T
    left, values, right = np.linalg.svd(matrix)
    turn = left @ right
    rotation = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
    return float(rotation), float(np.sqrt(values.prod())), float(values[0] / max(values[1], 1e-6))


def _correlation(found: Matches, agree: np.ndarray, small0: Image, small1: Image) -> float:
    """Of the mean brightness of 7x7 pixels at both ends of the matches; 0 where one of the images is even there."""
    import cv2

    ends = []
    for image, points in ((small0, found.points0[agree]), (small1, found.points1[agree])):
        mean = cv2.blur(image.grey8.astype(np.float32), (7, 7))
        at = points.astype(np.float32).reshape(1, -1, 2)
        ends.append(cv2.remap(mean, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0])
    if min(end.std() for end in ends) < 1e-3:
        return 0.0
    return float(np.corrcoef(*ends)[0, 1])


@dataclass(frozen=True)
class Choice:
    """A method, as one would type it, and why it was taken."""

    method: str
    reason: str


ALIGN = "align --multi-h"
ALIGN_RANSAC_FLOW = "align --multi-h --model ransac-flow"
ALIGN_AUTO = "align --multi-h --model auto"
ALIGNMENTS: Mapping[str, str] = MappingProxyType({ALIGN: "dis", ALIGN_RANSAC_FLOW: "ransac-flow", ALIGN_AUTO: "auto"})
"""The model of the fine stage of each."""
DENSE: Mapping[str, tuple[str, str | None]] = MappingProxyType(
    {
        "dis --init matches": ("dis", "matches"),
        "life-small": ("life-small", None),
    }
)
"""The model and the start of each of the other methods."""
FALLBACK = "dis --init matches"
"""Where ALIGN finds no homography: PCK .1 of PF-WILLOW 33 %; liteflownet2 27, life-small 23, begun with matches 24."""


SAME_LIGHT = 0.87
"""The least correlation of brightness: 0.94 and more on the sets with flow, 0.56 to 0.77 on the multimodal pairs."""


@dataclass(frozen=True)
class Rule:
    """A kind of pair, the method that was best there, and how to say so: the regime's fields in braces."""

    method: str
    applies: Callable[[Regime], bool]
    reason: str


def _another_viewpoint(regime: Regime) -> bool:
    return bool(
        regime.displacement_share > 0.2
        or abs(regime.rotation_deg) > 10
        or abs(np.log(regime.scale)) > 0.22
        or regime.stretch > 1.25
    )


_VIEWPOINT = (
    "another viewpoint: things move up to {displacement_share:.0%} of the image, turn by {rotation_deg:.0f} degrees, "
    "change their size by {scale:.2f} and their shape by {stretch:.2f}"
)

# Figures are mean end-point errors in pixels over the pairs of a set, or PCK, of docs/bench.md's sets in ../shared/data.
RULES = (
    # XFeat knows no turned pictures, ALIGN tries turns and zooms. WxBS: PCK at 10 px 35 %, of the next best method 12.
    # graf 1-6 and EVD's index are planes: ALIGN_RANSAC_FLOW .7 and 3.2, ALIGN 1.8 and 3.5.
    Rule(ALIGN_AUTO, lambda r: not r.known, "only {agreeing} of {matches} matches agree"),
    # A day and a night picture: PCK at 5 px 100 %, ALIGN_RANSAC_FLOW 90.
    Rule(
        ALIGN,
        lambda r: _another_viewpoint(r) and r.light < SAME_LIGHT,
        _VIEWPOINT + "; and another light: brightness correlates with {light:.2f}",
    ),
    # graf .7, HPatches .5, homogr 3.5; ALIGN 1.3, 1.3, 5.6, life-small 70 and 45.
    Rule(ALIGN_RANSAC_FLOW, _another_viewpoint, _VIEWPOINT),
    # HPatches 1-2 and 1-3: .6 and .3, ALIGN 1.1 and 1.5, life-small 2.7 and 5.1.
    Rule(
        ALIGN_RANSAC_FLOW,
        lambda r: r.planarity > 0.6 and (r.displacement_share > 0.05 or r.light < SAME_LIGHT),
        "{planarity:.0%} of the matches lie on one plane",
    ),
    # Season, night, depth, retina: PCK at 5 px 94 %, ALIGN 89, dis --init matches 82, raft-xfeat 76; worse in the same light.
    Rule("life-small", lambda r: r.light < SAME_LIGHT, "another light: brightness correlates with {light:.2f}"),
    # aloe 5.1, raft-xfeat --init matches 4.7, dis --init matches 6.1; Cones 1.9, 2.2, 2.1; mean epipolar error on KITTI two
    # frames apart 1.1, 1.1, 3.4.
    Rule(
        ALIGN,
        lambda r: r.displacement_share > 0.05,
        "things move up to {displacement_px:.0f} px, {displacement_share:.0%} of the image",
    ),
    # Middlebury .27, ALIGN .31, raft-xfeat --init matches .33; KITTI .81, .78, 1.11; FlyingChairs .98, .97, .94.
    Rule("dis --init matches", lambda r: True, "things move only up to {displacement_px:.1f} px, in the same light"),
)
"""The first that applies decides."""


def choose(regime: Regime) -> Choice:
    """The method that was best in such a regime."""
    rule = next(rule for rule in RULES if rule.applies(regime))
    return Choice(rule.method, rule.reason.format_map(asdict(regime)))


def refuse_options(given: Mapping[str, object]) -> None:
    """UsageError for the first option (flag -> value, None where it was not given): `auto` takes none of them."""
    for flag, value in given.items():
        if value is not None:
            option = flag if isinstance(value, bool) else f"{flag} {value}"
            raise UsageError(f"{option}: auto chooses the method and its options; name another --model for it")


def auto_flow(
    image0: Image,
    image1: Image,
    *,
    bidirectional: bool = False,
    features: str | None = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Flow:
    """The flow image0 -> image1 by what suits the pair; `run.options["auto"]` says what that is, why, and its regime.

    Where homographies were to be found and none was, a dense method answers after all, and the reason says so. `features`
    are for methods that begin with matches; others have none.
    """
    from flowkit.pipelines.flow import by_alignment, flow
    from flowkit.pipelines.network import Settings

    started = time.perf_counter()
    regime = judge(image0, image1, device=device, seed=seed)
    choice = choose(regime)
    judged = time.perf_counter() - started
    options: dict[str, Any] = {"bidirectional": bidirectional, "resize": resize, "device": device, "seed": seed}
    found = None
    if choice.method in ALIGNMENTS:
        model = ALIGNMENTS[choice.method]
        found = by_alignment((image0, image1), Settings(), model=model, features=features, **options)
        assert found.run is not None
        if not _answers(found):
            status = found.run.options["status"]
            choice = Choice(FALLBACK, f"{choice.reason}; {choice.method} found no reliable homography ({status})")
            found = None
    if found is None:
        model, init = DENSE[choice.method]
        seeding = features if init == "matches" else None
        if resize is None and model_spec(model).network:
            options["resize"] = working_size(image0.size, max_pixels=NETWORK_PIXELS)
        found = flow(image0, image1, model=model, init=init, features=seeding, **options)
    assert found.run is not None
    run = replace(
        found.run,
        method=choice.method,
        options={**found.run.options, "auto": {**asdict(choice), "regime": asdict(regime)}},
        weights={"xfeat": card("xfeat").sha256, **found.run.weights},
        seconds={**found.run.seconds, "judge": judged, "total": time.perf_counter() - started},
    )
    back = None if found.backward is None else replace(found.backward, run=run)
    return replace(found, backward=back, run=run)


def _answers(found: Flow) -> bool:
    """Whether the flow is known anywhere, and the way back, too, where it was asked for."""
    return bool(found.valid.any() and (found.backward is None or found.backward.valid.any()))
