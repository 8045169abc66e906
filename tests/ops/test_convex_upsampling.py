"""Convex upsampling: which neighbour a logit stands for, and what lies beyond the rim."""

import pytest
import torch

from flowkit.ops.convex_upsampling import convex_upsample


@pytest.mark.parametrize("factor", [2, 8])
def test_a_constant_stays_and_beyond_the_rim_lies_what_was_asked_for(factor):
    flow = torch.tensor([0.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
    mask = torch.randn(1, 9 * factor**2, 4, 5)
    wanted = flow[..., :1, :1]
    torch.testing.assert_close(
        convex_upsample(flow, mask, factor, rim="replicate") - wanted,
        torch.zeros(()).expand(1, 2, 4 * factor, 5 * factor),
    )
    zeros = convex_upsample(flow, mask, factor)
    inner = zeros[:, :, factor:-factor, factor:-factor]
    torch.testing.assert_close(inner, wanted.expand_as(inner))
    assert (zeros[0, 0, 0] < 0.5).all()


@pytest.mark.parametrize("factor", [2, 8])
def test_all_weight_on_one_neighbour_takes_its_flow(factor):
    row, column = 1, factor - 1
    mask = torch.zeros(1, 9, factor, factor, 4, 5)
    mask[:, 5, row, column] = 1e4  # the neighbour on the right: row 1, column 2 of 3x3
    mask[:, 7, row - 1, column] = 1e4  # the one below
    flow = torch.randn(1, 2, 4, 5)
    logits = mask.view(1, 9 * factor**2, 4, 5)
    fine = convex_upsample(flow, logits, factor)[0]
    torch.testing.assert_close(fine[:, row + factor, column + 3 * factor], flow[0, :, 1, 4])
    torch.testing.assert_close(fine[:, row - 1 + factor, column + 3 * factor], flow[0, :, 2, 3])
    assert not fine[:, row + factor, column + 4 * factor].any()
    kept = convex_upsample(flow, logits, factor, rim="replicate")[0]
    torch.testing.assert_close(kept[:, row + factor, column + 4 * factor], flow[0, :, 1, 4])
