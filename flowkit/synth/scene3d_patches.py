"""Faces of 3-D scenes on which little tells one place from another: plain ones, and ones on which a patch repeats.

Both only change what a face shows, not where it is: depth, flow and occlusion stay as they are.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from flowkit.synth.photos import PhotoStore
from flowkit.synth.random import Random
from flowkit.synth.scene3d_textures import Skins, patch_colours

PERIOD = (6.0, 24.0)
"""After how many pixels of image0 a patch comes again, on a face that is looked at straight at its usual distance."""
TEXELS = (2.0, 4.5)
"""How many texels of the photo a pixel then covers: so many that a patch of a few pixels has something on it."""
CANDIDATES = 8
"""Patches drawn for a face; the one of most contrast is taken."""
MAGNIFIED = 32.0
"""A plain face shows its photo so much larger than others do: some texels are left of it."""
FADED = 0.2
"""Contrast of what a plain face shows, relative to the photo's."""


def sample_patches(
    random: Random, skins: Skins, sharpness: Tensor, plain: float, repeating: float, photos: PhotoStore
) -> Skins:
    """`skins` of B scenes of F faces, of which about a share `plain` are plain and a share `repeating` repeat a patch.

    `sharpness` (B, F) is how many pixels of image0 a unit of length on each face has at the face's usual distance; 0 for faces
    that are to stay as they are.
    """
    count, faces = skins.photo.shape
    drawn = random.uniform(count, faces)
    blank = (drawn < plain) & (sharpness > 0)
    tiled = (drawn >= plain) & (drawn < plain + repeating) & (sharpness > 0)
    fine = random.log_uniform(*TEXELS, count, faces)
    side = random.log_uniform(*PERIOD, count, faces) * fine / 2  # mirrored and laid side by side, two make a period
    side = side.clamp_max(min(photos.size) / 2)
    place = _place(random, skins.photo, side, photos)
    patch = torch.cat([place, side[..., None], torch.ones_like(side)[..., None]], -1) * tiled[..., None]
    patch[..., 3] = torch.where(blank, FADED, torch.ones_like(side))
    density = torch.where(tiled, fine * sharpness, skins.density / torch.where(blank, MAGNIFIED, torch.ones_like(side)))
    return replace(skins, density=density, patch=patch)


def _place(random: Random, photo: Tensor, side: Tensor, photos: PhotoStore) -> Tensor:
    """(B, F, 2): the left and upper end of a square of `side` (B, F) texels in each photo (B, F), one of much contrast."""
    height, width = photos.size
    room = torch.stack([width - side, height - side], -1)
    places = random.uniform(CANDIDATES, *side.shape, 2) * room
    seen = patch_colours(photos, photo.expand(CANDIDATES, -1, -1), places, side.expand(CANDIDATES, -1, -1))
    best = seen.var(-2).sum(-1).argmax(0)
    return places.gather(0, best[None, ..., None].expand(-1, -1, -1, 2))[0]
