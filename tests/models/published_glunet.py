"""The files of the published GLU-Net, GLU-Net-GOCor and PWC-Net-GOCor by name and shape, and GLU-Net by those names.

They follow spec.md 4 to 7 and use nothing of flowkit.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from dense_gocor import global_gocor, local_gocor
from torch import Tensor

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
WIDTHS = (128, 128, 96, 64, 32)
DILATED = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))
VGG = {
    "level_0.0": (3, 64),
    "level_1.0": (64, 64),
    "level_2.0": (64, 128),
    "level_2.2": (128, 128),
    "level_3.0": (128, 256),
    "level_3.2": (256, 256),
    "level_3.4": (256, 256),
    "level_4.0": (256, 512),
    "level_4.2": (512, 512),
    "level_4.4": (512, 512),
}
PUBLISHED = {"eta": 0.0, "weighted": True}


# --- the files, by name and shape -----------------------------------------------------------------------------------------


def convolution(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}


def normalised(name: str, inputs: int, outputs: int) -> Shapes:
    kinds = ("weight", "bias", "running_mean", "running_var")
    norm: Shapes = {f"{name}.1.{kind}": (outputs,) for kind in kinds}
    return convolution(f"{name}.0", inputs, outputs) | norm | {f"{name}.1.num_batches_tracked": ()}


def enlargement(name: str, inputs: int) -> Shapes:
    return {f"{name}.weight": (inputs, 2, 4, 4), f"{name}.bias": (2,)}


def gocor_module(name: str) -> Shapes:
    shapes: Shapes = {f"{name}.filter_optimizer.{kind}": (1,) for kind in ("log_step_length", "filter_reg")}
    for function in ("label_map_predictor", "spatial_weight_predictor", "target_mask_predictor.0"):
        shapes[f"{name}.filter_optimizer.{function}.weight"] = (1, 10, 1, 1)
    if name.startswith("local"):
        return shapes | {f"{name}.filter_initializer.scaling": (1,)}
    shapes |= {f"{name}.filter_initializer.target_{kind}": (512,) for kind in ("fg", "bg")}
    kernels: Shapes = {"weight1": (16, 1, 3, 3), "weight2": (16, 16, 3, 3)}
    return shapes | {f"{name}.filter_optimizer.reg_layer.{kind}": shape for kind, shape in kernels.items()}


def decoder4() -> Shapes:
    shapes, inputs = {}, 258
    for number, width in enumerate(WIDTHS):
        shapes |= normalised(f"decoder4.conv{number}", inputs, width)
        inputs = width
    return shapes | convolution("decoder4.final", inputs, 2)


def dense_decoder(name: str, inputs: int) -> Shapes:
    shapes = {}
    for number, width in enumerate(WIDTHS):
        shapes |= normalised(f"{name}.conv_{number}", inputs, width)
        inputs += width
    return shapes | convolution(f"{name}.predict_flow", inputs, 2)


def refinement(name: str, inputs: int) -> Shapes:
    shapes = {}
    for number, (width, _) in enumerate(DILATED, start=1):
        shapes |= normalised(f"{name}{number}", inputs, width)
        inputs = width
    return shapes | convolution(f"{name}7", inputs, 2)


def glunet_file(gocor: bool) -> Shapes:
    shapes: Shapes = {}
    for name, (inputs, outputs) in VGG.items():
        shapes |= convolution(f"pyramid.{name}", inputs, outputs)
    shapes |= decoder4() | enlargement("deconv4", 2) | dense_decoder("decoder3", 83) | refinement("dc_conv", 531)
    shapes |= dense_decoder("decoder2", 83) | enlargement("deconv2", 2) | enlargement("upfeat2", 531)
    shapes |= dense_decoder("decoder1", 85) | refinement("l_dc_conv", 533)
    return shapes | gocor_module("corr.corr_module") | gocor_module("local_corr") if gocor else shapes


def pwcnet_gocor_file() -> Shapes:
    shapes, before = {}, 3
    widths = (16, 32, 64, 96, 128, 196)
    for level, width in enumerate(widths, start=1):
        for number, place in enumerate(("aa", "a", "b") if level == 6 else ("a", "aa", "b")):
            shapes |= convolution(f"conv{level}{place}.0", width if number else before, width)
        before = width
    for level in range(6, 1, -1):
        inputs = 81 if level == 6 else 81 + widths[level - 1] + 4
        for number, width in enumerate(WIDTHS):
            shapes |= convolution(f"conv{level}_{number}.0", inputs, width)
            inputs += width
        shapes |= convolution(f"predict_flow{level}", inputs, 2) | enlargement(f"deconv{level}", 2)
        shapes |= enlargement(f"upfeat{level}", inputs) if level > 2 else {}
        shapes |= gocor_module(f"local_corr_{level}")
    for number, (width, _) in enumerate(DILATED, start=1):
        shapes |= convolution(f"dc_conv{number}.0", inputs, width)
        inputs = width
    return shapes | convolution("dc_conv7", inputs, 2)


def filled(shapes: Shapes) -> State:
    """Random, of magnitudes that keep what networks compute in range, and every tensor another."""
    torch.manual_seed(1)
    state = {}
    for name, shape in shapes.items():
        if shape == ():
            state[name] = torch.tensor(7)
        elif "filter_" in name:
            state[name] = 0.05 * torch.randn(shape) if "reg_layer" in name else 0.3 + torch.rand(shape)
        elif len(shape) == 4:
            state[name] = torch.randn(shape) * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif name.endswith(("running_var", ".1.weight")):
            state[name] = 0.5 + torch.rand(shape)
        else:
            state[name] = 0.1 * torch.randn(shape)
    return state


def counted(shapes: Shapes, prefix: str) -> int:
    """Numbers that are learned."""
    learned = {name: shape for name, shape in shapes.items() if "running" not in name and "batches" not in name}
    return sum(torch.Size(shape).numel() for name, shape in learned.items() if name.startswith(prefix))


# --- the network, written out once more -----------------------------------------------------------------------------------


class Official:
    """GLU-Net as published, of one pair, from features; flows in pixels of the branch's image."""

    def __init__(self, state: State, steps: int) -> None:
        self.state, self.steps = state, steps
        self.gocor = "local_corr.filter_initializer.scaling" in state

    def of(self, prefix: str) -> State:
        return {name.removeprefix(prefix): tensor for name, tensor in self.state.items() if name.startswith(prefix)}

    def conv(self, name: str, maps: Tensor, dilation: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.conv2d(maps, weight, bias, padding=dilation, dilation=dilation)

    def block(self, name: str, maps: Tensor, slope: float, dilation: int = 1) -> Tensor:
        norm = self.of(f"{name}.1.")
        maps = self.conv(f"{name}.0", maps, dilation)
        maps = F.batch_norm(maps, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"])
        return F.leaky_relu(maps, slope)

    def deconv(self, name: str, maps: Tensor) -> Tensor:
        return F.conv_transpose2d(maps, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride=2, padding=1)

    def globally(self, target: Tensor, source: Tensor) -> Tensor:
        target, source = (each / ((each**2).sum(1, keepdim=True) + 1e-6).sqrt() for each in (target, source))
        if self.gocor:
            found = global_gocor(self.of("corr.corr_module."), target[0], source[0], self.steps, **PUBLISHED)
            return F.leaky_relu(found[None].float(), 0.1)
        scores = torch.einsum("bcij,bckl->bklij", target, source)
        best_source = scores.amax((1, 2), keepdim=True)
        best_target = scores.amax((3, 4), keepdim=True)
        scores = (scores * (scores / (best_source + 1e-5)) * (scores / (best_target + 1e-5))).flatten(1, 2)
        scores = F.relu(scores)
        return scores / ((scores**2).sum(1, keepdim=True) + 1e-6).sqrt()

    def locally(self, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        """`flow` in cells."""
        height, width = flow.shape[-2:]
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places = (torch.stack([x, y]) + flow).movedim(1, -1)
        grid = 2 * places / torch.tensor([width - 1, height - 1]) - 1
        source = F.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        if self.gocor:
            found = local_gocor(self.of("local_corr."), target[0], source[0], self.steps, **PUBLISHED)[None].float()
        else:
            padded = F.pad(source, (4, 4, 4, 4))
            shifts = [(v, u) for v in range(9) for u in range(9)]
            parts = [(target * padded[..., v : v + height, u : u + width]).mean(1) for v, u in shifts]
            found = torch.stack(parts, 1)
        return F.leaky_relu(found, 0.1)

    def dense(self, name: str, maps: Tensor) -> tuple[Tensor, Tensor]:
        for number in range(5):
            maps = torch.cat([self.block(f"{name}.conv_{number}", maps, 0.1), maps], 1)
        return self.conv(f"{name}.predict_flow", maps), maps

    def refined(self, name: str, maps: Tensor) -> Tensor:
        for number, (_, dilation) in enumerate(DILATED, start=1):
            maps = self.block(f"{name}{number}", maps, 0.1, dilation)
        return self.conv(f"{name}7", maps)

    def coarse(self, small: dict[int, list[Tensor]]) -> tuple[Tensor, Tensor]:
        """The flows at 16x16 and 32x32."""
        maps = torch.cat([self.globally(*small[4]), torch.zeros(1, 2, 16, 16)], 1)
        for number in range(5):
            maps = self.block(f"decoder4.conv{number}", maps, 0.0)
        mapping = self.conv("decoder4.final", maps)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        flow4 = ((mapping + 1) * 15 / 2 - torch.stack([x, y])) / (16 / 256)
        up_flow = self.deconv("deconv4", flow4)
        corr = self.locally(*small[3], up_flow * (32 / 256))
        change, hidden = self.dense("decoder3", torch.cat([corr, up_flow], 1))
        return flow4, up_flow + change + self.refined("dc_conv", hidden)

    def fine(self, flow3: Tensor, large: dict[int, list[Tensor]], between: int) -> tuple[Tensor, Tensor]:
        """The flows at 1/8 and 1/4, in pixels of the second branch's image."""
        height, width = large[3][0].shape[-2:]
        flow = flow3 * torch.tensor([8 * width / 256, 8 * height / 256]).view(2, 1, 1)
        for step in range(between):
            ratio = 2 ** (between - step)
            size = height // ratio, width // ratio
            smaller = [F.interpolate(each, size, mode="area") for each in large[3]]
            flow = F.interpolate(flow, size, mode="bilinear", align_corners=False)
            corr = self.locally(*smaller, flow / (8 * ratio))
            flow = flow + self.dense("decoder2", torch.cat([corr, flow], 1))[0]
        flow = F.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        corr = self.locally(*large[3], flow / 8)
        change, hidden = self.dense("decoder2", torch.cat([corr, flow], 1))
        flow2 = flow + change
        up_flow, up_features = self.deconv("deconv2", flow2), self.deconv("upfeat2", hidden)
        corr = self.locally(*large[2], up_flow / 4)
        change, hidden = self.dense("decoder1", torch.cat([corr, up_flow, up_features], 1))
        return flow2, up_flow + change + self.refined("l_dc_conv", hidden)
