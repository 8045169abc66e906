"""How badly two pictures look alike under a flow: census and colour, averaged within edges.

Census is the Hamming distance of Zabih and Woodfill (ECCV 1994); the average is a guided filter (He et al., ECCV 2010).
"""

from __future__ import annotations

import numpy as np

CENSUS_RADIUS = 3
COLOUR_LIMIT = 60.0
"""Lab distance (L1) at which the colour term saturates; it weighs 0.3 of the census term."""
OUTSIDE_COST = 0.7


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y, both (H, W) float32."""
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return x, y


class MatchingCost:
    """How badly image1 at a pixel's target looks like image0 at the pixel: census Hamming distance plus colour, averaged by
    a guided filter. Targets (H, W, 2) are float32 positions in image1, of which the nearest pixel counts."""

    def __init__(self, rgb0: np.ndarray, rgb1: np.ndarray, valid1: np.ndarray | None = None, window: int = 9) -> None:
        import cv2

        self.shape, self.shape1, self.window = rgb0.shape[:2], rgb1.shape[:2], (window, window)
        grey0, grey1 = (cv2.cvtColor(i, cv2.COLOR_RGB2GRAY) for i in (rgb0, rgb1))
        lab0, lab1 = (cv2.cvtColor(i, cv2.COLOR_RGB2LAB) for i in (rgb0, rgb1))
        self.valid1 = None if valid1 is None else np.ascontiguousarray(valid1).reshape(-1)
        self.census0, self.census1 = _census(grey0).reshape(-1), _census(grey1).reshape(-1)
        self.colour0, self.colour1 = _packed(lab0), _packed(_same_palette(lab1, lab0, valid1))
        self.guide = grey0.astype(np.float32) / 255
        self.guide_mean = self._box(self.guide)
        self.guide_precision = 1 / (self._box(self.guide * self.guide) - self.guide_mean**2 + 1e-3)

    def __call__(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """(H, W) float32 cost of the flow (u, v); about 0 for a perfect match and 0.5 for noise."""
        x, y = pixel_grid(*self.shape)
        targets = self.pixels(np.dstack([x + u, y + v]).astype(np.float32, copy=False))
        return self.averaged(self.single(np.arange(targets.size), targets.reshape(-1)).reshape(self.shape))

    def pixels(self, targets: np.ndarray) -> np.ndarray:
        """(h, w) int32: the pixel of image1 nearest to each of (h, w, 2) targets, two int16 (x, y) seen as one number."""
        import cv2

        rounded, _ = cv2.convertMaps(targets, None, cv2.CV_16SC2, nninterpolation=True)
        return rounded.view(np.int32)[..., 0]

    def single(self, where: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """(N,) float32: what image0's pixels `where` (N,), counted along the rows, cost by themselves at `pixels` (N,)."""
        height, width = self.shape1
        column, row = pixels.view(np.int16).reshape(-1, 2).T.astype(np.int32)
        seen = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        index = np.where(seen, row * width + column, 0)
        if self.valid1 is not None:
            seen &= self.valid1.take(index)
        differ = np.bitwise_count(self.census1.take(index) ^ self.census0.take(where))
        colour0, colour1 = (
            c.view(np.uint8).reshape(-1, 4) for c in (self.colour0.take(where), self.colour1.take(index))
        )
        apart = np.maximum(colour0, colour1) - np.minimum(colour0, colour1)
        colour = apart[:, 0].astype(np.float32) + apart[:, 1] + apart[:, 2]
        cost = np.minimum(colour, COLOUR_LIMIT) * np.float32(0.3 / COLOUR_LIMIT)
        cost += differ * np.float32(1 / ((2 * CENSUS_RADIUS + 1) ** 2 - 1))
        cost[~seen] = OUTSIDE_COST
        return cost

    def averaged(self, cost: np.ndarray) -> np.ndarray:
        """The pixels' own costs (H, W) averaged by a guided filter (He et al., 2010): a window mean that does not bleed
        across image0's edges."""
        mean = self._box(cost)
        slope = self._box(cost * self.guide)
        slope -= mean * self.guide_mean
        slope *= self.guide_precision
        mean -= slope * self.guide_mean
        result = self._box(slope)
        result *= self.guide
        result += self._box(mean)
        return result

    def _box(self, values: np.ndarray) -> np.ndarray:
        import cv2

        return cv2.boxFilter(values, -1, self.window)


def _census(grey: np.ndarray) -> np.ndarray:
    """(H, W) uint64: for each of the 48 others of the 7x7 pixels around one, whether it is brighter."""
    import cv2

    r, (height, width) = CENSUS_RADIUS, grey.shape
    grey = cv2.GaussianBlur(grey, (0, 0), 0.6)
    padded = cv2.copyMakeBorder(grey, r, r, r, r, cv2.BORDER_REPLICATE)
    octets = [np.zeros(grey.shape, np.uint8) for _ in range(8)]
    offsets = [(dy, dx) for dy in range(2 * r + 1) for dx in range(2 * r + 1) if (dy, dx) != (r, r)]
    for bit, (dy, dx) in enumerate(offsets):
        brighter = cv2.compare(padded[dy : dy + height, dx : dx + width], grey, cv2.CMP_GT)
        brighter &= np.uint8(1 << bit % 8)
        octets[bit // 8] |= brighter
    return cv2.merge(octets).view(np.uint64)[..., 0]


def _packed(lab: np.ndarray) -> np.ndarray:
    """(H * W,) uint32 of (H, W, 3) uint8: looked up as one number."""
    import cv2

    return cv2.cvtColor(lab, cv2.COLOR_RGB2RGBA).view(np.uint32).reshape(-1)


def _same_palette(lab1: np.ndarray, lab0: np.ndarray, valid1: np.ndarray | None) -> np.ndarray:
    """lab1 with lab0's mean and spread in each channel: exposure and white balance are no evidence against a match."""
    import cv2

    seen = valid1.astype(np.uint8) if valid1 is not None and valid1.any() else None
    (mean0, spread0), (mean1, spread1) = cv2.meanStdDev(lab0), cv2.meanStdDev(lab1, mask=seen)
    gain = np.clip((spread0 + 1) / (spread1 + 1), 0.5, 2.0)
    table = np.rint((np.arange(256) - mean1) * gain + mean0).clip(0, 255).astype(np.uint8)
    return cv2.LUT(lab1, np.ascontiguousarray(table.T)[:, None])
