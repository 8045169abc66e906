"""A tiny network and tiny photos, so that a whole run takes a moment."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from flowkit.batch import PairBatch
from flowkit.models.prediction import FlowPrediction
from flowkit.synth.photos import PhotoStore
from flowkit.training.recipe import Recipe


class TinyFlow(nn.Module):
    """Two convolutions on both images, at stride 4 and then at full resolution.

    A plain one judges every pair by itself: no batch normalisation, no dropout.
    """

    def __init__(self, plain=False):
        super().__init__()
        self.encode = nn.Conv2d(6, 8, 5, stride=4, padding=2)
        self.norm = nn.Identity() if plain else nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.0 if plain else 0.1)
        self.head = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, image0, image1, *, iterations=2):
        hidden = torch.relu(self.norm(self.encode(torch.cat([image0, image1], 1))))
        iterates = [self.head(self.drop(hidden)).float() for _ in range(iterations)]
        full = nn.functional.interpolate(iterates[-1], scale_factor=4, mode="bilinear", align_corners=False)
        return FlowPrediction(full, [*iterates, full], [4] * iterations + [1])


class Shifts:
    """Windows of photos and the same windows shifted by whole pixels: an engine that takes no time."""

    def __init__(self, photos, longest):
        self.photos, self.longest = photos.levels[0].movedim(-1, 1), max(1, round(longest))

    def batch(self, count, size, seed):
        make = torch.Generator().manual_seed(seed)
        height, width = size
        images, flows = [], []
        for _ in range(count):
            photo = self.photos[torch.randint(len(self.photos), (), generator=make)].float() / 255
            dx, dy = torch.randint(self.longest + 1, (2,), generator=make).tolist()
            dx, dy = min(dx, photo.shape[2] - width), min(dy, photo.shape[1] - height)
            images.append((photo[:, dy : dy + height, dx : dx + width], photo[:, :height, :width]))
            flows.append(torch.tensor([dx, dy], dtype=torch.float32)[:, None, None].expand(2, height, width))
        image0, image1 = (torch.stack(side) for side in zip(*images, strict=True))
        flow = torch.stack(flows)
        return PairBatch(image0, image1, flow, torch.ones(count, height, width, dtype=torch.bool))


@dataclass(frozen=True)
class TinyRecipe(Recipe):
    plain: bool = False
    broken_from: int = 1000
    """The first batch with a picture full of NaN."""

    def network(self):
        return TinyFlow(self.plain)

    def engine_source(self, photos):
        return Shifts(photos, self.engine.max_displacement)

    def divisor(self):
        return 4

    def batches(self, source, index):
        batch = super().batches(source, index)
        return batch if index < self.broken_from else replace(batch, image0=batch.image0 * torch.nan)


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
PLAIN = replace(TINY, plain=True)


def tiny_photos(count=3):
    make = torch.Generator().manual_seed(5)
    photos = [torch.randint(0, 256, (60, 80, 3), generator=make, dtype=torch.uint8).numpy() for _ in range(count)]
    return replace(PhotoStore.from_arrays(photos, size=(60, 80)), names=tuple(f"{i}.jpg" for i in range(count)))
