"""What a student cannot see: superpixels of noise, crops, and the mask of what its teacher saw."""

import numpy as np
import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.geometry.epipolar import essential_from_pose
from flowkit.losses.one_sided_epipolar import epipolar_squares
from flowkit.training.student import crop_pairs, lesson_of
from flowkit.training.superpixel_noise import SuperpixelNoise, add_noise

SIZE, CROP = (48, 64), (32, 40)
NONE = SuperpixelNoise(replaced=(0, 0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=2, seed=0):
    coarse = torch.rand(count, 3, 12, 16, generator=generator(seed))
    return torch.nn.functional.interpolate(coarse, size=SIZE, mode="bilinear", align_corners=False)


def batch(shift=3.0):
    """A wall before a camera that moves sideways: every pixel moves by `shift` to the right."""
    K = torch.tensor([[50.0, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]).expand(2, 3, 3)
    t = torch.tensor([1.0, 0, 0]).expand(2, 3)
    flow = torch.zeros(2, 2, *SIZE)
    flow[:, 0] = shift
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    pairs = PairBatch(pictures(seed=1), pictures(seed=2), flow, valid, K0=K, K1=K, R=torch.eye(3).expand(2, 3, 3), t=t)
    return pairs, torch.cat([flow, -flow])


def test_some_superpixels_become_noise_and_nothing_else_changes():
    images = pictures()
    noisy, mask = add_noise(images, SuperpixelNoise(segments=60, replaced=(4, 6)), generator())
    assert mask.shape == (2, *SIZE) and mask.dtype == torch.bool
    assert torch.equal(noisy.movedim(1, -1)[~mask], images.movedim(1, -1)[~mask])
    noise = noisy.movedim(1, -1)[mask]
    assert 0.35 < float(noise.mean()) < 0.65 and float(noise.std()) == pytest.approx(12**-0.5, abs=0.05)
    assert all(0.02 < float(share) < 0.3 for share in mask.float().mean((1, 2)))
    import cv2

    for one in mask.numpy().astype(np.uint8):  # whole superpixels: few pieces, not single pixels
        assert 1 <= cv2.connectedComponents(one)[0] - 1 <= 6


def test_noise_is_a_matter_of_the_generator():
    settings = SuperpixelNoise(segments=60)
    first, again, other = (add_noise(pictures(), settings, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    with pytest.raises(UsageError, match="replaced=3,2"):
        SuperpixelNoise(replaced=(3, 2))


def test_crops_take_their_cameras_along():
    pairs, flows = batch()
    cropped = crop_pairs(pairs, (5, 11), CROP)
    assert torch.equal(cropped.image1, pairs.image1[..., 5:37, 11:51])
    assert cropped.K0[0, 0, 2] == 20.5 and cropped.K1[1, 1, 2] == 18.5 and cropped.K0[0, 0, 0] == 50
    assert cropped.backward is None and cropped.F is None
    E = essential_from_pose(cropped.R, cropped.t)
    turned = torch.eye(3) + 0.02 * torch.tensor(
        [[0, -1.0, 0], [1, 0, 0], [0, 0, 0]]
    )  # about the axis: K's centre matters
    assert float(epipolar_squares(cropped.flow, E, cropped.K0, cropped.K1).max()) < 1e-10
    whole = epipolar_squares(flows[:2], E @ turned, pairs.K0, pairs.K1)[:, 5:37, 11:51]
    torch.testing.assert_close(epipolar_squares(cropped.flow, E @ turned, cropped.K0, cropped.K1), whole)


def test_what_leaves_the_crop_is_hidden_unless_the_teacher_did_not_see_it_either():
    pairs, flows = batch(3.0)
    found = lesson_of(flows, pairs, CROP, NONE, generator(4))
    hidden = found.lesson.hidden
    assert hidden.shape == (4, *CROP) and found.taught.shape == (4, 2, *CROP)
    columns = hidden[0].all(0)
    assert hidden[:2].any(1).equal(columns.expand(2, -1)) and columns.nonzero().flatten().tolist() == [37, 38, 39]
    assert hidden[2:].all(1).any(0).nonzero().flatten().tolist() == [0, 1, 2]
    assert torch.equal(found.image1, found.clean1)
    inconsistent = flows.clone()
    inconsistent[2:] = 0  # nothing comes back: nothing was seen
    assert not lesson_of(inconsistent, pairs, CROP, NONE, generator(4)).lesson.hidden.any()


def test_noise_hides_what_leads_to_it_and_itself():
    pairs, flows = batch(0.0)
    found = lesson_of(flows, pairs, CROP, SuperpixelNoise(segments=40, replaced=(3, 3)), generator(5))
    changed = (found.image1 != found.clean1).any(1)
    assert 0.02 < float(changed.float().mean()) < 0.4
    assert torch.equal(found.hidden[:2], changed) and torch.equal(found.hidden[2:], changed)
    pairs, flows = batch(3.0)
    found = lesson_of(flows, pairs, CROP, SuperpixelNoise(segments=40, replaced=(3, 3)), generator(5))
    changed = (found.image1 != found.clean1).any(1)
    assert torch.equal(found.hidden[:2, :, :37], changed[:, :, 3:])  # p leads to p + 3
    assert torch.equal(found.hidden[2:, :, 3:], changed[:, :, 3:])
