"""A network in the fine stage of an alignment, and dense matches out of a flow."""

import numpy as np
import pytest
import torch

import flowkit
from flowkit.errors import UsageError
from flowkit.io.weights import write_weights
from flowkit.models import registry
from flowkit.models.prediction import FlowPrediction
from flowkit.pipelines.dense_matches import dense_matches


class Nudge(torch.nn.Module):
    """Whatever it sees has moved by its weight, there and back the other way."""

    calls: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.motion = torch.nn.Parameter(torch.zeros(2))

    def forward(self, image0, image1, *, initial=None):
        sign = 1 if len(self.calls) % 2 == 0 else -1
        self.calls.append((image0, image1))
        return FlowPrediction(flow=sign * self.motion[None, :, None, None].expand(1, 2, *image0.shape[-2:]))


@pytest.fixture
def nudge(monkeypatch, tmp_path):
    row = registry.ModelSpec(
        name="nudge",
        kind="network",
        target="test_align_network:Nudge",
        divisor=8,
        iterations=None,
        weights="nudge",
        paper="none",
        licence="none",
        stride=8,
        memory=100,
    )
    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "nudge": row})
    monkeypatch.setattr(Nudge, "calls", [])
    write_weights(tmp_path / "w.safetensors", {"motion": torch.tensor([0.75, -0.5])}, {"model": "nudge"})
    return {"model": "nudge", "weights": tmp_path / "w.safetensors"}


def pictures():
    rng = np.random.default_rng(0)
    world = np.kron(rng.integers(0, 256, (60, 80, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return world[60:360, 72:472], world[60:360, 60:460]


def test_what_the_network_finds_is_added_to_the_homography(nudge):
    source, target = pictures()
    found = flowkit.align(source, target, **nudge)
    assert found.status == "ok" and len(Nudge.calls) == 2
    inner = found.flow.uv[:, 30:-30, 30:-30]
    # the source shows everything 12 px further left, and the network's answer comes on top
    assert np.abs(inner - np.reshape([-12 + 0.75, -0.5], (2, 1, 1))).max() < 0.4
    assert "w.safetensors" in found.run.weights and found.run.options["model"] == "nudge"
    assert found.flow.confidence[100, 200] > 0.9


def test_options_of_networks_are_refused_for_dis(nudge):
    with pytest.raises(UsageError, match="is no network"):
        flowkit.align(*pictures(), iterations=3)
    with pytest.raises(UsageError, match="no model is called 'glue'"):
        flowkit.align(*pictures(), model="glue")


def test_dense_matches_follow_the_flow_where_it_comes_back(nudge):
    source, target = pictures()
    found = dense_matches(source, target, max_keypoints=400, **nudge)
    assert 350 < len(found) <= 400 and found.origins == ("nudge",)
    np.testing.assert_allclose(found.points1 - found.points0, np.tile([0.75, -0.5], (len(found), 1)), atol=1e-4)
    assert found.points0.min() > 5 and (found.scores > 0.9).all()
    # those that leave image1 are not among them
    assert (found.points1[:, 1] >= -0.5).all() and (found.points1[:, 0] <= 399.5).all()
    moved = found.points0[:, 0]
    assert moved.max() - moved.min() > 350


def test_the_fine_network_computes_in_what_is_asked_for_and_says_what_that_costs(monkeypatch):
    from flowkit.ops import precision

    source, target = pictures()
    options = {"model": "ransac-flow", "device": "cpu", "features": "sift"}
    with pytest.raises(UsageError, match="--precision fp16"):
        flowkit.align(source, target, precision="fp16", **options)
    monkeypatch.setattr(precision, "emulates_bf16", lambda device: True)
    plain, half = (flowkit.align(source, target, precision=name, **options) for name in ("auto", "bf16"))
    assert [found.run.options["precision"] for found in (plain, half)] == ["fp32", "bf16"]
    assert [sum("emulates bf16" in note for note in found.run.notes) for found in (plain, half)] == [0, 1]
    inner = np.s_[:, 30:-30, 30:-30]
    assert 0 < np.abs(plain.flow.uv - half.flow.uv)[inner].mean() < 0.5


def test_auto_takes_the_network_on_a_plane_and_dis_where_there_is_depth():
    source, target = pictures()
    flat = flowkit.align(source, target, model="auto", multi_h=True, device="cpu")
    assert flat.run.options["model"] == "ransac-flow" and "ransac-flow" in flat.run.weights
    assert len(flat.homographies) == 1
    nearer = source.copy()
    nearer[:, 200:] = np.roll(source, 9, axis=1)[:, 200:]
    deep = flowkit.align(nearer, target, model="auto", multi_h=True, device="cpu")
    assert deep.run.options["model"] == "dis" and not deep.run.weights.keys() & {"ransac-flow"}
    with pytest.raises(UsageError, match="--model auto: chooses the method"):
        flowkit.align(source, target, model="auto", iterations=3)
