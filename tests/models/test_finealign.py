"""RANSAC-Flow's fine network: sizes as published, and what goes in and comes out in the right direction and place."""

import pytest
import torch

from flowkit.models.finealign import BlurPool, FineAlign, agreed, expectation, finealign, folded, kept_inside


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_those_of_the_paper():
    network = finealign()
    assert count(network.features) == 2_775_104
    assert count(network.flow) == 1_758_592
    assert count(network.matchability) == 1_703_296
    assert not [name for name, _ in network.named_buffers() if name.endswith("filt") and name in network.state_dict()]


def test_features_are_an_eighth_of_the_size():
    network = FineAlign().eval()
    with torch.inference_mode():
        assert network.features(torch.rand(2, 3, 48, 64)).shape == (2, 256, 6, 8)
        found = network(torch.rand(2, 3, 48, 64), torch.rand(2, 3, 48, 64))
    assert found.flow.shape == found.backward.shape == (2, 2, 48, 64)
    assert found.confidence.shape == (2, 1, 48, 64)
    torch.testing.assert_close(found.matchability, torch.full((2, 1, 48, 64), 0.5), atol=0.05, rtol=0)


def test_folding_batch_normalisation_changes_nothing_but_the_time():
    torch.manual_seed(0)
    network = FineAlign()
    pictures = torch.rand(2, 4, 3, 48, 64)
    with torch.no_grad():
        for _ in range(3):
            network(*pictures)  # so that the normalisations have something to say
        expected, found = network.eval()(*pictures), folded(network)(*pictures)
    assert not [part for part in folded(network).modules() if isinstance(part, torch.nn.BatchNorm2d)]
    torch.testing.assert_close(found.flow, expected.flow, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.matchability, expected.matchability, atol=1e-4, rtol=0)


def test_blur_pool_is_the_binomial_filter_at_every_second_pixel():
    row = torch.arange(8.0)
    picture = (row * row).expand(1, 2, 8, 8)
    blurred = BlurPool(2)(picture)
    assert blurred.shape == (1, 2, 4, 4)
    # x^2 after [1 2 1] / 4 is x^2 + 1/2; the border is mirrored without being doubled
    torch.testing.assert_close(blurred[0, 0, 1, 1:], row[2::2] ** 2 + 0.5)
    assert blurred[0, 0, 1, 0] == pytest.approx(0.5)


@pytest.mark.parametrize(("dx", "dy"), [(2, 0), (0, -3), (-1, 2)])
def test_a_certain_displacement_is_the_flow(dx, dy):
    scores = torch.zeros(1, 49, 4, 5)
    scores[:, (dy + 3) * 7 + dx + 3] = 50
    flow = expectation(scores)
    torch.testing.assert_close(flow[0, :, 2, 2], torch.tensor([float(dx), float(dy)]), atol=1e-4, rtol=0)


class FromSimilarities(torch.nn.Module):
    """A head that takes the correlation itself for the scores."""

    def forward(self, similarities):
        return 200 * similarities


class OneHot(torch.nn.Module):
    """Features of a picture that consists of 8x8 cells: its cells' colours, spread over many channels."""

    def forward(self, images):
        cells = torch.nn.functional.avg_pool2d(images, 8)
        make = torch.Generator().manual_seed(0)
        mixture = torch.randn(64, 3, generator=make)
        return torch.cos(40 * torch.einsum("dc,bchw->bdhw", mixture, cells))


def test_flow_leads_from_the_first_picture_to_the_second():
    """Cells moved by (+2, -1) cells: the flow image0 -> image1 is (+16, -8) pixels, and back the other way."""
    network = FineAlign().eval()
    network.features, network.flow = OneHot(), FromSimilarities()
    cells = torch.rand(1, 3, 14, 16, generator=torch.Generator().manual_seed(1))
    image0 = cells[..., 2:12, 3:13].repeat_interleave(8, 2).repeat_interleave(8, 3)
    image1 = cells[..., 3:13, 1:11].repeat_interleave(8, 2).repeat_interleave(8, 3)
    found = network(image0, image1, matchability=False)
    inner = (0, slice(None), slice(32, 48), slice(24, 48))
    torch.testing.assert_close(
        found.flow[inner], torch.tensor([16.0, -8.0])[:, None, None].expand(2, 16, 24), atol=0.1, rtol=0
    )
    torch.testing.assert_close(
        found.backward[inner], -torch.tensor([16.0, -8.0])[:, None, None].expand(2, 16, 24), atol=0.1, rtol=0
    )
    assert found.confidence is None and found.matchability is None


def test_flow_never_leaves_the_other_picture():
    points = torch.tensor([[-3.0, 2.0], [9.7, 7.2], [4.0, 4.0]])
    expected = torch.tensor([[-0.5, 2.0], [9.5, 5.5], [4.0, 4.0]])
    torch.testing.assert_close(kept_inside(points, (6, 10)), expected)


def test_both_ends_must_be_matchable():
    sure0, sure1 = torch.full((1, 1, 6, 8), 0.5), torch.zeros(1, 1, 6, 8)
    sure1[..., 5] = 0.8
    flow = torch.zeros(1, 2, 6, 8)
    flow[:, 0] = 2.0
    both = agreed(sure0, sure1, flow)
    torch.testing.assert_close(
        both[0, 0, 3], torch.tensor([0, 0, 0, 0.4, 0, 0, 0, 0])
    )  # looked up 2 pixels to the right
