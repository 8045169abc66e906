"""Foreign RAFT checkpoints: every name of the published layouts finds its place, and nothing else passes."""

import pytest
import torch

from flowkit.errors import WeightsError
from flowkit.models.convert_raft import convert
from flowkit.models.raft import raft, raft_small

BUILDERS = {"raft": raft, "raft-small": raft_small}


def numbered(name: str) -> dict[str, torch.Tensor]:
    """A state dict of ours in which every tensor is filled with a number of its own."""
    with torch.device("meta"):
        state = BUILDERS[name]().state_dict()
    return {key: torch.full(value.shape, index, dtype=value.dtype) for index, (key, value) in enumerate(state.items())}


def princeton(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """princeton-vl's layout: `module.`, and the skip path's norm of BasicEncoder's stride blocks a second time as norm3."""
    doubled = dict(state)
    for key, value in state.items():
        if ".downsample.1." in key:
            doubled[key.replace("downsample.1", "norm3")] = value
    return {f"module.{key}": value for key, value in doubled.items()}


def torchvision_key(key: str, small: bool) -> str:
    """torchvision's name of one of our tensors, written the other way round than the converter."""
    part, rest = key.split(".", 1)
    if part in ("fnet", "cnet"):
        encoder = {"fnet": "feature_encoder", "cnet": "context_encoder"}[part]
        *path, last, leaf = rest.split(".")
        if not path:
            last = {"conv1": "convnormrelu.0", "norm1": "convnormrelu.1", "conv2": "conv"}[last]
        elif path[-1] != "downsample":
            kind, number = last[:-1], last[-1]
            last = f"convnormrelu{number}.{'0' if kind == 'conv' else '1'}"
        return ".".join([encoder, *path, last, leaf])
    block, rest = rest.split(".", 1)
    name, leaf = rest.rsplit(".", 1)
    if block == "encoder":
        name = {"convc": "convcorr", "convf": "convflow"}.get(name[:-1], "") + name[-1] if name != "conv" else name
        return f"update_block.motion_encoder.{name}.0.{leaf}"
    if block == "gru":
        step = "1" if small else name[-1]
        return f"update_block.recurrent_block.convgru{step}.{name if small else name[:-1]}.{leaf}"
    if block == "mask":
        return f"mask_predictor.{'convrelu.0' if name == '0' else 'conv'}.{leaf}"
    return key


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", BUILDERS)
def test_layouts(name):
    ours = numbered(name)
    assert same(convert(ours), ours)
    assert same(convert(princeton(ours)), ours)
    lightning = {"state_dict": {k.removeprefix("module."): v for k, v in princeton(ours).items()}, "epoch": 3}
    assert same(convert(lightning), ours)
    theirs = {torchvision_key(key, name == "raft-small"): value for key, value in ours.items()}
    assert len(theirs) == len(ours) and same(convert(theirs), ours)


def test_torchvision_names_as_published():
    """A sample of torchvision's names, by hand."""
    ours = numbered("raft")
    theirs = {torchvision_key(key, False): key for key in ours}
    for foreign, key in (
        ("feature_encoder.convnormrelu.0.weight", "fnet.conv1.weight"),
        ("context_encoder.layer2.0.convnormrelu1.1.running_mean", "cnet.layer2.0.norm1.running_mean"),
        ("context_encoder.layer3.0.downsample.1.bias", "cnet.layer3.0.downsample.1.bias"),
        ("context_encoder.conv.bias", "cnet.conv2.bias"),
        ("update_block.motion_encoder.convcorr2.0.weight", "update_block.encoder.convc2.weight"),
        ("update_block.motion_encoder.conv.0.bias", "update_block.encoder.conv.bias"),
        ("update_block.recurrent_block.convgru2.convq.weight", "update_block.gru.convq2.weight"),
        ("update_block.flow_head.conv2.bias", "update_block.flow_head.conv2.bias"),
        ("mask_predictor.convrelu.0.weight", "update_block.mask.0.weight"),
        ("mask_predictor.conv.weight", "update_block.mask.2.weight"),
    ):
        assert theirs[foreign] == key
    small = {torchvision_key(key, True) for key in numbered("raft-small")}
    assert "update_block.recurrent_block.convgru1.convz.weight" in small


def test_what_does_not_fit_is_refused():
    ours = numbered("raft")
    lacking = {key: value for key, value in ours.items() if key != "fnet.conv1.bias"}
    misshapen = {**ours, "fnet.conv1.bias": torch.zeros(3)}
    differing = princeton(ours)
    differing["module.cnet.layer2.0.norm3.weight"] = differing["module.cnet.layer2.0.norm3.weight"] + 1
    for state, words in (
        (lacking, "lacks 1 of .*fnet.conv1.bias"),
        ({**ours, "extra.weight": torch.zeros(1)}, "unknown 1 of .*extra.weight"),
        (misshapen, "fnet.conv1.bias has shape"),
        (differing, "differ"),
        ({}, "lacks"),
        ({"conv.weight": torch.zeros(2)}, "RAFT"),
    ):
        with pytest.raises(WeightsError, match=words) as refusal:
            convert(state)
        assert "\n" not in str(refusal.value)
