"""RAFT and RAFT-small: sizes, conventions, and that the ways of computing them agree."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.models.raft import RAFT, raft, raft_small
from flowkit.models.raft_parts import ConvGRU, normalise_

BUILDERS = {"raft": raft, "raft-small": raft_small}


def network(name: str, seed: int = 0) -> RAFT:
    torch.manual_seed(seed)
    return BUILDERS[name]().eval()


def pair(height: int = 40, width: int = 56, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, height // 8 + 2, width // 8 + 2, generator=g)
    image = F.interpolate(coarse, size=(height, width + 6), mode="bicubic", align_corners=False).clamp(0, 1)
    return image[..., 6:].contiguous(), image[..., :-6].contiguous()


@pytest.mark.parametrize(
    "name, fnet, cnet, update",
    [("raft", 1_066_848, 1_069_728, 3_120_960), ("raft-small", 55_264, 58_368, 876_530)],
)
def test_parameters(name, fnet, cnet, update):
    net = network(name)
    counts = [sum(p.numel() for p in part.parameters()) for part in (net.fnet, net.cnet, net.update_block)]
    assert counts == [fnet, cnet, update]
    assert sum(p.numel() for p in net.parameters()) == fnet + cnet + update


@pytest.mark.parametrize("name", BUILDERS)
@torch.no_grad()
def test_lookups_and_modes_agree(name):
    net = network(name)
    images = pair(200, 216)
    volume = net(*images, iterations=3, lookup="volume")
    assert volume.flow.shape == (1, 2, 200, 216) and volume.coarse.shape == (1, 2, 25, 27)
    assert volume.strides == [1] and volume.iterates[-1] is volume.flow
    ondemand = net(*images, iterations=3, lookup="ondemand")
    torch.testing.assert_close(ondemand.flow, volume.flow, atol=1e-3, rtol=0)
    net.train()
    net.freeze_bn()
    training = net(*images, iterations=3)
    assert len(training.iterates) == 3 and training.strides == [1, 1, 1]
    torch.testing.assert_close(training.flow, volume.flow, atol=1e-3, rtol=0)
    shorter = net(*images, iterations=2).flow
    torch.testing.assert_close(training.iterates[1], shorter, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BUILDERS)
@torch.no_grad()
def test_warm_start_goes_on_where_it_stopped(name):
    """The hidden state is not handed on, so only the first correlations tell: a net without update returns its start."""
    net = network(name)
    for parameter in net.update_block.flow_head.conv2.parameters():
        parameter.zero_()
    start = torch.randn(1, 2, 5, 7)
    prediction = net(*pair(), iterations=2, initial=start)
    torch.testing.assert_close(prediction.coarse, start)
    assert not net(*pair(), iterations=2).coarse.any()


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("size", [(8, 8), (8, 72), (24, 16)])
@torch.no_grad()
def test_small_sizes(name, size):
    net = network(name)
    a, b = torch.rand(2, 1, 3, *size)
    flows = [net(a, b, iterations=2, lookup=lookup).flow for lookup in ("volume", "ondemand")]
    assert flows[0].shape == (1, 2, *size) and torch.isfinite(flows[0]).all()
    torch.testing.assert_close(flows[0], flows[1], atol=1e-4, rtol=0)


def test_refusals():
    net = network("raft-small")
    a = torch.rand(1, 3, 16, 24)
    for bad, words in (
        ((a[..., :20], a[..., :20]), "divisible by 8"),
        ((a, a[..., :16]), "must both be"),
        ((a[:, :1], a[:, :1]), "must both be"),
    ):
        with pytest.raises(ValueError, match=words):
            net(*bad)
    with pytest.raises(ValueError, match="initial"):
        net(a, a, initial=torch.zeros(1, 2, 16, 24))
    with pytest.raises(ValueError, match="iterations"):
        net(a, a, iterations=0)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_parameter_learns(name):
    net = network(name).train()
    net.freeze_bn()
    prediction = net(*pair(64, 72), iterations=2)
    sum(flow.abs().mean() for flow in prediction.iterates).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert all(p.grad.abs().max() > 0 for n, p in net.named_parameters() if n.endswith("weight"))


def test_frozen_batch_norms_stay():
    net = network("raft").train()
    net.freeze_bn()
    before = net.cnet.norm1.running_mean.clone()
    net(*pair(), iterations=1)
    assert torch.equal(net.cnet.norm1.running_mean, before)
    net.train()
    net(*pair(), iterations=1)
    assert not torch.equal(net.cnet.norm1.running_mean, before)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (300, 64)])
def test_instance_norm_in_place(size):
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 24, *size, generator=g) * torch.linspace(0, 3, 24).view(1, 24, 1, 1) + 5
    x[0, 3] = 7  # a flat picture becomes 0
    x = x.contiguous(memory_format=torch.channels_last)
    exact = F.instance_norm(x.double()).float()
    torch.testing.assert_close(normalise_(x.clone(), relu=False), exact, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(normalise_(x.clone(), relu=True), exact.relu(), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_gru_is_the_one_on_all_channels():
    """The context's share computed once, against the equations as they are written."""
    torch.manual_seed(1)
    gru = ConvGRU(4, 3, 5, {"1": (1, 5), "2": (5, 1)})
    hidden, context, motion = (torch.randn(2, channels, 6, 7) for channels in (4, 3, 5))
    expected = hidden
    x = torch.cat([context, motion], dim=1)
    for suffix in "12":
        z, r = (gru.get_submodule(f"conv{g}{suffix}")(torch.cat([expected, x], dim=1)).sigmoid() for g in "zr")
        q = gru.get_submodule(f"convq{suffix}")(torch.cat([r * expected, x], dim=1)).tanh()
        expected = (1 - z) * expected + z * q
    for step in gru.steps(context):
        hidden = step(hidden, motion)
    torch.testing.assert_close(hidden, expected)


def test_small_upsampling_keeps_corners():
    net = network("raft-small")
    flow = torch.randn(1, 2, 3, 4)
    fine = net.update_block.upsample(torch.empty(0), flow)
    for row in (0, -1):
        for column in (0, -1):
            torch.testing.assert_close(fine[..., row, column], 8 * flow[..., row, column])


@torch.no_grad()
@pytest.mark.parametrize("name", BUILDERS)
def test_autocast_keeps_the_flow_exact(name):
    net = network(name)
    with torch.autocast("cpu", torch.bfloat16):
        prediction = net(*pair(64, 72), iterations=2)
    assert prediction.flow.dtype == prediction.coarse.dtype == torch.float32
    exact = net(*pair(64, 72), iterations=2)
    assert (prediction.coarse - exact.coarse).abs().max() < 0.1 * exact.coarse.abs().max() + 0.05
