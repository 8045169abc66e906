"""Writes rigid videos of the data engine, with true poses, in KITTI's odometry layout.

    .venv/bin/python benchmarks/engine_video.py PHOTOS OUT [--scenes 3] [--frames 20] [--size 192x256] [--displacement 6]
        [--plain 0.3] [--repeating 0.3] [--seed 1] [--flow]

Writes OUT/sequences/NN/image_2/NNNNNN.png and calib.txt, and OUT/poses/NN.txt (camera to world), which `flowkit bench` and
`flowkit pose --sequence` read. PHOTOS is a folder of photographs; of one that has val/, or 5 % of its own, only those held out
from training are used. Nothing moves but the camera, on a smooth path through a scene of its own; about 90 % of the flow from
frame to frame is shorter than `--displacement` pixels, less where the camera would come too near to something. `--plain` and
`--repeating` are shares of faces without texture and with a repeating pattern. `--flow` adds OUT/flow/NN/NNNNNN.flo, the exact
flow from each frame to the next (unknown where a point lies behind the next camera).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from relit import to_uint8
from reporting import run, say

from flowkit.io.atomic import write_text
from flowkit.io.flow_files import write_flow
from flowkit.io.images import write_image
from flowkit.io.text import format_numbers
from flowkit.io.trajectories import write_kitti
from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scene3DSettings, sample_scenes3d
from flowkit.synth.scene3d_video import Video, render_video
from flowkit.training.material import read_photos
from flowkit.types import Size


def film(photos: PhotoStore, settings: Scene3DSettings, frames: int, size: Size, seed: int) -> Video:
    """A video of the scene that `seed` gives."""
    generator = torch.Generator(photos.device).manual_seed(seed)
    return render_video(sample_scenes3d(1, size, settings, photos, generator), frames, photos)


def write_video(video: Video, root: Path, name: str, flow: bool) -> None:
    """The video as sequence `name` of an odometry folder `root`; its K must not change."""
    images = root / "sequences" / name / "image_2"
    (root / "poses").mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(video.images):
        write_image(images / f"{number:06d}.png", to_uint8(image))
    P = np.hstack([video.K[0].numpy(), np.zeros((3, 1))])
    write_text(images.parent / "calib.txt", "".join(f"P{k}: {format_numbers(P)}\n" for k in range(4)))
    to_camera = torch.eye(4, dtype=torch.float64).repeat(len(video.R), 1, 1)
    to_camera[:, :3, :3], to_camera[:, :3, 3] = video.R, video.t
    write_kitti(root / "poses" / f"{name}.txt", torch.linalg.inv(to_camera).numpy())
    if flow:
        flows = root / "flow" / name
        flows.mkdir(parents=True, exist_ok=True)
        for number, (uv, valid) in enumerate(zip(video.pairs.flow, video.pairs.valid, strict=True)):
            write_flow(flows / f"{number:06d}.flo", torch.where(valid, uv, torch.nan).numpy())


def size_of(text: str) -> Size:
    """ "192x256" -> (192, 256)."""
    height, width = text.lower().split("x")
    return int(height), int(width)


def main() -> None:
    """Render and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--size", type=size_of, default=(192, 256), help="HEIGHTxWIDTH in pixels")
    parser.add_argument("--displacement", type=float, default=6.0)
    parser.add_argument("--plain", type=float, default=0.0)
    parser.add_argument("--repeating", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flow", action="store_true")
    arguments = parser.parse_args()
    wanted = arguments.displacement * (arguments.frames - 1)
    settings = Scene3DSettings(
        max_displacement=wanted,
        min_displacement=wanted,
        moving=0.0,
        rotation=0.0,  # a camera that only turns has no direction of travel to be judged by
        zooming=0.0,  # one K for a sequence
        plain=arguments.plain,
        repeating=arguments.repeating,
    )
    photos = read_photos(arguments.photos).held_out
    assert photos is not None
    for number in range(arguments.scenes):
        # A seed for each scene: the first scenes are the same however many are asked for.
        video = film(photos, settings, arguments.frames, arguments.size, 1000 * arguments.seed + number)
        write_video(video, arguments.out, f"{number:02d}", arguments.flow)
        length = video.pairs.flow.norm(dim=1)[video.pairs.valid].quantile(0.9)
        say(f"{number:02d}: {len(video.images)} frames, 90 % of the flow is shorter than {length:.1f} px")


if __name__ == "__main__":
    run(main)
