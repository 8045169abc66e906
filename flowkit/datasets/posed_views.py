"""Photographs with cameras, and pairs of them: what training on poses needs beyond a `PoseSample`.

F is exact for pictures without lens distortion only, so a `View` has the K of its undistorted picture, and `read` undistorts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from flowkit.datasets.samples import PoseSample
from flowkit.errors import InputError
from flowkit.types import Size

NEGLIGIBLE = 0.05
"""Distortion that moves no point of a picture by more pixels than this is taken for none."""
_LARGEST_ZOOM = 2.0
_STEPS = 33


@dataclass(frozen=True, eq=False)
class Lens:
    """The distorted camera of a stored picture: its K, and OpenCV's coefficients k1 k2 p1 p2 k3 k4 k5 k6."""

    K: np.ndarray
    coefficients: np.ndarray

    @classmethod
    def of(cls, K: np.ndarray, coefficients: Sequence[float]) -> Lens:
        """With as many coefficients as there are; the others are 0."""
        padded = np.zeros(8)
        padded[: len(coefficients)] = coefficients
        return cls(np.asarray(K, np.float64), padded)

    def stored(self, points: np.ndarray, K: np.ndarray) -> np.ndarray:
        """(..., 2): where the stored picture shows the points (..., 2) of an undistorted one that has this K."""
        k1, k2, p1, p2, k3, k4, k5, k6 = self.coefficients
        x, y = np.moveaxis((points - K[:2, 2]) / K[[0, 1], [0, 1]], -1, 0)
        r2 = x * x + y * y
        radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
        shifted = np.stack(
            [
                x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
            ],
            axis=-1,
        )
        return shifted * self.K[[0, 1], [0, 1]] + self.K[:2, 2]

    def rays(self, points: np.ndarray) -> np.ndarray:
        """(..., 2): where the rays of the stored picture's pixels (..., 2) cross z = 1 in the camera's frame."""
        import cv2

        if not self.coefficients.any() or not points.size:
            return (points - self.K[:2, 2]) @ np.linalg.inv(self.K[:2, :2]).T
        until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-9)
        flat = np.ascontiguousarray(points, np.float64).reshape(-1, 1, 2)
        return cv2.undistortPoints(flat, self.K, self.coefficients, criteria=until).reshape(points.shape)

    def negligible(self, size: Size) -> bool:
        """Whether no point of a picture of this size (height, width) is moved noticeably."""
        grid = _grid(size)
        return bool(np.abs(self.stored(grid, self.K) - grid).max() <= NEGLIGIBLE)

    def pinhole(self, size: Size) -> np.ndarray | None:
        """K of the undistorted picture of the same size: the stored one, zoomed in until no rim of it is unknown.

        None where the model turns back within the picture or would need an absurd zoom: such a lens was estimated wrongly.
        """
        low, high = 1.0, _LARGEST_ZOOM
        if self._covers(size, low):
            high = low
        elif not self._covers(size, high):
            return None
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self._covers(size, middle) else (middle, high)
        seen = self.stored(_grid(size), self._zoomed(high))
        one_to_one = (np.diff(seen[..., 0], axis=1) > 0).all() and (np.diff(seen[..., 1], axis=0) > 0).all()
        return self._zoomed(high) if one_to_one else None

    def undistorted(self, pixels: np.ndarray, K: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 as a camera with this K and no distortion would have taken it; bilinear."""
        import cv2

        height, width = pixels.shape[:2]
        maps = cv2.initUndistortRectifyMap(self.K, self.coefficients, None, K, (width, height), cv2.CV_16SC2)
        return cv2.remap(pixels, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _zoomed(self, zoom: float) -> np.ndarray:
        K = self.K.copy()
        K[[0, 1], [0, 1]] *= zoom
        return K

    def _covers(self, size: Size, zoom: float) -> bool:
        """Whether the stored picture shows all that an undistorted one shows."""
        seen = self.stored(_grid(size), self._zoomed(zoom))
        return bool((seen >= -0.5).all() and (seen <= np.array([size[1], size[0]]) - 0.5).all())


def _grid(size: Size) -> np.ndarray:
    """(steps, steps, 2): points all over a picture, its rim and corners included."""
    height, width = size
    x, y = np.meshgrid(np.linspace(-0.5, width - 0.5, _STEPS), np.linspace(-0.5, height - 0.5, _STEPS))
    return np.stack([x, y], axis=-1)


@dataclass(frozen=True, eq=False)
class View:
    """A photograph, K of its undistorted picture and world -> camera `T` 4x4; all its pairs share it.

    `size` (height, width) is what K refers to, where the collection says. `tracks` (N,) are the numbers of the scene's points
    that it sees, rising, and `points` (N, 2) where, in undistorted pixels.
    """

    image: Path
    K: np.ndarray
    T: np.ndarray
    size: Size | None = None
    lens: Lens | None = None
    tracks: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    points: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))

    def read(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB, undistorted. InputError when the file cannot be read or has not the size that K refers to."""
        from flowkit.io.images import read_image

        pixels = read_image(self.image).rgb8
        if self.size is not None and pixels.shape[:2] != self.size:
            (h, w), (height, width) = pixels.shape[:2], self.size
            raise InputError(
                f"{self.image}: is {w} x {h} pixels, but its camera is for {width} x {height}; "
                "put the pictures there that the poses were computed from"
            )
        return pixels if self.lens is None else self.lens.undistorted(pixels, self.K)


@dataclass(frozen=True, eq=False)
class PosedPair(PoseSample):
    """A pair of views. Where one has a `lens`, K belongs to what `view.read()` gives and not to the file as it is."""

    view0: View = field(kw_only=True)
    view1: View = field(kw_only=True)

    @classmethod
    def of(cls, dataset: str, name: str, view0: View, view1: View) -> PosedPair:
        """The pair of two views of one world."""
        import torch

        from flowkit.geometry.pose import relative_pose

        T = relative_pose(torch.from_numpy(view0.T), torch.from_numpy(view1.T)).numpy()
        return cls(
            dataset=dataset,
            name=name,
            image0=view0.image,
            image1=view1.image,
            K0=view0.K,
            K1=view1.K,
            T_0to1=T,
            view0=view0,
            view1=view1,
        )

    @classmethod
    def from_sample(cls, sample: PoseSample) -> PosedPair:
        """Of any pair with poses; its pictures are taken to be undistorted."""
        if isinstance(sample, PosedPair):
            return sample
        T = np.asarray(sample.T_0to1, np.float64)
        view0, view1 = View(sample.image0, sample.K0, np.eye(4)), View(sample.image1, sample.K1, T)
        return replace(cls.of(sample.dataset, sample.name, view0, view1), rotation_only=sample.rotation_only)

    def reversed(self) -> PosedPair:
        """The pair the other way round."""
        return replace(PosedPair.of(self.dataset, self.name, self.view1, self.view0), rotation_only=self.rotation_only)

    def common_points(self) -> tuple[np.ndarray, np.ndarray]:
        """Two (N, 2) float64: where both see the same points of the scene, in undistorted pixels. N may be 0."""
        _, i, j = np.intersect1d(self.view0.tracks, self.view1.tracks, assume_unique=True, return_indices=True)
        return self.view0.points[i], self.view1.points[j]


def rotation_degrees(R0: np.ndarray, R1: np.ndarray) -> np.ndarray:
    """(...,): the angle between rotations (..., 3, 3), in degrees."""
    import torch

    from flowkit.geometry.pose import rotation_angle

    return rotation_angle(torch.from_numpy(R1 @ np.swapaxes(R0, -1, -2))).numpy()
