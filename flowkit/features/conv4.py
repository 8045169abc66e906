"""conv4 features of a classification network, RANSAC-Flow's own: ResNet-50 by ImageNet's labels or by MoCo, or VGG-16.

None of these weights can be shipped with flowkit: the user brings the file, in torchvision's or MoCo's layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from flowkit.backbones.resnet50 import ResNet50Conv4, read_resnet50
from flowkit.backbones.vgg16 import VGG16Pyramid, from_torchvision
from flowkit.errors import WeightsError
from flowkit.io import weights as files
from flowkit.io.own_weights import OwnWeights, find_own_weights

if TYPE_CHECKING:
    from torch import Tensor

_TORCHVISION = "https://download.pytorch.org/models"
_RESNET50, _MOCO, _VGG16 = (
    ("resnet50-19c8e357.pth", "resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
    ("resnet50_moco.pth", "moco_v2_800ep_pretrain.pth.tar", "moco_v2_200ep_pretrain.pth.tar"),
    ("vgg16-397923af.pth",),
)
WEIGHTS = {
    own.feature: own
    for own in (
        OwnWeights("resnet50", _RESNET50, "BSD-3-Clause; trained on ImageNet", f"{_TORCHVISION}/{_RESNET50[0]}"),
        OwnWeights("moco", _MOCO, "CC BY-NC 4.0", "https://github.com/facebookresearch/moco"),
        OwnWeights("vgg16", _VGG16, "BSD-3-Clause; trained on ImageNet", f"{_TORCHVISION}/{_VGG16[0]}"),
        OwnWeights(
            "conv4",
            (*_MOCO, *_RESNET50, *_VGG16),
            "the file's own",
            f"{_TORCHVISION}/{_RESNET50[0]}, or MoCo's ResNet-50, or a VGG-16",
        ),
    )
}
"""What each name reads; `conv4` any of them, told apart by the names of the tensors."""


class Conv4:
    """A `DenseNetwork`: features at 1/16 of the image."""

    divisor, centre, share = 16, 0.5, 1.0

    def __init__(self, feature: str, *, device: str = "cpu", weights: str | Path | None = None) -> None:
        own = WEIGHTS[feature]
        path = find_own_weights(own, weights)
        self.network = load_network(feature, path, path.stat().st_mtime_ns, device)
        self.device = device
        self.weights: Mapping[str, str] = {path.name: files.sha256(path)}
        self.notes: tuple[str, ...] = (own.note,)

    def describe(self, image: Tensor) -> tuple[Tensor, None]:
        """(1, 3, H, W), RGB in [0, 1] -> (1024 or 512, H / 16, W / 16); it does not know how reliable they are."""
        if isinstance(self.network, VGG16Pyramid):
            return self.network(image, (4,))[4][0], None
        return self.network(image)[0], None

    def refine(self, features0: Tensor, features1: Tensor) -> None:
        """It cannot tell where in a cell a match lies."""


@lru_cache(maxsize=2)
def load_network(feature: str, path: Path, version: int, device: str) -> ResNet50Conv4 | VGG16Pyramid:
    """The network that the file is of, ready to run; `version` changes with the file. WeightsError for any other file."""
    held = files.load_checkpoint(feature, path)
    network: ResNet50Conv4 | VGG16Pyramid
    try:
        if not isinstance(held, Mapping):
            raise WeightsError("holds no tensors by name")
        if feature == "vgg16" or (feature == "conv4" and "features.0.weight" in held):
            network, state = VGG16Pyramid(), from_torchvision(held)
        else:
            network, state = ResNet50Conv4(), read_resnet50(held)
        files.load_strictly(network, state, f"{feature} ({path})")
    except WeightsError as error:
        own = WEIGHTS[feature]
        raise WeightsError(f"{path}: not a file that {feature!r} reads ({error}); get it from {own.source}") from None
    return network.eval().requires_grad_(False).to(device)
