"""A tiny network and tiny photos, so that a whole run takes a moment."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from flowkit.models.prediction import FlowPrediction
from flowkit.synth.photos import PhotoStore
from flowkit.training.recipe import Recipe


class TinyFlow(nn.Module):
    """Two convolutions on both images, at stride 4 and then at full resolution."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Conv2d(6, 8, 5, stride=4, padding=2)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, image0, image1, *, iterations=2):
        hidden = torch.relu(self.encode(torch.cat([image0, image1], 1)))
        iterates = [self.head(self.drop(hidden)).float() for _ in range(iterations)]
        full = nn.functional.interpolate(iterates[-1], scale_factor=4, mode="bilinear", align_corners=False)
        return FlowPrediction(full, [*iterates, full], [4] * iterations + [1])


@dataclass(frozen=True)
class TinyRecipe(Recipe):
    def network(self):
        return TinyFlow()

    def divisor(self):
        return 4


TINY = TinyRecipe(
    model="tiny",
    size=(24, 32),
    batch=2,
    iterations=2,
    steps=6,
    precision="fp32",
    workers=0,
    log_every=2,
    checkpoint_every=3,
    validate_every=3,
    validation_pairs=2,
    validation_size=(24, 32),
    validation_iterations=2,
    export="fp32",
)


def tiny_photos(count=3):
    make = torch.Generator().manual_seed(5)
    photos = [torch.randint(0, 256, (60, 80, 3), generator=make, dtype=torch.uint8).numpy() for _ in range(count)]
    return replace(PhotoStore.from_arrays(photos, size=(60, 80)), names=tuple(f"{i}.jpg" for i in range(count)))
