"""Videos of 3-D scenes in which nothing moves but the camera: frames, their poses, and the exact flow from each to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.synth.photos import PhotoStore
from flowkit.synth.scene3d import Scenes3D
from flowkit.synth.scene3d_render import render_scenes3d


@dataclass(frozen=True)
class Video:
    """n frames of one scene: `images` (n, 3, H, W) in [0, 1], K, R (n, 3, 3) and t (n, 3) float64, X_i = R_i X_0 + t_i.

    `pairs` are the n - 1 pairs of consecutive frames, with flow, occlusion and depth; R and t of a pair lead from its first
    frame to its second. R_0 = I, t_0 = 0; lengths are in units of the scene.
    """

    images: Tensor
    K: Tensor
    R: Tensor
    t: Tensor
    pairs: PairBatch


def render_video(scene: Scenes3D, frames: int, photos: PhotoStore) -> Video:
    """`frames` frames of one scene, from its first camera (frame 0) along its motion to its second camera (the last frame).

    UsageError for fewer than 2 frames, several scenes, or a scene in which things move on their own.
    """
    R, t, K = _cameras(scene, frames)
    pairs = render_scenes3d(_consecutive(scene, R, t, K), photos)
    return Video(torch.cat([pairs.image0, pairs.image1[-1:]]), K, R, t, pairs)


def _cameras(scene: Scenes3D, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    if len(scene) != 1 or frames < 2 or bool(scene.moving.any()):
        raise UsageError(
            f"a video is of one scene (not {len(scene)}), has 2 or more frames (not {frames}), and nothing in it moves but the "
            "camera: sample the scene with moving=0"
        )
    scale = scene.scale[:, None] * torch.arange(frames, device=scene.scale.device, dtype=torch.float64) / (frames - 1)
    R, t = scene.motion.pose(scale)
    return R[0], t[0], scene.motion.intrinsics(scene.K0, scale)[0]


def _consecutive(scene: Scenes3D, R: Tensor, t: Tensor, K: Tensor) -> Scenes3D:
    """The scene as each frame but the last sees it, with the next frame as the second camera."""
    n = scene.objects.counts.objects
    copies = scene[torch.zeros(len(R) - 1, dtype=torch.long, device=R.device)]
    step = R[1:] @ R[:-1].mT
    shift = t[1:] - (step @ t[:-1, :, None])[..., 0]
    return replace(
        copies,
        objects=copies.objects.moved(R[:-1, None].expand(-1, n, -1, -1), t[:-1, None].expand(-1, n, -1)),
        K0=K[:-1],
        K1=K[1:],
        R=step,
        t=shift,
        rotations=step[:, None].expand(-1, n, -1, -1),
        translations=shift[:, None].expand(-1, n, -1),
    )
