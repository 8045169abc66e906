"""Validation: exact scores, pictures of any size, real pairs."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
import torch
from tiny_training import TINY, TinyRecipe
from torch import nn

from flowkit.models.prediction import FlowPrediction
from flowkit.training.material import Material
from flowkit.training.validation import line, make_validator

DEVICE = torch.device("cpu")


class Constant(nn.Module):
    """Answers (3, -4) pixels of the pictures it is given, in the outermost corner something else."""

    def forward(self, image0, image1, *, iterations=1):
        assert image0.shape == image1.shape and image0.shape[-1] % 4 == image0.shape[-2] % 4 == 0
        flow = torch.zeros(len(image0), 2, *image0.shape[-2:])
        flow[:, 0], flow[:, 1] = 3, -4
        return FlowPrediction(flow, [flow], [1])


@dataclass(frozen=True)
class Still(TinyRecipe):
    """Scenes whose flow is nought, known in the left half."""

    def engine_source(self, photos):
        class Source:
            def batch(self, count, size, seed):
                from flowkit.batch import PairBatch

                image = torch.rand(count, 3, *size)
                valid = torch.zeros(count, *size, dtype=torch.bool)
                valid[..., : size[1] // 2] = True
                return PairBatch(image, image, torch.zeros(count, 2, *size), valid)

        return Source()


STILL = Still(**{**vars(TINY), "validation_pairs": 5})


def test_scores_on_scenes(material):
    validator = make_validator(STILL, material)
    assert sum(len(batch) for batch in validator.scenes) == 5
    scores = validator.scores(Constant(), DEVICE)
    assert scores == {"held-out/epe": 5, "held-out/1px": 0, "held-out/3px": 0}
    assert line(scores) == "held-out 5.000"


def test_scenes_are_the_last_stages_and_no_photo_trained_on(material):
    seen = []

    @dataclass(frozen=True)
    class Watched(TinyRecipe):
        def engine_source(self, photos):
            seen.append((photos, self.engine.max_displacement))
            return super().engine_source(photos)

    from flowkit.training.recipe import Stage

    recipe = Watched(**{**vars(TINY), "stages": (Stage(max_displacement=4), Stage(max_displacement=9))})
    make_validator(recipe, material)
    assert len(seen) == 1 and seen[0][0] is material.held_out and seen[0][1] == 9


def middlebury(folder, width, height, flow):
    scene = folder / "flow_middlebury" / "Scene"
    scene.mkdir(parents=True)
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    for name in ("frame10.png", "frame11.png"):
        (scene / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    values = np.broadcast_to(np.float32(flow), (height, width, 2))
    header = np.float32(202021.25).tobytes() + np.int32([width, height]).tobytes()
    (scene / "flow10.flo").write_bytes(header + values.astype("<f4").tobytes())


@pytest.mark.parametrize(("width", "height", "factor"), [(41, 30, 1), (2048, 60, 2)])
def test_real_pairs_of_any_size(tmp_path, width, height, factor):
    """A picture that is too large is looked at smaller, but judged in its own pixels."""
    middlebury(tmp_path, width, height, (3 * factor + 1, -4 * factor))
    validator = make_validator(STILL, Material(), tmp_path)
    assert validator.scores(Constant(), DEVICE) == {"middlebury/epe": pytest.approx(1, rel=1e-4)}


def test_without_anything_to_judge_by(material):
    assert not make_validator(STILL, Material())
    assert not make_validator(replace(STILL, validate_every=0), material)
