"""Dense flow on HPatches as LIFE (ICCV 2021), GLU-Net and GOCor measure it: pairs (1, k), k = 2..6 being the levels I..V.

The flow lives on image k and points into image 1. Both images are resized to one size: 480x640, 240x240, or that of image k.
The data sets: `hpatches-flow-v` viewpoint, `hpatches-flow-i` illumination, where image k is also warped by a homography
of `random_homography`; with `-240` or `-original` at the end at these sizes. `hpatches-flow-v-ransac-flow` is how RANSAC-Flow
(Shen et al., ECCV 2020, Table 1) comes to its numbers at 240x240: the flow is found at a short side of 480.
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from flowkit.datasets.homography_flow import homography_flow
from flowkit.datasets.hpatches import read_hpatches
from flowkit.datasets.samples import FlowSample, Group, HomographySample, Preparation
from flowkit.datasets.short_side import short_side_480
from flowkit.io.images import image_header
from flowkit.types import Size

LEVELS = {"2": "I", "3": "II", "4": "III", "5": "IV", "6": "V"}
SIZES: dict[str, Size | None] = {"": (480, 640), "240": (240, 240), "original": None}
"""End of the data set's name -> (height, width) of both images; None: that of image k."""
RANSAC_FLOW = "ransac-flow"
JUDGED_AT: Size = (240, 240)
"""Grid on which RANSAC-Flow's numbers are measured."""
JITTER = 0.25
"""How far a random homography moves a corner at most, in sides of the image."""


def read_hpatches_flow(root: Path, dataset: str = "hpatches-flow-v") -> list[FlowSample]:
    """Every pair (k, 1) of one kind of sequence, the levels being equal groups."""
    kind, _, variant = dataset.removeprefix("hpatches-flow-").partition("-")
    pairs = [pair for pair in read_hpatches(root, f"hpatches-{kind}") if _k(pair) in LEVELS]
    if variant == RANSAC_FLOW:
        return [_as_ransac_flow(pair, dataset) for pair in pairs]
    return [_sample(pair, dataset, SIZES[variant], kind == "i") for pair in pairs]


def random_homography(name: str, size: Size) -> np.ndarray:
    """3x3 that moves each corner of an image of `size` by up to a quarter of its sides; drawn from `name` alone.

    The seed is the first eight bytes of sha256(name), most significant first; numpy's PCG64 draws eight doubles u in [0, 1),
    for the corners clockwise from the top left x before y; a corner moves by (2 u - 1) / 4 times the distance between the
    centres of the first and the last pixel. So every method, machine and size gets the same one.
    """
    import torch

    from flowkit.geometry.homography import corners, fit_dlt

    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    draws = np.random.Generator(np.random.PCG64(seed)).random((4, 2))
    points = corners(size)
    moved = points + torch.from_numpy((2 * draws - 1) * JITTER * (size[1] - 1, size[0] - 1))
    return fit_dlt(points, moved).numpy()


def _sample(pair: HomographySample, dataset: str, size: Size | None, warped: bool) -> FlowSample:
    """The pair turned round: image k first."""
    first, other = image_header(pair.image0), image_header(pair.image1)
    target = size or other
    warp = random_homography(pair.name, target) if warped else None
    truth = partial(_flow, pair.H, first, other, target, warp)
    return _turned_round(pair, dataset, truth, Preparation(target, warp=warp), Preparation(target))


def _as_ransac_flow(pair: HomographySample, dataset: str) -> FlowSample:
    """The same as RANSAC-Flow's code has it: pictures by `short_side_480`, the truth on `JUDGED_AT`, scaled plainly."""
    first, other = image_header(pair.image0), image_header(pair.image1)
    truth = partial(_plain_flow, pair.H, first, other)
    prepared = (Preparation(short_side_480(size), lanczos=True) for size in (other, first))
    return replace(_turned_round(pair, dataset, truth, *prepared), grid=JUDGED_AT)


def _turned_round(
    pair: HomographySample,
    dataset: str,
    flow: Callable[[], np.ndarray],
    preparation_k: Preparation,
    preparation_1: Preparation,
) -> FlowSample:
    return FlowSample(
        dataset,
        pair.name.replace("1-", "") + "-1",
        pair.image1,
        pair.image0,
        flow,
        group=Group(LEVELS[_k(pair)], equal=True),
        preparation0=preparation_k,
        preparation1=preparation_1,
    )


def _plain_flow(H: np.ndarray, first: Size, other: Size) -> np.ndarray:
    """The truth on `JUDGED_AT` with coordinates scaled as x' = s x, as DGC-Net's and RANSAC-Flow's code do."""
    scale_1, scale_k = (np.diag([JUDGED_AT[1] / width, JUDGED_AT[0] / height, 1.0]) for height, width in (first, other))
    return homography_flow(np.linalg.inv(scale_k @ H @ np.linalg.inv(scale_1)), JUDGED_AT, JUDGED_AT)


def _flow(H: np.ndarray, first: Size, other: Size, size: Size, warp: np.ndarray | None) -> np.ndarray:
    """The truth on image k as prepared; NaN also where nothing of image k was warped to."""
    import torch

    from flowkit.geometry.grids import resize_homography

    scaled = resize_homography(torch.from_numpy(H), first, size, other, size).numpy()
    if warp is None:
        return homography_flow(np.linalg.inv(scaled), size, size)
    flow = homography_flow(np.linalg.inv(warp @ scaled), size, size)
    flow[:, np.isnan(homography_flow(np.linalg.inv(warp), size, size)).any(axis=0)] = np.nan
    return flow


def _k(pair: HomographySample) -> str:
    return pair.name.rpartition("-")[2]
