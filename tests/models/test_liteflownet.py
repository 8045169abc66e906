"""LiteFlowNet's family: counts and layouts (spec.md section 12), conventions, variants, and the parts that run alone."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.errors import UsageError
from flowkit.models import liteflownet as family
from flowkit.models.liteflownet import LITEFLOWNET, LITEFLOWNET2, LITEFLOWNETX, LiteFlowNet, doubled
from flowkit.models.liteflownet_variants import VARIANTS, variant

FIXED = {"upflow": 2 * 16, "upcorr": 49 * 16}
"""Sizes of the fixed enlargements that published files hold as weights."""


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def per_unit(network: LiteFlowNet, unit: str) -> int:
    return sum(
        parameters(part) for level in network.nete.values() for name, part in level.named_children() if name == unit
    )


def convolutions(network: torch.nn.Module) -> int:
    return sum(isinstance(module, torch.nn.Conv2d) for module in network.modules())


def tiny(**changes) -> LiteFlowNet:
    torch.manual_seed(0)
    config = replace(LITEFLOWNETX, features=(4, 4, 4, 6, 8, 8), inference=(8, 6), regularisation=(8, 6), **changes)
    return LiteFlowNet(config).eval()


def pair(*size: int) -> torch.Tensor:
    coarse = torch.rand(2, 1, 3, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(3))
    return torch.stack(
        [F.interpolate(image, size=size, mode="bicubic", align_corners=False).clamp(0, 1) for image in coarse]
    )


def test_liteflownet_has_the_published_size() -> None:
    network = family.liteflownet()
    assert parameters(network.netc) == 558_432
    scale = 2 * (10 + 10 + 26 + 26 + 50)  # the 1x1 sums of R, levels 6 to 2, x and y
    fixed = 4 * FIXED["upflow"] + 2 * FIXED["upcorr"]
    assert per_unit(network, "adapter") + per_unit(network, "matching") + fixed == 755_466
    assert per_unit(network, "subpixel") == 1_734_314
    assert per_unit(network, "regularization") + scale == 2_331_645
    assert parameters(network) + fixed + scale == 5_379_857


def test_liteflownet2_has_the_published_size() -> None:
    network = family.liteflownet2()
    scale = 2 * (10 + 10 + 26 + 26)
    assert per_unit(network, "subpixel") == 2_448_392
    assert per_unit(network, "regularization") + scale == 1_862_384
    assert per_unit(network, "matching") + 3 * FIXED["upflow"] + FIXED["upcorr"] == 1_559_928
    assert parameters(network) + scale + 3 * FIXED["upflow"] + FIXED["upcorr"] == 6_429_136


def test_liteflownetx_is_the_proposal() -> None:
    network = family.liteflownetx()
    assert parameters(network) == 896_563 and parameters(network.netc) == 140_976
    # The paper counts 69, 94 and 91: one more each (and a second copy of the shared adapter at level 2 in LiteFlowNet).
    assert [convolutions(build()) for build in (family.liteflownetx, family.liteflownet, family.liteflownet2)] == [
        68,
        92,
        90,
    ]


def test_the_pseudo_level_adds_a_half_resolution() -> None:
    network = family.liteflownet2_kitti()
    assert parameters(network) - parameters(family.liteflownet2()) == parameters(network.pseudo) == 63_851
    network.train()
    found = network(*pair(32, 64))
    assert found.strides[-3:] == [2, 2, 1] and found.strides[0] == 32


def test_flows_come_level_by_level_in_pixels() -> None:
    network = LiteFlowNet(LITEFLOWNET2).train()
    found = network(*pair(64, 96))
    assert found.strides == [32] * 3 + [16] * 3 + [8] * 3 + [4] * 3 + [1]
    assert [(f.shape[-2] * s, f.shape[-1] * s) for f, s in zip(found.iterates, found.strides, strict=True)] == [
        (64, 96)
    ] * 13
    enlarged = F.interpolate(found.iterates[-2], scale_factor=4.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found.flow, enlarged)
    torch.testing.assert_close(found.coarse, F.avg_pool2d(found.iterates[-2], 8) / 32)


@pytest.mark.parametrize(
    ("variant", "units"),
    [("M", "M"), ("MS", "MS"), ("WM", "M"), ("WSR", "SR"), ("WMS", "MS"), ("ALL", "MSR")],
)
def test_variants_of_table_6(variant: str, units: str) -> None:
    config = VARIANTS[variant]
    assert {step[0] for step in config.steps} == set(units)
    assert config.warping == (variant not in ("M", "MS"))
    # without M, S is as deep as M and S are together
    assert convolutions(LiteFlowNet(VARIANTS["WSR"])) == convolutions(LiteFlowNet(VARIANTS["ALL"]))


def test_without_warping_nothing_is_warped(monkeypatch) -> None:
    def warped(*_) -> None:
        raise AssertionError("warped")

    monkeypatch.setattr(family, "warped", warped)
    tiny(warping=False, regularised=False)(*pair(32, 32))
    with pytest.raises(AssertionError, match="warped"):
        tiny(regularised=False)(*pair(32, 32))


@pytest.mark.parametrize(
    ("name", "costs", "finest_grid"), [("range-3", 49, 1), ("range-3-6", 49, 2), ("range-4", 81, 1)]
)
def test_cost_volumes_of_table_7(name: str, costs: int, finest_grid: int) -> None:
    config = variant(name, width=0.1)
    network = LiteFlowNet(config).eval()
    channels = {level: network.nete[str(level)].matching.layers[0].in_channels for level in config.levels}
    assert channels == dict.fromkeys((6, 5, 4, 3), costs) and config.cost(3).stride == finest_grid
    with torch.no_grad():
        assert network(*pair(32, 64)).flow.shape == (1, 2, 32, 64)


def test_narrow_variants() -> None:
    assert variant("ALL") == LITEFLOWNET and variant("range-3-6").cost(3) == LITEFLOWNET2.cost(3)
    assert variant("conv-redir", 0.5).redirected == 16 and variant("WM", 0.5).features == (16, 16, 32, 48, 64, 96)
    with pytest.raises(UsageError, match="range-4"):
        variant("nonsense")


def test_redirected_features_join_the_costs() -> None:
    network = tiny(matching=True, redirected=5)
    assert network.nete["6"].matching.layers[0].in_channels == 49 + 5
    assert network(*pair(32, 32)).flow.isfinite().all()


def test_only_the_units_asked_for_run() -> None:
    network = tiny(matching=True).train()
    images = pair(32, 64)
    found = network(*images, until="S5")
    assert found.strides == [32, 32, 32, 16, 16, 1]
    whole = network(*images)
    torch.testing.assert_close(found.iterates[:5], whole.iterates[:5])
    with pytest.raises(ValueError, match="the units are features, M6, S6, R6"):
        network(*images, until="S1")


def test_units_begin_as_those_of_the_coarser_level() -> None:
    network = LiteFlowNet(LITEFLOWNET)
    copied, kept = network.inherit("S4")
    coarser, finer = network.nete["5"].subpixel, network.nete["4"].subpixel
    assert torch.equal(finer.layers[2].weight, coarser.layers[2].weight)
    assert not torch.equal(finer.layers[0].bias, finer.layers[0].weight[:, 0, 0, 0])
    assert (copied, kept) == (6, 2)  # other inputs, other last kernel: the biases and what is between
    assert network.inherit("S6") == (0, 8)


def test_an_initial_flow_is_where_the_search_begins() -> None:
    network = tiny(regularised=False)
    for parameter in network.parameters():
        torch.nn.init.zeros_(parameter)
    start = torch.zeros(1, 2, 2, 3)
    start[:, 0] = 0.5
    with torch.no_grad():
        flow = network(*pair(64, 96), initial=start).flow
    assert flow[0, 0, 30:34, 46:50].mean() == pytest.approx(16, abs=0.05)  # half a cell of 32 pixels
    assert flow[0, 1].abs().max() < 1e-6


def test_flows_pass_gradients_on_only_if_asked() -> None:
    network = tiny().train()
    first = network.nete["6"].subpixel.flow.weight
    network(*pair(32, 64), through_flows=True).iterates[-2].square().sum().backward()
    assert first.grad.abs().max() > 0
    first.grad = None
    network(*pair(32, 64), through_flows=False).iterates[-2].square().sum().backward()
    assert first.grad is None or first.grad.abs().max() == 0
    network(*pair(32, 64), through_flows=False).iterates[0].square().sum().backward()
    assert first.grad.abs().max() > 0


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="divisible by 32"):
        tiny()(torch.rand(1, 3, 40, 64), torch.rand(1, 3, 40, 64))
    with pytest.raises(ValueError, match="initial must be"):
        tiny()(*pair(32, 64), initial=torch.zeros(1, 2, 2, 2))


def test_doubling_is_the_fixed_transposed_convolution() -> None:
    maps = torch.randn(2, 3, 4, 5)
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 4, 4)
    torch.testing.assert_close(doubled(maps), F.conv_transpose2d(maps, kernel, stride=2, padding=1, groups=3))


@pytest.mark.parametrize("build", [family.liteflownet, family.liteflownet2])
def test_a_shift_of_the_second_picture_changes_the_matching_costs(build) -> None:
    """M is given costs whose best displacement is the true one: x right, y down, of the picture to be found."""
    network = build().eval()
    seen = {}
    network.nete["5"].matching.layers[0].register_forward_pre_hook(
        lambda _, inputs: seen.setdefault("costs", inputs[0])
    )
    image0 = torch.rand(1, 3, 128, 160)
    image1 = image0.roll(shifts=(32, -16), dims=(2, 3))  # two cells of level 5 down, one to the left
    for level in network.nete.values():  # level 6 says nothing
        torch.nn.init.zeros_(level.matching.flow.weight)
        torch.nn.init.zeros_(level.subpixel.flow.weight)
    with torch.no_grad():
        network(image0, image1, until="M5")
    best = seen["costs"].view(7, 7, 8, 10)[:, :, 3:5, 4:6].mean((2, 3)).argmax()
    assert divmod(int(best), 7) == (3 + 2, 3 - 1)


def test_features_alone_are_those_of_the_levels_that_infer_flow() -> None:
    network = tiny(finest=3).train()
    image0, image1 = pair(64, 96)
    found = network(image0, image1, until="features")
    assert {stride: tuple(f0.shape) for stride, (f0, _) in found.features.items()} == {
        4: (1, 4, 16, 24),
        8: (1, 6, 8, 12),
        16: (1, 8, 4, 6),
        32: (1, 8, 2, 3),
    }
    again = network(image1, image0, until="features")
    for stride, (f0, f1) in found.features.items():
        means = network.mean0 - network.mean1  # the images' means differ, by a thousandth
        assert (again.features[stride][0] - f1).abs().max() < 5 * means.abs().max() and f0.shape == f1.shape
    assert found.flow.shape == (1, 2, 64, 96) and not found.flow.any() and not found.iterates


def test_a_network_that_begins_still_sees_next_to_no_motion() -> None:
    network = tiny(pseudo=True, finest=3, matching=True)
    image0, image1 = pair(64, 96)
    before = network(image0, image1).flow.norm(dim=1).mean()
    network.still()
    assert network(image0, image1).flow.norm(dim=1).mean() < 0.05 * before
    moved = torch.zeros(1, 2, 2, 3)
    moved[:, 0, :, 1] = 1.0  # 32 pixels; the filters of R leave it nearly in place
    assert 0.7 * 16 < network(image0, image1, initial=moved).flow[0, 0, :, 47:49].mean() < 32
