"""Batches by number: the same in the background, in parts, and after a fork."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_training import TINY

from flowkit.errors import UsageError
from flowkit.training.feeding import Maker, Place, WorkerLost, feed
from flowkit.training.material import Material
from flowkit.training.recipe import Stage

STAGED = replace(TINY, stages=(Stage(share=1, size=(24, 32)), Stage(share=1, size=(32, 40), batch=1)))


def numbers(place, first, count):
    return list(islice(place.numbers(first), count))


def test_ranks_and_turns_see_the_same_batches():
    alone = numbers(Place(accumulate=2), 3, 4)
    ranks = [numbers(Place(rank, 2), 3, 2) for rank in (0, 1)]
    assert alone == [(3, 6), (3, 7), (4, 8), (4, 9)]
    assert sorted(ranks[0] + ranks[1]) == alone
    four = [numbers(Place(rank, 2, 2), 0, 4) for rank in (0, 1)]
    assert sorted(number for rank in four for _, number in rank) == list(range(8))


def test_the_background_makes_the_same(material):
    place = Place()

    def stage_at(step):
        return int(step >= 5)

    feeds = [feed(replace(STAGED, workers=n), material, place, 3, stage_at) for n in (0, 1, 2)]
    for answers in zip(*(islice(f, 4) for f in feeds), strict=True):
        assert len({stage for stage, _ in answers}) == 1
        wanted = answers[0][1].tensors()
        for _, other in answers[1:]:
            assert other.tensors().keys() == wanted.keys()
            for name, value in wanted.items():
                assert torch.equal(value, other.tensors()[name]), name
    for generator in feeds:
        generator.close()


def test_batches_depend_on_their_number_and_the_seed(material):
    first = Maker(TINY, material).batch((0, 0)).image0
    assert torch.equal(first, Maker(TINY, material).batch((0, 0)).image0)
    assert not torch.equal(first, Maker(TINY, material).batch((1, 0)).image0)
    assert not torch.equal(first, Maker(replace(TINY, seed=1), material).batch((0, 0)).image0)
    assert len({TINY.batch_seed(n) for n in range(-1000, 1000)}) == 2000


def test_a_fork_does_not_wait_for_opencvs_threads():
    program = """
import cv2, numpy as np
from tiny_training import TINY, tiny_photos
from dataclasses import replace
from flowkit.training.feeding import Place, feed
from flowkit.training.material import parted
cv2.setNumThreads(3)
cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1500, 1500))
feeder = feed(replace(TINY, workers=1), parted(tiny_photos()), Place(), 0, lambda step: 0)
print(len(next(feeder)[1]), cv2.getNumThreads())
feeder.close()
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path, "OPENCV_FOR_THREADS_NUM": "3"},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["2", "3"], done.stderr


def test_the_death_of_a_worker_is_told(material):
    class Deadly(type(TINY)):
        def batches(self, source, index):
            os._exit(9)

    recipe = Deadly(**{**vars(TINY), "workers": 1})
    with pytest.raises(WorkerLost, match="died"):
        next(feed(recipe, material, Place(), 0, lambda step: 0))


def test_what_is_missing_is_told_before_anything_starts(material):
    with pytest.raises(UsageError, match="--photos"):
        feed(TINY, Material(), Place(), 0, lambda step: 0)
    with pytest.raises(UsageError, match="flyingchairs"):
        feed(replace(TINY, source="chairs"), material, Place(), 0, lambda step: 0)
