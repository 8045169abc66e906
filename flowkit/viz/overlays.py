"""Two aligned pictures in one, to judge an alignment by eye.

`a` is the picture that was moved, `b` the one it was brought onto (the target), both (H, W, 3) uint8. Where `valid` is
False `a` shows nothing: only the target is shown there, dimmed.
"""

from __future__ import annotations

import numpy as np

from flowkit.viz import canvas


def blend(a: np.ndarray, b: np.ndarray, alpha: float = 0.5, valid: np.ndarray | None = None) -> np.ndarray:
    """The mixture `alpha` a + (1 - alpha) b: sharp where the two agree, double where they do not."""
    import cv2

    canvas.same_size(a, b)
    return _where_valid(cv2.addWeighted(a, alpha, b, 1 - alpha, 0), b, valid)


def checkerboard(a: np.ndarray, b: np.ndarray, cells: int = 8, valid: np.ndarray | None = None) -> np.ndarray:
    """Square fields of a and b in turn, `cells` along the longer side; a (the moved one) is at the top left."""
    height, width = canvas.same_size(a, b)
    cell = max(1, -(-max(height, width) // cells))
    odd = (np.arange(height)[:, None] // cell + np.arange(width) // cell) % 2 == 1
    return _where_valid(np.where(odd[..., None], b, a), b, valid)


def anaglyph(a: np.ndarray, b: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Lightness of a in red, of b in cyan: grey where the two agree, coloured fringes along every misaligned edge."""
    import cv2

    canvas.same_size(a, b)
    red, cyan = (cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY) for picture in (a, b))
    return _where_valid(np.stack([red, cyan, cyan], axis=-1), b, valid)


def side_by_side(*pictures: np.ndarray, labels: tuple[str, ...] = (), max_width: int = 1600) -> np.ndarray:
    """Pictures of any sizes in a row, brought to one height, each with its label in the top left corner."""
    sizes = canvas.equal_heights([picture.shape[:2] for picture in pictures], max_width)
    panels = [canvas.resized(picture, size) for picture, size in zip(pictures, sizes, strict=True)]
    for panel, label in zip(panels, labels, strict=False):
        canvas.draw_text(panel, label)
    return canvas.row(panels)


def dimmed(picture: np.ndarray, factor: float = 0.4) -> np.ndarray:
    """The picture at a fraction of its brightness."""
    return np.rint(np.arange(256) * factor).astype(np.uint8)[picture]


def _where_valid(mixed: np.ndarray, target: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    if valid is None:
        return mixed
    canvas.same_size(target, valid)
    return np.where(valid[..., None], mixed, dimmed(target))
