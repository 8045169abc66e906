"""Render the example pairs of this folder, with their exact motion, from photographs that come with scikit-image.

    python examples/render_examples.py [DIRECTORY]

Points are (x, y) in pixels, the centre of the top-left pixel is (0, 0); a homography maps as x' ~ H x.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import cv2
import numpy as np

Points = np.ndarray
"""(..., 2) float64."""

FINE = 4  # every pixel is the mean of FINE x FINE samples

# two_planes: a poster hangs well in front of a brick wall; camera and light change between source and target.
TWO_PLANES_SIZE = (360, 480)
WALL_SOURCE = [(-30, -34), (520, -14), (508, 392), (-22, 398)]
WALL_TARGET = [(-64, -22), (512, -58), (532, 406), (-38, 384)]
POSTER_SOURCE = [(246, 62), (432, 44), (438, 292), (252, 276)]
POSTER_TARGET = [(82, 48), (278, 66), (270, 322), (70, 318)]
GAMMA = 1.25
GAINS = (0.97, 0.86, 0.70)  # of red, green, blue: a warm evening light
RAMP = (0.68, 1.0)  # brightness at the left and the right edge
NOISE = 2.5  # standard deviation, in grey levels

# coffee: the same table, the camera rolled by 30 degrees, nearer and a little tilted.
COFFEE_SIZE0, COFFEE_SIZE1 = (320, 480), (300, 310)
COFFEE_ZOOM, COFFEE_ROLL, COFFEE_TILT = 1.3, 30.0, (4e-4, -3e-4)
COFFEE_CENTRE = (240.0, 170.0)

# chelsea: two video frames; each component of the flow is offset + sum of amplitude * sin(2 pi (kx x + ky y) + phase).
CHELSEA_SIZE = (256, 384)
CHELSEA_STEP, CHELSEA_ORIGIN = 1.1, (14.0, 9.0)
CHELSEA_FLOW = {
    "x": {"offset": 1.5, "waves": [(4.0, 1 / 420, 1 / 240, 0.4), (1.2, 1 / 110, 0.0, 1.1)]},
    "y": {"offset": -0.5, "waves": [(3.0, 1 / 260, -1 / 500, 2.0), (0.8, 0.0, 1 / 90, 0.2)]},
}


def main(directory: Path) -> None:
    """Write the six pictures and ground_truth.json."""
    for name, data in render_all().items():
        (directory / name).write_bytes(data)
    text = json.dumps(ground_truth(), indent=1)
    (directory / "ground_truth.json").write_text(text + "\n", encoding="utf-8")


def render_all() -> dict[str, bytes]:
    """File name -> content, of every picture."""
    source, target = render_two_planes()
    coffee0, coffee1 = render_coffee()
    frame0, frame1 = render_chelsea()
    return {
        "two_planes_source.jpg": encode(source, "JPEG"),
        "two_planes_target.jpg": encode(target, "JPEG"),
        "coffee_0.jpg": encode(coffee0, "JPEG"),
        "coffee_1.jpg": encode(coffee1, "JPEG"),
        "chelsea_0.png": encode(frame0, "PNG"),
        "chelsea_1.png": encode(frame1, "PNG"),
    }


def ground_truth() -> dict:
    """What ground_truth.json says."""
    wall, poster = two_planes_homographies()
    return {
        "convention": "points (x, y) in pixels, centre of the top-left pixel at (0, 0), x1 ~ H x0, H row by row",
        "two_planes": {
            "grid": "two_planes_target.jpg",
            "points_into": "two_planes_source.jpg",
            "homographies": {"wall": wall.tolist(), "poster": poster.tolist()},
            "poster_on_target": [list(corner) for corner in POSTER_TARGET],
            "poster_on_source": [list(corner) for corner in POSTER_SOURCE],
            "light": "target = gain * ramp(x) * scene ** gamma + noise; scene and target in [0, 1]",
            "gamma": GAMMA,
            "gains_rgb": list(GAINS),
            "ramp_left_right": list(RAMP),
            "noise_grey_levels": NOISE,
        },
        "coffee": {
            "grid": "coffee_0.jpg",
            "points_into": "coffee_1.jpg",
            "homography": coffee_homography().tolist(),
        },
        "chelsea": {
            "grid": "chelsea_0.png",
            "points_into": "chelsea_1.png",
            "flow": "each component: offset + sum of amplitude * sin(2 pi (kx x + ky y) + phase), in pixels",
            **{
                axis: {
                    "offset": part["offset"],
                    "waves": [
                        dict(zip(("amplitude", "kx", "ky", "phase"), wave, strict=True)) for wave in part["waves"]
                    ],
                }
                for axis, part in CHELSEA_FLOW.items()
            },
        },
    }


# ---- two_planes


def two_planes_homographies() -> tuple[np.ndarray, np.ndarray]:
    """Target -> source of the wall and of the poster."""
    return from_corners(WALL_TARGET, WALL_SOURCE), from_corners(POSTER_TARGET, POSTER_SOURCE)


def two_planes_flow() -> tuple[np.ndarray, np.ndarray]:
    """The exact flow target -> source, (2, H, W) with NaN where it leaves the source, and (H, W) bool, True = occluded."""
    wall, poster = two_planes_homographies()
    points = pixel_centres(TWO_PLANES_SIZE)
    on_poster = inside_unit(transform(from_corners(POSTER_TARGET, UNIT), points))
    moved = np.where(on_poster[..., None], transform(poster, points), transform(wall, points))
    occluded = ~on_poster & inside_unit(transform(from_corners(POSTER_SOURCE, UNIT), moved))
    return as_flow(points, moved, TWO_PLANES_SIZE), occluded


def render_two_planes() -> tuple[np.ndarray, np.ndarray]:
    """Source and target, (H, W, 3) uint8."""
    wall, poster = wall_photo(), poster_photo()
    pictures = []
    for wall_corners, poster_corners in ((WALL_SOURCE, POSTER_SOURCE), (WALL_TARGET, POSTER_TARGET)):
        points = pixel_centres(TWO_PLANES_SIZE, FINE)
        scene = sample(wall, transform(from_corners(wall_corners, outline(wall)), points))
        places = transform(from_corners(poster_corners, outline(poster)), points)
        covered = inside_unit(transform(from_corners(poster_corners, UNIT), points))
        scene[covered] = sample(poster, places)[covered]
        pictures.append(averaged(scene))
    source, target = pictures
    noise = np.random.default_rng(7).normal(0, NOISE / 255, target.shape)
    return to_uint8(source), to_uint8(relight(target) + noise)


def wall_photo() -> np.ndarray:
    """Tinted bricks in horizontal courses, roughened with the grain of gravel: smooth ones hold hardly any features."""
    bricks, gravel = np.ascontiguousarray(np.rot90(photo("brick"))[:400]), photo("gravel")[:400]
    grain = gravel - cv2.GaussianBlur(gravel, (0, 0), 8)
    grey = bricks * (1 + 0.8 * grain) * 1.2
    return np.clip(grey[..., None] * np.array([1.0, 0.80, 0.70], np.float32), 0, 1)


def poster_photo() -> np.ndarray:
    """The astronaut, cropped to a portrait with a white margin."""
    crop = photo("astronaut")[0:480, 30:390]
    return cv2.copyMakeBorder(crop, 14, 14, 14, 14, cv2.BORDER_CONSTANT, value=(0.93, 0.92, 0.90))


def relight(scene: np.ndarray) -> np.ndarray:
    """The light of the target: gamma, colour cast and a ramp from left to right; (H, W, 3) in [0, 1]."""
    return scene**GAMMA * _light(scene.shape[1])


def undo_light(target: np.ndarray) -> np.ndarray:
    """The inverse of `relight`, up to the noise."""
    return np.clip(target / _light(target.shape[1]), 0, 1) ** (1 / GAMMA)


def _light(width: int) -> np.ndarray:
    return np.linspace(*RAMP, width)[:, None] * np.array(GAINS)


# ---- coffee


def coffee_homography() -> np.ndarray:
    """coffee_0 -> coffee_1, H[2][2] = 1."""
    angle = np.radians(COFFEE_ROLL)
    cos, sin = COFFEE_ZOOM * np.cos(angle), COFFEE_ZOOM * np.sin(angle)
    to_centre = np.array([[1, 0, -COFFEE_CENTRE[0]], [0, 1, -COFFEE_CENTRE[1]], [0, 0, 1]])
    motion = np.array([[cos, -sin, 0], [sin, cos, 0], [*COFFEE_TILT, 1]])
    height, width = COFFEE_SIZE1
    from_centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    matrix = from_centre @ motion @ to_centre
    return matrix / matrix[2, 2]


def coffee_flow() -> np.ndarray:
    """The exact flow coffee_0 -> coffee_1, NaN where it leaves coffee_1."""
    points = pixel_centres(COFFEE_SIZE0)
    return as_flow(points, transform(coffee_homography(), points), COFFEE_SIZE1)


def render_coffee() -> tuple[np.ndarray, np.ndarray]:
    """coffee_0 is the whole photograph, coffee_1 a turned and tilted part of it."""
    table = photo("coffee")
    height, width = COFFEE_SIZE0
    to_photo = from_corners(outline(np.empty((height, width))), outline(table))
    points = pixel_centres(COFFEE_SIZE1, FINE)
    second = sample(table, transform(to_photo @ np.linalg.inv(coffee_homography()), points))
    first = sample(table, transform(to_photo, pixel_centres(COFFEE_SIZE0, FINE)))
    return to_uint8(averaged(first)), to_uint8(averaged(second))


# ---- chelsea


def chelsea_motion(points: Points) -> Points:
    """The displacement chelsea_0 -> chelsea_1 of any points of chelsea_0."""
    x, y = points[..., 0], points[..., 1]
    components = []
    for part in CHELSEA_FLOW.values():
        waves = [amp * np.sin(2 * np.pi * (kx * x + ky * y) + phase) for amp, kx, ky, phase in part["waves"]]
        components.append(part["offset"] + sum(waves))
    return np.stack(components, axis=-1)


def chelsea_flow() -> np.ndarray:
    """The exact flow chelsea_0 -> chelsea_1, NaN where it leaves chelsea_1."""
    points = pixel_centres(CHELSEA_SIZE)
    return as_flow(points, points + chelsea_motion(points), CHELSEA_SIZE)


def render_chelsea() -> tuple[np.ndarray, np.ndarray]:
    """Two frames; both look at the photograph from a little inside its border, so that neither has an empty edge."""
    cat = photo("chelsea")
    points = pixel_centres(CHELSEA_SIZE, FINE)
    origin = points
    for _ in range(30):  # where did this point of chelsea_1 come from? The motion is a contraction
        origin = points - chelsea_motion(origin)
    frames = []
    for place in (points, origin):
        frames.append(averaged(sample(cat, (place + 0.5) * CHELSEA_STEP - 0.5 + CHELSEA_ORIGIN)))
    return to_uint8(frames[0]), to_uint8(frames[1])


# ---- tools

UNIT = [(0, 0), (1, 0), (1, 1), (0, 1)]


def photo(name: str) -> np.ndarray:
    """A photograph of scikit-image, float32 in [0, 1]."""
    import skimage.data

    return np.asarray(getattr(skimage.data, name)(), np.float32) / 255


def outline(picture: np.ndarray) -> list[tuple[float, float]]:
    """The outer corners of the corner pixels."""
    right, bottom = picture.shape[1] - 0.5, picture.shape[0] - 0.5
    return [(-0.5, -0.5), (right, -0.5), (right, bottom), (-0.5, bottom)]


def from_corners(corners: list, others: list) -> np.ndarray:
    """The homography that takes four corners to four others, H[2][2] = 1."""
    return cv2.getPerspectiveTransform(np.array(corners, np.float32), np.array(others, np.float32))


def transform(matrix: np.ndarray, points: Points) -> Points:
    """Points through a homography."""
    homogeneous = points @ matrix[:, :2].T + matrix[:, 2]
    return homogeneous[..., :2] / homogeneous[..., 2:]


def pixel_centres(size: tuple[int, int], fine: int = 1) -> Points:
    """(H * fine, W * fine, 2): the pixels' centres, or those of fine x fine parts of each."""
    rows, columns = ((np.arange(n * fine) + 0.5) / fine - 0.5 for n in size)
    return np.stack(np.meshgrid(columns, rows), axis=-1)


def inside_unit(points: Points) -> np.ndarray:
    """Whether points lie in the unit square."""
    return ((points >= 0) & (points <= 1)).all(axis=-1)


def as_flow(points: Points, moved: Points, size: tuple[int, int]) -> np.ndarray:
    """(2, H, W) float32 from the two ends; NaN where the second lies outside a picture of `size`."""
    inside = ((moved >= 0) & (moved <= np.array([size[1] - 1, size[0] - 1]))).all(axis=-1)
    return np.where(inside, np.moveaxis(moved - points, -1, 0), np.nan).astype(np.float32)


def sample(picture: np.ndarray, points: Points) -> np.ndarray:
    """The picture at the points, bicubic, its border repeated."""
    x, y = points[..., 0].astype(np.float32), points[..., 1].astype(np.float32)
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def averaged(fine: np.ndarray) -> np.ndarray:
    """FINE x FINE samples -> one pixel."""
    height, width = fine.shape[0] // FINE, fine.shape[1] // FINE
    return np.clip(fine.reshape(height, FINE, width, FINE, 3).mean(axis=(1, 3)), 0, 1)


def to_uint8(picture: np.ndarray) -> np.ndarray:
    """[0, 1] -> 0 ... 255."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def encode(picture: np.ndarray, kind: str) -> bytes:
    """The bytes of a JPEG or PNG file."""
    from PIL import Image

    file = io.BytesIO()
    options = {"quality": 92, "subsampling": 0} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
