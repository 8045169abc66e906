"""The explicit table of dense methods: a new model is one file, one row here and one card in `weights/models.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from flowkit.errors import UsageError

if TYPE_CHECKING:
    import torch

_RAFT = "Teed and Deng, RAFT: Recurrent All-Pairs Field Transforms for Optical Flow, ECCV 2020"
_LIFE = "Huang et al., LIFE: Lighting Invariant Flow Estimation, ICCV 2021"
_GOCOR = (
    "Truong et al., GOCor: Bringing Globally Optimized Correspondence Volumes into Your Neural Network, NeurIPS 2020"
)
_GOCOR_SOURCES = "the authors' GOCor checkpoints are CC BY-NC-SA 4.0, their GLU-Net's GPL-3.0"
_RAFT_SOURCES = (
    "princeton-vl/RAFT's checkpoints are BSD-3-Clause; torchvision's are, too, but its data sets' terms go with them "
    "(FlyingChairs, FlyingThings3D, Sintel and KITTI are for research)"
)


@dataclass(frozen=True)
class ModelSpec:
    """One dense method. Nothing is imported, built or loaded until it is asked for."""

    name: str
    kind: str
    """"classical" (no weights) or "network"."""
    target: str
    """Import path "package.module:attribute" of what computes the flow; for a network a function that builds it."""
    divisor: int
    """The network wants heights and widths divisible by it; 1 takes any size."""
    iterations: int | None
    """Default number of update iterations, None where the method has no such thing."""
    weights: str | None
    """Name of the weights card, None where it needs none."""
    paper: str
    licence: str
    stride: int = 1
    """Pixels per cell of the working grid, on which `initial` is given and `FlowPrediction.coarse` lies."""
    memory: int = 0
    """Bytes that a forward pass takes per pixel of image0 in fp32 with the on-demand lookup: the larger figure of 1080p and 4K,
    and a fifth or more to spare."""
    gocor: bool = False
    """Whether it takes a number of iterations, though its modules have numbers of their own."""
    flip_test: bool = False
    """Whether it can look if image0 fits better mirrored."""
    coarse: bool = False
    """Whether the network only finishes what homographies have begun: alone it is of no use (`flowkit.pipelines.align`)."""
    init: str = "none"
    """What it starts from unless told otherwise (`flowkit.pipelines.flow.INITS`); with converted weights always "none"."""
    convert: str | None = None
    """Import path of `convert(state) -> state`, from the layouts of foreign checkpoints to ours; None where there is none."""
    sources: str = ""
    """What `weights convert` says about the licences of those checkpoints."""

    @property
    def network(self) -> bool:
        """Whether it is a network with weights."""
        return self.kind == "network"


_RAFT_NORMAL = ModelSpec(
    name="raft",
    kind="network",
    target="flowkit.models.raft:raft",
    divisor=8,
    iterations=12,
    weights="raft",
    paper=_RAFT,
    licence="Apache-2.0",
    stride=8,
    memory=500,
    convert="flowkit.models.convert_raft:convert",
    sources=_RAFT_SOURCES,
)
_RAFT_XFEAT = ModelSpec(
    name="raft-xfeat",
    kind="network",
    target="flowkit.models.raft_xfeat:raft_xfeat",
    divisor=32,
    iterations=6,
    weights="raft-xfeat",
    paper=f"{_RAFT}, on the features of Potje et al., XFeat, CVPR 2024",
    licence="Apache-2.0",
    stride=8,
    memory=700,
    init="coarse",
)
_LITEFLOWNET = ModelSpec(
    name="liteflownet",
    kind="network",
    target="flowkit.models.liteflownet:liteflownet",
    divisor=32,
    iterations=None,
    weights="liteflownet",
    paper="Hui, Tang and Loy, LiteFlowNet: A Lightweight Convolutional Neural Network for Optical Flow Estimation, CVPR 2018",
    licence="Apache-2.0",
    stride=32,
    memory=1500,
    convert="flowkit.models.convert_liteflownet:convert",
    sources="the authors' weights, which others have converted, are for research purposes only",
)
_LITEFLOWNET2 = (
    "Hui, Tang and Loy, A Lightweight Optical Flow CNN: Revisiting Data Fidelity and Regularization, TPAMI 2020"
)
_LITEFLOWNETX = replace(
    _LITEFLOWNET,
    name="liteflownetx",
    target="flowkit.models.liteflownet:liteflownetx",
    memory=620,
    init="coarse",
    weights="liteflownetx",
    paper=_LITEFLOWNET2,
    convert=None,
    sources="",
)
_EGOFLOW = (
    "Jiang et al., Joint Unsupervised Learning of Optical Flow and Egomotion with Bi-Level Optimization, 3DV 2020, "
    "on LiteFlowNetX in place of PWC-Net"
)
_PWCNET = ModelSpec(
    name="pwcnet",
    kind="network",
    target="flowkit.models.pwcnet:pwcnet",
    divisor=64,
    iterations=None,
    weights="pwcnet",
    paper="Sun et al., PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost Volume, CVPR 2018",
    licence="Apache-2.0",
    stride=64,
    memory=650,
    convert="flowkit.models.convert_pwcnet:convert",
    sources="NVlabs' checkpoints are CC BY-NC-SA 4.0",
)
_BASENET = ModelSpec(
    name="basenet",
    kind="network",
    target="flowkit.models.basenet:basenet",
    divisor=8,
    iterations=None,
    weights="basenet",
    paper=f"{_GOCOR}, section 4.5",
    licence="Apache-2.0",
    stride=8,
    memory=100,
)
_GLUNET = replace(
    _BASENET,
    name="glunet",
    target="flowkit.models.glunet:glunet",
    weights="glunet",
    paper="Truong et al., GLU-Net: Global-Local Universal Network for Dense Flow and Correspondences, CVPR 2020",
    memory=1000,
    flip_test=True,
)
_RANSAC_FLOW = ModelSpec(
    name="ransac-flow",
    kind="network",
    target="flowkit.models.finealign:finealign",
    divisor=8,
    iterations=None,
    weights="ransac-flow",
    paper="Shen et al., RANSAC-Flow: Generic Two-stage Image Alignment, ECCV 2020",
    licence="Apache-2.0",
    memory=2000,
    coarse=True,
    convert="flowkit.models.convert_finealign:convert",
    sources="the authors' checkpoints are MIT, but their blur filters, which flowkit does not take, Adobe's CC BY-NC-SA 4.0",
)
MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ModelSpec(
                name="dis",
                kind="classical",
                target="cv2:DISOpticalFlow_create",
                divisor=1,
                iterations=None,
                weights=None,
                paper="Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016",
                licence="Apache-2.0",
            ),
            _RAFT_NORMAL,
            ModelSpec(
                name="raft-small",
                kind="network",
                target="flowkit.models.raft:raft_small",
                divisor=8,
                iterations=12,
                weights="raft-small",
                paper=_RAFT,
                licence="Apache-2.0",
                stride=8,
                memory=300,
                convert="flowkit.models.convert_raft:convert",
                sources=_RAFT_SOURCES,
            ),
            _RAFT_XFEAT,
            replace(
                _RAFT_NORMAL,
                name="life",
                weights="life",
                paper=_LIFE,
                sources="drinkingcoder/LIFE's checkpoint is in RAFT's layout; trained on MegaDepth, code BSD-3-Clause",
            ),
            _LITEFLOWNET,
            replace(
                _LITEFLOWNET,
                name="liteflownet2",
                target="flowkit.models.liteflownet:liteflownet2",
                memory=750,
                init="coarse",
                weights="liteflownet2",
                paper=_LITEFLOWNET2,
            ),
            replace(
                _LITEFLOWNET,
                name="liteflownet2-kitti",
                target="flowkit.models.liteflownet:liteflownet2_kitti",
                memory=800,
                weights="liteflownet2-kitti",
                paper=_LITEFLOWNET2,
            ),
            _LITEFLOWNETX,
            replace(_LITEFLOWNETX, name="egoflow", weights="egoflow", paper=_EGOFLOW),
            _PWCNET,
            replace(
                _PWCNET,
                name="pwcnet-paper",
                target="flowkit.models.pwcnet:pwcnet_paper",
                weights="pwcnet-paper",
            ),
            _BASENET,
            replace(
                _BASENET,
                name="basenet-gocor",
                target="flowkit.models.basenet:basenet_gocor",
                weights="basenet-gocor",
                gocor=True,
            ),
            _GLUNET,
            replace(
                _GLUNET,
                name="glunet-gocor",
                target="flowkit.models.glunet:glunet_gocor",
                weights="glunet-gocor",
                paper=f"{_GOCOR}, in GLU-Net",
                gocor=True,
            ),
            replace(
                _GLUNET,
                name="glunet-published",
                target="flowkit.models.glunet:glunet_published",
                weights="glunet-published",
                convert="flowkit.models.convert_glunet:convert",
                sources=_GOCOR_SOURCES,
            ),
            replace(
                _GLUNET,
                name="glunet-gocor-published",
                target="flowkit.models.glunet:glunet_gocor_published",
                weights="glunet-gocor-published",
                paper=f"{_GOCOR}, in GLU-Net",
                gocor=True,
                convert="flowkit.models.convert_glunet:convert",
                sources=_GOCOR_SOURCES,
            ),
            replace(
                _PWCNET,
                name="pwcnet-gocor",
                target="flowkit.models.pwcnet:pwcnet_gocor",
                weights="pwcnet-gocor",
                paper=f"{_GOCOR}, in PWC-Net",
                memory=900,
                gocor=True,
                sources=_GOCOR_SOURCES,
            ),
            _RANSAC_FLOW,
            replace(_RAFT_XFEAT, name="life-small", weights="life-small", paper=f"{_LIFE}, in the small"),
        )
    }
)


def model_spec(name: str) -> ModelSpec:
    """The row of that name; UsageError listing the known names if there is none."""
    try:
        return MODELS[name]
    except KeyError:
        raise UsageError(f"no model is called {name!r}; known: {', '.join(MODELS)}") from None


def network_spec(name: str) -> ModelSpec:
    """The row of a network; UsageError listing the networks if that name is none."""
    spec = model_spec(name)
    if not spec.network:
        networks = ", ".join(known for known, row in MODELS.items() if row.network)
        raise UsageError(f"{name!r} is no network and has no weights; networks: {networks}")
    return spec


def same_architecture(name: str, other: str) -> bool:
    """Whether the weights of one network fit the other: it is the same, or was only trained in another way."""
    rows = MODELS.get(name), MODELS.get(other)
    return name == other or (None not in rows and rows[0].target == rows[1].target)  # type: ignore[union-attr]


def build(name: str) -> torch.nn.Module:
    """The network of that name with the weights of its initialisation, on the CPU. Its module is imported only here."""
    network: torch.nn.Module = resolve(network_spec(name).target)()
    return network


def resolve(path: str) -> Any:
    """What an import path "package.module:attribute" names."""
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute)
