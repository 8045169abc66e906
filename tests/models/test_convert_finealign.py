"""RANSAC-Flow's checkpoint: every tensor where it belongs, by what the network then answers.

What is published is written out once more here (spec.md 9.2), from the names in the file on.
"""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from flowkit.cli.main import run
from flowkit.errors import WeightsError
from flowkit.io.weights import metadata
from flowkit.models.convert_finealign import convert
from flowkit.models.finealign import FineAlign
from flowkit.models.weights import load_network

State = dict[str, dict[str, Tensor]]


# --- the file --------------------------------------------------------------------------------------------------------


def convolution(out: int, into: int, side: int = 3) -> Tensor:
    return torch.randn(out, into, side, side) * (2 / (into * side * side)) ** 0.5


def normalisation(name: str, channels: int) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.randn(channels) / 5,
        f"{name}.running_mean": torch.randn(channels) / 5,
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.randint(1, 1000, ()),
    }


def blur(channels: int) -> Tensor:
    line = torch.tensor([1.0, 2.0, 1.0])
    return (torch.outer(line, line) / 16).repeat(channels, 1, 1, 1)


def published() -> State:
    """A checkpoint as RANSAC-Flow's training saves it, with random numbers."""
    torch.manual_seed(0)
    features = {"conv1.weight": convolution(64, 3), **normalisation("bn1", 64), "maxpool.1.filt": blur(64)}
    for layer, before, channels in ((1, 64, 64), (2, 64, 128), (3, 128, 256)):
        for block, into in ((0, before), (1, channels)):
            name = f"layer{layer}.{block}"
            features |= {f"{name}.conv1.weight": convolution(channels, into), **normalisation(f"{name}.bn1", channels)}
            features |= {f"{name}.conv2.weight": convolution(channels, channels)}
            features |= normalisation(f"{name}.bn2", channels)
            if into != channels:
                features |= {f"{name}.downsample.0.filt": blur(into)}
                features |= {f"{name}.downsample.1.weight": convolution(channels, into, 1)}
                features |= normalisation(f"{name}.downsample.2", channels)
    heads = []
    for out in (49, 1):
        head: dict[str, Tensor] = {}
        for i, (into, channels) in enumerate(((49, 512), (512, 256), (256, 128)), 1):
            head |= {f"conv{i}.weight": convolution(channels, into), **normalisation(f"bn{i}", channels)}
        heads.append(head | {"conv4.weight": convolution(out, 128)})
    return {"netFeatCoarse": features, "netCorr": {}, "netFlowCoarse": heads[0], "netMatch": heads[1]}


# --- the network -----------------------------------------------------------------------------------------------------


def normalised(state: dict[str, Tensor], name: str, maps: Tensor) -> Tensor:
    numbers = (state[f"{name}.{kind}"] for kind in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(maps, *numbers, eps=1e-5)


def blurred(state: dict[str, Tensor], name: str, maps: Tensor) -> Tensor:
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), state[name], stride=2, groups=maps.shape[1])


def described(state: dict[str, Tensor], image: Tensor) -> Tensor:
    maps = F.relu(normalised(state, "bn1", F.conv2d(image, state["conv1.weight"], padding=1)))
    maps = blurred(state, "maxpool.1.filt", F.max_pool2d(maps, 2, stride=1))
    for layer in (1, 2, 3):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            halves = f"{name}.downsample.0.filt" in state
            inner = F.conv2d(maps, state[f"{name}.conv1.weight"], stride=2 if halves else 1, padding=1)
            inner = F.relu(normalised(state, f"{name}.bn1", inner))
            inner = normalised(state, f"{name}.bn2", F.conv2d(inner, state[f"{name}.conv2.weight"], padding=1))
            if halves:
                maps = F.conv2d(blurred(state, f"{name}.downsample.0.filt", maps), state[f"{name}.downsample.1.weight"])
                maps = normalised(state, f"{name}.downsample.2", maps)
            maps = F.relu(inner + maps)
    return F.normalize(maps)


def similarities(maps0: Tensor, maps1: Tensor) -> Tensor:
    height, width = maps0.shape[2:]
    padded = F.pad(maps1, (3, 3, 3, 3))
    steps = [(dy, dx) for dy in range(7) for dx in range(7)]
    return torch.cat([(maps0 * padded[..., y : y + height, x : x + width]).sum(1, keepdim=True) for y, x in steps], 1)


def head(state: dict[str, Tensor], maps: Tensor) -> Tensor:
    for i in (1, 2, 3):
        maps = F.relu(normalised(state, f"bn{i}", F.conv2d(maps, state[f"conv{i}.weight"], padding=1)))
    return F.conv2d(maps, state["conv4.weight"], padding=1)


def displacement(state: dict[str, Tensor], maps: Tensor) -> Tensor:
    """In cells, x before y, of which the published code makes units of half the picture's sides."""
    chances = head(state, maps).softmax(1)
    steps = torch.arange(-3.0, 4.0)
    x, y = steps.repeat(7), steps.repeat_interleave(7)
    return torch.stack([(chances * axis[:, None, None]).sum(1) for axis in (x, y)], 1)


@pytest.fixture(scope="module")
def state() -> State:
    return published()


def test_the_converted_network_answers_as_the_published_one(state: State) -> None:
    network = FineAlign()
    network.load_state_dict(convert(state))
    network.eval()
    torch.manual_seed(1)
    image0, image1 = F.interpolate(torch.rand(2, 3, 12, 15), (96, 120), mode="bicubic").clamp(0, 1).split(1)
    with torch.no_grad():
        found = network(image0, image1)
        maps0, maps1 = (described(state["netFeatCoarse"], image) for image in (image0, image1))
        torch.testing.assert_close(network.described(image0), maps0, atol=1e-5, rtol=1e-4)
        for first, second, flow, sure in (
            (maps0, maps1, found.flow, found.matchability),
            (maps1, maps0, found.backward, found.backward_matchability),
        ):
            volume = similarities(first, second)
            cells = F.interpolate(displacement(state["netFlowCoarse"], volume), scale_factor=8, mode="bilinear")
            expected = F.interpolate(head(state["netMatch"], volume).sigmoid(), scale_factor=8, mode="bilinear")
            assert cells.std() > 0.1 and expected.std() > 0.05  # something to see
            torch.testing.assert_close(sure, expected, atol=1e-5, rtol=1e-4)
            # Not where it would lead out of the picture: there ours stops at the rim.
            y, x = torch.meshgrid(torch.arange(96.0), torch.arange(120.0), indexing="ij")
            there = torch.stack([x, y]) + 8 * cells[0]
            inside = ((there > 0) & (there < torch.tensor([119.0, 95.0])[:, None, None])).all(0)
            assert inside.float().mean() > 0.5
            torch.testing.assert_close(flow[0][:, inside], 8 * cells[0][:, inside], atol=1e-3, rtol=1e-4)


def test_nothing_is_left_out_and_nothing_used_twice(state: State) -> None:
    theirs = [
        tensor for part in state.values() for name, tensor in part.items() if not name.endswith("filt")
    ]  # spec.md section 12
    learned = {
        part: sum(
            t.numel()
            for name, t in tensors.items()
            if "running" not in name and "tracked" not in name and "filt" not in name
        )
        for part, tensors in state.items()
    }
    assert learned == {"netFeatCoarse": 2_775_104, "netCorr": 0, "netFlowCoarse": 1_758_592, "netMatch": 1_703_296}
    ours = convert(state)
    assert len(ours) == len(theirs) == len(FineAlign().state_dict())
    assert sorted(t.double().sum().item() for t in ours.values()) == sorted(t.double().sum().item() for t in theirs)


def test_wrappings_and_old_files(state: State) -> None:
    plain = convert(state)
    wrapped = {part: {f"module.{name}": t for name, t in tensors.items()} for part, tensors in state.items()}
    without = {part: {n: t for n, t in tensors.items() if "tracked" not in n} for part, tensors in state.items()}
    no_correlation = {part: tensors for part, tensors in state.items() if part != "netCorr"}
    for given in (wrapped, no_correlation):
        assert all(torch.equal(tensor, plain[name]) for name, tensor in convert(given).items())
    old = convert(without)
    assert old.keys() == plain.keys()
    assert all(tensor == 0 if "tracked" in name else torch.equal(tensor, plain[name]) for name, tensor in old.items())


def test_other_checkpoints_are_refused(state: State) -> None:
    def changed(part: str, **tensors: Tensor | None) -> State:
        merged = {**state[part], **{name.replace("__", "."): tensor for name, tensor in tensors.items()}}
        return {**state, part: {name: tensor for name, tensor in merged.items() if tensor is not None}}

    for given, message in (
        ({"netFeatCoarse": state["netFeatCoarse"]}, "netFlowCoarse is missing"),
        ({**state, "optimizer": {}}, "optimizer is no network"),
        (changed("netMatch", conv5__weight=torch.ones(1)), r"netMatch\.conv5\.weight is unknown"),
        (changed("netFlowCoarse", conv2__weight=None), r"netFlowCoarse\.conv2\.weight is missing"),
        (changed("netFlowCoarse", conv4__weight=torch.ones(25, 128, 3, 3)), r"conv4\.weight has shape \(25, 128"),
        (
            changed("netFeatCoarse", maxpool__1__filt=torch.ones(64, 1, 3, 3) / 9),
            r"maxpool\.1\.filt should be constant",
        ),
        (changed("netFeatCoarse", maxpool__1__filt=torch.ones(64, 1, 5, 5) / 25), r"filt has shape \(64, 1, 5, 5\)"),
    ):
        with pytest.raises(WeightsError, match=message):
            convert(given)


def test_the_command_converts_a_file_as_it_is_published(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, output = tmp_path / "MegaDepth_Theta1_Eta001_Grad0_0.807.pth", tmp_path / "w.safetensors"
    torch.save({part: OrderedDict(tensors) for part, tensors in state.items()}, checkpoint)
    assert run(["weights", "convert", str(checkpoint), "--model", "ransac-flow", "--output", str(output)]) == 0
    assert "MIT" in "".join(capsys.readouterr())
    assert metadata(output)["model"] == "ransac-flow"
    module = load_network("ransac-flow", output).module
    torch.testing.assert_close(module.flow.conv3.weight, state["netFlowCoarse"]["conv3.weight"])
    torch.save({part: tensors for part, tensors in state.items() if part != "netMatch"}, checkpoint)
    assert (
        run(["weights", "convert", str(checkpoint), "--model", "ransac-flow", "--output", str(output), "--overwrite"])
        == 4
    )
    assert "netMatch is missing" in capsys.readouterr().err
