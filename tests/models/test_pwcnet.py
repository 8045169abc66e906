"""PWC-Net: counts (spec.md section 12), levels, the mask of the warp, and what its matching looks at."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.models.pwcnet import PWCNet, PWCNetConfig, pwcnet, pwcnet_paper

UNUSED = 2 * 2 * 16 + 2
"""deconv2 of the published file, which nothing uses."""


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.fixture(scope="module")
def tiny() -> PWCNet:
    torch.manual_seed(0)
    return PWCNet(PWCNetConfig((4, 4, 6, 6, 8, 8), convolutions=2)).eval()


def test_both_forms_have_the_published_sizes() -> None:
    network = pwcnet()
    assert parameters(network) + UNUSED == 9_374_340 and parameters(network.pyramid) == 1_665_804
    assert parameters(pwcnet_paper()) + UNUSED == 8_749_280


def test_flows_come_level_by_level_in_pixels(tiny: PWCNet) -> None:
    images = torch.rand(2, 2, 3, 64, 128)
    tiny.train()
    found = tiny(*images)
    tiny.eval()
    assert found.strides == [64, 32, 16, 8, 4, 1]
    assert [f.shape[-1] * s for f, s in zip(found.iterates, found.strides, strict=True)] == [128] * 6
    enlarged = F.interpolate(found.iterates[-2], scale_factor=4.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.flow, enlarged)


def test_decoders_put_what_is_new_in_front(tiny: PWCNet) -> None:
    decoder = tiny.decoders["6"]
    inputs = torch.randn(1, 81, 2, 3)
    with torch.no_grad():
        _, hidden = decoder(inputs)
        torch.testing.assert_close(hidden[:, -81:], inputs)
        torch.testing.assert_close(hidden[:, -81 - 128 : -81], decoder.layers[0](inputs))
    assert hidden.shape[1] == 81 + 128 + 128 + 96 + 64 + 32


class Shifted(torch.nn.Module):
    """In place of the pyramid: noise, and for the second picture the same a cell to the right and two down at level 5."""

    def forward(self, image0: torch.Tensor, image1: torch.Tensor) -> tuple[dict[int, torch.Tensor], ...]:
        height, width = image0.shape[-2:]
        sizes = zip((16, 32, 64, 96, 128, 196), range(1, 7), strict=True)
        features = {level: torch.randn(1, channels, height >> level, width >> level) for channels, level in sizes}
        return features, {**features, 5: features[5].roll(shifts=(2, 1), dims=(2, 3))}


def test_without_gradients_it_is_computed_otherwise_but_the_same(tiny: PWCNet) -> None:
    images = torch.rand(2, 2, 3, 64, 128, dtype=torch.float64)
    tiny = copy.deepcopy(tiny).double()  # in which another order of summation makes no difference
    with torch.no_grad():
        summed = tiny(*images)
    joined = tiny(*images)
    assert joined.flow.requires_grad and joined.flow.abs().max() > 0.1
    torch.testing.assert_close(
        summed.flow, joined.flow.detach(), atol=1e-3, rtol=1e-3
    )  # float32, other orders of summation


def test_costs_follow_the_second_picture() -> None:
    network = pwcnet().eval()
    network.pyramid = Shifted()
    seen = {}
    network.decoders["5"].register_forward_pre_hook(lambda _, inputs: seen.setdefault("inputs", inputs[0]))
    torch.nn.init.zeros_(network.decoders["6"].up_flow.weight)
    with torch.no_grad():
        network(*torch.zeros(2, 1, 3, 256, 320))
    best = seen["inputs"][:, :81].view(9, 9, 8, 10)[:, :, 3:5, 4:6].mean((2, 3)).argmax()
    assert divmod(int(best), 9) == (4 + 2, 4 + 1)  # y is the outer index


def test_an_initial_flow_is_where_the_search_begins(tiny: PWCNet) -> None:
    torch.manual_seed(1)
    network = PWCNet(tiny.config).eval()
    images = torch.rand(2, 1, 3, 128, 192)
    flows = []
    network.decoders["6"].up_flow.register_forward_pre_hook(lambda _, inputs: flows.append(inputs[0]))
    torch.nn.init.zeros_(network.decoders["6"].flow.weight)
    start = torch.zeros(1, 2, 2, 3)
    start[:, 1] = 0.5
    with torch.no_grad():
        network(*images, initial=start)
    torch.testing.assert_close(flows[0], start * 64 / 20)


def test_sizes_that_do_not_divide_are_refused(tiny: PWCNet) -> None:
    with pytest.raises(ValueError, match="divisible by 64"):
        tiny(torch.rand(1, 3, 96, 64), torch.rand(1, 3, 96, 64))


def test_features_alone_are_those_of_the_levels_that_infer_flow(tiny: PWCNet) -> None:
    images = torch.rand(2, 1, 3, 64, 128)
    found = tiny(*images, until="features")
    expected = {4: (1, 4, 16, 32), 8: (1, 6, 8, 16), 16: (1, 6, 4, 8), 32: (1, 8, 2, 4), 64: (1, 8, 1, 2)}
    assert {stride: tuple(f1.shape) for stride, (_, f1) in found.features.items()} == expected
    assert found.flow.shape == (1, 2, 64, 128) and not found.flow.any()
    other = tiny(*images.flip(0), until="features")
    torch.testing.assert_close(other.features[8][0], found.features[8][1])
    with pytest.raises(ValueError, match="trained whole"):
        tiny(*images, until="S6")


def test_a_network_that_begins_still_sees_next_to_no_motion() -> None:
    torch.manual_seed(0)
    network = PWCNet(PWCNetConfig((4, 4, 6, 6, 8, 8), convolutions=2)).eval()
    images = torch.rand(2, 1, 3, 64, 128)
    before = network(*images).flow.norm(dim=1).mean()
    network.still()
    assert network(*images).flow.norm(dim=1).mean() < 0.05 * before
    flow = torch.randn(1, 2, 2, 4)
    enlarged = network.decoders["6"].enlarged(flow, torch.zeros(1, 529, 2, 4))[0]
    reference = F.interpolate(F.pad(flow, (1, 1, 1, 1)), scale_factor=2.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, reference[..., 2:-2, 2:-2])
