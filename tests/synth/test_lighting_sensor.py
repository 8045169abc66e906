import cv2
import numpy as np
import pytest
import torch

from flowkit.synth.sensor import blur, jpeg, noisy, to_display, to_linear, vignette


def photo(height, width, seed=0):
    random = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(random.random((height, width, 3)), (0, 0), 2)
    noise = (noise - noise.min()) / np.ptp(noise)
    return (255 * np.clip(noise + 0.05 * random.standard_normal(noise.shape), 0, 1)).round().astype(np.uint8)


def as_tensor(*pictures):
    return torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255


def test_the_tone_curve_is_srgbs():
    shown = torch.linspace(0, 1, 1001)
    srgb = torch.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    assert (to_linear(shown) - srgb).abs().max() < 1e-3
    torch.testing.assert_close(to_display(to_linear(shown)), shown, atol=2e-6, rtol=0)
    assert to_linear(shown).min() >= -1e-7 and (to_linear(shown).diff() > 0).all()
    assert to_display(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("quality", [10, 35, 50, 75, 95, 100])
@pytest.mark.parametrize("size", [(64, 96), (37, 51)])
def test_jpeg_is_libjpegs(quality, size):
    pictures = [photo(*size, seed) for seed in range(2)]
    options = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    ]
    expected = []
    for picture in pictures:
        coded = cv2.imencode(".jpg", picture[..., ::-1], options)[1]
        expected.append(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1].copy())
    ours = jpeg(as_tensor(*pictures), torch.full((2,), float(quality)))
    difference = (ours - as_tensor(*expected)).abs() * 255
    damage = (as_tensor(*expected) - as_tensor(*pictures)).abs().mean() * 255
    assert difference.mean() < min(0.15 * damage, 1.3)
    grey = [np.repeat(picture[..., :1], 3, 2) for picture in pictures]
    expected = [cv2.imdecode(cv2.imencode(".jpg", picture, options)[1], cv2.IMREAD_COLOR) for picture in grey]
    difference = (jpeg(as_tensor(*grey), torch.full((2,), float(quality))) - as_tensor(*expected)).abs() * 255
    assert difference.mean() < 0.5


def test_every_picture_has_its_own_quality():
    pictures = as_tensor(photo(32, 32), photo(32, 32, 1))
    both = jpeg(pictures, torch.tensor([20.0, 90.0]))
    for k, quality in enumerate([20.0, 90.0]):
        assert torch.equal(both[k : k + 1], jpeg(pictures[k : k + 1], torch.tensor([quality])))
    errors = (both - pictures).abs().mean((1, 2, 3))
    assert errors[0] > 1.5 * errors[1]


def test_noise_has_the_variance_of_photons_and_of_reading():
    levels = torch.linspace(0, 0.8, 5)
    light = levels[None, None, :, None].expand(2, 3, 5, 20000)
    generator = torch.Generator().manual_seed(0)
    seen = noisy(light, torch.tensor([0.01, 0.0]), torch.tensor([0.02, 0.05]), generator)
    torch.testing.assert_close(seen.mean(-1), light.mean(-1), atol=4e-3, rtol=0)
    torch.testing.assert_close(seen[0].var(-1), (0.01 * levels + 0.02**2).expand(3, 5), atol=0, rtol=0.05)
    torch.testing.assert_close(seen[1].var(-1), torch.full((3, 5), 0.05**2), atol=0, rtol=0.05)
    channels = (seen - light)[0].movedim(0, -1).flatten(0, 1)
    assert torch.corrcoef(channels.T).triu(1).abs().max() < 0.02


def test_vignetting_darkens_the_corners_by_the_law_and_not_the_middle():
    share = vignette(torch.tensor([0.0, 0.5, 1.0]), (5, 9))[:, 0]
    torch.testing.assert_close(share[:, 2, 4], torch.ones(3))
    for corner in (share[:, 0, 0], share[:, 0, -1], share[:, -1, 0], share[:, -1, -1]):
        torch.testing.assert_close(corner, torch.tensor([1.0, 1 / 2.25, 0.25]))
    assert (share[2, 2, 4:].diff() < 0).all()


def test_blur_spreads_a_point_where_it_should():
    point = torch.zeros(5, 3, 21, 21)
    point[:, :, 10, 10] = 1
    radius, length = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 6.0, 6.0, 4.0])
    angle = torch.tensor([0.3, 0.0, 0.0, torch.pi / 2, torch.pi / 4])
    spread = blur(point, radius, length, angle)
    torch.testing.assert_close(spread[0], point[0])
    torch.testing.assert_close(spread.sum((-2, -1)), torch.ones(5, 3))
    offset = torch.arange(21) - 10.0
    across, down = spread[:, 0].sum(1), spread[:, 0].sum(2)
    for profile in (across, down):
        assert (profile @ offset).abs().max() < 1e-5  # nothing is displaced
    wide, high = across @ offset.square(), down @ offset.square()
    torch.testing.assert_close(wide[1], high[1])
    assert wide[1] > 0.5 and wide[2] > 3 and high[2] < 1e-6 and high[3] > 3 and wide[3] < 1e-6
    diagonal = (spread[4, 0] * offset * offset[:, None]).sum()
    assert diagonal > 0.5  # along +45 degrees, x and y grow together
