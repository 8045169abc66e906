"""Pairs of pictures in which much repeats, with exact flow: wallpapers in photographs, and facades.

    .venv/bin/python benchmarks/repetitive.py --photos ../shared/photos/val --output DIR [--count 40] [--kinds tiled,facade]
        [--sizes 256x256,384x512] [--seed 0] [--check]

writes DIR/KIND/NNN_0.png, NNN_1.png, NNN.flo (image0 -> image1) and NNN_look.png (image0, image1, image1 brought back by the
flow, the repeating part), and says with --check how far image1 brought back is from image0, as it is and half a pixel aside.

GOCor's claim is that it tells repetitions apart where plain correlation cannot (Truong et al., NeurIPS 2020, section 3.2).
`tiled`: a patch of a photograph repeats over 40 to 80 % of another, square or as bricks, edge to edge or as windows in a plain
wall, in half of the pairs with tiles that differ a little in brightness, in half with tiles a little out of place. Up to three
marks, each there once, and the region's outline say which tile is which. `facade`: crops of photographs whose
structure repeats by itself. image1 is the picture, image0 the same through an affine map or a homography that moves its points
by up to half a period to four; both are drawn from one scene of twice the resolution. Then light and noise change mildly.
Pair k of a kind is the same whatever --count is. `repetitive_pairs` gives the pairs to other scripts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reporting import names, run, say
from wallpapers import design, mark, papered, place_wallpaper

from flowkit.batch import PairBatch
from flowkit.errors import InputError, UsageError
from flowkit.evaluation.speed import parse_size
from flowkit.geometry.flow import flow_from_homography
from flowkit.geometry.grids import flow_targets, inside, pixel_grid
from flowkit.geometry.sampling import sample
from flowkit.io.flow_files import write_flow
from flowkit.io.images import read_image, write_image
from flowkit.synth.geometric import GeometricSettings, sample_maps
from flowkit.synth.lighting import relight
from flowkit.synth.photos import covering, pictures
from flowkit.synth.random import Random
from flowkit.types import Size

KINDS = ("tiled", "facade")
SIZES: tuple[Size, ...] = ((256, 256), (384, 512))
FACADES: Mapping[str, tuple[float, float, float, float]] = {
    "ferdinand-stohr": (0.0, 0.0, 1.0, 1.0),
    "samuel-zeller": (0.0, 0.0, 1.0, 1.0),
    "nextcloud-community": (0.0, 0.08, 1.0, 0.58),
    "__china_": (0.08, 0.12, 0.68, 0.8),
}
"""Part of a photograph's name -> left, top, right, bottom of what repeats, as shares of its sides."""
DETAIL = 2
"""Pixels of a scene per pixel of the pictures."""
MARGIN = {"tiled": 0.3, "facade": 0.1}
"""How far a scene goes beyond image1 on each side, as a share of its sides; what image0 shows of farther out is black."""
PERIOD = (1 / 16, 1 / 5)
"""Side of a tile as a share of the picture's shorter side; uniform in the logarithm."""
REACH = (0.5, 4.0)
"""Largest displacement in periods; uniform in the logarithm."""
FARTHEST = 0.35
"""It is never more than this share of the shorter side, so that most of the picture remains in sight."""
FACADE_REACH = (0.04, FARTHEST)
"""The same for facades, as a share of the shorter side: their periods, 3 to 12 % of it, are not measured."""
MAPS = GeometricSettings(
    affine=2 / 3, homography=1 / 3, thin_plate=0, affine_thin_plate=0, scale=0.15, translation=0.7, shown=1.0
)
LIGHT = 0.25
"""Strongest change of light, that of usual colour jitter; each pair's is drawn between 0 and this."""


@dataclass(frozen=True)
class Pair:
    """Pictures (H, W, 3) uint8, and what is true of image0's pixels."""

    kind: str
    name: str
    image0: np.ndarray
    image1: np.ndarray
    flow: np.ndarray
    """(2, H, W) float32, image0 -> image1 in pixels; NaN where it leaves image1."""
    repeating: np.ndarray
    """(H, W) bool: the pixels of image0 that show what repeats."""
    period: float | None
    """Pixels from one tile of image1 to the next; None where it is not known."""
    H: np.ndarray
    """3x3 float64, image0 -> image1."""
    made: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """What both pictures show: (3, H, W) float32 in [0, 1], and where it repeats (H, W), of DETAIL times the resolution."""

    picture: torch.Tensor
    repeating: torch.Tensor
    margin: float
    period: float | None
    made: Mapping[str, Any]


def repetitive_pairs(
    folder: Path,
    kind: str,
    count: int = 40,
    *,
    sizes: Sequence[Size] = SIZES,
    seed: int = 0,
    light: float = LIGHT,
) -> Iterator[Pair]:
    """`count` pairs of a kind from the photographs of `folder`, their sizes (height, width) in turns.

    UsageError for an unknown kind, InputError where the folder has none of the photographs that are needed.
    """
    if kind not in KINDS:
        raise UsageError(f"kind {kind!r}: known are {', '.join(KINDS)}")
    files = pictures(folder)
    if kind == "facade":
        files = [file for file in files if _box(file) is not None]
        if not files:
            raise InputError(f"{folder}: none of its photographs is known for its facade; name some in FACADES")
    for index in range(count):
        rng = np.random.default_rng([seed, KINDS.index(kind), index])
        size = sizes[index % len(sizes)]
        scene = (
            tiled_scene(files, size, rng)
            if kind == "tiled"
            else facade_scene(files[index // len(sizes) % len(files)], size, rng)
        )
        yield draw_pair(kind, f"{index:03d}", scene, size, rng, light)


# --- both pictures of a scene ----------------------------------------------------------------------------------------


def draw_pair(kind: str, name: str, scene: Scene, size: Size, rng: np.random.Generator, light: float) -> Pair:
    """image1 shows the middle of the scene, image0 the same through a map; the light of both then changes."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    short = min(size)
    low, high = FACADE_REACH if scene.period is None else (reach * scene.period / short for reach in REACH)
    reach = short * min(FARTHEST, math.exp(rng.uniform(math.log(low), math.log(high))))
    H = sample_maps(1, size, MAPS, Random.on_host(generator, torch.float64), reach).homographies()[0]
    flow = flow_from_homography(H, size).float()
    valid = inside(flow_targets(flow), size)
    identity = torch.eye(3, dtype=torch.float64)
    image0, image1 = (seen(scene.picture, scene.margin, matrix, size)[None] for matrix in (H, identity))
    batch = PairBatch(image0, image1, torch.where(valid, flow, 0)[None], valid[None])
    if light > 0:
        batch = relight(batch, float(rng.uniform(0, light)), generator)
    return Pair(
        kind=kind,
        name=name,
        image0=_uint8(batch.image0[0]),
        image1=_uint8(batch.image1[0]),
        flow=torch.where(valid, flow, torch.nan).numpy(),
        repeating=(seen(scene.repeating[None], scene.margin, H, size)[0] > 0.5).numpy(),
        period=scene.period,
        H=H.numpy(),
        made={**scene.made, "reach": round(reach, 1)},
    )


def scene_size(kind: str, size: Size) -> Size:
    """(height, width) of the scene for pictures of that size."""
    height, width = (DETAIL * (side + 2 * round(MARGIN[kind] * side)) for side in size)
    return height, width


def seen(scene: torch.Tensor, beyond: float, H: torch.Tensor, size: Size) -> torch.Tensor:
    """(C, h, w): what of the scene (C, H, W) pixel p of a picture shows that lies at H p in image1; four samples a pixel.

    The scene goes beyond image1 by a share `beyond` of its sides.
    """
    height, width = size
    margin = scene.new_tensor([round(beyond * width), round(beyond * height)], dtype=torch.float64)
    whole = pixel_grid(height, width, dtype=torch.float64).movedim(0, -1)
    steps = [(k + 0.5) / DETAIL - 0.5 for k in range(DETAIL)]
    found = torch.zeros(scene.shape[0], height, width)
    for dx in steps:
        for dy in steps:
            points = whole + whole.new_tensor([dx, dy])
            moved = torch.cat([points, torch.ones_like(points[..., :1])], -1) @ H.mT
            there = moved[..., :2] / moved[..., 2:]
            found += sample(scene, DETAIL * (there + margin + 0.5) - 0.5)
    return found / len(steps) ** 2


def _uint8(picture: torch.Tensor) -> np.ndarray:
    return (255 * picture.clamp(0, 1)).round().byte().movedim(0, -1).numpy()


# --- facades ---------------------------------------------------------------------------------------------------------


def facade_scene(file: Path, size: Size, rng: np.random.Generator) -> Scene:
    """A crop of what repeats in the photograph, three quarters of its extent or more, scaled to the scene."""
    import cv2

    left, top, right, bottom = _box(file) or (0.0, 0.0, 1.0, 1.0)
    photo = read_image(file).rgb8
    rows, columns = photo.shape[:2]
    part = photo[round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)]
    height, width = scene_size("facade", size)
    largest = min(part.shape[0] / height, part.shape[1] / width)
    share = rng.uniform(0.75, 1.0)
    high, wide = round(share * largest * height), round(share * largest * width)
    y, x = (int(rng.integers(whole - side + 1)) for whole, side in zip(part.shape[:2], (high, wide), strict=True))
    crop = part[y : y + high, x : x + wide]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    shrunk = cv2.INTER_AREA if high > height else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=shrunk)
    made = {"photo": file.name, "share": round(share, 3)}
    return Scene(_tensor(picture), torch.ones(height, width), MARGIN["facade"], None, made)


def _box(file: Path) -> tuple[float, float, float, float] | None:
    return next((box for part, box in FACADES.items() if part in file.name), None)


def _tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0).float() / 255


# --- wallpapers ------------------------------------------------------------------------------------------------------


def tiled_scene(files: Sequence[Path], size: Size, rng: np.random.Generator) -> Scene:
    """A wallpaper with up to three marks in a photograph."""
    height, width = scene_size("tiled", size)
    around, tile, *marks = (read_image(files[k]).rgb8 for k in rng.integers(len(files), size=5))
    picture = covering(around, (height, width)).astype(np.float32)
    period = min(size) * math.exp(rng.uniform(*np.log(PERIOD)))
    middle = (np.array([width, height]) - 1) / 2
    paper = place_wallpaper(middle, DETAIL * np.array(size[::-1], np.float64), DETAIL * period, rng)
    at = paper.coordinates(height, width)
    covered = paper.covers(at)
    uneven, moved = (amount if rng.random() < 0.5 else 0.0 for amount in (0.05, 0.06))
    windows = bool(rng.random() < 0.5)
    patch = design(tile, round(DETAIL * period), windows, rng)
    picture[covered] = papered(patch, paper, at[:, covered], uneven, moved, rng)
    count = int(rng.integers(1, len(marks) + 1))
    for photo in marks[:count]:
        mark(picture, photo, paper, at, covered, rng)
    made = {"bricks": paper.bricks, "windows": windows, "round": paper.round, "uneven": uneven, "moved": moved}
    made |= {"marks": count, "period": round(period, 1), "covered": round(float(_middle(covered, size).mean()), 3)}
    return Scene(_tensor(picture.clip(0, 255)), torch.from_numpy(covered).float(), MARGIN["tiled"], period, made)


def _middle(scene: np.ndarray, size: Size) -> np.ndarray:
    """What of a wallpaper's scene (H, W) image1 shows."""
    top, left = (DETAIL * round(MARGIN["tiled"] * side) for side in size)
    return scene[top : top + DETAIL * size[0], left : left + DETAIL * size[1]]


# --- to look at, and to check ----------------------------------------------------------------------------------------


def brought_back(pair: Pair, aside: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """(H, W, 3) float32: image1 at p + flow(p) + aside, in 0..255; NaN where the flow is unknown."""
    import cv2

    y, x = np.mgrid[: pair.flow.shape[1], : pair.flow.shape[2]].astype(np.float32)
    x, y = x + pair.flow[0] + np.float32(aside[0]), y + pair.flow[1] + np.float32(aside[1])
    known = np.isfinite(pair.flow).all(0)
    x, y = np.where(known, x, 0), np.where(known, y, 0)
    found = cv2.remap(pair.image1.astype(np.float32), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(known[..., None], found, np.nan)


def misfit(pair: Pair, aside: tuple[float, float] = (0.0, 0.0)) -> float:
    """Mean absolute difference of image0 and image1 brought back, in grey levels; means only if the light is one."""
    return float(np.nanmean(np.abs(brought_back(pair, aside) - pair.image0)))


def check_pairs(pairs: Sequence[Pair]) -> dict[str, float]:
    """Mean misfits in grey levels: by the flow, half a pixel aside (the least of four), and without flow."""
    sides = ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5))
    aside = [min(misfit(pair, side) for side in sides) for pair in pairs]
    known = [np.isfinite(pair.flow).all(0) for pair in pairs]
    still = [np.abs(pair.image0[m].astype(float) - pair.image1[m]).mean() for pair, m in zip(pairs, known, strict=True)]
    as_is = [misfit(pair) for pair in pairs]
    worse = sum(a <= b for a, b in zip(aside, as_is, strict=True))
    means = {"by flow": as_is, "half a pixel aside": aside, "without flow": still}
    return {name: float(np.mean(values)) for name, values in means.items()} | {"fit better aside": worse}


def look(pair: Pair) -> np.ndarray:
    """image0, image1, image1 brought back (black where it is not known), image0 with what does not repeat darkened."""
    back = np.nan_to_num(brought_back(pair)).astype(np.uint8)
    part = (pair.image0 * np.where(pair.repeating, 1.0, 0.35)[..., None]).astype(np.uint8)
    return np.hstack([pair.image0, pair.image1, back, part])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="photographs that nothing was trained on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--count", type=int, default=40, help="pairs of each kind")
    parser.add_argument("--kinds", type=names, default=list(KINDS))
    parser.add_argument("--sizes", type=names, default=["256x256", "384x512"], help="HEIGHTxWIDTH, in turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="also say whether the flow fits, under one light")
    arguments = parser.parse_args()
    sizes = [parse_size(text) for text in arguments.sizes]
    for kind in arguments.kinds:
        options: dict[str, Any] = {"sizes": sizes, "seed": arguments.seed}
        for pair in repetitive_pairs(arguments.photos, kind, arguments.count, **options):
            place = arguments.output / kind
            write_image(place / f"{pair.name}_0.png", pair.image0)
            write_image(place / f"{pair.name}_1.png", pair.image1)
            write_image(place / f"{pair.name}_look.png", look(pair))
            write_flow(place / f"{pair.name}.flo", pair.flow)
            say(f"{kind} {pair.name} {' '.join(f'{key}={value}' for key, value in pair.made.items())}")
        if arguments.check:
            found = check_pairs([*repetitive_pairs(arguments.photos, kind, arguments.count, light=0.0, **options)])
            print(f"{kind}: misfit in grey levels: " + ", ".join(f"{k} {v:.2f}" for k, v in found.items()))


if __name__ == "__main__":
    run(main)
