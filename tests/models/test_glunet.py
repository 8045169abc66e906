"""BaseNet and GLU-Net: sizes, counts, directions, adaptive resolution, flip test."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from flowkit.models.basenet import ROWS, BaseNet
from flowkit.models.feature_pyramids import OWN, OwnPyramid
from flowkit.models.glunet import GLUNet, GLUNetConfig, glunet, glunet_gocor, glunet_gocor_published, unmirrored
from flowkit.models.glunet_parts import GlobalCorrelation, Level, LocalLevel, MappingDecoder, at_size, unit
from flowkit.models.gocor import PAPER
from flowkit.models.neighbourhood_consensus import NeighbourhoodConsensus, _conv4d, mutual_matching


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def images(size: tuple[int, int], batch: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, 3, *size), torch.rand(batch, 3, *size)


def test_decoders_have_the_published_numbers_of_parameters() -> None:
    """spec.md, section 12."""
    network = glunet()
    assert count(network.coarse.first) == 630_914
    assert count(network.coarse.second.decoder) == count(network.eighth.decoder) == 1_036_760
    assert count(network.quarter.decoder) == 1_044_860
    assert count(glunet_gocor_published().matching.globally) == 3504
    assert count(glunet_gocor().matching.locally) == 33


@pytest.mark.parametrize("row", ROWS)
def test_basenet_answers_at_any_size_and_learns_everywhere(row: str) -> None:
    torch.manual_seed(0)
    network = BaseNet(ROWS[row]).train()
    found = network(*images((96, 160)))
    assert found.flow.shape == (1, 2, 96, 160)
    assert [tuple(flow.shape[-2:]) for flow in found.iterates] == [(16, 16), (32, 32), (64, 64)]
    assert (found.confidence is not None) == (row == "VI")
    sum(flow.square().sum() for flow in found.iterates).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not still, still


def test_the_error_of_the_flow_can_be_kept_from_the_features() -> None:
    torch.manual_seed(0)
    for network in (BaseNet(), glunet()):
        network(*images((256, 256)), through_features=False).flow.square().sum().backward()
        assert all(parameter.grad is None for parameter in network.pyramid.parameters())
        assert network.coarse.first.mapping.weight.grad is not None


def test_stages_end_where_they_say() -> None:
    network = BaseNet().eval()
    with torch.no_grad():
        assert [f.shape[-1] for f in network(*images((64, 64)), until="16").iterates] == [16]
        assert [f.shape[-1] for f in network(*images((64, 64)), until="32").iterates] == [16, 32]
        features = network(*images((64, 64)), until="features").features
    assert {stride: maps[0].shape[-1] for stride, maps in features.items()} == {16: 16, 8: 8, 4: 16}
    with pytest.raises(ValueError, match="until='8'"):
        network(*images((64, 64)), until="8")
    with pytest.raises(ValueError, match="until='8'"):
        glunet()(*images((64, 64)), until="8")


def test_a_mapping_is_turned_into_a_flow_by_the_corners() -> None:
    """-1 is the middle of the first cell, 1 that of the last, x before y."""
    decoder = MappingDecoder(4).eval()
    with torch.no_grad():
        decoder.mapping.weight.zero_()
        decoder.mapping.bias.copy_(torch.tensor([1.0, -1.0]))
        flow = decoder(torch.zeros(1, 4, 3, 5))
    assert flow[0, :, 0, 0].tolist() == [4, 0]
    assert flow[0, :, 2, 4].tolist() == [0, -2]


def test_the_global_volume_has_the_cells_of_image1_as_channels() -> None:
    reference, query = torch.zeros(2, 1, 2, 3, 4)
    reference[0, 0, 2, 1] = query[0, 0, 1, 3] = 1
    reference[0, 1, 0, 0] = query[0, 1, 0, 0] = 1
    volume = GlobalCorrelation()(unit(reference), unit(query))
    assert volume.shape == (1, 12, 3, 4)
    assert volume[0, :, 2, 1].argmax() == 1 * 4 + 3


def test_mutual_matching_keeps_what_is_best_both_ways() -> None:
    volume = torch.tensor([[0.5, 1.0], [0.25, 0.5]]).view(1, 2, 1, 2)
    found = mutual_matching(volume).view(2, 2)
    torch.testing.assert_close(found, torch.tensor([[0.25, 1.0], [0.0625, 0.25]]), atol=1e-4, rtol=0)


def test_convolution_in_four_dimensions() -> None:
    torch.manual_seed(0)
    volume = torch.randn(2, 2, 3, 4, 3, 2, dtype=torch.float64)
    kernel, bias = torch.randn(3, 5, 2, 3, 3, 3, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    around = F.pad(volume, (1, 1, 1, 1, 1, 1, 1, 1))
    wanted = bias.view(1, 5, 1, 1, 1, 1).expand(2, 5, 3, 4, 3, 2).clone()
    for index in torch.cartesian_prod(*[torch.arange(3)] * 4).tolist():
        a, b, c, d = index
        part = around[:, :, a : a + 3, b : b + 4, c : c + 3, d : d + 2]
        wanted += torch.einsum("bchwyx,kc->bkhwyx", part, kernel[a, :, :, b, c, d])
    torch.testing.assert_close(_conv4d(volume, kernel, bias), wanted)


def test_neighbourhood_consensus_does_not_care_which_image_is_which() -> None:
    torch.manual_seed(0)
    consensus = NeighbourhoodConsensus()
    volume = torch.rand(1, 6, 2, 3)
    turned = volume.flatten(2).mT.unflatten(2, (2, 3))
    found, back = (consensus(each, (2, 3)) for each in (volume, turned))
    torch.testing.assert_close(found.flatten(2), back.flatten(2).mT)


class _Oracle(nn.Module):
    """In place of a decoder: the change that brings the flow to a known one, if the flow comes in the right unit."""

    hidden = 3

    def __init__(self, truth: Tensor) -> None:
        super().__init__()
        self.truth, self.seen = truth, []

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(inputs.shape[-2:])
        wanted = F.interpolate(self.truth, inputs.shape[-2:], mode="bilinear", align_corners=False)
        return wanted - inputs[:, 81:83], inputs[:, :3]


def test_flows_go_from_level_to_level_in_pixels_of_the_images() -> None:
    """With decoders that know the truth, in pixels of their branch, the answer is that truth at the size of the images."""
    network = glunet().eval()
    smooth = F.interpolate(torch.randn(1, 2, 3, 4), (32, 32), mode="bicubic", align_corners=False) * 9
    in_small = smooth  # in pixels of 256x256
    scale = torch.tensor([640 / 256, 384 / 256]).view(1, 2, 1, 1)
    network.coarse.first.forward = lambda volume: F.interpolate(in_small, (16, 16)) / 16  # type: ignore[method-assign]
    network.coarse.second.decoder = _Oracle(in_small)
    network.eighth.decoder, network.quarter.decoder = _Oracle(in_small * scale), _Oracle(in_small * scale)
    network.pass_on = nn.ConvTranspose2d(3, 2, 4, 2, 1)
    for level in (network.coarse.second, network.quarter):
        level.refinement = None
    with torch.no_grad():
        found = network(*images((384, 640))).flow
    wanted = F.interpolate(in_small * scale, (384, 640), mode="bilinear", align_corners=False)
    assert (found - wanted).abs().max() < 1.0  # between grids it is interpolated, no more
    assert (found - wanted).abs().mean() < 0.1


@pytest.mark.parametrize(
    ("adaptive", "grid", "steps"),
    [
        ("both", (32, 32), 0),
        ("both", (128, 128), 0),
        ("both", (136, 136), 1),  # log2(136 / 32 / 3) rounds to 1
        ("both", (400, 60), 2),
        ("width", (400, 60), 0),
        ("width", (60, 400), 2),
        ("off", (400, 400), 0),
    ],
)
def test_sizes_in_between(adaptive: str, grid: tuple[int, int], steps: int) -> None:
    network = GLUNet(GLUNetConfig(adaptive=adaptive))  # type: ignore[arg-type]
    assert network.steps_between(grid) == steps


def test_sizes_in_between_have_the_shape_of_the_picture() -> None:
    """Each axis by its own length, unlike the official code, which takes the width for both."""
    network = glunet().eval()
    oracle = network.eighth.decoder = _Oracle(torch.zeros(1, 2, 4, 4))
    features = {2: images((48, 280)), 3: images((24, 140))}
    features = {level: tuple(f[:, :1].repeat(1, OWN[level], 1, 1) for f in pair) for level, pair in features.items()}
    network.pass_on = nn.ConvTranspose2d(3, 2, 4, 2, 1)
    with torch.no_grad():
        network._full_size(network.matching.locally, features, torch.zeros(1, 2, 32, 32))
    assert [tuple(size) for size in oracle.seen] == [(12, 70), (24, 140)]


def test_an_initial_flow_takes_the_place_of_the_global_level() -> None:
    torch.manual_seed(0)
    network = BaseNet().eval()
    initial = torch.zeros(1, 2, 12, 20)
    initial[:, 0] = 1.5  # cells of 8 pixels
    with torch.no_grad():
        found = network(*images((96, 160)), initial=initial)
    torch.testing.assert_close(found.iterates[0][:, 0], torch.full((1, 32, 32), 12.0))
    assert not found.iterates[0][:, 1].any()


def test_a_mirrored_flow_is_turned_back() -> None:
    """Image0 is image1 mirrored: the mirrored image0 moves by nothing, image0 itself to the other side."""
    flow = unmirrored(torch.zeros(1, 2, 2, 5))
    assert flow[0, 0, 0].tolist() == [4, 2, 0, -2, -4]
    assert not flow[0, 1].any()
    sideways = torch.zeros(1, 2, 1, 5)
    sideways[0, 0, 0, 0] = 1  # the mirrored picture's first pixel, the last one of the picture itself
    assert unmirrored(sideways)[0, 0, 0].tolist() == [4, 2, 0, -2, -3]


@pytest.mark.parametrize("gocor", [False, True])
def test_the_flip_test_tells_a_mirrored_picture(gocor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With features that match, and the best match in place of an untrained decoder."""
    torch.manual_seed(0)
    network = GLUNet(GLUNetConfig(gocor=PAPER if gocor else None)).eval()
    picture = F.interpolate(torch.rand(1, 3, 24, 24), (256, 256), mode="bicubic", align_corners=False).clamp(0, 1)
    moved = picture.roll(16, -1)

    def best(volume: Tensor) -> Tensor:
        places = volume.argmax(1)
        x = torch.arange(16.0).expand(16, 16)
        return torch.stack([places % 16 - x, places // 16 - torch.arange(16.0)[:, None]], 1)

    monkeypatch.setattr(network.coarse.first, "forward", best)
    with torch.no_grad():
        pairs = torch.cat([moved, moved.flip(-1)]), torch.cat([picture, picture])
        assert network.fits_mirrored(*pairs).tolist() == [False, True]
        found = network(*pairs, flip_test=True)
        assert found.mirrored.tolist() == [False, True]
        torch.testing.assert_close(found.flow[1:], unmirrored(network(moved, picture).flow))


def test_confidence_is_read_where_the_flow_went() -> None:
    volume = torch.zeros(1, 81, 1, 1)
    volume[0, 4 * 9 + 7] = 0.9
    level = Level(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, 1), volume, torch.tensor([3.0, 0.0]).view(1, 2, 1, 1))
    assert float(level.confidence()) == pytest.approx(0.9)


def test_a_level_looks_for_the_rest_where_the_flow_leads() -> None:
    """Features moved by (9, 0) pixels, a flow of (8, 0), cells of 1 pixel: what is left is one to the right."""
    torch.manual_seed(0)
    features0 = unit(torch.randn(1, 64, 8, 40))
    features1 = features0.roll(9, -1)
    flow = torch.zeros(1, 2, 8, 40)
    flow[:, 0] = 8
    found = LocalLevel().eval()(lambda a, b: F.relu(_dots(a, b)), features0, features1, flow, 1.0)
    assert (found.volume[0, :, 3:5, 8:28].flatten(1).argmax(0) == 4 * 9 + 5).all()


def _dots(a: Tensor, b: Tensor) -> Tensor:
    from flowkit.ops.correlation import correlation_reference

    return correlation_reference(a, b, 4)


def test_images_become_smaller_by_area() -> None:
    images = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert at_size(images, (1, 1)).item() == 2
    assert at_size(images, (4, 4)).shape[-1] == 4


def test_levels_of_our_pyramid() -> None:
    found = OwnPyramid()(torch.rand(1, 3, 32, 48), (2, 4))
    assert {level: tuple(maps.shape[1:]) for level, maps in found.items()} == {2: (64, 8, 12), 4: (192, 2, 3)}


def test_a_network_without_its_query_term_is_another_row() -> None:
    assert count(BaseNet(ROWS["V"])) - count(BaseNet(ROWS["IV"])) == 2448
    assert replace(ROWS["V"], local="gocor") == ROWS["VI"]
