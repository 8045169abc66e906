"""Feature warping: direction, borders, gradients, and PWC-Net's mask."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.ops.warping import warped, warped_inside, warped_reference


def constant(x: float, y: float, *size: int) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, *size)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_reads_where_the_flow_points(layout: torch.memory_format) -> None:
    features = torch.randn(1, 3, 4, 5).contiguous(memory_format=layout)
    found = warped(features, constant(1, 2, 4, 5))
    torch.testing.assert_close(found[..., :2, :4], features[..., 2:, 1:])
    assert found[..., 2:, :].abs().max() == 0 and found[..., 4].abs().max() == 0
    between = warped(features, constant(0.25, 0.5, 4, 5))
    four = features[0, :, 1:3, 2:4]
    wanted = (four * torch.tensor([[0.75, 0.25], [0.75, 0.25]]) / 2).sum((1, 2))
    torch.testing.assert_close(between[0, :, 1, 2], wanted)


def test_cells_outside_count_as_nothing() -> None:
    assert warped(torch.ones(1, 1, 3, 3), constant(0.25, 0, 3, 3))[0, 0, 1].tolist() == [1, 1, 0.75]
    assert warped(torch.ones(1, 1, 3, 3), constant(-0.25, -0.5, 3, 3))[0, 0, 0, 0] == 0.375


def test_value_and_gradients_against_float64() -> None:
    torch.manual_seed(0)
    features, flow = torch.randn(2, 5, 6, 7), 4 * torch.randn(2, 2, 5, 4)
    exact = warped_reference(features.double(), flow.double())
    for layout in (torch.contiguous_format, torch.channels_last):  # two ways to compute it
        found = warped(features.contiguous(memory_format=layout), flow)
        torch.testing.assert_close(found.double(), exact, atol=1e-5, rtol=1e-5)
    inputs = [features.double().requires_grad_(), flow.double().requires_grad_()]
    assert torch.autograd.gradcheck(warped, inputs)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_half_precision_keeps_its_places(layout: torch.memory_format) -> None:
    features = torch.randn(1, 2, 300, 2).bfloat16().contiguous(memory_format=layout)
    found = warped(features, constant(0, 1, 300, 2))  # bf16 cannot tell 257 from 258
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found[..., :-1, :], features[..., 1:, :], atol=1e-3, rtol=1e-2)


def test_flows_to_nowhere_give_nothing() -> None:
    flow = torch.tensor([torch.nan, torch.inf, -1e30, 0.0]).view(1, 1, 1, 4).repeat(1, 2, 1, 1)
    for features in (torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4).contiguous(memory_format=torch.channels_last)):
        assert warped(features, flow).flatten().tolist() == [0, 0, 0, 1]
        assert warped(features.requires_grad_(), flow).flatten().tolist() == [0, 0, 0, 1]


def test_pwcnet_keeps_what_lies_wholly_inside() -> None:
    torch.manual_seed(0)
    features, flow = torch.randn(2, 3, 6, 7, dtype=torch.float64), 3 * torch.randn(2, 2, 6, 7, dtype=torch.float64)
    flow[0, :, 2, 2] = torch.tensor([-2.00005, 0.0])  # a share of .99995 is inside: that much is forgiven
    weight = warped_reference(torch.ones_like(features), flow)
    wanted = torch.where(weight < 0.9999, 0, warped_reference(features, flow))
    torch.testing.assert_close(warped_inside(features, flow), wanted)
    assert 0 < (wanted == 0).double().mean() < 1 and wanted[0, :, 2, 2].abs().min() > 0


def test_it_is_what_grid_sample_says() -> None:
    features, flow = torch.randn(1, 2, 5, 6), torch.randn(1, 2, 5, 6)
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    corners = torch.stack([(x + flow[0, 0]) / 5, (y + flow[0, 1]) / 4], -1) * 2 - 1
    theirs = F.grid_sample(features, corners[None], padding_mode="zeros", align_corners=True)
    torch.testing.assert_close(warped(features, flow), theirs, atol=1e-5, rtol=1e-5)
