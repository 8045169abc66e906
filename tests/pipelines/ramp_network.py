"""A network that reads the motion off colour ramps, exactly, so that half a pixel or a swapped direction shows.

Red is x and green is y of the scene, in units of `span`. Where a pixel of image0 is in image1 follows from the straight line
that fits image1's colours; what padding repeats is left out.
"""

from dataclasses import replace

import numpy as np
import torch

from flowkit.io.weights import write_weights
from flowkit.models import registry
from flowkit.models.prediction import FlowPrediction

SPAN = 4096.0


class Ramp(torch.nn.Module):
    """`calls` keeps what each call was given; with `sure` it is as confident of a pixel as that is red."""

    sure = False

    def __init__(self):
        super().__init__()
        self.span = torch.nn.Parameter(torch.zeros(()))
        self.calls = []

    def forward(self, image0, image1, *, iterations=12, initial=None):
        self.calls.append({"image0": image0, "image1": image1, "iterations": iterations, "initial": initial})
        scene0, scene1 = image0[0] * self.span, image1[0] * self.span
        height, width = scene0.shape[-2:]
        flow = []
        for axis, length in ((0, width), (1, height)):
            along = scene1[axis] if axis == 0 else scene1[axis].T
            first, *_, last = along[along.shape[0] // 2].diff().nonzero()[:, 0].tolist()  # the rest is padding
            low, high = first + (last - first) // 5, last - (last - first) // 5
            values = along.median(dim=0).values
            slope = (values[high] - values[low]) / (high - low)
            start = values[low] - slope * low
            target = (scene0[axis] - start) / slope
            grid = torch.arange(length, dtype=torch.float32)
            flow.append(target - (grid if axis == 0 else grid[:, None]))
        return FlowPrediction(flow=torch.stack(flow)[None], confidence=image0[:, :1] if self.sure else None)


def ramp(height, width, scale=(1.0, 1.0), corner=(600.0, 400.0)):
    """(H, W, 3) float32: pixel (x, y) shows the scene's point corner + scale * (x + 0.5, y + 0.5)."""
    x = corner[0] + scale[0] * (np.arange(width) + 0.5)
    y = corner[1] + scale[1] * (np.arange(height) + 0.5)
    pixels = np.zeros((height, width, 3), np.float32)
    pixels[..., 0], pixels[..., 1] = x / SPAN, y[:, None] / SPAN
    return pixels


def true_flow(size0, scale0, corner0, scale1, corner1):
    """The flow (2, H, W) from one ramp to another."""
    height, width = size0
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    u = (corner0[0] + scale0[0] * x - corner1[0]) / scale1[0] - x
    v = (corner0[1] + scale0[1] * y - corner1[1]) / scale1[1] - y
    return np.stack(np.broadcast_arrays(u, v[:, None]))


def register(monkeypatch, folder, **changes):
    """Make it known as "ramp", with weights in `folder`; gives the path of the weights and the list of its calls."""
    made = []

    def build():
        made.append(Ramp())
        made[-1].calls = calls
        return made[-1]

    calls = []
    spec = registry.ModelSpec(
        name="ramp",
        kind="network",
        target="ramp_network:build",
        divisor=8,
        iterations=12,
        weights="ramp",
        paper="none",
        licence="none",
        stride=8,
        memory=100,
    )
    monkeypatch.setitem(globals(), "build", build)
    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "ramp": replace(spec, **changes)})
    path = folder / "ramp.safetensors"
    write_weights(path, {"span": torch.tensor(SPAN)}, {"model": "ramp"})
    return path, calls
