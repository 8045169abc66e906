"""A slow ray caster in numpy and float64, one surface after the other by textbook formulas: what the 3-D scenes are tested by.

It shares nothing with flowkit.synth.scene3d_raycast but the description of the objects.
"""

import numpy as np

from flowkit.synth.scene3d import Scenes3D

NOTHING = np.inf


class Caster:
    """Scene `index` of a batch as camera `camera` (0 or 1) sees it; `opacity(n, a, b)` is the alpha of cutout n at -1..1."""

    def __init__(self, scenes: Scenes3D, index: int, camera: int, opacity=None):
        self.counts = scenes.objects.counts
        self.K = (scenes.K0, scenes.K1)[camera][index].numpy()
        centre, axes = scenes.objects.centre[index].numpy(), scenes.objects.axes[index].numpy()
        if camera == 1:
            R, t = scenes.rotations[index].numpy(), scenes.translations[index].numpy()
            centre = np.einsum("nij,nj->ni", R, centre) + t
            axes = np.einsum("nij,nkj->nki", R, axes)
        self.centre, self.axes = centre, axes
        self.flat = scenes.objects.flat[index].numpy()
        self.waves = scenes.objects.waves[index].numpy()
        self.fading = float(scenes.objects.fading[index])
        self.opacity = opacity

    def rays(self, pixels):
        """(N, 3), z = 1, of pixels (N, 2)."""
        return np.concatenate([pixels, np.ones((len(pixels), 1))], 1) @ np.linalg.inv(self.K).T

    def depths(self, rays, enclosure=True):
        """(N, objects) z of the nearest hit with every object, inf where there is none."""
        found = np.full((len(rays), self.counts.objects), NOTHING)
        kinds = {
            "enclosure": self._walls,
            "boxes": self._box,
            "panels": self._panel,
            "cutouts": self._cutout,
            "rounds": self._round,
            "reliefs": self._relief,
        }
        for kind, cast in kinds.items():
            part = self.counts.span(kind)
            for k, n in enumerate(range(part.start, part.stop)):
                if kind != "enclosure" or enclosure:
                    found[:, n] = cast(rays, n, k)
        return found

    def _slabs(self, rays, n):
        scaled = self.axes[n] / (self.axes[n] ** 2).sum(-1, keepdims=True)
        start, step = -scaled @ self.centre[n], rays @ scaled.T
        with np.errstate(divide="ignore"):
            one, two = (-1 - start) / step, (1 - start) / step
        return np.minimum(one, two).max(-1), np.maximum(one, two).min(-1)

    def _walls(self, rays, n, _):
        return self._slabs(rays, n)[1]

    def _box(self, rays, n, _):
        enter, leave = self._slabs(rays, n)
        return np.where((enter <= leave) & (enter > 0), enter, NOTHING)

    def _on_plane(self, rays, n):
        """z of the hit with the plane of A0 and A1, and its coordinates in half-axes."""
        A, B = self.axes[n, 0], self.axes[n, 1]
        normal = np.cross(A, B)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (normal @ self.centre[n]) / (rays @ normal)
            place = rays * z[:, None] - self.centre[n]
        return z, place @ A / (A @ A), place @ B / (B @ B)

    def _panel(self, rays, n, _):
        z, a, b = self._on_plane(rays, n)
        return np.where((z > 0) & (np.abs(a) <= 1) & (np.abs(b) <= 1), z, NOTHING)

    def _cutout(self, rays, n, k):
        z, a, b = self._on_plane(rays, n)
        inside = (z > 0) & (np.abs(a) <= 1) & (np.abs(b) <= 1)
        result = np.full(len(rays), NOTHING)
        result[inside] = np.where(self.opacity(k, a[inside], b[inside]) > 127.5, z[inside], NOTHING)
        return result

    def _round(self, rays, n, k):
        if self.flat[k]:
            z, a, b = self._on_plane(rays, n)
            return np.where((z > 0) & (a * a + b * b <= 1), z, NOTHING)
        scaled = self.axes[n] / (self.axes[n] ** 2).sum(-1, keepdims=True)
        start, step = -scaled @ self.centre[n], rays @ scaled.T
        a, b, c = (step**2).sum(-1), step @ start, start @ start - 1
        D = b * b - a * c
        z = (-b - np.sqrt(np.maximum(D, 0))) / a
        return np.where((D >= 0) & (z > 0), z, NOTHING)

    def _relief(self, rays, n, _):
        """The first change of sign of the height above the relief along the ray, by small steps and bisection."""
        if self.fading == 0:
            return np.full(len(rays), NOTHING)
        e0, e1, normal = self.axes[n] / np.linalg.norm(self.axes[n], axis=-1, keepdims=True)
        distance = normal @ self.centre[n]

        def above(z):
            points = rays * z[:, None] - self.centre[n]
            u, v = points @ e0, points @ e1
            height = sum(a * np.sin(fu * u + fv * v + phase) for fu, fv, phase, a in self.waves)
            return height / (1 + (u * u + v * v) / self.fading**2) - points @ normal

        flat = distance / np.maximum(rays @ normal, 1e-9)
        low, high = np.zeros(len(rays)), np.full(len(rays), np.inf)
        for step in np.linspace(0.02, 2.5, 125):
            now = flat * step
            crossed = (above(now) <= 0) & np.isinf(high)
            high[crossed] = now[crossed]
            low = np.where(np.isinf(high), now, low)
        hit = np.isfinite(high) & (rays @ normal > 1e-9)
        high = np.where(hit, high, 1)
        for _ in range(50):
            middle = (low + high) / 2
            up = above(middle) > 0
            low, high = np.where(up, middle, low), np.where(up, high, middle)
        return np.where(hit, high, NOTHING)


def grid(size):
    """(H W, 2): every pixel (x, y)."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x.ravel(), y.ravel()], 1).astype(float)
