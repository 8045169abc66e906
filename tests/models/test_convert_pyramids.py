"""Converters of LiteFlowNet and PWC-Net: layouts as published, constants checked, colours in the right order."""

import pytest
import torch
from torch import Tensor

from flowkit.cli.main import run
from flowkit.errors import WeightsError
from flowkit.models import convert_liteflownet, convert_pwcnet, liteflownet, pwcnet

NUMBERS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")


def bilinear(channels: int, side: int = 4) -> Tensor:
    rising = torch.arange(side) + 0.5
    line = torch.minimum(rising, side - rising) / (side / 2)
    return (line[:, None] * line).expand(channels, 1, side, side).clone()


def random_state(network: torch.nn.Module) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(tensor) for name, tensor in network.state_dict().items()}


def in_sniklaus_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """spec.md 8.5, written down the other way round than the converter does."""
    theirs = {}
    for name, tensor in state.items():
        first, second, *rest = name.split(".")
        if first == "netc":
            level, layer, kind = rest
            tensor = tensor.flip(1) if (level, layer, kind) == ("0", "0", "weight") else tensor
            theirs[f"moduleFeatures.module{NUMBERS[int(level)]}.{layer}.{kind}"] = tensor
            continue
        index, (unit, *rest) = int(second) - 2, rest
        if unit == "adapter":
            for each in ("Matching", "Subpixel"):
                theirs[f"module{each}.{index}.moduleFeat.0.{rest[-1]}"] = tensor
            continue
        kind = rest[-1]
        part = {"adapter": "Feat.0", "flow": "Main.6", "layers": f"Main.{rest[1]}", "distance": f"Dist.{rest[1]}"}[
            rest[0]
        ]
        part = "Dist" if rest[0] == "distance" and rest[1] == kind else part
        theirs[f"module{unit.capitalize()}.{index}.module{part}.{kind}"] = tensor
    for index, side in enumerate((7, 5, 5, 3, 3)):
        if index < 4:
            theirs[f"moduleMatching.{index}.moduleUpflow.weight"] = bilinear(2)
        if index < 2:
            theirs[f"moduleMatching.{index}.moduleUpcorr.weight"] = bilinear(49)
        for axis in "XY":
            theirs[f"moduleRegularization.{index}.moduleScale{axis}.weight"] = torch.ones(1, side * side, 1, 1)
            theirs[f"moduleRegularization.{index}.moduleScale{axis}.bias"] = torch.zeros(1)
    return theirs


def in_nvlabs_names(state: dict[str, Tensor], deep: bool) -> dict[str, Tensor]:
    theirs = {"deconv2.weight": torch.zeros(2, 2, 4, 4), "deconv2.bias": torch.zeros(2)}
    for name, tensor in state.items():
        first, *rest = name.split(".")
        kind = rest[-1]
        if first == "pyramid":
            level, place = int(rest[1]) + 1, int(rest[2]) // 2
            names = ("a", "aa", "b") if deep else ("a", "b")
            names = ("aa", "a", "b") if deep and level == 6 else names
            tensor = tensor.flip(1) if (level, place, kind) == (1, 0, "weight") else tensor
            theirs[f"conv{level}{names[place]}.0.{kind}"] = tensor
        elif first == "context":
            number = 7 if rest[0] == "flow" else int(rest[1]) // 2 + 1
            theirs[f"dc_conv{number}.{kind}" if number == 7 else f"dc_conv{number}.0.{kind}"] = tensor
        elif rest[1] == "layers":
            theirs[f"conv{rest[0]}_{rest[2]}.0.{kind}"] = tensor
        else:
            word = {"flow": "predict_flow", "up_flow": "deconv", "up_features": "upfeat"}[rest[1]]
            theirs[f"{word}{rest[0]}.{kind}"] = tensor
    return theirs


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_sniklaus_liteflownet() -> None:
    state = random_state(liteflownet.liteflownet())
    theirs = in_sniklaus_names(state)
    assert sum(t.numel() for t in theirs.values()) == 5_379_857 + 2112  # the port stores level 2's adapter twice
    assert same(convert_liteflownet.convert(theirs), state)
    renamed = {name.replace("module", "net"): tensor for name, tensor in theirs.items()}
    assert same(convert_liteflownet.convert({"state_dict": renamed}), state)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("moduleMatching.0.moduleUpflow.weight", 1.1, "Upflow.weight should be constant"),
        ("moduleRegularization.1.moduleScaleX.weight", 2.0, "ScaleX.weight should be constant"),
        ("moduleSubpixel.0.moduleFeat.0.weight", 2.0, "should be the same but differ"),
    ],
)
def test_what_should_be_constant_is_checked(name: str, change: float, words: str) -> None:
    theirs = in_sniklaus_names(random_state(liteflownet.liteflownet()))
    theirs[name] = theirs[name] * change
    with pytest.raises(WeightsError, match=words):
        convert_liteflownet.convert(theirs)


def test_unknown_tensors_are_refused() -> None:
    with pytest.raises(WeightsError, match="neither sniklaus' names"):
        convert_liteflownet.convert({"some.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"netMatching.9.netOther.weight is unknown"):
        convert_liteflownet.convert(
            {"netFeatures.netOne.0.weight": torch.zeros(1), "netMatching.9.netOther.weight": torch.zeros(1)}
        )
    with pytest.raises(WeightsError, match=r"conv7a.0.weight is unknown"):
        convert_pwcnet.convert({"conv7a.0.weight": torch.zeros(1)})


PTLFLOW = {
    "feature_net.convs.3.2.weight": "netc.levels.3.2.weight",
    "matching_nets.0.flow_net.8.bias": "nete.6.matching.layers.8.bias",
    "matching_nets.0.flow_net.10.bias": "nete.6.matching.flow.bias",
    "matching_nets.3.flow_net.10.weight": "nete.3.matching.flow.weight",
    "subpixel_nets.1.feat_net.2.weight": "nete.5.subpixel.layers.2.weight",
    "subpixel_nets.2.flow_net.bias": "nete.4.subpixel.flow.bias",
    "regularization_nets.2.feat_conv.0.weight": "nete.4.regularization.adapter.0.weight",
    "regularization_nets.3.feat_net.10.bias": "nete.3.regularization.layers.10.bias",
    "regularization_nets.0.dist.weight": "nete.6.regularization.distance.weight",
    "regularization_nets.3.dist.1.bias": "nete.3.regularization.distance.1.bias",
    "pseudo_subpixel.flow_net.0.bias": "pseudo.enlarge.0.bias",
    "pseudo_subpixel.flow_net.1.weight": "pseudo.flow.weight",
    "pseudo_regularization.feat_net.0.bias": "pseudo.enlarge.1.bias",
    "pseudo_regularization.feat_net.2.weight": "pseudo.distance.1.weight",
}
"""A name of every kind in ptlflow's LiteFlowNet2, and ours."""


def test_ptlflow_liteflownet2() -> None:
    ours = random_state(liteflownet.liteflownet2_kitti())
    theirs = {name: ours[new] for name, new in PTLFLOW.items()}
    theirs |= {"matching_nets.3.up_corr.weight": bilinear(49), "up_flow.weight": bilinear(2, 8)}
    converted = convert_liteflownet.convert({"state_dict": theirs})
    assert same(converted, {new: ours[new] for new in PTLFLOW.values()})
    with pytest.raises(WeightsError, match=r"up_flow.weight should be constant"):
        convert_liteflownet.convert(theirs | {"up_flow.weight": bilinear(2, 8).roll(1, -1)})


@pytest.mark.parametrize("deep", [True, False])
def test_nvlabs_pwcnet(deep: bool) -> None:
    state = random_state(pwcnet.pwcnet() if deep else pwcnet.pwcnet_paper())
    theirs = in_nvlabs_names(state, deep)
    assert sum(t.numel() for t in theirs.values()) == (9_374_340 if deep else 8_749_280)
    assert theirs["conv6aa.0.weight" if deep else "conv6a.0.weight"].shape[1] == 128  # the one with stride 2
    assert same(convert_pwcnet.convert({f"module.{name}": tensor for name, tensor in theirs.items()}), state)


def test_a_checkpoint_is_converted_on_the_command_line(tmp_path, capsys) -> None:
    theirs = in_nvlabs_names(random_state(pwcnet.pwcnet_paper()), deep=False)
    torch.save(theirs, tmp_path / "old.pth.tar")
    files = [str(tmp_path / "old.pth.tar"), "--output", str(tmp_path / "w.safetensors")]
    assert run(["weights", "convert", *files, "--model", "pwcnet-paper"]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    assert run(["weights", "convert", *files, "--model", "pwcnet", "--overwrite"]) == 4
    assert "not a checkpoint of 'pwcnet'" in capsys.readouterr().err
