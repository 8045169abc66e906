"""Matches, homographies and epipolar geometry drawn over the two pictures side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flowkit.types import Homography, Matches, RelativePose, Size, Status
from flowkit.viz import canvas

_SUBPIXEL = 4  # bits of fraction that cv2 draws with
_MAX_WIDTH = 1600


def draw_matches(
    image0: np.ndarray, image1: np.ndarray, matches: Matches, max_lines: int = 400, seed: int = 0
) -> np.ndarray:
    """Lines between matched points: judged matches green (inliers, on top) and dim red; unjudged ones in many colours, the
    second stage of guided ones white and underneath.

    At most `max_lines` are drawn, chosen at random with `seed`, inliers first.
    """
    board = _Board.of(image0, image1)
    board.draw_lines(matches, max_lines, seed)
    return board.picture([_counts(matches)])


def draw_homography(image0: np.ndarray, image1: np.ndarray, homography: Homography, max_lines: int = 150) -> np.ndarray:
    """Each image's frame where the homography puts it in the other (image0 yellow, image1 cyan), matches and status."""
    board = _Board.of(image0, image1)
    board.draw_lines(homography.matches, max_lines, 0)
    if homography.matrix is not None:
        frame0, frame1 = _frame(image0.shape[:2]), _frame(image1.shape[:2])
        board.draw_polygon(0, frame1 @ np.linalg.inv(homography.matrix).T, canvas.CYAN)
        board.draw_polygon(1, frame1, canvas.CYAN)
        board.draw_polygon(0, frame0, canvas.YELLOW)
        board.draw_polygon(1, frame0 @ homography.matrix.T, canvas.YELLOW)
    method = f"{homography.estimator}, threshold {homography.threshold:.3g} px"
    facts = [str(homography.status).replace("_", " "), _counts(homography.matches), method]
    if homography.refined:
        facts.append("refined")
    return board.picture(facts, homography.status)


def draw_epipolar(image0: np.ndarray, image1: np.ndarray, pose: RelativePose, lines: int = 12) -> np.ndarray:
    """The matches as points, and for `lines` inliers spread over the picture their epipolar lines in both images.

    A point and its line in the other image share a colour; the matched point should lie on that line.
    """
    board = _Board.of(image0, image1)
    matches = pose.matches
    usable = _usable(matches)
    good = usable if matches.inliers is None else usable & matches.inliers
    board.draw_points(matches, usable & ~good, canvas.RED, 1.5)
    board.draw_points(matches, good, canvas.GREEN, 2)
    if pose.E is not None:
        fundamental = np.linalg.inv(pose.K1).T @ pose.E @ np.linalg.inv(pose.K0)
        chosen = _spread(matches.points0, np.flatnonzero(good), lines)
        for index, colour in zip(chosen, _rainbow(len(chosen)), strict=True):
            point0, point1 = matches.points0[index], matches.points1[index]
            board.draw_line(1, fundamental @ np.append(point0, 1), colour)
            board.draw_line(0, fundamental.T @ np.append(point1, 1), colour)
            board.draw_dot(0, point0, colour, 5)
            board.draw_dot(1, point1, colour, 5)
    facts = [str(pose.status).replace("_", " "), _counts(matches)]
    if pose.degeneracy != "none":
        facts.append(pose.degeneracy.replace("_", " "))
    if pose.epipolar_error is not None:
        facts.append(f"epipolar error {pose.epipolar_error:.2f} px")
    return board.picture(facts, pose.status)


@dataclass
class _Board:
    """Two panels of one height; drawing takes points in the pixels of the original images."""

    panels: tuple[np.ndarray, np.ndarray]
    scales: tuple[np.ndarray, np.ndarray]
    joined: np.ndarray

    @classmethod
    def of(cls, image0: np.ndarray, image1: np.ndarray) -> _Board:
        originals = [image0.shape[:2], image1.shape[:2]]
        sizes = canvas.equal_heights(originals, _MAX_WIDTH)
        joined = canvas.row([canvas.resized(image, size) for image, size in zip((image0, image1), sizes, strict=True)])
        panels = joined[:, : sizes[0][1]], joined[:, sizes[0][1] + canvas.GAP :]
        scale0, scale1 = (np.divide(size, old)[::-1] for size, old in zip(sizes, originals, strict=True))
        return cls(panels, (scale0, scale1), joined)

    def place(self, side: int, points: np.ndarray) -> np.ndarray:
        """Original pixels -> panel pixels."""
        return (np.asarray(points, np.float64) + 0.5) * self.scales[side] - 0.5

    def draw_lines(self, matches: Matches, max_lines: int, seed: int) -> None:
        """Lines from panel to panel with a dot at either end; the rejected ones faint and underneath."""
        usable = _usable(matches)
        good = usable if matches.inliers is None else usable & matches.inliers
        order = np.random.default_rng(seed).permutation(len(matches))
        shown = order[good[order]][:max_lines]
        rejected = order[(usable & ~good)[order]][: max(0, max_lines - len(shown))]
        if matches.inliers is None:
            if matches.stage is not None:
                rest, shown = shown[matches.stage[shown] == 2], shown[matches.stage[shown] != 2]
                self._strokes(matches, rest, [canvas.WHITE] * len(rest), 0.35)
            shown = shown[np.argsort(matches.points0[shown].sum(axis=1), kind="stable")]
            colours = _rainbow(len(shown))
        else:
            colours = [canvas.GREEN] * len(shown)
        self._strokes(matches, rejected, [canvas.RED] * len(rejected), 0.35)
        self._strokes(matches, shown, colours, 0.7)

    def _strokes(self, matches: Matches, indices: np.ndarray, colours: list[canvas.Colour], opacity: float) -> None:
        import cv2

        if len(indices) == 0:
            return
        layer = self.joined.copy()
        shift = np.array([self.panels[0].shape[1] + canvas.GAP, 0])
        starts = self.place(0, matches.points0[indices])
        ends = self.place(1, matches.points1[indices]) + shift
        for start, end, colour in zip(_fixed(starts), _fixed(ends), colours, strict=True):
            cv2.line(layer, start, end, colour, 1, cv2.LINE_AA, _SUBPIXEL)
        cv2.addWeighted(layer, opacity, self.joined, 1 - opacity, 0, dst=self.joined)
        for point, colour in zip(_fixed(np.concatenate([starts, ends])), [*colours, *colours], strict=True):
            cv2.circle(self.joined, point, 2 << _SUBPIXEL, colour, -1, cv2.LINE_AA, _SUBPIXEL)

    def draw_points(self, matches: Matches, mask: np.ndarray, colour: canvas.Colour, radius: float) -> None:
        """Both ends of the masked matches as dots."""
        for side, points in enumerate((matches.points0, matches.points1)):
            for point in points[mask]:
                self.draw_dot(side, point, colour, radius)

    def draw_dot(self, side: int, point: np.ndarray, colour: canvas.Colour, radius: float) -> None:
        """A dot; large ones have a dark rim."""
        import cv2

        (centre,) = _fixed(self.place(side, point)[None])
        if radius > 3:
            cv2.circle(self.panels[side], centre, _bits(radius + 1), (20, 20, 20), -1, cv2.LINE_AA, _SUBPIXEL)
        cv2.circle(self.panels[side], centre, _bits(radius), colour, -1, cv2.LINE_AA, _SUBPIXEL)

    def draw_line(self, side: int, line: np.ndarray, colour: canvas.Colour) -> None:
        """The part inside the panel of the line a x + b y + c = 0, in original pixels."""
        import cv2

        a, b, c = line
        if not np.isfinite(line).all() or a * a + b * b == 0:
            return
        foot = -c * np.array([a, b]) / (a * a + b * b)
        along = np.array([-b, a]) / np.hypot(a, b)
        height, width = np.divide(self.panels[side].shape[:2], self.scales[side][::-1])
        middle = np.array([width, height]) / 2
        foot = foot + along * (along @ (middle - foot))  # the point of the line that is nearest to the picture's middle
        reach = width + height
        if np.hypot(*(foot - middle)) > reach:
            return
        start, end = _fixed(self.place(side, np.stack([foot - reach * along, foot + reach * along])))
        cv2.line(self.panels[side], start, end, colour, 1, cv2.LINE_AA, _SUBPIXEL)

    def draw_polygon(self, side: int, homogeneous: np.ndarray, colour: canvas.Colour) -> None:
        """The outline of a polygon (N, 3) in homogeneous original pixels; what lies beyond the horizon is cut away."""
        import cv2

        height, width = np.divide(self.panels[side].shape[:2], self.scales[side][::-1])
        far = 4 * (width + height)
        for half_plane in ([0, 0, 1e-9], [1, 0, far], [-1, 0, far], [0, 1, far], [0, -1, far]):
            homogeneous = _clip(homogeneous, np.asarray(half_plane, np.float64))
        if len(homogeneous) < 2:
            return
        points = self.place(side, homogeneous[:, :2] / homogeneous[:, 2:])
        outline = np.array(_fixed(points), np.int32)[:, None]
        for ink, thickness in (((20, 20, 20), 4), (colour, 2)):
            cv2.polylines(self.panels[side], [outline], True, ink, thickness, cv2.LINE_AA, _SUBPIXEL)

    def picture(self, facts: list[str], status: Status = Status.OK) -> np.ndarray:
        """The finished picture with a line of text, in red when there is no model."""
        size = canvas.text_size(self.joined)
        colour = canvas.WHITE if status is Status.OK else (255, 120, 104)
        return canvas.draw_text(self.joined, "   ".join(facts), size=size, colour=colour)


def _counts(matches: Matches) -> str:
    if matches.inliers is None:
        near = "" if matches.stage is None else f", {int((matches.stage == 1).sum())} of stage 1"
        return f"{len(matches)} matches{near}"
    return f"{int(matches.inliers.sum())} inliers of {len(matches)} matches"


def _usable(matches: Matches) -> np.ndarray:
    return np.isfinite(matches.points0).all(axis=1) & np.isfinite(matches.points1).all(axis=1)


def _frame(size: Size) -> np.ndarray:
    """The outer corners of the corner pixels, homogeneous (4, 3)."""
    right, bottom = size[1] - 0.5, size[0] - 0.5
    return np.array([[-0.5, -0.5, 1], [right, -0.5, 1], [right, bottom, 1], [-0.5, bottom, 1]])


def _rainbow(count: int) -> list[canvas.Colour]:
    """`count` bright colours, from red through green to violet."""
    import colorsys

    hues = np.linspace(0, 0.83, count)
    colours = (colorsys.hsv_to_rgb(hue, 0.75, 1.0) for hue in hues)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours]


def _spread(points: np.ndarray, candidates: np.ndarray, count: int) -> np.ndarray:
    """`count` of the candidates (indices into points), each as far as possible from those before it."""
    if len(candidates) <= count:
        return candidates
    places = points[candidates].astype(np.float64)
    chosen = [int(np.argmin(np.hypot(*(places - places.mean(axis=0)).T)))]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, np.hypot(*(places - places[chosen[-1]]).T))
        chosen.append(int(np.argmax(distance)))
    return candidates[chosen]


def _clip(polygon: np.ndarray, half_plane: np.ndarray) -> np.ndarray:
    """The part of a homogeneous polygon (N, 3) where polygon @ half_plane > 0."""
    kept = []
    side = polygon @ half_plane
    for here in range(len(polygon)):
        before = here - 1
        if (side[here] > 0) != (side[before] > 0):
            part = side[before] / (side[before] - side[here])
            kept.append(polygon[before] + part * (polygon[here] - polygon[before]))
        if side[here] > 0:
            kept.append(polygon[here])
    return np.array(kept).reshape(-1, 3)


def _bits(value: float) -> int:
    return round(value * (1 << _SUBPIXEL))


def _fixed(points: np.ndarray) -> list[tuple[int, int]]:
    """Points (N, 2) as cv2's fixed-point integers, kept within what cv2 can draw."""
    bounded = np.clip(points, -30000, 30000)
    return [(int(x), int(y)) for x, y in np.rint(bounded * (1 << _SUBPIXEL))]
