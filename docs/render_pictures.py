"""The pictures of the README, made by the current code from `examples/`: `python docs/render_pictures.py [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

import flowkit
from flowkit.pipelines import correspondence as pipeline
from flowkit.pipelines.outputs import flow_picture
from flowkit.synth.engine import FAMILIES, Engine, EngineSettings
from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scene3DSettings
from flowkit.training.preview import row, sheet
from flowkit.types import Image
from flowkit.viz import canvas, maps, overlays
from flowkit.viz.matches import draw_homography

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, IMAGES = ROOT / "examples", ROOT / "docs" / "images"
PANEL_WIDTH = 400
QUALITY = 88


def main(folder: Path) -> None:
    """Write every picture into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    makers = (align, flow, homography, engine, correspondence, egomotion)
    for name, picture in ((maker.__name__, maker()) for maker in makers):
        file = folder / f"{name}.jpg"
        Pillow.fromarray(picture).save(file, quality=QUALITY, subsampling=0, optimize=True)
        print(f"{file}: {picture.shape[1]}x{picture.shape[0]}, {file.stat().st_size / 1e3:.0f} kB")


def align() -> np.ndarray:
    """Source, target, aligned; blend, flow, confidence: what `flowkit align --multi-h` makes of the two planes."""
    source, target = read("two_planes_source.jpg"), read("two_planes_target.jpg")
    found = flowkit.align(source, target, multi_h=True, device="cpu")
    warped = flowkit.warp(source, flow=found.flow)
    moved = Image(warped.pixels).rgb8
    confidence = found.flow.confidence
    assert confidence is not None, f"the example was not aligned: {found.status}"
    upper = [("SOURCE", source.rgb8), ("TARGET", target.rgb8), ("aligned", moved)]
    lower = [
        ("blend", overlays.blend(moved, target.rgb8, valid=warped.valid)),
        ("flow", flow_picture(found.flow.uv, legend=True)),
        ("confidence (white: sure)", np.repeat(maps.confidence_picture(confidence)[..., None], 3, axis=2)),
    ]
    return np.concatenate([strip(upper), gap(upper), strip(lower)])


def flow() -> np.ndarray:
    """A, B, and the flow A -> B in colour with its legend: `flowkit flow --legend` on the cat."""
    image0, image1 = read("chelsea_0.png"), read("chelsea_1.png")
    found = flowkit.flow(image0, image1)
    return strip([("A", image0.rgb8), ("B", image1.rgb8), ("flow A -> B", flow_picture(found.uv, legend=True))])


def homography() -> np.ndarray:
    """The drawing that `flowkit homography` leaves beside its JSON, for the two cups of coffee."""
    image0, image1 = read("coffee_0.jpg"), read("coffee_1.jpg")
    found = flowkit.homography(image0, image1, device="cpu")
    picture = draw_homography(image0.rgb8, image1.rgb8, found, max_lines=60)
    return canvas.fit_within(picture, 3 * PANEL_WIDTH)


def correspondence() -> np.ndarray:
    """What `flowkit show --correspondence` draws: a point of the poster, before the wall whose bricks are all alike."""
    image0, image1 = read("two_planes_target.jpg"), read("two_planes_source.jpg")
    found = pipeline.correspondence(image0, image1, (250, 200), model="basenet-gocor", device="cpu")
    return canvas.fit_within(pipeline.picture(found, image0, image1), 4 * PANEL_WIDTH)


def engine() -> np.ndarray:
    """A layered scene, two 3-D scenes and a thin-plate pair of the data engine, textured with the example pictures."""
    photos = PhotoStore.from_folder(EXAMPLES)
    rows = []
    for title, family, seed in (
        ("layered", "layered", 3),
        ("3-D scene", "scenes3d", 1),
        ("3-D scene", "scenes3d", 8),
        ("warp", "geometric", 2),
    ):
        shares = {name: float(name == family) for name in FAMILIES}
        pairs = Engine(photos, EngineSettings(**shares, max_displacement=40)).batch(1, (200, 300), seed)
        rows.append(row(pairs, 0, title))
    return canvas.fit_within(sheet(rows), 3 * PANEL_WIDTH)


def egomotion() -> np.ndarray:
    """A scene of the engine in which things move, the flow, how far it is off the camera's motion, and what really moved."""
    cameras = Scene3DSettings(
        moving=1.0, moving_objects=0.5, rotation=0, zooming=0, min_displacement=14, handheld=0.5, forward=0.2
    )
    settings = EngineSettings(layered=0, scenes3d=1, geometric=0, max_displacement=24, lighting=0, cameras=cameras)
    pair = Engine(PhotoStore.from_folder(EXAMPLES), settings).batch(1, (240, 320), 2)
    assert pair.K0 is not None and pair.K1 is not None and pair.moving is not None
    image0, image1 = (
        np.rint(255 * view[0].movedim(0, -1).numpy()).astype(np.uint8) for view in (pair.image0, pair.image1)
    )
    found = flowkit.flow(image0, image1, model="raft-xfeat", bidirectional=True, device="cpu")
    found = flowkit.with_egomotion(found, pair.K0[0].numpy(), pair.K1[0].numpy())
    assert found.egomotion is not None
    moved = np.repeat(maps.occlusion_picture(pair.moving[0].numpy())[..., None], 3, axis=2)
    return strip(
        [
            ("A", image0),
            ("B", image1),
            ("flow A -> B", flow_picture(found.uv)),
            ("off the epipolar line", maps.error_map(found.egomotion.residual, 16.0, bar=False)),
            ("what moved (truth)", moved),
        ]
    )


def read(name: str) -> Image:
    """One picture of `examples/`."""
    return flowkit.read_image(EXAMPLES / name)


def strip(panels: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """Labelled pictures of one size in a row."""
    pictures = []
    for label, picture in panels:
        height, width = picture.shape[:2]
        small = canvas.resized(picture, (round(height * PANEL_WIDTH / width), PANEL_WIDTH))
        pictures.append(canvas.draw_text(small, label))
    return canvas.row(pictures)


def gap(panels: list[tuple[str, np.ndarray]]) -> np.ndarray:
    """The white line between two rows."""
    return np.full((canvas.GAP, len(panels) * (PANEL_WIDTH + canvas.GAP) - canvas.GAP, 3), 255, np.uint8)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)
