"""Small textured pictures whose motion is known, for tests of the command line."""

from pathlib import Path

import cv2
import numpy as np

HEIGHT, WIDTH = 120, 160


def texture(seed: int = 0, height: int = HEIGHT + 40, width: int = WIDTH + 40) -> np.ndarray:
    """Corners and edges at several scales, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 128, np.uint8)
    for _ in range(150):
        colour = [int(c) for c in rng.integers(0, 256, 3)]
        x, y, size = (int(v) for v in rng.integers((0, 0, 4), (width, height, 24)))
        cv2.rectangle(picture, (x, y), (x + size, y + size // 2 + 2), colour, -1)
    return cv2.GaussianBlur(picture, (0, 0), 0.8)


def write(path: Path, pixels: np.ndarray) -> Path:
    """Write with OpenCV, not with the code under test; any name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes())
    return path


def pair(
    folder: Path, dx: int = 3, dy: int = 2, seed: int = 0, names: tuple[str, str] = ("a.png", "b.png")
) -> tuple[Path, Path]:
    """Two windows of one texture: the flow a -> b is (-dx, -dy) everywhere."""
    big = texture(seed)
    a = big[10 : 10 + HEIGHT, 10 : 10 + WIDTH]
    b = big[10 + dy : 10 + dy + HEIGHT, 10 + dx : 10 + dx + WIDTH]
    return write(folder / names[0], a), write(folder / names[1], b)
