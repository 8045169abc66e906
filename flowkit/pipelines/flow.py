"""Dense flow between two images, whatever their sizes, on image0's grid in its original pixels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flowkit.errors import InputError, UsageError
from flowkit.io.weights import metadata
from flowkit.models.registry import ModelSpec, model_spec
from flowkit.pipelines.auto import AUTO, auto_flow, refuse_options
from flowkit.pipelines.dis import PRESETS, dis_flow, variational_refinement
from flowkit.pipelines.match import FeatureChoice, chosen_features, import_features, match
from flowkit.pipelines.network import Answer, Settings, check_settings, network_flow
from flowkit.pipelines.prepare import Resize, load_pair, resized, resized_image, scaled_points, size_note, working_size
from flowkit.pipelines.seeding import densify
from flowkit.types import Flow, Image, Matches, Run, Size

INITS = ("none", "coarse", "matches")
SEED_FEATURES = "sift+xfeat+xfeat*"
"""For seeding a dense flow many points count more than few good ones: the neighbours vouch for each other."""
SMALL_SIDE = 700
"""Below this longer side the seeds are searched at twice the size, which finds about twice as many ..."""
DOUBLING = {"sift"}
"""... except by what does so by itself: four times the size finds no more that is true, and takes a second."""
MAX_PIXELS = {"fine": 12e6, "fast": 24e6}
"""Largest working size of DIS, both directions within 4 GB."""


def flow(
    image0: object,
    image1: object,
    *,
    model: str = AUTO,
    weights: str | Path | None = None,
    preset: str | None = None,
    iterations: int | None = None,
    precision: str = "auto",
    tile: bool | int | None = None,
    flip_test: bool = False,
    init: str | None = None,
    initial: np.ndarray | None = None,
    bidirectional: bool = False,
    features: str | None = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Flow:
    """The flow image0 -> image1: p + uv(p) is in image1, both in original pixels; NaN where unknown.

    `model` is `auto`, which chooses for the pair (`flowkit.pipelines.auto`; `run.options["auto"]` says what and why), `dis`,
    which has a `preset` (fine, fast), or a network, which has `weights` (a file in place of its own), `iterations`,
    `precision` (auto, fp32, fp16, bf16) and `tile` (True or a side in pixels; None: where memory is short);
    GLU-Nets have a `flip_test` for things of one kind that may face each other: image0 mirrored is matched if that fits better.
    `init="matches"` spreads locally consistent sparse matches into a dense flow to start from, for motion that the model alone
    does not find; `init="coarse"` starts a network from its own flow at half the size, and that from a quarter; None is the
    model's own way. `initial` (2, H, W) is a flow to start from in original pixels, NaN for unknown. Networks with GOCor give a
    `confidence` of their own. `bidirectional` adds `backward`, and to both directions the forward-backward confidence (in place
    of that) and the occlusion (UnFlow's criterion). Images of
    different sizes are worked on at image0's. `ransac-flow` begins with homographies (`flowkit.pipelines.align`); where there
    is none, all is NaN. Raises InputError, UsageError, WeightsError.
    """
    settings = Settings(weights, iterations, precision, tile, flip_test)
    if model == AUTO:
        _check_auto(preset, settings, init, initial)
        pair = load_pair(image0, image1)
        return auto_flow(*pair, bidirectional=bidirectional, features=features, resize=resize, device=device, seed=seed)
    spec = model_spec(model)
    _check(spec, preset, settings, init, initial)
    init = init or ("none" if initial is not None or _converted(weights) else spec.init)
    started = time.perf_counter()
    pair = load_pair(image0, image1)
    if spec.coarse:
        return by_alignment(pair, settings, bidirectional, model=model, resize=resize, device=device, seed=seed)
    if spec.network:
        size = working_size(pair[0].size, resize)
        start: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
        used: dict[str, str] = {}
        if init == "matches":
            forward, backward, used = _spread_matches(pair, size, "fine", features, device, seed)
            start = forward.transpose(2, 0, 1), backward.transpose(2, 0, 1)
        elif initial is not None:
            start = _initial(initial, pair, size)
        answer = network_flow(
            resized(pair[0].pixels, size),
            resized(pair[1].pixels, size),
            spec,
            settings,
            device=device,
            bidirectional=bidirectional,
            initial=start,
            coarse=init == "coarse",
        )
        answer = replace(answer, weights={**used, **answer.weights})
    else:
        preset = preset or "fine"
        size = working_size(pair[0].size, resize, max_pixels=MAX_PIXELS[preset])
        answer = _dis(pair, size, preset, init, bidirectional, features, device, seed)
    run = Run(
        method=model,
        options={
            "model": model,
            **answer.options,
            "init": "given" if initial is not None else init,
            "features": (features or SEED_FEATURES) if init == "matches" else None,
            "bidirectional": bidirectional,
        },
        weights=answer.weights,
        seed=seed,
        device=answer.device,
        working_size0=size,
        working_size1=size,
        seconds={"total": time.perf_counter() - started},
        notes=(
            *(note for image in pair for note in (*image.notes, size_note(image, size)) if note is not None),
            *answer.notes,
        ),
    )
    return _in_original_pixels(answer, pair, size, run)


def by_alignment(pair: tuple[Image, Image], settings: Settings, bidirectional: bool, **options: Any) -> Flow:
    """By homographies and what a network makes of each (`flowkit.pipelines.align`); all of it NaN where there is none.

    `run.options["status"]` says why.
    """
    from flowkit.pipelines.align import align

    network: dict[str, Any] = {
        "weights": settings.weights,
        "precision": settings.precision,
        "iterations": settings.iterations,
    }
    found = align(pair[1], pair[0], multi_h=True, **network, **options)
    assert found.run is not None
    run = replace(
        found.run,
        method=str(options["model"]),
        options={**found.run.options, "bidirectional": bidirectional, "status": str(found.status)},
    )
    if not bidirectional:
        return replace(found.flow, run=run)
    back = align(pair[0], pair[1], multi_h=True, **network, **options)
    return _both_ways(found.flow.uv, back.flow.uv, pair, run)


def _converted(weights: str | Path | None) -> bool:
    """Whether the file holds weights of others, which were not trained to go on from a start."""
    return weights is not None and "converted_from" in metadata(weights)


def _check_auto(preset: str | None, settings: Settings, init: str | None, initial: object) -> None:
    """UsageError for what only some of the methods take that `auto` may choose."""
    refuse_options(
        {
            "--preset": preset,
            "--init": init,
            "a flow to start from": True if initial is not None else None,
            "--weights": settings.weights,
            "--iters": settings.iterations,
            "--precision": None if settings.precision == "auto" else settings.precision,
            "--tile": settings.tile,
            "--flip-test": settings.flip_test or None,
        }
    )


def _check(spec: ModelSpec, preset: str | None, settings: Settings, init: str | None, initial: object) -> None:
    """UsageError for options that are unknown or that this model does not have."""
    if init not in (None, *INITS):
        raise UsageError(f"--init {init}: unknown; use one of {', '.join(INITS)}")
    if spec.coarse and (initial is not None or init not in (None, "none") or settings.tile or settings.flip_test):
        raise UsageError(f"--model {spec.name}: begins with homographies; leave --init, --tile and --flip-test out")
    if spec.network:
        if preset is not None:
            raise UsageError(f"--preset {preset}: {spec.name!r} has none; leave the option out")
        if init not in (None, "none") and initial is not None:
            raise UsageError(f"--init {init}: a flow to start from is given already; leave one of them out")
        if settings.flip_test and (initial is not None or init not in (None, "none")):
            raise UsageError("--flip-test: a mirrored picture cannot start from a flow; leave one of them out")
        check_settings(spec, settings)
        return
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"--preset {preset}: unknown; use one of {', '.join(PRESETS)}")
    for option, given in (
        (f"--weights {settings.weights}: the method {spec.name!r} has no weights", settings.weights is not None),
        (f"--iters {settings.iterations}: {spec.name!r} has no iterations", settings.iterations is not None),
        (f"--precision {settings.precision}: {spec.name!r} is no network", settings.precision not in ("auto", "fp32")),
        (f"--tile: {spec.name!r} is no network", bool(settings.tile)),
        (f"--flip-test: {spec.name!r} is no network", settings.flip_test),
        (f"--init coarse: {spec.name!r} works from coarse to fine by itself", init == "coarse"),
        (f"a flow to start from: {spec.name!r} takes none", initial is not None),
    ):
        if given:
            raise UsageError(f"{option}; leave the option out")


def _dis(
    pair: tuple[Image, Image],
    size: Size,
    preset: str,
    init: str,
    bidirectional: bool,
    features: str | None,
    device: str,
    seed: int,
) -> Answer:
    grey0, grey1 = (resized(image.grey8, size) for image in pair)
    weights: dict[str, str] = {}
    if init == "matches":
        forward, backward, weights = _spread_matches(pair, size, preset, features, device, seed)
        forward = variational_refinement(grey0, grey1, forward)
        backward = variational_refinement(grey1, grey0, backward)
    else:
        forward = dis_flow(grey0, grey1, preset)
        backward = dis_flow(grey1, grey0, preset) if bidirectional else forward
    back = np.ascontiguousarray(backward.transpose(2, 0, 1)) if bidirectional else None
    return Answer(np.ascontiguousarray(forward.transpose(2, 0, 1)), back, {"preset": preset}, weights, "cpu")


def _spread_matches(
    pair: tuple[Image, Image], size: Size, preset: str, features: str | None, device: str, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """Dense flows (H, W, 2) there and back at the working size from sparse matches, and the weights these needed."""
    features = features or SEED_FEATURES
    found = seed_matches(pair[0], pair[1], features, device, seed)
    assert found.run is not None
    work = tuple(resized_image(image, size).rgb8 for image in pair)
    grey0, grey1 = (resized(image.grey8, size) for image in pair)
    dense = densify(
        work[0],
        work[1],
        scaled_points(found.points0, pair[0].size, size),
        scaled_points(found.points1, pair[1].size, size),
        candidates=[(dis_flow(grey0, grey1, preset), dis_flow(grey1, grey0, preset))],
    )
    return dense.forward, dense.backward, dict(found.run.weights)


def _initial(initial: np.ndarray, pair: tuple[Image, Image], size: Size) -> tuple[np.ndarray, None]:
    """A flow in original pixels as one at the working size; nothing is known of the way back."""
    import torch

    from flowkit.geometry.grids import resize_flow

    given = torch.from_numpy(np.array(initial, np.float32))
    if given.shape != (2, *pair[0].size):
        height, width = pair[0].size
        raise InputError(
            f"the flow to start from has shape {tuple(given.shape)}; (2, {height}, {width}) belongs to {pair[0].name}"
        )
    return resize_flow(given, size, pair[1].size, size).numpy(), None


def seed_matches(
    image0: Image, image1: Image, features: FeatureChoice = SEED_FEATURES, device: str = "auto", seed: int = 0
) -> Matches:
    """Matches to seed a dense flow with: small images are searched at twice their size, unless a feature does so itself."""
    from flowkit.features.matching import merge

    longest = max(*image0.size, *image1.size)
    chosen = chosen_features(features)
    if longest >= SMALL_SIDE:
        return match(image0, image1, features=chosen, device=device, seed=seed)
    import_features(chosen)
    sizes: tuple[tuple[list[str], Resize], ...] = (
        ([part for part in chosen.parts if part in DOUBLING], None),
        ([part for part in chosen.parts if part not in DOUBLING], 2 * longest),
    )
    found = [
        match(image0, image1, features=replace(chosen, names="+".join(parts)), resize=resize, device=device, seed=seed)
        for parts, resize in sizes
        if parts
    ]
    return replace(merge(found), run=_together([each.run for each in found if each.run is not None], chosen.names))


def _together(runs: Sequence[Run], features: str) -> Run:
    """What matching the parts of `features` in turn took."""
    seconds = {name: sum(run.seconds.get(name, 0) for run in runs) for run in runs for name in run.seconds}
    return replace(
        runs[-1],
        method=features,
        options={**runs[-1].options, "features": features},
        weights={name: sha256 for run in runs for name, sha256 in run.weights.items()},
        seconds=seconds,
        notes=tuple(dict.fromkeys(note for run in runs for note in run.notes)),
    )


def _in_original_pixels(answer: Answer, pair: tuple[Image, Image], size: Size, run: Run) -> Flow:
    import torch

    from flowkit.geometry.grids import resize_flow, resize_image

    size0, size1 = pair[0].size, pair[1].size
    uv = resize_flow(torch.from_numpy(answer.forward), size0, size, size1)
    if answer.backward is None:
        confidence = (
            None if answer.confidence is None else resize_image(torch.from_numpy(answer.confidence)[None], size0)
        )
        return Flow(uv.numpy(), size1, None if confidence is None else confidence[0].numpy(), run=run)
    uv_back = resize_flow(torch.from_numpy(answer.backward), size1, size, size0)
    return _both_ways(uv.numpy(), uv_back.numpy(), pair, run)


def _both_ways(uv: np.ndarray, uv_back: np.ndarray, pair: tuple[Image, Image], run: Run) -> Flow:
    """A flow with the way back; confidence and occlusion of both from how they agree."""
    import torch

    from flowkit.geometry.flow import confidence_from_error, forward_backward

    def judged(ab: np.ndarray, ba: np.ndarray, points_into: Size, other: Flow | None) -> Flow:
        error, occluded = forward_backward(torch.from_numpy(ab), torch.from_numpy(ba))
        return Flow(ab, points_into, confidence_from_error(error).numpy(), occluded.numpy(), other, run)

    size0, size1 = pair[0].size, pair[1].size
    return judged(uv, uv_back, size1, judged(uv_back, uv, size0, None))
