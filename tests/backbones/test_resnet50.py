"""ResNet-50 up to conv4 on random weights in torchvision's and MoCo's layouts, against a forward pass written apart."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from flowkit.backbones.resnet50 import ResNet50Conv4, read_resnet50
from flowkit.errors import WeightsError
from flowkit.io.weights import load_strictly

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner width, bottlenecks and stride of layer1 to layer4."""


def torchvision_state(seed=0):
    """Random tensors under the names and in the shapes of torchvision's resnet50-*.pth, layer4 and fc included."""
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def convolution(name, channels, width, kernel):
        scale = (2 / (channels * kernel**2)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(width, channels, kernel, kernel, generator=generator)

    def norm(name, width):
        state[f"{name}.weight"] = 0.5 + torch.rand(width, generator=generator)
        state[f"{name}.bias"] = 0.2 * torch.randn(width, generator=generator)
        state[f"{name}.running_mean"] = 0.2 * torch.randn(width, generator=generator)
        state[f"{name}.running_var"] = 0.5 + torch.rand(width, generator=generator)

    convolution("conv1", 3, 64, 7)
    norm("bn1", 64)
    channels = 64
    for stage, (width, blocks, _) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            for number, (before, after, kernel) in enumerate(
                [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)], start=1
            ):
                convolution(f"{name}.conv{number}", before, after, kernel)
                norm(f"{name}.bn{number}", after)
            if block == 0:
                convolution(f"{name}.downsample.0", channels, 4 * width, 1)
                norm(f"{name}.downsample.1", 4 * width)
            channels = 4 * width
    state["fc.weight"], state["fc.bias"] = torch.randn(10, 2048, generator=generator), torch.zeros(10)
    return state


def plain_conv4(state, images):
    """conv1 to layer3, operation by operation (He et al., table 1), with torchvision's stride on the 3x3."""

    def unit(x, convolution, norm, stride=1):
        weight = state[f"{convolution}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gain, bias = (
            state[f"{norm}.{kind}"].view(1, -1, 1, 1) for kind in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    x = F.max_pool2d(unit(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    for stage, (_, blocks, stride) in enumerate(STAGES[:3], start=1):
        for block in range(blocks):
            name, step = f"layer{stage}.{block}", stride if block == 0 else 1
            y = unit(x, f"{name}.conv1", f"{name}.bn1").relu()
            y = unit(y, f"{name}.conv2", f"{name}.bn2", step).relu()
            y = unit(y, f"{name}.conv3", f"{name}.bn3")
            x = (y + (unit(x, f"{name}.downsample.0", f"{name}.downsample.1", step) if block == 0 else x)).relu()
    return x


def moco(state, key="state_dict", prefix="module.encoder_q."):
    """The layout of the authors' checkpoints; RANSAC-Flow's resnet50_moco.pth has key "model" and prefix "module."."""
    held = {f"{prefix}{name}": tensor for name, tensor in state.items() if not name.startswith("fc.")}
    held |= {f"{prefix}fc.0.weight": torch.zeros(4, 4), f"{prefix}fc.2.bias": torch.zeros(4)}
    if "encoder_q" in prefix:
        held |= {name.replace("encoder_q", "encoder_k"): tensor + 1 for name, tensor in held.items()}
        held |= {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", key: held}


@pytest.mark.parametrize(
    "layout",
    [
        lambda state: state,
        moco,
        lambda state: moco(state, "model", "module."),
        lambda state: {f"module.{name}": tensor.half() for name, tensor in state.items()},
    ],
    ids=["torchvision", "moco", "ransac-flow", "module"],
)
def test_published_layouts_load_strictly_and_answer_as_plain_operations(layout):
    state = torchvision_state()
    network = ResNet50Conv4().eval()
    load_strictly(network, read_resnet50(layout(state)), "resnet50")
    images = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = network(images), plain_conv4(state, images)
    assert found.shape == (2, 1024, 3, 4) and expected.std() > 0.1
    tolerance = 0.05 if layout(state).get("module.conv1.weight", torch.zeros(1)).dtype == torch.half else 1e-4
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().mean()))


def test_its_size():
    """torchvision's resnet50 has 25 557 032 parameters, of which layer4 14 964 736 and fc 2 049 000."""
    assert sum(p.numel() for p in ResNet50Conv4().parameters()) == 25_557_032 - 14_964_736 - 2_049_000


@pytest.mark.parametrize("held", [{}, {"state_dict": {"conv1.weight": torch.zeros(1)}}, {"features.0.weight": 1}, [1]])
def test_other_files_are_refused(held):
    with pytest.raises(WeightsError, match=r"layer3\.5\.conv3|no tensors"):
        read_resnet50(held)
