"""The size at which RANSAC-Flow (Shen et al., ECCV 2020) and those who follow its protocols look at every picture."""

from flowkit.types import Size

SHORT_SIDE, STRIDE = 480, 16


def short_side_480(size: Size) -> Size:
    """(height, width) with a short side of 480; both are rounded and then cut to a multiple of 16."""
    ratio = min(size) / SHORT_SIDE
    return round(size[0] / ratio) // STRIDE * STRIDE, round(size[1] / ratio) // STRIDE * STRIDE
