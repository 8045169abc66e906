"""Mirrored batches: flow goes along, cameras do not, and a rendered batch is made once."""

from dataclasses import replace

import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.errors import UsageError
from flowkit.ops.warping import warped
from flowkit.training.mirroring import WAYS, mirrored
from flowkit.training.recipes import recipe


def shifted() -> PairBatch:
    image1 = torch.rand(1, 3, 6, 8)
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).repeat(1, 1, 6, 8)
    valid = torch.arange(48).view(1, 6, 8) < 5
    return PairBatch(warped(image1, flow), image1, flow, valid, backward=-flow, K0=torch.eye(3)[None])


@pytest.mark.parametrize("way", range(WAYS))
def test_flow_still_joins_the_pictures(way: int) -> None:
    batch = shifted()
    seen = mirrored(batch, way)
    torch.testing.assert_close(warped(seen.image1, seen.flow), seen.image0)
    signs = ((1, 1), (-1, 1), (1, -1), (-1, -1))[way]
    assert seen.flow[0, :, 0, 0].tolist() == [2.0 * signs[0], -1.0 * signs[1]]
    torch.testing.assert_close(seen.backward, -seen.flow)
    corner = ((0, 0), (0, 7), (5, 0), (5, 7))[way]
    assert seen.valid[(0, *corner)] and (seen.K0 is None) == (way > 0)
    assert batch.flow[0, 0, 0, 0] == 2  # the batch itself is left as it is


def test_a_batch_is_rendered_once_for_all_its_mirror_images() -> None:
    asked = []

    class Source:
        def batch(self, count, size, seed):
            asked.append(seed)
            return shifted()

    made = replace(recipe("liteflownetx"), mirrors=4, stages=(), batch=1, size=(8, 8))
    source = Source()
    batches = [made.batches(source, index) for index in range(8)]
    assert asked == [made.batch_seed(0), made.batch_seed(1)]
    torch.testing.assert_close(batches[1].image0.flip(-1), batches[0].image0)
    torch.testing.assert_close(batches[7].image0.flip(-1, -2), batches[4].image0)
    with pytest.raises(UsageError, match="mirrors=5"):
        replace(made, mirrors=5)
