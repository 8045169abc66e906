"""Contact sheets: what a network will see, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from flowkit.batch import PairBatch
from flowkit.io.atomic import atomic_path
from flowkit.training.feeding import Maker
from flowkit.training.material import Material
from flowkit.training.recipe import Recipe
from flowkit.viz import canvas
from flowkit.viz.flow_colors import flow_to_rgb

ROWS = 6
"""Pairs on a sheet."""
_NOT_SEEN = np.array((255, 80, 60), np.float32)


def write_preview(recipe: Recipe, material: Material, count: int, folder: Path) -> list[Path]:
    """Write the first `count` pairs of a run as `preview-NN.png` into `folder` and return the files.

    A row is image0, image1, the flow in Middlebury's colours (black: no truth) and image0 with hidden points in red, and of a
    triplet the warped image1. Where the recipe has stages each of them gets its share of the rows, and sheets of its own.
    """
    stages = max(1, len(recipe.stages))
    files: list[Path] = []
    for stage in range(stages):
        wanted = count // stages + (stage < count % stages)
        title = f"stage {stage + 1} of {stages}" if stages > 1 else recipe.model
        rows = list(_rows(Maker(recipe, material), stage, wanted, title))
        for first in range(0, len(rows), ROWS):
            path = folder / f"preview-{len(files):02d}.png"
            with atomic_path(path) as temporary:
                Image.fromarray(sheet(rows[first : first + ROWS])).save(temporary)
            files.append(path)
    return files


def row(pairs: PairBatch, index: int, title: str = "") -> np.ndarray:
    """One pair as a strip of four pictures, or a triplet as one of five, (H, W', 3) uint8."""
    image0, image1, *warped = (
        np.ascontiguousarray((image[index].movedim(0, -1) * 255).round().byte().cpu().numpy())
        for image in (pairs.image0, pairs.image1, pairs.warped)
        if image is not None
    )
    flow = pairs.flow[index].cpu().numpy()
    valid = pairs.valid[index].cpu().numpy()
    known = np.where(valid, flow, np.nan)
    longest = float(np.hypot(*flow)[valid].max(initial=0))
    hidden = image0.copy()
    if pairs.occlusion is not None:
        mask = pairs.occlusion[index].cpu().numpy()
        hidden[mask] = np.rint(0.35 * hidden[mask] + 0.65 * _NOT_SEEN)
    colours = flow_to_rgb(known)
    if title:
        canvas.draw_text(image0, title)
    canvas.draw_text(colours, f"{longest:.1f} px")
    return canvas.row([image0, image1, colours, hidden, *warped])


def sheet(rows: list[np.ndarray]) -> np.ndarray:
    """Strips below each other on white."""
    gap = np.full((canvas.GAP, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([piece for strip in rows for piece in (gap, strip)][1:])


def _rows(maker: Maker, stage: int, count: int, title: str) -> Iterator[np.ndarray]:
    done = number = 0
    while done < count:
        pairs = maker.batch((number, stage))
        for index in range(min(len(pairs), count - done)):
            yield row(pairs, index, f"{title}, batch {number}")
        done, number = done + len(pairs), number + 1
