"""GLU-Net's, GLU-Net-GOCor's and PWC-Net-GOCor's checkpoints: every tensor where it belongs, by what the networks then answer.

What is published is written out once more in `published_glunet`.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from dense_gocor import local_gocor
from published_glunet import PUBLISHED, VGG, Official, State, counted, filled, glunet_file, pwcnet_gocor_file
from torch import Tensor

from flowkit.cli.main import run
from flowkit.errors import WeightsError
from flowkit.models import convert_glunet, convert_pwcnet, glunet
from flowkit.models.feature_pyramids import VGG16Pyramid
from flowkit.models.glunet import GLUNet, glunet_gocor_published, glunet_published
from flowkit.models.pwcnet import pwcnet, pwcnet_gocor

TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
MEAN, DEVIATION = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "gocor"])
def official(request: pytest.FixtureRequest) -> State:
    return filled(glunet_file(request.param))


@pytest.fixture(scope="module")
def loaded(official: State) -> GLUNet:
    network = glunet_gocor_published() if "local_corr.filter_initializer.scaling" in official else glunet_published()
    network.load_state_dict(convert_glunet.convert(official))
    return network.eval()


def test_files_are_of_the_published_sizes(official: State, loaded: GLUNet) -> None:
    """spec.md section 12, and nothing is left out."""
    shapes = {name: tuple(tensor.shape) for name, tensor in official.items()}
    counts = {"decoder4": 630_914, "decoder3": 1_036_760, "decoder2": 1_036_760, "decoder1": 1_044_860}
    if loaded.config.gocor is not None:
        counts |= {"corr.": 3_504, "local_corr.": 33}
    assert {prefix: counted(shapes, prefix) for prefix in counts} == counts
    assert sum(parameter.numel() for parameter in loaded.parameters()) == counted(shapes, "")
    # no tensor was used twice: all are random
    sums = sorted(tensor.double().sum().item() for tensor in official.values())
    assert sums == sorted(tensor.double().sum().item() for tensor in loaded.state_dict().values())


class Colours(torch.nn.Module):
    """In place of VGG-16, which has a test of its own: means of the colours' areas, mixed to a few channels, or 512."""

    def forward(self, images: Tensor, levels: tuple[int, ...]) -> dict[int, Tensor]:
        torch.manual_seed(5)
        mix = {level: torch.randn(channels, 3) for level, channels in ((2, 12), (3, 16), (4, 512))}
        return {
            level: F.relu(torch.einsum("oc,bchw->bohw", mix[level], F.avg_pool2d(images - 0.5, 2**level))) * 3
            for level in levels
        }


def test_the_network_answers_as_the_published_one(
    official: State, loaded: GLUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From features on, on an image of other sides than the first branch's, with one size in between."""
    monkeypatch.setitem(loaded._modules, "pyramid", Colours())
    monkeypatch.setattr(glunet, "JUMP", 0.5)
    assert loaded.steps_between((32, 34)) == 1
    torch.manual_seed(2)
    images = F.interpolate(torch.rand(2, 3, 17, 17), (256, 272), mode="bicubic", align_corners=False).clamp(0, 1)
    with torch.no_grad():
        found = loaded(images[:1], images[1:], iterations=2)
        small, large = (
            {level: list(maps.split(1)) for level, maps in Colours()(pictures, levels).items()}
            for pictures, levels in ((F.interpolate(images, (256, 256), mode="area"), (4, 3)), (images, (3, 2)))
        )
        plain = Official(official, steps=2)
        flow4, flow3 = plain.coarse(small)
        flow2, flow1 = plain.fine(flow3, large, between=1)
    scale = torch.tensor([272 / 256, 1.0]).view(2, 1, 1)
    for ours, expected in zip(found.iterates, (flow4 * scale, flow3 * scale, flow2, flow1), strict=True):
        assert expected.std() > 1
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=0.02)
    torch.testing.assert_close(found.flow, F.interpolate(found.iterates[-1], (256, 272), mode="bilinear"))


# --- VGG-16 ---------------------------------------------------------------------------------------------------------------


def vgg16(convolutions: list[tuple[Tensor, Tensor]], images: Tensor) -> dict[int, Tensor]:
    """What its first ten convolutions give at 1/2 to 1/16 of the image, after the pools."""
    maps, found = (images - MEAN) / DEVIATION, {}
    for number, (weight, bias) in enumerate(convolutions):
        maps = F.relu(F.conv2d(maps, weight, bias, padding=1))
        if number in (1, 3, 6, 9):
            maps = F.max_pool2d(maps, 2)
            found[len(found) + 1] = maps
    return found


def check_features(pyramid: torch.nn.Module, convolutions: list[tuple[Tensor, Tensor]]) -> None:
    torch.manual_seed(4)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        expected, found = vgg16(convolutions, images), pyramid(images, (1, 2, 3, 4))
        few = pyramid(images, (3, 2))
    for level, maps in expected.items():
        assert maps.std() > 0.01 and maps.shape[-2:] == (32 >> level, 48 >> level)
        torch.testing.assert_close(found[level], maps)
    assert few.keys() == {2, 3} and torch.equal(few[3], found[3])


def test_features_are_of_the_published_convolutions(official: State, loaded: GLUNet) -> None:
    pairs = [tuple(official[f"pyramid.{name}.{kind}"] for kind in ("weight", "bias")) for name in VGG]
    check_features(loaded.pyramid, pairs)


def test_a_vgg16_file_in_torchvisions_names(shared: Path) -> None:
    path = shared / "official" / "vgg16_hed.safetensors"
    if not path.is_file():
        pytest.skip("no ../shared/official/vgg16_hed.safetensors")
    from safetensors.torch import load_file

    state = load_file(path)
    pyramid = VGG16Pyramid()
    pyramid.load_torchvision(state)
    kinds = ("weight", "bias")
    check_features(pyramid, [tuple(state[f"features.{n}.{kind}"].float() for kind in kinds) for n in TORCHVISION])
    del state["features.14.bias"]
    with pytest.raises(WeightsError, match=r"features\.14\.bias is missing"):
        pyramid.load_torchvision(state)


# --- what files may and may not be like -----------------------------------------------------------------------------------


def test_wrappings_and_files_of_old_torch(official: State) -> None:
    expected = convert_glunet.convert(official)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": tensor for name, tensor in official.items()}}
    old = {name: tensor for name, tensor in official.items() if not name.endswith("num_batches_tracked")}
    for state in (wrapped, old):
        found = convert_glunet.convert(state)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            wanted = tensor if state is wrapped or not name.endswith("tracked") else torch.tensor(0)
            assert torch.equal(found[name], wanted) and found[name].dtype == tensor.dtype


@pytest.mark.parametrize(
    "name",
    [
        "pyramid_256.level_0.0.weight",
        "pyramid.level_1.2.weight",
        "pyramid.level_2.4.weight",
        "decoder4.conv5.0.weight",
        "decoder4.conv0.0.running_mean",
        "decoder4.predict_flow.weight",
        "decoder1.final.weight",
        "l_dc_conv0.0.weight",
        "deconv3.weight",
        "local_corr.filter_initializer.target_fg",
        "corr.corr_module.filter_initializer.scaling",
        "local_corr.filter_optimizer.reg_layer.weight1",
        "local_corr_2.filter_initializer.scaling",
    ],
)
def test_unknown_tensors_are_refused(official: State, name: str) -> None:
    with pytest.raises(WeightsError, match=rf"^GLU-Net checkpoint: {name} is unknown$"):
        convert_glunet.convert({**official, name: torch.zeros(1)})


def test_missing_and_misshaped_tensors_are_refused(official: State, loaded: GLUNet) -> None:
    names = ["pyramid.level_4.4.bias", "decoder4.conv2.1.running_var", "dc_conv7.weight", "upfeat2.bias"]
    if loaded.config.gocor is not None:
        names += ["corr.corr_module.filter_optimizer.reg_layer.weight2", "local_corr.filter_initializer.scaling"]
        with pytest.raises(WeightsError, match=r"label_map_predictor.weight has shape \(10, 1, 1, 1\) where \(1, 10"):
            knots = "local_corr.filter_optimizer.label_map_predictor.weight"
            convert_glunet.convert({**official, knots: official[knots].transpose(0, 1)})
    for missing in names:
        with pytest.raises(WeightsError, match=rf"^GLU-Net checkpoint: {missing} is missing$"):
            convert_glunet.convert({name: tensor for name, tensor in official.items() if name != missing})


def converted_by_command(checkpoint: Path, model: str) -> int:
    return run(
        ["weights", "convert", str(checkpoint), "--output", str(checkpoint.parent / "w.safetensors"), "--model", model]
    )


def test_glunet_on_the_command_line(official: State, loaded: GLUNet, tmp_path: Path, capsys) -> None:
    from safetensors.torch import load_file

    gocor = loaded.config.gocor is not None
    torch.save({"state_dict": official, "epoch": 1}, tmp_path / "official.pth")
    names = ("glunet-published", "glunet-gocor-published")
    assert converted_by_command(tmp_path / "official.pth", names[not gocor]) == 4
    refusal = capsys.readouterr().err.strip()
    assert "not a checkpoint of" in refusal and "is it of another --model?" in refusal and "\n" not in refusal
    assert converted_by_command(tmp_path / "official.pth", names[gocor]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
    written = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in loaded.state_dict().items())


def test_a_changed_file_is_refused_on_the_command_line(tmp_path: Path, capsys) -> None:
    official = filled(glunet_file(gocor=True))
    faults = {
        "GLU-Net checkpoint: other.weight is unknown": {"other.weight": torch.zeros(2)},
        "quarter.decoder.flow.weight has shape (2, 531, 3, 3)": {
            "decoder1.predict_flow.weight": torch.zeros(2, 531, 3, 3)
        },
    }
    for words, change in faults.items():
        torch.save(official | change, tmp_path / "changed.pth")
        assert converted_by_command(tmp_path / "changed.pth", "glunet-gocor-published") == 4
        refusal = capsys.readouterr().err.strip()
        assert words in refusal and "changed.pth" in refusal and "\n" not in refusal
        assert not (tmp_path / "w.safetensors").exists()


# --- PWC-Net-GOCor --------------------------------------------------------------------------------------------------------


def test_pwcnet_gocor(tmp_path: Path, capsys) -> None:
    shapes = pwcnet_gocor_file()
    assert counted(shapes, "") == 9_374_340 + 5 * 33
    theirs = filled(shapes)
    converted = convert_pwcnet.convert({"state_dict": theirs})
    network = pwcnet_gocor().eval()
    network.load_state_dict(converted)
    images = torch.rand(2, 3, 64, 128)
    torch.manual_seed(6)
    with torch.no_grad():
        for level in (6, 5, 4, 3, 2):  # each its own module, 7 steps, and C of the level
            channels = (32, 64, 96, 128, 196)[level - 2]
            maps = torch.randn(2, 1, channels, 3, 5)
            prefix = f"local_corr_{level}."
            own = {name.removeprefix(prefix): each for name, each in theirs.items() if name.startswith(prefix)}
            expected = local_gocor(own, maps[0, 0], maps[1, 0], 7, **PUBLISHED)
            torch.testing.assert_close(network._volume(level, *maps, None)[0].double(), expected, rtol=1e-3, atol=1e-4)
        first = F.conv2d(images.flip(1), theirs["conv1a.0.weight"], theirs["conv1a.0.bias"], stride=2, padding=1)
        torch.testing.assert_close(network.pyramid.levels[0][0](images), first)  # BGR there, RGB here
    plain = pwcnet()
    plain.load_state_dict({name: each for name, each in converted.items() if not name.startswith("matching.")})
    with torch.no_grad():
        assert not torch.allclose(plain.eval()(*images.split(1)).flow, network(*images.split(1)).flow)

    torch.save(theirs, tmp_path / "pwc.pth.tar")
    assert converted_by_command(tmp_path / "pwc.pth.tar", "pwcnet") == 4
    assert "not a checkpoint of 'pwcnet'" in capsys.readouterr().err
    assert converted_by_command(tmp_path / "pwc.pth.tar", "pwcnet-gocor") == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out


def test_pwcnet_gocor_is_strict() -> None:
    theirs = filled(pwcnet_gocor_file())
    for name in (
        "local_corr_1.filter_initializer.scaling",
        "local_corr_3.filter_initializer.target_fg",
        "local_corr.x",
    ):
        with pytest.raises(WeightsError, match=rf"^PWC-Net checkpoint: {name} is unknown$"):
            convert_pwcnet.convert({**theirs, name: torch.zeros(1)})
    mask = "local_corr_4.filter_optimizer.target_mask_predictor.0.weight"
    with pytest.raises(WeightsError, match=rf"{mask} has shape \(1, 9, 1, 1\)"):
        convert_pwcnet.convert({**theirs, mask: torch.zeros(1, 9, 1, 1)})
    without = {name: tensor for name, tensor in theirs.items() if name != mask}
    with pytest.raises(RuntimeError, match=r"Missing key.*matching\.4\.reference\.asymmetry"):
        pwcnet_gocor().load_state_dict(convert_pwcnet.convert(without))
