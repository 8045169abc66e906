"""Views of a textured corner of a room with known cameras, exact to the pixel centre, for reconstruction and localisation."""

from functools import cache

import cv2
import numpy as np

SIZE = (180, 240)
K = np.array([[250.0, 0, 121.5], [0, 250, 87.5], [0, 0, 1]])
PLANES = (((0, 1, 0), 1.2), ((0, 0, 1), 4.0), ((1, 0, 0), 1.5), ((-0.6, 0, 0.8), 3.4))
"""Normals and distances: n . X = d."""


def poses(count=6):
    """World to camera [R | t], (count, 3, 4): a camera that walks an arc and looks at the corner."""
    result = []
    for s in np.linspace(-1, 1, count):
        centre = np.array([-0.4 + 0.9 * s, -0.5 + 0.3 * s * s, -0.4 * abs(s)])
        R, _ = cv2.Rodrigues(np.array([0.12 - 0.05 * s, 0.25 * s - 0.1, 0.06 * s]))
        result.append(np.column_stack([R, -R @ centre]))
    return np.array(result)


def view(pose, samples=2):
    """(H, W, 3) uint8: what the camera sees, each pixel the mean of `samples` x `samples` rays about its centre."""
    height, width = SIZE
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    total = np.zeros((height, width))
    for dy in offsets:
        for dx in offsets:
            x, y = np.meshgrid(np.arange(width) + dx, np.arange(height) + dy)
            total += _shade(pose, np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T)
    grey = np.clip(total / samples**2, 0, 255).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _shade(pose, rays):
    R, t = pose[:, :3], pose[:, 3]
    centre, rays = -R.T @ t, rays @ R
    nearest, colour = np.full(rays.shape[:2], np.inf), np.zeros(rays.shape[:2])
    for number, (normal, distance) in enumerate(PLANES):
        depth = (distance - np.dot(normal, centre)) / (rays @ np.array(normal, float))
        depth[depth <= 0] = np.inf
        hit = centre + np.where(np.isfinite(depth), depth, 0)[..., None] * rays
        axes = [hit[..., i] for i in range(3) if i != int(np.argmax(np.abs(normal)))]
        closer = depth < nearest
        nearest[closer], colour[closer] = depth[closer], _texture(number, *axes)[closer]
    return colour


def _texture(number, u, v):
    """The wallpaper, fifty texels a metre."""
    places = [(c * 50 % 512).astype(np.float32) for c in (u, v)]
    return cv2.remap(_wallpaper(number), *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


@cache
def _wallpaper(number):
    noise = np.random.default_rng(number).uniform(0, 255, (512, 512)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), 1.3, borderType=cv2.BORDER_REFLECT)
    return (noise - noise.mean()) / noise.std() * 55 + 128
