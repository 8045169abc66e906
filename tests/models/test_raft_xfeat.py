"""RAFT-XFeat: its parts against their definitions, its conventions, and that it can learn."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.io.weights import load_checkpoint
from flowkit.models.raft_xfeat import RaftXFeat, raft_xfeat
from flowkit.ops.warping import warped


@pytest.fixture(scope="module")
def network() -> RaftXFeat:
    torch.manual_seed(0)
    return raft_xfeat().eval()


def test_parameters_are_counted(network: RaftXFeat) -> None:
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sum(p.numel() for p in network.parameters()) == sum(parts.values()) + 1 == 3_118_985
    assert parts["backbone"] == 634_192


def test_the_backbone_is_xfeat() -> None:
    kornia = pytest.importorskip("kornia.feature")
    state = load_checkpoint("xfeat")
    theirs = kornia.XFeat().net.eval()
    theirs.load_state_dict(state)
    ours = raft_xfeat()
    ours.backbone.load_xfeat(state)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        _, deep = ours.backbone(F.instance_norm(image.mean(1, keepdim=True)))
        assert torch.allclose(deep, theirs(image)[0], atol=1e-4)


def test_prediction_has_the_promised_shapes(network: RaftXFeat) -> None:
    image0, image1 = torch.rand(2, 2, 3, 32, 64)
    with torch.no_grad():
        plain = network(image0, image1, iterations=2)
    assert plain.flow.shape == (2, 2, 32, 64) and plain.coarse is not None and plain.coarse.shape == (2, 2, 4, 8)
    assert plain.strides == [1] and plain.iterates[0] is plain.flow
    network.train()
    training = network(image0, image1, iterations=3, fine_iterations=2)
    network.eval()
    assert training.strides == [8, 8, 8, 4, 4, 4, 1]
    assert [f.shape[-1] * s for f, s in zip(training.iterates, training.strides, strict=True)] == [64] * 7


def test_sizes_that_do_not_divide_are_refused(network: RaftXFeat) -> None:
    with pytest.raises(ValueError, match="divisible by 32"):
        network(torch.rand(1, 3, 40, 64), torch.rand(1, 3, 40, 64))


def test_a_batch_is_what_its_pairs_are_alone(network: RaftXFeat) -> None:
    image0, image1 = torch.rand(2, 2, 3, 32, 32)
    with torch.no_grad():
        both = network(image0, image1, iterations=2).flow
        alone = network(image0[1:], image1[1:], iterations=2).flow
    assert torch.allclose(both[1:], alone, atol=1e-3)


def test_an_initial_flow_is_where_the_search_begins(network: RaftXFeat) -> None:
    image = torch.rand(1, 3, 64, 64)
    start = torch.zeros(1, 2, 8, 8)
    start[:, 0] = 2
    with torch.no_grad():
        begun = network(image, image, iterations=0, fine_iterations=1, initial=start)
    assert begun.coarse is not None and torch.equal(begun.coarse, start)
    assert begun.flow[:, 0].median() == pytest.approx(16, abs=3)  # 2 cells of 8 pixels, and one small step
    assert begun.flow[:, 1].median() == pytest.approx(0, abs=3)


def test_warping_reads_where_the_flow_points() -> None:
    features = torch.arange(20.0).view(1, 1, 4, 5)
    flow = torch.zeros(1, 2, 4, 5)
    flow[:, 0], flow[:, 1] = 1, 2
    found = warped(features, flow)
    assert torch.allclose(found[0, 0, :2, :4], features[0, 0, 2:, 1:], atol=1e-5)
    assert found[0, 0, 3].abs().max() == 0  # outside


def test_it_learns_a_shift() -> None:
    """A few steps on one pair must bring its flow much nearer: gradients reach what they should."""
    torch.manual_seed(1)
    network = raft_xfeat().train()
    wide = F.interpolate(torch.rand(1, 3, 12, 12), (64, 64), mode="bicubic", align_corners=False)
    image0, image1 = wide[..., :, 8:40], wide[..., :, 4:36]
    image0, image1 = image0[..., :32, :], image1[..., :32, :]
    wanted = torch.zeros(1, 2, 1, 1)
    wanted[:, 0] = 4
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    losses = []
    for _ in range(12):
        prediction = network(image0, image1, iterations=2, fine_iterations=1)
        loss = torch.stack([(iterate - wanted).abs().mean() for iterate in prediction.iterates]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in network.parameters())
