"""Videos of 3-D scenes: a chain of exact pairs whose poses, depth and flow are those of one still world."""

from dataclasses import replace

import pytest
import torch
from scene_photos import store

from flowkit.errors import UsageError
from flowkit.synth.cameras import MOTIONS, inverse_intrinsics
from flowkit.synth.scene3d import Scene3DSettings, sample_scenes3d
from flowkit.synth.scene3d_render import render_scenes3d
from flowkit.synth.scene3d_video import render_video

SIZE, FRAMES = (48, 64), 5


@pytest.fixture(scope="module")
def photos():
    return store()


def scenes_of(photos, count=1, seed=0, **changes):
    settings = Scene3DSettings(max_displacement=40, min_displacement=20, **{"moving": 0.0, "relief": 0.5, **changes})
    return sample_scenes3d(count, SIZE, settings, photos, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=MOTIONS)
def filmed(photos, request):
    """A scene with cut-outs, plain and repeating faces under each motion, zooming, and its video."""
    only = {name: float(name == request.param) for name in MOTIONS}
    scene = scenes_of(photos, presence=1.0, zooming=1.0, plain=0.2, repeating=0.2, **only)
    assert scene.motions() == [request.param]
    return scene, render_video(scene, FRAMES, photos)


def test_frame_0_and_the_first_flow_are_those_of_a_pair(filmed, photos):
    scene, video = filmed
    scale = scene.scale / (FRAMES - 1)
    R, t = scene.motion.pose(scale)
    n = scene.objects.counts.objects
    own = {"rotations": R[:, None].expand(-1, n, -1, -1), "translations": t[:, None].expand(-1, n, -1)}
    near = replace(scene, R=R, t=t, K1=scene.motion.intrinsics(scene.K0, scale), **own)
    pair = render_scenes3d(near, photos)
    for name, tensor in pair.tensors().items():
        assert torch.allclose(video.pairs.tensors()[name][:1], tensor, atol=1e-6), name
    assert torch.equal(video.images[0], pair.image0[0])


def test_it_ends_where_the_scene_does(filmed, photos):
    scene, video = filmed
    whole = render_scenes3d(scene, photos)
    assert torch.equal(video.R[-1], scene.R[0]) and torch.equal(video.t[-1], scene.t[0])
    assert torch.equal(video.K[-1], scene.K1[0])
    assert (video.images[-1] - whole.image1[0]).abs().mean() < 1e-4
    assert torch.equal(render_video(scene, 2, photos).pairs.flow, whole.flow)


def test_consecutive_pairs_share_their_frame(filmed):
    _, video = filmed
    pairs = video.pairs
    assert len(video.images) == FRAMES and len(pairs) == FRAMES - 1
    assert (pairs.image1[:-1] - pairs.image0[1:]).abs().mean() < 1e-4  # float32 may differ at a border
    assert (pairs.depth1[:-1] / pairs.depth0[1:] - 1).abs().median() < 1e-5
    moved = [(one - two).abs().mean() for one, two in zip(video.images[:-1], video.images[1:], strict=True)]
    assert min(moved) > 0.005


def test_flow_is_the_projection_of_depth_by_the_poses(filmed):
    _, video = filmed
    pairs = video.pairs
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in SIZE), indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
    for k in range(FRAMES - 1):
        here = (inverse_intrinsics(video.K[k]) @ pixels) * pairs.depth0[k].double().flatten()
        world = video.R[k].T @ (here - video.t[k][:, None])
        there = video.K[k + 1] @ (video.R[k + 1] @ world + video.t[k + 1][:, None])
        error = (there[:2] / there[2:] - pixels[:2] - pairs.flow[k].flatten(1)).abs().amax(0)
        valid = pairs.valid[k].flatten()
        assert valid.float().mean() > 0.97
        assert error[valid].max() < 2e-3


def test_what_cannot_be_filmed(photos):
    with pytest.raises(UsageError, match="one scene"):
        render_video(scenes_of(photos, 2), 3, photos)
    with pytest.raises(UsageError, match="2 or more frames"):
        render_video(scenes_of(photos), 1, photos)
    with pytest.raises(UsageError, match="moving=0"):
        render_video(scenes_of(photos, moving=1.0, moving_objects=1.0), 3, photos)
