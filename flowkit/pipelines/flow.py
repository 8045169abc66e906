"""Dense flow between two images, whatever their sizes, on image0's grid in its original pixels."""

from __future__ import annotations

import time

import numpy as np

from flowkit.errors import UsageError
from flowkit.pipelines.dis import PRESETS, dis_flow, variational_refinement
from flowkit.pipelines.match import match
from flowkit.pipelines.prepare import Resize, load_pair, resized, resized_image, scaled_points, size_note, working_size
from flowkit.pipelines.seeding import densify
from flowkit.types import Flow, Image, Matches, Run, Size

MODELS = ("dis",)
INITS = ("none", "matches")
SEED_FEATURES = "sift+xfeat+xfeat*"
"""For seeding a dense flow many points count more than few good ones: the neighbours vouch for each other."""
SMALL_SIDE = 700
"""Below this longer side the seeds are searched at twice the size, which finds about twice as many."""
MAX_PIXELS = {"fine": 12e6, "fast": 24e6}
"""Largest working size of DIS, both directions within 4 GB."""


def flow(
    image0: object,
    image1: object,
    *,
    model: str = "dis",
    preset: str = "fine",
    init: str = "none",
    bidirectional: bool = False,
    features: str | None = None,
    resize: Resize = None,
    device: str = "auto",
    seed: int = 0,
) -> Flow:
    """The flow image0 -> image1: p + uv(p) is in image1, both in original pixels; NaN where unknown.

    `init="matches"` spreads locally consistent sparse matches into a dense flow first, for motion that DIS alone does not
    find. `bidirectional` adds `backward`, and to both directions the forward-backward confidence and the occlusion (UnFlow's
    criterion). Images of different sizes are worked on at image0's. Raises InputError, UsageError, WeightsError.
    """
    if model not in MODELS:
        raise UsageError(f"--model {model}: unknown; use one of {', '.join(MODELS)}")
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset}: unknown; use one of {', '.join(PRESETS)}")
    if init not in INITS:
        raise UsageError(f"--init {init}: unknown; use one of {', '.join(INITS)}")
    started = time.perf_counter()
    pair = load_pair(image0, image1)
    size = working_size(pair[0].size, resize, max_pixels=MAX_PIXELS[preset])
    grey0, grey1 = (resized(image.grey8, size) for image in pair)
    weights: dict[str, str] = {}
    backward: np.ndarray | None
    if init == "matches":
        forward, backward, weights = _seeded(pair, size, grey0, grey1, preset, features, device, seed)
    else:
        forward = dis_flow(grey0, grey1, preset)
        backward = dis_flow(grey1, grey0, preset) if bidirectional else None
    run = Run(
        method=model,
        options={
            "model": model,
            "preset": preset,
            "init": init,
            "features": (features or SEED_FEATURES) if init == "matches" else None,
            "bidirectional": bidirectional,
        },
        weights=weights,
        seed=seed,
        device="cpu",
        working_size0=size,
        working_size1=size,
        seconds={"total": time.perf_counter() - started},
        notes=tuple(note for image in pair for note in (*image.notes, size_note(image, size)) if note is not None),
    )
    return _in_original_pixels(forward, backward if bidirectional else None, pair, size, run)


def _seeded(
    pair: tuple[Image, Image],
    size: Size,
    grey0: np.ndarray,
    grey1: np.ndarray,
    preset: str,
    features: str | None,
    device: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    features = features or SEED_FEATURES
    found = seed_matches(pair[0], pair[1], features, device, seed)
    assert found.run is not None
    work = tuple(resized_image(image, size).rgb8 for image in pair)
    dense = densify(
        work[0],
        work[1],
        scaled_points(found.points0, pair[0].size, size),
        scaled_points(found.points1, pair[1].size, size),
        candidates=[(dis_flow(grey0, grey1, preset), dis_flow(grey1, grey0, preset))],
    )
    forward = variational_refinement(grey0, grey1, dense.forward)
    backward = variational_refinement(grey1, grey0, dense.backward)
    return forward, backward, dict(found.run.weights)


def seed_matches(
    image0: Image, image1: Image, features: str = SEED_FEATURES, device: str = "auto", seed: int = 0
) -> Matches:
    """Matches to seed a dense flow with: small images are searched at twice their size."""
    longest = max(*image0.size, *image1.size)
    resize = 2 * longest if longest < SMALL_SIDE else None
    return match(image0, image1, features=features, resize=resize, device=device, seed=seed)


def _in_original_pixels(
    forward: np.ndarray, backward: np.ndarray | None, pair: tuple[Image, Image], size: Size, run: Run
) -> Flow:
    import torch

    from flowkit.geometry.flow import confidence_from_error, forward_backward
    from flowkit.geometry.grids import resize_flow

    def finish(flow: np.ndarray, here: Size, there: Size) -> torch.Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(flow.transpose(2, 0, 1)))
        return resize_flow(tensor, here, size, there)

    size0, size1 = pair[0].size, pair[1].size
    uv = finish(forward, size0, size1)
    if backward is None:
        return Flow(uv.numpy(), size1, run=run)
    uv_back = finish(backward, size1, size0)

    def judged(ab: torch.Tensor, ba: torch.Tensor, points_into: Size, other: Flow | None) -> Flow:
        error, occluded = forward_backward(ab, ba)
        return Flow(ab.numpy(), points_into, confidence_from_error(error).numpy(), occluded.numpy(), other, run)

    return judged(uv, uv_back, size1, judged(uv_back, uv, size0, None))
